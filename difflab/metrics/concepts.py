"""Concept measures: image embeddings compared with text embeddings of the same CLIP model, which acts as the
judge.

    concepts = concepts_of(open_extractor("open_clip:PATH"), names)
    pair = Pair(real, samples, real_labels=..., fake_labels=..., concepts=concepts)
    METRICS["zero_shot_accuracy"].of(pair)

Labels are positions in `concepts.names`: classes, or `assign(prompts, names)`. A caption can name a
concept from each of several lists ("noto seal" has the style noto and the content seal): make two
`Concepts` and measure the same images with each.

The CLIP model makes errors, which are part of every number. Read each number beside its floor, the same
measure with held-out real images in the place of the samples, and beside the accuracy that `tested`
writes into the recipe. Read no number alone: prompts and images can agree *better* while a chain
collapses (Hu et al. 2505.08803), because the samples concentrate on what is typical.

**Contagion**, the effect of a chain on prompts that it was never trained on, is measured by the same
measures on the samples of those prompts. All concepts stay candidates, so that an untrained concept drawn
as a trained one is recognised as that one:

    _, unseen = split_by(concepts, trained={"cat", "dog"})
    rows = unseen[fake_labels]
    Pair(real, fake[rows], real_labels=real_labels, fake_labels=fake_labels[rows], concepts=concepts)
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from difflab.core.errors import MeasureError
from difflab.metrics.concept_set import Concepts
from difflab.metrics.interval import wilson
from difflab.metrics.kernel import unit_rows
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows


def concepts_in(pair: Pair) -> Concepts:
    """The concepts of a pair. Raises MeasureError when it has none, or when their width is not that of its
    features.
    """
    if pair.concepts is None:
        raise MeasureError(
            "concept measures need concepts: Pair(..., concepts=concepts_of(extractor, names)), with an "
            "open_clip extractor"
        )
    if pair.concepts.text.shape[1] != pair.fake.shape[1]:
        raise MeasureError(
            f"features have {pair.fake.shape[1]} dimensions, the concepts' texts "
            f"{pair.concepts.text.shape[1]}: take both with one open_clip model"
        )
    return pair.concepts


def _positions(pair: Pair, labels: Tensor | None, missing: str) -> Tensor:
    if labels is None:
        raise MeasureError(missing)
    n = len(concepts_in(pair))
    if len(labels) and int(labels.max()) >= n:
        raise MeasureError(
            f"a label is {int(labels.max())}, but {n} concepts are 0 to {n - 1}: labels are positions in "
            "concepts.names"
        )
    return labels


def sample_concepts(pair: Pair) -> Tensor:
    """The concept that each sample was conditioned on, int64 [n_f]. Raises MeasureError for unconditional
    samples.
    """
    return _positions(
        pair,
        pair.fake_labels,
        "concept measures have no value: the samples are unconditional",
    )


def unit_fake(pair: Pair) -> Tensor:
    """Embeddings of the samples at unit length, float64 [n_f, d]. Those of length 0 stay 0, and are not
    read.
    """
    return unit_rows(pair.fake.double())


def cosines_fake(pair: Pair) -> Tensor:
    """Cosines of the samples with all concepts, float64 [n_f, C]."""
    return pair.once(unit_fake) @ concepts_in(pair).text.to(pair.fake.device).T


def seen_fake(pair: Pair) -> Tensor:
    """The concept whose text is nearest to each sample, int64 [n_f]; -1 where the embedding of the sample is
    0.
    """
    return pair.once(cosines_fake).argmax(1).where(pair.directed["fake"], -1)


def seen_real(pair: Pair) -> Tensor:
    """The concept whose text is nearest to each real image, int64 [n_r]; -1 where the embedding of the image
    is 0.
    """
    nearest_text = (unit_rows(pair.real.double()) @ concepts_in(pair).text.to(pair.real.device).T).argmax(1)
    return nearest_text.where(pair.directed["real"], -1)


def alignments(pair: Pair) -> Tensor:
    """Cosine of each sample with the text of its concept, float64 [n_f]."""
    return pair.once(cosines_fake).gather(1, pair.once(sample_concepts).unsqueeze(1)).squeeze(1)


def margins(pair: Pair) -> Tensor:
    """Cosine of each sample with the text of its concept minus that with the nearest other text, float64
    [n_f].
    """
    others = pair.once(cosines_fake).scatter(1, pair.once(sample_concepts).unsqueeze(1), -torch.inf)
    return pair.once(alignments) - others.amax(1)


def wins(pair: Pair, block: int = 1024) -> Tensor:
    """Whether sample i prefers its own text to that of j more than sample j does: 1, 1/2 for a tie, 0.
    float32 [n_f, n_f].

    The preference of a sample is its cosine with the text of i minus that with the text of j. Entry (i,
    j) equals entry (j, i), since for j the signs of both sides change.
    """
    cosines, labels = pair.once(cosines_fake), pair.once(sample_concepts)
    aligned = pair.once(alignments)
    won = torch.empty(len(labels), len(labels), device=cosines.device)
    for start in range(0, len(labels), block):
        rows = slice(start, start + block)
        ahead = (aligned[rows, None] - cosines[rows][:, labels]) - (cosines[:, labels[rows]].T - aligned)
        won[rows] = (ahead.where(ahead.abs() > 1e-12, 0).sign() + 1).float() / 2
    return won


def aurocs(pair: Pair, rows: Rows = slice(None)) -> tuple[Tensor, Tensor]:
    """For each pair of concepts a, b the AUROC with which text a minus text b separates their samples, and
    the number of samples per concept.

    float64 [C, C], symmetric, NaN on the diagonal and where a concept has no sample; int64 [C]. 1 =
    separated, 1/2 = merged, 0 = swapped.
    """
    member = F.one_hot(pair.once(sample_concepts)[rows], len(concepts_in(pair)))
    count = member.sum(0)
    won = (member.T.float() @ pair.once(wins)[rows][:, rows] @ member.float()).double()
    return (won / torch.outer(count, count)).fill_diagonal_(torch.nan), count


def lasting(pair: Pair) -> Tensor:
    """The concepts whose loss would be visible: some sample is conditioned on them, and one of their real
    images is recognised. int64, ascending.

    Raises MeasureError without real labels, or when there is no such concept.
    """
    labels = _positions(
        pair,
        pair.real_labels,
        "concept survival has no value: the real images carry no labels, so no loss would be visible",
    )
    visible = labels[pair.once(seen_real) == labels]
    concepts = visible[torch.isin(visible, pair.once(sample_concepts))].unique()
    if not len(concepts):
        raise MeasureError(
            "the judge recognises no concept of the samples in its real images; use another open_clip "
            "model or template"
        )
    return concepts


def rare(pair: Pair) -> Tensor:
    """The rarest quarter (at least one) of `lasting`, by `Concepts.frequency` or else by the real labels,
    ties by index.
    """
    candidates, known = pair.once(lasting), concepts_in(pair)
    frequency = known.frequency
    if frequency is None:
        assert pair.real_labels is not None  # concepts without frequencies are classes
        frequency = torch.bincount(pair.real_labels, minlength=len(known))
    rarest = frequency.to(candidates.device)[candidates].argsort(stable=True)
    return candidates[rarest[: max(1, len(candidates) // 4)]]


class _OfConcepts(PairMetric):
    """Samples whose embedding is 0 have no direction and are left out."""

    needs = "concepts"
    directions: ClassVar[tuple[str, ...]] = ("fake",)
    min_n = 1


@measure("zero_shot_accuracy")
class ZeroShotAccuracy(_OfConcepts):
    """Share of samples whose nearest text is that of the concept they were conditioned on (zero-shot,
    Radford et al. 2103.00020).

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> x = torch.tensor([[1.0, 0.1], [1.0, 0.2]])
    >>> ZeroShotAccuracy.of(Pair(x, x, fake_labels=torch.tensor([0, 1]), concepts=concepts))
    0.5
    """

    unit = "share of samples"
    range = (0.0, 1.0)
    better = "higher"
    topic = "Concepts"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float((pair.once(seen_fake)[fake] == pair.once(sample_concepts)[fake]).double().mean())


@measure("zero_shot_margin")
class ZeroShotMargin(_OfConcepts):
    """Mean cosine of a sample with the text of its concept minus that with the nearest other text. Below 0
    where another concept is recognised.

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> x = torch.tensor([[0.8, 0.6]])
    >>> round(ZeroShotMargin.of(Pair(x, x, fake_labels=torch.tensor([0]), concepts=concepts)), 4)
    0.2
    """

    unit = "cosine"
    range = (-2.0, 2.0)
    better = "real"
    topic = "Concepts"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(margins)[fake].mean())


@measure("prompt_alignment")
class PromptAlignment(_OfConcepts):
    """Mean cosine of a sample with the text it was conditioned on: the CLIP score without its factor (Hessel
    et al. 2104.08718).

    It can rise while a chain collapses (Hu et al. 2505.08803): never read it alone, and never as "higher
    is better". It depends on the model. Compare with the floor, not with published scores.

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> x = torch.tensor([[0.8, 0.6]])
    >>> round(PromptAlignment.of(Pair(x, x, fake_labels=torch.tensor([1]), concepts=concepts)), 4)
    0.6
    """

    unit = "cosine"
    range = (-1.0, 1.0)
    better = "real"
    topic = "Concepts"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(alignments)[fake].mean())


def _by_concept(pair: Pair, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the samples in `rows`: unit embeddings [n, d], concept number 0..k-1 [n], sum [k, d] and number of
    samples [k] of each concept.
    """
    unit = pair.once(unit_fake)[rows]
    concepts, number, count = pair.once(sample_concepts)[rows].unique(return_inverse=True, return_counts=True)
    if len(concepts) < 2 or int(count.max()) < 2:
        raise MeasureError(
            "the samples are all of one concept, or no concept has two: ask for at least 2 concepts, with "
            "several samples of one"
        )
    total = unit.new_zeros(len(concepts), unit.shape[1]).index_add_(0, number, unit)
    return unit, number, total, count.double()


@measure("within_between")
class WithinBetween(_OfConcepts):
    """Entanglement: mean squared distance between samples of one concept, divided by that between samples of
    different concepts.

    Distances between embeddings at unit length, over all such pairs. 1 = concepts are not separated, 0 =
    all samples of a concept are equal. It rises when concepts merge, definition 6 of Schaeffer et al.
    2503.03150, and falls when each narrows.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> # .2 over 1.4
    >>> round(WithinBetween.of(Pair(x, x, fake_labels=torch.tensor([0, 0, 1, 1]), concepts=concepts)), 4)
    0.1429
    """

    unit = "ratio"
    range = (0.0, float("inf"))
    better = "real"
    topic = "Concepts"

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
    """Mean silhouette of the samples by the concept they were conditioned on, in cosine distance (Rousseeuw
    1987). 1 = concepts are tight and separated, 0 = they overlap.

    DOI 10.1016/0377-0427(87)90125-7. Below 0 samples are nearer to another concept than to their own. The
    only sample of a concept counts 0. No text is read: concepts are compared by their images, whatever
    their names are.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> Silhouette.of(Pair(x, x, fake_labels=torch.tensor([0, 0, 1, 1]), concepts=concepts))
    1.0
    """

    unit = "silhouette"
    range = (-1.0, 1.0)
    better = "real"
    topic = "Concepts"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        unit, number, total, count = _by_concept(pair, fake)
        summed, column = unit @ total.T, number.unsqueeze(1)
        n_others = count[number] - 1  # other samples of the same concept
        within = (1 - (summed.gather(1, column).squeeze(1) - 1) / n_others.clamp(min=1)).clamp(min=0)
        nearest_other = (1 - summed / count).scatter(1, column, torch.inf).amin(1).clamp(min=0)
        larger = torch.maximum(within, nearest_other)
        value = (nearest_other - within) / larger.clamp(min=1e-12)
        return float(value.where((larger > 1e-12) & (n_others > 0), 0).mean())


@measure("concept_auroc")
class ConceptAuroc(_OfConcepts):
    """Mean over pairs of concepts of the AUROC with which their texts separate their samples: 1 = every pair
    is separated, 1/2 = chance.

    The score is the cosine with text a minus that with text b, see `aurocs`. Unlike accuracy it does not
    require the right text to be the nearest of all, so a weak CLIP model still sees merging. Every pair
    of concepts with samples has the same weight, however few they are. Memory: 4 n_f^2 bytes.

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> x = torch.tensor([[0.9, 0.1], [0.6, 0.5], [0.5, 0.6], [0.7, 0.5]])
    >>> ConceptAuroc.of(Pair(x, x, fake_labels=torch.tensor([0, 0, 1, 1]), concepts=concepts))
    0.75
    """

    unit = "AUROC"
    range = (0.0, 1.0)
    better = "higher"
    topic = "Concepts"

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
    topic = "Tails and likelihood"


@measure("concept_survival")
class ConceptSurvival(_Survival):
    """Share of concepts of which at least one sample is recognised as the concept it was conditioned on.

    Over the `lasting` concepts. Which ones count is a property of the whole set; a concept that the CLIP
    model recognises in none of its own real images is left out. The more samples a concept has, the
    likelier one is recognised, so compare with the floor at the same n only. Half of the samples of a
    concept may be none: with few samples per concept the interval is rough.

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> labels, fake = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> pair = Pair(torch.eye(2), fake, real_labels=labels, fake_labels=labels, concepts=concepts)
    >>> ConceptSurvival.of(pair)
    0.5
    """

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return _alive(pair, pair.once(lasting), fake)


@measure("rare_concept_survival")
class RareConceptSurvival(_Survival):
    """`concept_survival` over the rarest quarter of the concepts (at least one), by their frequency in
    training.

    >>> concepts = Concepts(["cat", "dog"], torch.eye(2), frequency=torch.tensor([0.9, 0.1]))
    >>> labels, fake = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> pair = Pair(torch.eye(2), fake, real_labels=labels, fake_labels=labels, concepts=concepts)
    >>> RareConceptSurvival.of(pair)
    0.0
    """

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return _alive(pair, pair.once(rare), fake)


def _alive(pair: Pair, which: Tensor, rows: Rows) -> float:
    labels = pair.once(sample_concepts)[rows]
    return float(torch.isin(which, labels[pair.once(seen_fake)[rows] == labels]).double().mean())


def tested(concepts: Concepts, features: Tensor, labels: Tensor) -> Concepts:
    """The same concepts, with the accuracy of their CLIP model in the recipe.

    `features` [n, d] are of held-out real images that show the concepts `labels`, int64 [n]. Adds accuracy,
    accuracy_low and accuracy_high (its Wilson interval), and accuracy_n.
    """
    accuracy = ZeroShotAccuracy.of(Pair(features, features, fake_labels=labels, concepts=concepts))
    low, high = wilson(accuracy, len(features))
    measured = {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_n": len(features),
    }
    return Concepts(concepts.names, concepts.text, concepts.frequency, {**concepts.recipe, **measured})
