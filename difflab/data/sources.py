"""The real images: one lazily read `Source`, whatever they come from, long-tailed and limited on request."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from difflab.config import Data
from difflab.core.account import Account
from difflab.core.errors import DataError
from difflab.core.seeds import numpy_generator

PLAIN = ("digits", "emoji", "mnist5k", "photos")
NO_LABELS = "none"  # data.label: labels are not read
IGNORE_LABELS = f"name another column with data.label=COLUMN, or ignore labels with data.label={NO_LABELS}"
WITH_ARGUMENT = {"imagefolder": "imagefolder:PATH", "parquet": "parquet:PATH", "hub": "hub:NAME"}


@dataclass(frozen=True, eq=False)
class Source:
    """N real images of one size, read one at a time, with what is known about each.

    size: side in pixels. channels: 1 or 3. labels: int64 [N], positions in `classes`. prompts: one caption per image.
    groups: int64 [N]; images of one group never fall on both sides of the split. attributes: N strings per name.
    keys: a stable id per image. account: what became of every image that came in. columns: where captions could come from.
    read: index -> uint8 [size, size, channels]; decodes only that image, raises DataError naming a damaged one.
    """

    name: str
    size: int
    channels: int
    labels: np.ndarray | None
    classes: list[str] | None
    prompts: list[str] | None
    groups: np.ndarray | None
    attributes: dict[str, list[str]]
    keys: list[str]
    licence: str
    account: Account = field(repr=False)
    read: Callable[[int], np.ndarray] = field(repr=False)
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of the first images that cannot be read."""
        return self.account.entries["skipped"].first if self.account.count("skipped") else []


def open_source(data: Data, seed: int) -> Source:
    """Open `data.source`, then apply data.tail and data.limit, both drawn with data.split_seed, or with `seed` where that is null.

    Raises DataError: unknown source, missing files or packages, unusable images, options that do not fit the source.
    """
    kind, colon, argument = data.source.partition(":")
    seed = data.drawn_with(seed)
    if data.styles is not None and kind != "emoji":
        raise DataError(f"data.styles is for data.source=emoji only; remove it for data.source={data.source}")
    if data.caption_column is not None and kind in PLAIN:
        raise DataError(
            f"data.caption_column is for images of your own; remove it for data.source={data.source}, or make captions with data.caption"
        )
    source = _open(kind, argument if colon else None, data)
    if data.label == NO_LABELS:
        source = replace(source, labels=None, classes=None)
    if data.caption is not None:
        source = replace(source, prompts=_captions(source, data.caption))
    if data.tail.kind == "zipf":
        source = _subset(source, _zipf(source, data.tail.exponent, seed))
    if data.limit is not None and data.limit < len(source):
        source = _subset(source, _limited(source, data.limit, seed))
    return source


def _open(kind: str, argument: str | None, data: Data) -> Source:
    if kind == "exact":
        raise DataError(
            "data.source=exact holds no images: it goes with model.family=gaussian, mixture or categorical"
        )
    if kind in PLAIN and argument is not None:
        raise DataError(f"data.source={data.source}: {kind} takes nothing after it; use data.source={kind}")
    if kind in WITH_ARGUMENT and not argument:
        raise DataError(f"data.source={data.source} says no place; use data.source={WITH_ARGUMENT[kind]}")
    # Imported here: these modules import Source from this one, and a run needs only one of them.
    from difflab.data import builtin, emoji, hub, parquet
    from difflab.data import imagefolder as folder

    openers: dict[str, Callable[..., Source]] = {
        "digits": builtin.open_digits,
        "mnist5k": builtin.open_mnist5k,
        "photos": builtin.open_photos,
        "emoji": emoji.open_emoji,
        "imagefolder": folder.open_folder,
        "parquet": parquet.open_parquet,
        "hub": hub.open_hub,
    }
    if kind not in openers:
        known = [*PLAIN, *WITH_ARGUMENT.values(), "exact"]
        near = difflib.get_close_matches(kind, [*openers, "exact"], 1, 0.5)
        hint = f"did you mean {WITH_ARGUMENT.get(near[0], near[0])}? " if near else ""
        raise DataError(f"unknown data.source={data.source}; {hint}Known: {', '.join(known)}")
    return openers[kind](data) if argument is None else openers[kind](data, argument)


# ------------------------------------------------------------------------------------------- helpers of the openers
@dataclass(frozen=True)
class ArrayReader:
    """Reads from images that are in memory anyway: uint8 [N, size, size, channels]."""

    images: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        return self.images[index].copy()


def no_label_choice(data: Data) -> None:
    """Raise DataError when data.label is set for a source that has only one kind of label."""
    if data.label not in (None, NO_LABELS):
        raise DataError(
            f"data.label={data.label}: data.source={data.source} has only one kind of label; remove data.label, or set it to {NO_LABELS}"
        )


def encode_labels(values: Sequence[Any], where: str) -> tuple[np.ndarray, list[str]]:
    """(int64 [N], classes) from whole numbers or strings, classes in ascending order. Raises DataError: a missing label, mixed types."""
    missing = [i for i, value in enumerate(values) if value is None]
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(values)} images have no label, the first is image {missing[0]}; label all of them, or {IGNORE_LABELS}"
        )
    types = {type(value) for value in values}
    if types - {int, str} or len(types) > 1:
        raise DataError(
            f"{where}: labels must all be whole numbers or all be strings, not {', '.join(sorted(t.__name__ for t in types))}; {IGNORE_LABELS}"
        )
    present = sorted(set(values))
    position = {value: i for i, value in enumerate(present)}
    return np.array([position[value] for value in values], dtype=np.int64), [str(value) for value in present]


def labels_of_kept(
    values: Sequence[Any] | None, kept: list[int], where: str
) -> tuple[np.ndarray | None, list[str] | None]:
    """encode_labels for the usable images of a set; (None, None) without labels. Raises DataError naming a class that lost all its images."""
    if values is None:
        return None, None
    labels, classes = encode_labels(values, where)
    left = np.bincount(labels[kept], minlength=len(classes))
    if left.min() == 0:
        raise DataError(
            f"{where}: no image of class '{classes[int(np.argmin(left))]}' can be read; repair them or remove the class"
        )
    return labels[kept], classes


def _captions(source: Source, text: str) -> list[str]:
    """One caption per image from a text with {class}, {prompt} or the name of an attribute. Raises DataError for what an image has not."""
    known = dict(source.attributes)
    if source.labels is not None and source.classes is not None:
        known["class"] = [source.classes[label] for label in source.labels.tolist()]
    if source.prompts is not None:
        known["prompt"] = source.prompts
    try:
        return [
            text.format_map({name: values[i] for name, values in known.items()}) for i in range(len(source))
        ]
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        names = ", ".join(f"{{{name}}}" for name in known) or "nothing"
        names += (
            f"; columns that data.caption_column may name: {', '.join(source.columns)}"
            if source.columns
            else ""
        )
        raise DataError(
            f"data.caption '{text}': {error} is not known of these images; known: {names}"
        ) from None


# ------------------------------------------------------------------------------------------------- tail and limit
@dataclass(frozen=True)
class _SubsetReader:
    base: Callable[[int], np.ndarray]
    kept: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        return self.base(int(self.kept[index]))


def _subset(source: Source, kept: np.ndarray) -> Source:
    """The images at positions `kept`, int64 [M]. Every class must survive; _zipf and _limited see to that."""
    return replace(
        source,
        labels=None if source.labels is None else source.labels[kept],
        prompts=None if source.prompts is None else [source.prompts[i] for i in kept],
        groups=None if source.groups is None else source.groups[kept],
        attributes={name: [values[i] for i in kept] for name, values in source.attributes.items()},
        keys=[source.keys[i] for i in kept],
        read=_SubsetReader(source.read, kept),
    )


def _zipf(source: Source, exponent: float, seed: int) -> np.ndarray:
    """Positions kept when the class of rank r keeps round(n_max r^-exponent) images, at least 2 and at most its own."""
    if source.labels is None or source.classes is None:
        raise DataError(
            f"data.tail.kind=zipf needs classes, and data.source={source.name} has no labels; use data.tail.kind=none"
        )
    counts = np.bincount(source.labels, minlength=len(source.classes))
    ranked = np.argsort(-counts, kind="stable")  # by frequency, then by index
    sizes = np.empty_like(counts)
    for rank, label in enumerate(ranked, 1):
        sizes[label] = min(counts[label], max(2, round(float(counts[ranked[0]]) * rank**-exponent)))
    return _draw(source.labels, sizes, "tail", seed)


def _limited(source: Source, limit: int, seed: int) -> np.ndarray:
    """`limit` positions; with labels in proportion to the classes, at least 2 of each that has 2."""
    if source.labels is None or source.classes is None:
        return np.sort(numpy_generator("limit", seed).permutation(len(source))[:limit])
    counts = np.bincount(source.labels, minlength=len(source.classes))
    least = np.minimum(counts, 2)
    if least.sum() > limit:
        raise DataError(
            f"data.limit={limit} leaves fewer than 2 images to some of {len(counts)} classes; use at least data.limit={least.sum()}"
        )
    return _draw(source.labels, apportion(counts, limit, least), "limit", seed)


def apportion(counts: np.ndarray, total: int, least: np.ndarray) -> np.ndarray:
    """int64 [C] summing to `total`, in proportion to `counts` by largest remainder, between `least` and `counts`."""
    exact = counts * (total / counts.sum())
    sizes = np.maximum(np.floor(exact).astype(np.int64), least)
    while sizes.sum() != total:  # at most C steps in either direction
        up = sizes.sum() < total
        allowed = sizes < counts if up else sizes > least
        need = np.where(allowed, exact - sizes if up else sizes - exact, -np.inf)
        sizes[int(np.argmax(need))] += 1 if up else -1
    return sizes


def _draw(labels: np.ndarray, sizes: np.ndarray, purpose: str, seed: int) -> np.ndarray:
    """sizes[c] positions of every class c, ascending. Each class has a stream of its own."""
    kept = [
        numpy_generator(purpose, seed, label).permutation(np.flatnonzero(labels == label))[:size]
        for label, size in enumerate(sizes.tolist())
    ]
    return np.sort(np.concatenate(kept))
