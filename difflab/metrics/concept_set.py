"""Concepts: what samples can be conditioned on, as texts in the space of the image features."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difflab.core.errors import DataError, MeasureError
from difflab.core.files import read_lines, sound
from difflab.core.hashing import digest
from difflab.core.suggest import nearest_few
from difflab.features.extractor import Extractor
from difflab.metrics.distances import squared_distances


class Concepts:
    """Names of concepts with their text embeddings, in the space of the image features.

    Args:
        names: C >= 2 names, different also when case is ignored.
        text: their text embeddings [C, d], of any length; no two are equal.
        frequency: how often each was trained on, [C] >= 0, counts or shares; None = as often as among the
            real labels.
        recipe: how the embeddings were made; `difflab.metrics.concepts.tested` adds the accuracy of the
            CLIP model.

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
            raise MeasureError(
                f"concepts are compared with each other: give at least 2, got {len(self.names)}"
            )
        if text.shape[:-1] != (len(self.names),) or not text.is_floating_point():
            raise MeasureError(
                f"{len(self.names)} concepts need text embeddings [{len(self.names)}, d], got {text.dtype} "
                f"{tuple(text.shape)}"
            )
        self.text = _unit(text.detach().cpu())
        apart = squared_distances(self.text, self.text).fill_diagonal_(torch.inf)
        if float(apart.min()) < 1e-10:
            a, b = (self.names[i] for i in divmod(int(apart.argmin()), len(self.names)))
            raise MeasureError(
                f"the text encoder reads '{a}' and '{b}' as one text; drop one, or give them prompts that "
                "differ"
            )
        if frequency is not None and (
            frequency.shape != (len(self.names),) or not bool((frequency >= 0).all())
        ):
            raise MeasureError(
                f"frequency needs {len(self.names)} numbers >= 0, one per concept, got shape "
                f"{tuple(frequency.shape)}"
            )
        self.frequency = None if frequency is None else frequency.detach().cpu().double()
        self.recipe = {"accuracy": None, **(recipe or {})}

    def __len__(self) -> int:
        return len(self.names)


def concepts_of(
    extractor: Extractor,
    names: Sequence[str] | Mapping[str, str | None],
    template: str = "{}",
    frequency: Tensor | None = None,
) -> Concepts:
    """Concepts in the space of an open_clip extractor. The prompt of each is `template` with its name in the
    place of ``{}``.

    `names` may also map each name to its own prompt (`read_concepts`), which is then used as it is. The
    tokenizer cuts prompts beyond the context length of the model. Raises MeasureError for an extractor
    without a text tower, and as `Concepts`.
    """
    if extractor.encode_text is None:
        raise MeasureError(
            f"{extractor.name} reads no texts; concept measures need an open_clip extractor, as "
            "open_clip:NAME/PRETRAINED or open_clip:PATH"
        )
    if "{}" not in template:
        raise MeasureError(
            f"template '{template}' has no place for the concept; write {{}} where it goes, as 'a picture "
            f"of {{}}'"
        )
    prompt_of = dict(names) if isinstance(names, Mapping) else dict.fromkeys(_distinct(names))
    prompts = [prompt or template.replace("{}", name) for name, prompt in prompt_of.items()]
    recipe = {
        "judge": extractor.name,
        "sha256": extractor.recipe.get("sha256"),
        "text_sha256": extractor.text_sha256,
        "template": template,
        "prompts": digest({"prompts": prompts}),
    }
    text = extractor.encode_text(prompts) if prompts else torch.zeros(0, 1)
    return Concepts(list(prompt_of), text, frequency, recipe)


def read_concepts(path: str | Path, prompts: Iterable[str] | None = None) -> dict[str, str | None]:
    """The concepts of a text file, in its order: one per line, or one JSON object per line.

    A JSON line is ``{"concept": "seal", "prompt": "a seal at sea"}``. The value in the result is the
    concept's own prompt; None = by the template. With `prompts`, those of the samples, each concept must
    be named by one of them. Raises MeasureError for a missing file, a file without concepts, a line that
    cannot be read, duplicates, and concepts that no prompt names.
    """
    try:
        lines = read_lines(Path(path))
    except DataError as error:
        raise MeasureError(
            f"cannot read concepts from {error}; give a UTF-8 text file with one concept per line"
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
        raise MeasureError(f"{path} holds no concept; write one per line")
    _distinct([name for name, _ in rows])
    concepts = dict(rows)
    if prompts is not None:
        _check_prompts(prompts, list(concepts), path)
    return concepts


def _check_prompts(prompts: Iterable[str], names: list[str], path: str | Path) -> None:
    """Raise MeasureError where no prompt names some concept."""
    without_prompt = unnamed(assign(prompts, names), names)
    if without_prompt:
        shown = ", ".join(f"'{name}'" for name in without_prompt[:5])
        if len(without_prompt) > 5:
            shown += ", ..."
        raise MeasureError(
            f"no prompt names {len(without_prompt)} of {len(names)} concepts in {path}: {shown}; drop them, "
            "or add prompts with these words"
        )


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
            f"concepts are listed twice (upper and lower case are one): {', '.join(twice[:5])}; keep each "
            "once"
        )
    return names


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+|[^\w\s]", text.casefold()))


def assign(prompts: Iterable[str], names: Sequence[str]) -> Tensor:
    """The concept that each prompt names: the position of the longest of `names` that it contains as whole
    words, -1 = none. int64 [n].

    Case and spaces are ignored. Of names of equal length the first in the prompt counts. A `Pair` takes
    no -1: leave those rows out.

    >>> assign(["noto Red Apple", "noto applet", "an apple"], ["apple", "red apple"]).tolist()
    [1, -1, 0]
    """
    if not names:
        raise MeasureError("there are no concepts to assign prompts to; give at least one name")
    position_of = {_words(name): position for position, name in reversed(list(enumerate(names)))}
    most_words = max(map(len, position_of))
    positions = [_assigned(_words(prompt), position_of, most_words) for prompt in prompts]
    return torch.tensor(positions, dtype=torch.long)


def _assigned(words: tuple[str, ...], position_of: Mapping[tuple[str, ...], int], most_words: int) -> int:
    """The position of the longest name among the spans of `words`, in characters; -1 = none."""
    longest: tuple[str, ...] = ()
    for start in range(len(words)):
        for stop in range(start + 1, min(start + most_words, len(words)) + 1):
            span = words[start:stop]
            if span in position_of and len(" ".join(span)) > len(" ".join(longest)):
                longest = span
    return position_of.get(longest, -1)


def unnamed(labels: Tensor, names: Sequence[str]) -> list[str]:
    """The names whose position is not in `labels`, in order.

    >>> unnamed(torch.tensor([0, -1, 2]), ["cat", "dog", "seal"])
    ['dog']
    """
    wanted = set(labels.tolist())
    return [name for position, name in enumerate(names) if position not in wanted]


def split_by(concepts: Concepts, trained: Collection[str]) -> tuple[Tensor, Tensor]:
    """Which concepts are among `trained` and which are not: two bool [C], to be indexed with labels.

    See the head of difflab/metrics/concepts.py for their use. Raises MeasureError for a name that is no
    concept, and when no concept is untrained.
    """
    for name in trained:
        if name not in concepts.names:
            raise MeasureError(
                f"trained: '{name}' is none of the {len(concepts)} concepts; "
                f"{nearest_few(name, concepts.names)}"
            )
    seen = torch.tensor([name in trained for name in concepts.names])
    if bool(seen.all()):
        raise MeasureError(
            "all concepts were trained on, so none is left to measure contagion on; hold some out of the "
            "training prompts"
        )
    return seen, ~seen


def _unit(features: Tensor) -> Tensor:
    """Rows divided by their lengths, float64. Raises MeasureError for a row without a direction."""
    length = features.double().norm(dim=1, keepdim=True)
    if not bool((torch.isfinite(length) & (length > 0)).all()):
        raise MeasureError(
            "some text embeddings are 0 or not finite and have no direction; look at those inputs and drop "
            "them"
        )
    return features.double() / length
