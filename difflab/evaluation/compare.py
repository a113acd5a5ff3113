"""Compare two sets of images: every measure with its number of images n, noise floor, 95% interval and
recipe.

real --> two disjoint halves of n --> value: first half against n generated images
                                  --> floor: second half against first half, the value of "no difference" at
                                  this n
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab.core.errors import DataError, MeasureError, reading
from difflab.core.hashing import digest
from difflab.core.rows import Row
from difflab.core.seeds import numpy_generator, seed_of
from difflab.data.image_sets import open_sides
from difflab.data.source import Source
from difflab.evaluation.extract import (
    default_extractor,
    features,
    notes_on_precision,
    rows_at,
    with_consequences,
)
from difflab.evaluation.overlap import Contents, shared_in_words, split, without_trained
from difflab.evaluation.protocols import NATIVE
from difflab.evaluation.published import compare_published
from difflab.evaluation.summary import Summary, changes_most, changes_of, count_in_words
from difflab.metrics import METRICS, Concepts, Extractor, assign, concepts_of, open_extractor, read_concepts
from difflab.metrics.defaults import COMMON, CONCEPTS, MEMORY, TEXTURE
from difflab.metrics.evaluate import ComparedSets, MeasureSettings, Side, measured
from difflab.metrics.interval import resampled


@dataclass(frozen=True)
class Comparison:
    """The result of `difflab.compare`.

    Attributes:
        rows: as in metrics.jsonl of a run, each with the key `protocol`.
        notes: what was special about the images, and what was done about it.
        protocol: how the numbers were made: 'native' or 'published:PACKAGE'.
    """

    rows: list[Row]
    notes: list[str]
    protocol: str = NATIVE

    @property
    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def __getitem__(self, metric: str) -> Row:
        """The row of a measure, on the first extractor that has one. Raises KeyError."""
        return {row["metric"]: row for row in reversed(self.rows)}[metric]

    def summary(self, real: str = "REAL", generated: str = "GENERATED") -> Summary:
        """How many measures differ, the ones that differ most, and what to type next.

        Args:
            real, generated: paths for the commands.
        """
        sets = f"{shlex.quote(real)} {shlex.quote(generated)}"
        if self.protocol != NATIVE:
            values = [f"{row['metric']} {row['value']:.7g}" for row in self.rows if row["value"] is not None]
            return Summary(f"{self.protocol}: {', '.join(values) or 'no measure has a value'}")
        return Summary(
            count_in_words(changes_of(self.rows), 0),
            changes_most(self.rows),
            next_commands=[f"difflab diagnose --reference {sets}", f"difflab compare {sets} --json"],
        )


def compare(
    real: Any,
    generated: Any,
    *,
    train: Any = None,
    extractors: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    concepts: str | Path | Sequence[str] | None = None,
    count: int | None = None,
    neighbours: int = 5,
    resamples: int = 100,
    image_size: int | Sequence[int] | None = None,
    max_bad: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
    protocol: str = NATIVE,
    reference: str | Path | None = None,
    precision: str = "auto",
) -> Comparison:
    """Measure `generated` against `real` and return all measures as one table.

    Args:
        real, generated, train: a folder (class folders or metadata.jsonl), a parquet file or folder, a .npz
            or .npy file, uint8 images [n, H, W, C] or [n, H, W], a datasets.Dataset, or a list of PIL images
            or files. `train` is what the model was trained on, for the memorisation measures.
        extractors: feature spaces as in measure.extractors of a config, except `fitted`; None = texture, and
            efficientnet-lite0 if its package is installed, else pixels.
        metrics: names of measures; None = all that these images allow.
        concepts: names, or a file of them (one per line): the concept measures, on an open_clip extractor.
        count: images on either side; None = as many as possible. The real set is halved for the floor.
        neighbours: k of the nearest-neighbour measures.
        resamples: half-samples behind each interval; 0 = no intervals.
        image_size: (H, W) or the side of a square in pixels; None = the images' own size, else a square.
        max_bad: largest share of unreadable images, which are left out and counted. More are an error.
        seed, device: of the choice of images and of the half-samples; where features are extracted.
        protocol: 'native', or 'published:PACKAGE': the numbers that a package prints, of all images.
        reference: file of statistics in place of the real images; `real` may then be None.
        precision: of feature networks, as in `open_extractor`; published protocols always use float32.

    Raises DataError for unusable sets, MeasureError for unusable measures, protocols and references.

    >>> rng = np.random.default_rng(0)
    >>> real, fake = (rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8) for _ in range(2))
    >>> result = compare(real, fake, extractors=["pixels"], metrics=["trace_ratio"], resamples=0)
    >>> [(row["metric"], row["n"]) for row in result.rows]
    [('trace_ratio', 30)]
    """
    if protocol != NATIVE or reference is not None:
        _check_published(protocol, train=train, concepts=concepts, count=count, image_size=image_size)
        options = (reference, metrics, extractors, seed, device)
        return Comparison(*compare_published(real, generated, protocol, *options))
    notes: list[str] = []
    sources = _open(real, generated, train, image_size, max_bad, notes)
    spaces = _open_extractors(extractors, device, precision, notes)
    clip = next((extractor for extractor in spaces if extractor.encode_text is not None), None)
    concept_set = None if concepts is None else _read_concepts(concepts, clip, sources["generated"])
    names = _names(metrics, train is not None, concept_set is not None)
    sides = _extract(sources, _count(sources, count, notes), spaces, seed, notes)
    sides.labels = _labels(sources, sides, concept_set)
    return Comparison(_measure(sides, names, concept_set, clip, neighbours, resamples, seed), notes)


def _check_published(protocol: str, **options: Any) -> None:
    """Raise MeasureError for an option that a published protocol does not have."""
    if protocol == NATIVE:
        raise MeasureError(
            "statistics (--reference) are read by a published protocol; add --protocol published"
        )
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise MeasureError(
            f"protocol {protocol} measures all images in their own size and has no option "
            f"{', '.join(given)}; leave it out, or use the native protocol"
        )


def _open(
    real: Any,
    generated: Any,
    train: Any,
    image_size: int | Sequence[int] | None,
    max_bad: float,
    notes: list[str],
) -> dict[str, Source]:
    sets = {"real": real, "generated": generated}
    if train is not None:
        sets["train"] = train
    with reading(" and ".join(sets)):
        sources = open_sides(sets, image_size, max_bad, notes)
    for side, source in sources.items():
        notes += source.account.told(side)
    return sources


def _open_extractors(
    specs: Sequence[str] | None, device: str | torch.device, precision: str, notes: list[str]
) -> list[Extractor]:
    specs = list(specs) if specs is not None else [default_extractor(), "texture"]
    if "fitted" in specs:
        raise MeasureError(
            "extractor 'fitted' belongs to a run; use pixels, efficientnet-lite0, texture, inception, "
            "open_clip:NAME_OR_PATH or timm:NAME_OR_PATH"
        )
    opened = [open_extractor(spec, device=device, precision=precision) for spec in specs]
    notes += notes_on_precision(opened)
    return opened


def _read_concepts(concepts: str | Path | Sequence[str], clip: Any, generated: Source) -> Concepts:
    """The concepts with their text embeddings. Raises MeasureError without a CLIP model."""
    if clip is None:
        raise MeasureError("concept measures need a CLIP model; add an extractor open_clip:NAME_OR_PATH")
    if isinstance(concepts, (str, Path)):
        return concepts_of(clip, read_concepts(concepts, generated.prompts))
    return concepts_of(clip, list(concepts))


def _names(metrics: Sequence[str] | None, with_train: bool, with_concepts: bool) -> list[str]:
    """The measures to take. Raises MeasureError for one that only a run can take."""
    if metrics is not None:
        names = list(metrics)
    else:
        names = [*COMMON, *TEXTURE]
        names += MEMORY if with_train else []
        names += CONCEPTS if with_concepts else []
    for name in names:
        if METRICS[name].needs == "detector":
            raise MeasureError(f"{name} needs the samples of generation 0; take it in a run")
        if METRICS[name].needs == "judge":
            raise MeasureError(
                f"{name} needs a judge trained in a run; with captions use zero_shot_accuracy and concepts "
                "instead"
            )
    return names


def _count(sources: dict[str, Source], wanted: int | None, notes: list[str]) -> int:
    """Images on either side. Raises MeasureError if `wanted` is more than there are."""
    most = min(len(sources["real"]) // 2, len(sources["generated"]))
    if wanted is not None and wanted > most:
        raise MeasureError(
            f"count {wanted} is more than the {most} images that half of the real set and the generated set "
            "both have"
        )
    n = most if wanted is None else wanted
    notes.append(
        f"n = {n}: one half of the {len(sources['real'])} real images is the reference, the other half gives "
        "the "
        f"noise floor; {len(sources['generated'])} images are generated"
    )
    return n


@dataclass
class _Sides:
    """What the measures are taken on.

    Attributes:
        positions: of the images of each side in its source.
        features: of each side, [n, d] per extractor.
        first, second: positions in the real side of the reference and of the half that gives the floor, `n`
            each.
        labels: the concept of each image, int64 [n], by side; None without concepts.
    """

    extractors: Sequence[Any]
    positions: dict[str, np.ndarray]
    features: dict[str, list[torch.Tensor]]
    real_hashes: list[str]
    first: np.ndarray
    second: np.ndarray
    labels: dict[str, torch.Tensor | None] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.first)

    def side(self, name: str, extractor: int, rows: np.ndarray) -> Side:
        """The images `rows` of a side on one extractor."""
        return Side(rows_at(self.features[name][extractor], rows), rows_at(self.labels.get(name), rows))


def _extract(
    sources: dict[str, Source], n: int, extractors: Sequence[Any], seed: int, notes: list[str]
) -> _Sides:
    """Draw the images of each side and extract their features. Copies of one real image are in one half."""
    positions = {
        "real": numpy_generator("compare", seed).permutation(len(sources["real"]))[: 2 * n],
        "generated": numpy_generator("compare", seed).permutation(len(sources["generated"]))[:n],
    }
    if "train" in sources:
        positions["train"] = np.arange(len(sources["train"]))
    contents, features_by_side = {}, {}
    for side, rows in positions.items():
        small = [np.zeros((0, 1, 1, 1), np.uint8)] if not len(rows) else []
        hashes, features_by_side[side] = features(sources[side], rows, extractors, side, notes, small)
        contents[side] = Contents(
            hashes, np.concatenate(small) if small else np.zeros((0, 1, 1, 1), np.uint8)
        )
    real = contents["real"]
    kept, left_out = without_trained("real", real, contents.get("train"), 2)
    notes[:0] = [*with_consequences(shared_in_words(contents), bool(left_out)), *left_out]
    first, second = split(real, kept, n)
    if not len(first):
        raise MeasureError(
            "real: all images are the same picture, so the set has no two different halves for the noise "
            "floor"
        )
    if len(first) < n:
        why = "copies of one image have to be in one half of the real set"
        if left_out:
            why = f"training images are left out, and {why}"
        notes.append(f"n = {len(first)} instead of {n}: {why}")
    return _Sides(extractors, positions, features_by_side, list(real.hashes), first, second)


def _measure(
    sides: _Sides,
    names: Sequence[str],
    concepts: Concepts | None,
    clip: Any,
    neighbours: int,
    resamples: int,
    seed: int,
) -> list[Row]:
    """The rows of all measures on all extractors. `clip`: the extractor of the concept measures."""

    def resample(metric: Any, pair: Any) -> list[float]:
        return resampled(metric, pair, range(resamples), seed_of("compare interval", seed, metric.name))

    rows: list[Row] = []
    for i, extractor in enumerate(sides.extractors):
        sets = ComparedSets(
            sides.side("real", i, sides.first),
            sides.side("generated", i, np.arange(sides.n)),
            sides.side("real", i, sides.second),
            sides.features["train"][i] if "train" in sides.features else None,
            digest(sides.real_hashes),
        )
        settings = MeasureSettings(
            [name for name in names if METRICS[name].needs != "concepts" or extractor is clip],
            resample if resamples else None,
            neighbours,
            concepts=concepts if extractor is clip else None,
        )
        rows += measured(extractor, sets, settings)
    return [made | {"protocol": NATIVE} for made in rows]


def _labels(
    sources: dict[str, Source], sides: _Sides, concepts: Concepts | None
) -> dict[str, torch.Tensor | None]:
    """The concept of each real and each generated image, int64 [n]; None without concepts."""
    if concepts is None:
        return {"real": None, "generated": None}
    return {
        side: _concept_of(sources[side], sides.positions[side], concepts.names, side)
        for side in ("real", "generated")
    }


def _concept_of(source: Source, rows: np.ndarray, names: list[str], side: str) -> torch.Tensor:
    """The concept that the caption, else the class, of each image names, int64 [n].

    Raises DataError for an image without one.
    """
    if source.prompts is not None:
        texts = [source.prompts[i] for i in rows]
    elif source.labels is not None and source.classes is not None:
        texts = [source.classes[source.labels[i]] for i in rows]
    else:
        raise DataError(f"{side}: concepts need captions (metadata.jsonl with 'text') or class folders")
    labels = assign(texts, names)
    unassigned = [text for text, label in zip(texts, labels.tolist(), strict=True) if label < 0]
    if unassigned:
        raise DataError(
            f"{side}: {len(unassigned)} of {len(texts)} captions name no concept, the first: "
            f"'{unassigned[0]}'; "
            "add it to the concepts"
        )
    return labels
