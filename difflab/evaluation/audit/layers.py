"""Count what the record of an audit holds, layer by layer. Layers are never merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from difflab.data.audit_record import hash_of_key
from difflab.data.watermark import can_carry
from difflab.evaluation.audit.copies import Known, Thumbnails, near_each_other, near_known
from difflab.evaluation.audit.probe import LOSSY, Looks
from difflab.evaluation.audit.record import Line
from difflab.evaluation.audit.result import SHOWN, Example, Kind, Layer

OF_ONE_IMAGE = {
    "synthetic": (
        "declared synthetic",
        "what a file says of itself; it can be wrong, and most tools remove it",
    ),
    "real": ("declared real", "what a file says of itself; it can be wrong"),
    "c2pa": ("C2PA manifest", "present; whether it is valid is not checked here"),
    "file name": ("file name", "looks like the default name of a generator"),
    "size": ("size", "usual for generators; resized photographs have these sizes too"),
    "hidden text": (
        "hidden text",
        "the marker of NovelAI and of stealth-pnginfo in the lowest bits of pixels; its text is not read",
    ),
    "watermark": ("watermark", "dwtDct only, images of 256 x 256 pixels or more; JPEG files lose it"),
}
"""Key of `View.found` -> the name of the layer, and what its count means."""


@dataclass
class Tally:
    """The columns of a record, one entry per image.

    Attributes:
        content: the content hash as uint64; 0 = none.
        readable, marked_sizes: whether the image can be read, and is large enough for a watermark.
        short_side: in pixels; lossy: whether the file is JPEG or WebP.
        score: of the probe; NaN without one.
        found: layer of `OF_ONE_IMAGE` -> kind -> positions.
    """

    n: int
    content: np.ndarray = field(init=False)
    readable: np.ndarray = field(init=False)
    can_carry: np.ndarray = field(init=False)
    short_side: np.ndarray = field(init=False)
    lossy: np.ndarray = field(init=False)
    score: np.ndarray = field(init=False)
    found: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.content = np.zeros(self.n, np.uint64)
        self.readable, self.can_carry, self.lossy = (np.zeros(self.n, bool) for _ in range(3))
        self.short_side = np.zeros(self.n, np.int32)
        self.score = np.full(self.n, np.nan, np.float32)

    @classmethod
    def of(cls, lines: Iterable[Line], n: int) -> Tally:
        """Of the lines of a record."""
        tally = cls(n)
        for line in lines:
            i = line.position
            tally.content[i] = int(line.content or "0", 16)
            tally.readable[i] = not line.failed
            tally.can_carry[i] = can_carry(*line.size)
            tally.short_side[i] = min(line.size)
            tally.lossy[i] = line.format in LOSSY
            if line.score is not None:
                tally.score[i] = line.score
            for layer, kind in line.found.items():
                tally.found.setdefault(layer, {}).setdefault(kind, []).append(i)
        return tally

    @property
    def looks(self) -> Looks:
        """Of the images that can be read."""
        sides = self.short_side[self.readable]
        return Looks(float(self.lossy[self.readable].mean()), float(np.median(sides)))

    def mask(self, *layers: str) -> np.ndarray:
        """Whether each image is found in one of the layers, bool [n]."""
        out = np.zeros(self.n, bool)
        for layer in layers:
            for positions in self.found.get(layer, {}).values():
                out[positions] = True
        return out

    def copies(self) -> np.ndarray:
        """Whether each image is equal to an earlier one, bool [n]."""
        out = np.zeros(self.n, bool)
        order = np.argsort(self.content, kind="stable")
        ranked = self.content[order]
        out[order[1:]] = (ranked[1:] == ranked[:-1]) & (ranked[1:] != 0)
        return out

    def equal_to(self, contents: Iterable[str]) -> np.ndarray:
        """Whether each image has one of these content hashes, bool [n]."""
        return np.isin(self.content, np.array([int(content, 16) for content in contents], np.uint64))


class Counts:
    """The layers of one audit. `masks`: name of a layer -> whether each image is in it, bool [n]."""

    def __init__(self, tally: Tally, keys: Sequence[str]):
        self.tally, self.keys = tally, keys
        self.layers: list[Layer] = []
        self.masks: dict[str, np.ndarray] = {}

    def add(
        self,
        name: str,
        kinds: dict[str, np.ndarray],
        of: int,
        note: str = "",
        score: np.ndarray | None = None,
    ) -> None:
        """Add a layer whose kinds have these masks, bool [n]. Kinds without an image are left out.

        The examples are images from the whole set, or with `score` those of the largest scores.
        """
        mask = np.zeros(self.tally.n, bool)
        counted = []
        for kind, of_kind in kinds.items():
            mask |= of_kind
            if of_kind.any():
                counted.append(Kind(kind, int(of_kind.sum()), self._example(int(np.argmax(of_kind)))))
        counted.sort(key=lambda kind: -kind.count)
        self.masks[name] = mask
        places = np.flatnonzero(mask)
        if score is not None:
            places = places[np.argsort(-score[places], kind="stable")][:SHOWN]
        elif len(places) > SHOWN:
            places = places[np.linspace(0, len(places) - 1, SHOWN).round().astype(int)]
        examples = tuple(self._example(int(i)) for i in places)
        self.layers.append(Layer(name, int(mask.sum()), of, tuple(counted), note, examples))

    def _example(self, position: int) -> Example:
        return Example(position, self.keys[position], hash_of_key(self.keys[position]))

    def add_readable(self) -> None:
        """Images that cannot be read."""
        self.add("cannot be read", {"damaged or not supported": ~self.tally.readable}, self.tally.n)

    def add_copies(self, thumbnails: Thumbnails) -> tuple[list[int], np.ndarray]:
        """Exact and near copies within the set. Returns what was compared: positions and thumbnails."""
        tally = self.tally
        readable = int(tally.readable.sum())
        self.add("exact copies", {"equal to an earlier image": tally.copies()}, readable)
        positions, small = thumbnails.complete(np.flatnonzero(tally.readable).tolist())
        near = np.zeros(tally.n, bool)
        near[positions] = near_each_other(small)
        compared = f"{len(positions):,} of {readable:,} images are compared with each other"
        self.add("near copies", {"of another image of the set": near}, len(positions), compared)
        return positions, small

    def add_known(self, known: Known, positions: list[int], small: np.ndarray) -> None:
        """Images that are equal to, or near copies of, images of known origin."""
        equal = self.tally.equal_to(known.contents)
        near = np.zeros(self.tally.n, bool)
        near[positions] = near_known(small, known)
        note = (
            f"all are compared exactly with {len(known.contents):,} images, and {len(positions):,} for near "
            "copies "
            f"with {len(known.thumbnails):,}"
        )
        kinds = {"equal": equal, "near copies": near & ~equal}
        self.add(known.name, kinds, int(self.tally.readable.sum()), note)

    def add_of_one_image(self, pixels: bool, marks: bool) -> None:
        """What was found in single images: declarations, names, sizes, watermarks."""
        tally = self.tally
        for key, (name, note) in OF_ONE_IMAGE.items():
            if key in ("watermark", "hidden text") and not (pixels and marks):
                continue
            of = int((tally.can_carry if key == "watermark" else tally.readable).sum())
            kinds = {}
            for kind, positions in tally.found.get(key, {}).items():
                kinds[kind] = np.zeros(tally.n, bool)
                kinds[kind][positions] = True
            self.add(name, kinds, of, note)

    def add_probe(self, threshold: float) -> None:
        """Images that the probe flags."""
        scored = ~np.isnan(self.tally.score)
        flagged = scored & (np.nan_to_num(self.tally.score) > threshold)
        note = "with errors on both sides: see the estimate"
        self.add("probe", {"flagged": flagged}, int(scored.sum()), note, self.tally.score)
