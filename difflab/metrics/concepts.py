"""Concept measures: image embeddings beside text embeddings of one CLIP model, which is the judge.

pair = Pair(real, samples, real_labels=..., fake_labels=..., concepts=concepts_of(open_extractor("open_clip:PATH"), names))
METRICS["zero_shot_accuracy"].of(pair)

Labels are positions in `concepts.names`: classes, or `assign(prompts, names)`. A caption has a concept for every list it is read
against ("noto seal" has the style noto and the content seal): two `Concepts` over the same images, two sets of measures.

The judge's own errors are part of every number. Read each beside its floor, the same measure with held-out real images in the
place of the samples, and beside the accuracy that `Concepts.tested` writes into the recipe. No number here stands alone: prompts
and images can agree *better* while a chain collapses (Hu et al. 2505.08803), because the samples narrow to what is typical.

**Contagion**, what a chain does to prompts it was never trained on, needs no formula of its own: the same measures on the samples
of those prompts. All concepts stay candidates, so that an untrained concept drawn as a trained one is seen as that:

    _, unseen = split_by(concepts, trained={"cat", "dog"})
    rows = unseen[fake_labels]
    Pair(real, fake[rows], real_labels=real_labels, fake_labels=fake_labels[rows], concepts=concepts)
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from difflab.config import digest
from difflab.core.errors import DataError, MeasureError
from difflab.core.files import read_lines, sound
from difflab.features.extractor import Extractor
from difflab.metrics.base import Pair, PairMetric, Rows, measure, nearest, squared_distances
from difflab.metrics.interval import wilson
from difflab.metrics.kernel import unit_rows


# ------------------------------------------------------------------------------------------------------- concepts
class Concepts:
    """What can be asked for, as texts in the space of the image features.

    Args:
        names: C >= 2 names, different also when case is ignored.
        text: their text embeddings [C, d], of any length; no two alike.
        frequency: how often each was trained on, [C] >= 0, counts or shares; None = as often as among the real labels.
        recipe: how the embeddings were made; `tested` adds the judge's accuracy.

    Attributes: `names`; `text`, float64 [C, d], unit length; `frequency`; `recipe`. Raises MeasureError.

    >>> Concepts(["cat", "dog"], torch.tensor([[2.0, 0.0], [0.0, 1.0]])).text.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(
        self,
        names: Sequence[str],
        text: Tensor,
        frequency: Tensor | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        self.names = _distinct(names)
        if len(self.names) < 2:
            raise MeasureError(f"a concept is told apart from others: give at least 2, got {len(self.names)}")
        if text.shape[:-1] != (len(self.names),) or not text.is_floating_point():
            raise MeasureError(
                f"{len(self.names)} concepts want text embeddings [{len(self.names)}, d], got {text.dtype} {tuple(text.shape)}"
            )
        self.text = _unit(text.detach().cpu())
        apart = squared_distances(self.text, self.text).fill_diagonal_(torch.inf)
        if float(apart.min()) < 1e-10:
            a, b = (self.names[i] for i in divmod(int(apart.argmin()), len(self.names)))
            raise MeasureError(
                f"the text encoder reads '{a}' and '{b}' as one text; drop one, or give them prompts that differ"
            )
        if frequency is not None and (
            frequency.shape != (len(self.names),) or not bool((frequency >= 0).all())
        ):
            raise MeasureError(
                f"frequency wants {len(self.names)} numbers >= 0, one a concept, got shape {tuple(frequency.shape)}"
            )
        self.frequency = None if frequency is None else frequency.detach().cpu().double()
        self.recipe = {"accuracy": None, **(recipe or {})}

    def __len__(self) -> int:
        return len(self.names)

    def tested(self, features: Tensor, labels: Tensor) -> Concepts:
        """The same concepts with the judge's own accuracy in the recipe: on held-out real `features` [n, d] of concepts `labels` [n].

        Adds accuracy, its Wilson interval accuracy_low and accuracy_high, and accuracy_n.
        """
        accuracy = ZeroShotAccuracy.of(Pair(features, features, fake_labels=labels, concepts=self))
        low, high = wilson(accuracy, len(features))
        stated = {
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "accuracy_n": len(features),
        }
        return Concepts(self.names, self.text, self.frequency, {**self.recipe, **stated})


def concepts_of(
    extractor: Extractor,
    names: Sequence[str] | Mapping[str, str | None],
    template: str = "{}",
    frequency: Tensor | None = None,
) -> Concepts:
    """Concepts in the space of an open_clip extractor, each read as `template` with its name in the place of ``{}``.

    `names` may carry prompts of their own (`read_concepts`), which are read as they are. Prompts beyond the model's context length
    are cut by its tokenizer. Raises MeasureError for an extractor without a text tower, and as `Concepts`.
    """
    if extractor.encode_text is None:
        raise MeasureError(
            f"{extractor.name} reads no texts; concept measures want an open_clip extractor, as open_clip:NAME/PRETRAINED or open_clip:PATH"
        )
    if "{}" not in template:
        raise MeasureError(
            f"template '{template}' has no place for the concept; write {{}} where it goes, as 'a picture of {{}}'"
        )
    own = dict(names) if isinstance(names, Mapping) else dict.fromkeys(_distinct(names))
    prompts = [prompt or template.replace("{}", name) for name, prompt in own.items()]
    recipe = {
        "judge": extractor.name,
        "sha256": extractor.recipe.get("sha256"),
        "text_sha256": extractor.text_sha256,
        "template": template,
        "prompts": digest({"prompts": prompts}),
    }
    return Concepts(
        list(own), extractor.encode_text(prompts) if prompts else torch.zeros(0, 1), frequency, recipe
    )


def read_concepts(path: str | Path, prompts: Iterable[str] | None = None) -> dict[str, str | None]:
    """Concepts of a text file, in its order: one a line, or one JSON object a line, ``{"concept": "seal", "prompt": "a seal at sea"}``.

    The value is the concept's own prompt, None = by the template. With `prompts`, those of the samples, each concept must be asked
    for by one of them. Raises MeasureError: no such file, no concept, a line that cannot be read, duplicates, unasked concepts.
    """
    try:
        lines = read_lines(Path(path))
    except DataError as error:
        raise MeasureError(
            f"cannot read concepts from {error}; give a UTF-8 text file with one concept a line"
        ) from error
    try:
        rows = [
            _concept(line.strip(), f"{path}, line {number}")
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    except DataError as error:
        raise MeasureError(str(error)) from error
    if not rows:
        raise MeasureError(f"{path} holds no concept; write one a line")
    _distinct([name for name, _ in rows])
    found = dict(rows)
    lost = unasked(assign(prompts, list(found)), list(found)) if prompts is not None else []
    if lost:
        shown = ", ".join(f"'{name}'" for name in lost[:5]) + (", ..." if len(lost) > 5 else "")
        raise MeasureError(
            f"no prompt asks for {len(lost)} of {len(found)} concepts in {path}: {shown}; drop them, or add prompts with these words"
        )
    return found


def _concept(line: str, where: str) -> tuple[str, str | None]:
    if not line.startswith("{"):
        return line, None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"{where} is no JSON: {error}") from error
    texts = [row.get("concept"), row.get("prompt", "-")]
    if not set(row) <= {"concept", "prompt"} or not all(
        isinstance(text, str) and text.strip() for text in texts
    ):
        raise MeasureError(
            f'{where} wants {{"concept": "...", "prompt": "..."}}, the prompt optional, got {line[:80]}'
        )
    return sound(row["concept"], where), row.get("prompt") and sound(row["prompt"], where)


def _distinct(names: Iterable[str]) -> list[str]:
    names = list(names)
    if any(not name.strip() for name in names):
        raise MeasureError("a concept has an empty name; drop it")
    twice = [name for name, count in Counter(name.casefold() for name in names).items() if count > 1]
    if twice:
        raise MeasureError(
            f"concepts are listed twice (upper and lower case are one): {', '.join(twice[:5])}; keep each once"
        )
    return names


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+|[^\w\s]", text.casefold()))


def assign(prompts: Iterable[str], names: Sequence[str]) -> Tensor:
    """The concept that each prompt asks for: position of the longest of `names` that it holds as whole words, -1 = none. int64 [n].

    Case and spaces do not count; of names of one length the first in the prompt wins. A `Pair` takes no -1: leave those rows out.

    >>> assign(["noto Red Apple", "noto applet", "an apple"], ["apple", "red apple"]).tolist()
    [1, -1, 0]
    """
    if not names:
        raise MeasureError("there are no concepts to assign prompts to; give at least one name")
    at = {_words(name): position for position, name in reversed(list(enumerate(names)))}
    longest = max(map(len, at))

    def one(prompt: str) -> int:
        words = _words(prompt)
        spans = (
            words[i:j] for i in range(len(words)) for j in range(i + 1, min(i + longest, len(words)) + 1)
        )
        return at.get(
            max((span for span in spans if span in at), key=lambda span: len(" ".join(span)), default=()), -1
        )

    return torch.tensor([one(prompt) for prompt in prompts], dtype=torch.long)


def unasked(labels: Tensor, names: Sequence[str]) -> list[str]:
    """The names whose position is not in `labels`, in order.

    >>> unasked(torch.tensor([0, -1, 2]), ["cat", "dog", "seal"])
    ['dog']
    """
    wanted = set(labels.tolist())
    return [name for position, name in enumerate(names) if position not in wanted]


def split_by(concepts: Concepts, trained: Collection[str]) -> tuple[Tensor, Tensor]:
    """Which concepts are among `trained` and which are not: two bool [C], to be indexed with labels. For contagion, see the head.

    Raises MeasureError for a name that is no concept, and when none is left untrained.
    """
    for name in trained:
        if name not in concepts.names:
            near = get_close_matches(name, concepts.names, 5, 0.0)
            raise MeasureError(
                f"trained: '{name}' is none of the {len(concepts)} concepts; {nearest(name, near)}"
            )
    seen = torch.tensor([name in trained for name in concepts.names])
    if bool(seen.all()):
        raise MeasureError(
            "all concepts were trained on, so nothing can be said about others; hold some out of the training prompts"
        )
    return seen, ~seen


# --------------------------------------------------------------------------------- what the measures of a pair share
def _unit(features: Tensor) -> Tensor:
    """Unit rows of texts, float64."""
    length = features.double().norm(dim=1, keepdim=True)
    if not bool((torch.isfinite(length) & (length > 0)).all()):
        raise MeasureError(
            "some text embeddings are 0 or not finite and have no direction; look at those inputs and drop them"
        )
    return features.double() / length


def concepts_in(pair: Pair) -> Concepts:
    """The concepts of a pair. Raises MeasureError when it has none, or when their texts are of another space than its features."""
    if pair.concepts is None:
        raise MeasureError(
            "concept measures need concepts: Pair(..., concepts=concepts_of(extractor, names)), with an open_clip extractor"
        )
    if pair.concepts.text.shape[1] != pair.fake.shape[1]:
        raise MeasureError(
            f"features have {pair.fake.shape[1]} dimensions, the concepts' texts {pair.concepts.text.shape[1]}: take both with one open_clip model"
        )
    return pair.concepts


def _positions(pair: Pair, labels: Tensor | None, missing: str) -> Tensor:
    if labels is None:
        raise MeasureError(missing)
    n = len(concepts_in(pair))
    if len(labels) and int(labels.max()) >= n:
        raise MeasureError(
            f"a label is {int(labels.max())}, but {n} concepts are 0 to {n - 1}: labels are positions in concepts.names"
        )
    return labels


def asked(pair: Pair) -> Tensor:
    """The concept each sample was asked for, int64 [n_f]. Raises MeasureError for unconditional samples."""
    return _positions(
        pair,
        pair.fake_labels,
        "concept measures have no value: the samples are unconditional, no concept was asked for",
    )


def unit_fake(pair: Pair) -> Tensor:
    """Embeddings of the samples at unit length, float64 [n_f, d]; those of length 0 stay 0, and are not read."""
    return unit_rows(pair.fake.double())


def cosines_fake(pair: Pair) -> Tensor:
    """Cosines of the samples with all concepts, float64 [n_f, C]."""
    return pair.once(unit_fake) @ concepts_in(pair).text.to(pair.fake.device).T


def seen_fake(pair: Pair) -> Tensor:
    """The concept whose text is nearest to each sample, int64 [n_f]; -1 where its embedding is 0."""
    return pair.once(cosines_fake).argmax(1).where(pair.directed["fake"], -1)


def seen_real(pair: Pair) -> Tensor:
    """The concept whose text is nearest to each real image, int64 [n_r]; -1 where its embedding is 0."""
    nearest_text = (unit_rows(pair.real.double()) @ concepts_in(pair).text.to(pair.real.device).T).argmax(1)
    return nearest_text.where(pair.directed["real"], -1)


def alignments(pair: Pair) -> Tensor:
    """Cosine of each sample with the text it was asked for, float64 [n_f]."""
    return pair.once(cosines_fake).gather(1, pair.once(asked).unsqueeze(1)).squeeze(1)


def margins(pair: Pair) -> Tensor:
    """Cosine of each sample with its own text minus that with the nearest other text, float64 [n_f]."""
    others = pair.once(cosines_fake).scatter(1, pair.once(asked).unsqueeze(1), -torch.inf)
    return pair.once(alignments) - others.amax(1)


def wins(pair: Pair, block: int = 1024) -> Tensor:
    """Whether sample i leans more from j's concept towards its own than j does: 1, 1/2 for a tie, 0. float32 [n_f, n_f].

    The leaning is the cosine with i's text minus that with j's text. Symmetric: for j the signs of both sides change.
    """
    cosines, labels = pair.once(cosines_fake), pair.once(asked)
    own = pair.once(alignments)
    out = torch.empty(len(labels), len(labels), device=cosines.device)
    for start in range(0, len(labels), block):
        rows = slice(start, start + block)
        ahead = (own[rows, None] - cosines[rows][:, labels]) - (cosines[:, labels[rows]].T - own)
        out[rows] = (ahead.where(ahead.abs() > 1e-12, 0).sign() + 1).float() / 2
    return out


def aurocs(pair: Pair, rows: Rows = slice(None)) -> tuple[Tensor, Tensor]:
    """AUROC with which text a minus text b separates samples asked for a from samples asked for b, and the samples of each concept.

    float64 [C, C], symmetric, NaN on the diagonal and where a concept has no sample; int64 [C]. 1 = apart, 1/2 = merged, 0 = swapped.
    """
    member = F.one_hot(pair.once(asked)[rows], len(concepts_in(pair)))
    count = member.sum(0)
    won = (member.T.float() @ pair.once(wins)[rows][:, rows] @ member.float()).double()
    return (won / torch.outer(count, count)).fill_diagonal_(torch.nan), count


def lasting(pair: Pair) -> Tensor:
    """The concepts whose loss would be seen: asked of a sample, and recognised in a real image of theirs. int64, ascending.

    Raises MeasureError without real labels, or when there is none.
    """
    labels = _positions(
        pair,
        pair.real_labels,
        "concept survival has no value: the real images carry no labels, so no loss could be told",
    )
    visible = labels[pair.once(seen_real) == labels]
    found = visible[torch.isin(visible, pair.once(asked))].unique()
    if not len(found):
        raise MeasureError(
            "the judge recognises no concept that was asked for in its own real images; use another open_clip model or template"
        )
    return found


def rare(pair: Pair) -> Tensor:
    """The rarest quarter (at least one) of `lasting`, by `Concepts.frequency` or else by the real labels, ties by index."""
    found, known = pair.once(lasting), concepts_in(pair)
    frequency = known.frequency
    if frequency is None:
        assert pair.real_labels is not None  # concepts without frequencies are classes
        frequency = torch.bincount(pair.real_labels, minlength=len(known))
    return found[frequency.to(found.device)[found].argsort(stable=True)[: max(1, len(found) // 4)]]


# ------------------------------------------------------------------------------------------------------- measures
class _OfConcepts(PairMetric):
    """Samples whose embedding is 0 have no direction and are left out."""

    needs = "concepts"
    directions: ClassVar[tuple[str, ...]] = ("fake",)
    min_n = 1


@measure("zero_shot_accuracy")
class ZeroShotAccuracy(_OfConcepts):
    """Share of samples whose nearest text is that of the concept they were asked for (zero-shot, Radford et al. 2103.00020).

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> x = torch.tensor([[1.0, 0.1], [1.0, 0.2]])
    >>> ZeroShotAccuracy.of(Pair(x, x, fake_labels=torch.tensor([0, 1]), concepts=concepts))
    0.5
    """

    unit = "share of samples"
    range = (0.0, 1.0)
    better = "higher"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float((pair.once(seen_fake)[fake] == pair.once(asked)[fake]).double().mean())


@measure("zero_shot_margin")
class ZeroShotMargin(_OfConcepts):
    """Mean cosine of a sample with its own text minus that with the nearest other text: below 0 where it is taken for another.

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> x = torch.tensor([[0.8, 0.6]])
    >>> round(ZeroShotMargin.of(Pair(x, x, fake_labels=torch.tensor([0]), concepts=concepts)), 4)
    0.2
    """

    unit = "cosine"
    range = (-2.0, 2.0)
    better = "real"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(margins)[fake].mean())


@measure("prompt_alignment")
class PromptAlignment(_OfConcepts):
    """Mean cosine of a sample with the text it was asked for: the CLIP score without its factor (Hessel et al. 2104.08718).

    It can rise while a chain collapses (Hu et al. 2505.08803): never read it alone, and never as "higher is better". It depends on
    the model; compare with the floor, not with published scores.

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> x = torch.tensor([[0.8, 0.6]])
    >>> round(PromptAlignment.of(Pair(x, x, fake_labels=torch.tensor([1]), concepts=concepts)), 4)
    0.6
    """

    unit = "cosine"
    range = (-1.0, 1.0)
    better = "real"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(alignments)[fake].mean())


def _by_concept(pair: Pair, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the samples in `rows`: unit embeddings [n, d], concept number 0..k-1 [n], sum [k, d] and count [k] of each concept."""
    unit = pair.once(unit_fake)[rows]
    found, at, count = pair.once(asked)[rows].unique(return_inverse=True, return_counts=True)
    if len(found) < 2 or int(count.max()) < 2:
        raise MeasureError(
            "the samples are all of one concept, or no concept has two: ask for at least 2 concepts, with several samples of one"
        )
    return unit, at, unit.new_zeros(len(found), unit.shape[1]).index_add_(0, at, unit), count.double()


@measure("within_between")
class WithinBetween(_OfConcepts):
    """Entanglement: mean squared distance of two samples of one concept over that of two samples of different concepts.

    Distances between embeddings at unit length, over all such pairs. 1 = concepts are no longer apart (or never were), 0 = one image
    a concept. It rises when concepts merge, definition 6 of Schaeffer et al. 2503.03150, and falls when each narrows.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> round(WithinBetween.of(Pair(x, x, fake_labels=torch.tensor([0, 0, 1, 1]), concepts=concepts)), 4)  # .2 over 1.4
    0.1429
    """

    unit = "ratio"
    range = (0.0, float("inf"))
    better = "real"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        unit, _, total, count = _by_concept(pair, fake)
        # The squared distances of all ordered pairs of n unit vectors sum to 2 n^2 - 2 |sum|^2.
        within = 2 * (count.square().sum() - total.square().sum()).clamp(min=0)
        between = 2 * (len(unit) ** 2 - total.sum(0).square().sum()) - within
        if between < 1e-9:
            raise MeasureError("within_between has no value: all samples have the same embedding")
        return float(
            (within / (count * (count - 1)).sum()) / (between / (len(unit) ** 2 - count.square().sum()))
        )


@measure("silhouette")
class Silhouette(_OfConcepts):
    """Mean silhouette of the samples by the concept asked for, in cosine distance (Rousseeuw 1987, 10.1016/0377-0427(87)90125-7).

    1 = concepts are tight and apart, 0 = they overlap, below 0 = samples are nearer to another concept than to their own. The only
    sample of a concept counts 0. Reads no text: what concepts look like to each other, whatever they are called.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> Silhouette.of(Pair(x, x, fake_labels=torch.tensor([0, 0, 1, 1]), concepts=concepts))
    1.0
    """

    unit = "silhouette"
    range = (-1.0, 1.0)
    better = "real"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        unit, at, total, count = _by_concept(pair, fake)
        summed, own = unit @ total.T, at.unsqueeze(1)
        within = (1 - (summed.gather(1, own).squeeze(1) - 1) / (count[at] - 1).clamp(min=1)).clamp(
            min=0
        )  # all others of its concept
        nearest_other = (1 - summed / count).scatter(1, own, torch.inf).amin(1).clamp(min=0)
        larger = torch.maximum(within, nearest_other)
        value = (nearest_other - within) / larger.clamp(min=1e-12)
        return float(value.where((larger > 1e-12) & (count[at] > 1), 0).mean())


@measure("concept_auroc")
class ConceptAuroc(_OfConcepts):
    """How well texts still separate samples: mean over pairs of concepts of the AUROC of text a minus text b between their samples.

    1 = each pair is told apart, 1/2 = as by chance. Unlike accuracy it does not ask the right text to be the nearest of all, so a
    weak judge still sees what merges. Every pair of concepts that have samples counts alike, however few. Memory 4 n_f^2 bytes.

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> x = torch.tensor([[0.9, 0.1], [0.6, 0.5], [0.5, 0.6], [0.7, 0.5]])
    >>> ConceptAuroc.of(Pair(x, x, fake_labels=torch.tensor([0, 0, 1, 1]), concepts=concepts))
    0.75
    """

    unit = "AUROC"
    range = (0.0, 1.0)
    better = "higher"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        table, count = aurocs(pair, fake)
        if int((count > 0).sum()) < 2:
            raise MeasureError(
                "concept_auroc has no value: the samples are all of one concept; ask for at least 2"
            )
        return float(table.nanmean())


class _Survival(_OfConcepts):
    directions = ("real", "fake")
    unit = "share of concepts"
    range = (0.0, 1.0)
    better = "higher"


@measure("concept_survival")
class ConceptSurvival(_Survival):
    """Share of concepts of which a sample is left: one asked for it and recognised as it. Over the `lasting` ones.

    Which concepts count is a property of the whole set; a concept that the judge sees in none of its own real images is left out.
    The more samples a concept has, the likelier one is recognised, so it compares with the floor at the same n only. Half of the
    samples of a concept may be none: with a few samples a concept the interval is rough.

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> labels, fake = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> ConceptSurvival.of(Pair(torch.eye(2), fake, real_labels=labels, fake_labels=labels, concepts=concepts))
    0.5
    """

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return _alive(pair, pair.once(lasting), fake)


@measure("rare_concept_survival")
class RareConceptSurvival(_Survival):
    """`concept_survival` over the rarest quarter of the concepts (at least one), by their frequency in training.

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2), frequency=torch.tensor([0.9, 0.1]))
    >>> labels, fake = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> RareConceptSurvival.of(Pair(torch.eye(2), fake, real_labels=labels, fake_labels=labels, concepts=concepts))
    0.0
    """

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return _alive(pair, pair.once(rare), fake)


def _alive(pair: Pair, which: Tensor, rows: Rows) -> float:
    labels = pair.once(asked)[rows]
    return float(torch.isin(which, labels[pair.once(seen_fake)[rows] == labels]).double().mean())
