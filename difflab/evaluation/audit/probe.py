"""A detector for one audit: a linear probe on features of images of known origin.

Half of the images of either side train it, the other half measures its rates. Copies of an image are in one
half. The threshold is that of equal costs of both errors at equal shares, whatever the shares in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from difflab.core.errors import DataError
from difflab.core.seeds import numpy_generator
from difflab.core.size import Size
from difflab.data.content import halves
from difflab.data.image_sets import listing_of
from difflab.data.listing import Listing
from difflab.evaluation.audit.stream import Options, View, stream
from difflab.metrics.judge import Judge
from difflab.metrics.prevalence import Calibration

MOST = 4000
"""Calibration images of a side that are used; more are drawn at random."""
LEAST = 20
"""Fewest different calibration images of a side."""
LARGEST = 256
"""Largest side, in pixels, to which images are resized for the probe, unless a size is given."""
LOSSY = frozenset(("jpeg", "mpo", "webp"))
MOST_LOSSY_APART = 0.2
"""Largest difference in the share of JPEG and WebP images between sets that are compared."""
MOST_SIZES_APART = 1.5
"""Largest ratio of the median shorter sides of sets that are compared."""


@dataclass(frozen=True)
class Looks:
    """How the files of a set look: share of JPEG and WebP files, and the median of the shorter sides."""

    lossy: float
    side: float

    @classmethod
    def of(cls, formats: Sequence[str], sizes: Sequence[Size]) -> Looks:
        lossy = float(np.mean([name in LOSSY for name in formats]))
        return cls(lossy, float(np.median([min(size) for size in sizes])))


def difference(one: str, a: Looks, other: str, b: Looks) -> str | None:
    """Why the rates on one set say nothing about the other: a difference in format or size; None if none."""
    if abs(a.lossy - b.lossy) > MOST_LOSSY_APART:
        return (
            f"{a.lossy:.0%} of {one} are JPEG or WebP, but {b.lossy:.0%} of {other}: a probe may tell the "
            "formats "
            "apart and not the origin; save both in one way"
        )
    if max(a.side, b.side) > MOST_SIZES_APART * min(a.side, b.side):
        return (
            f"the shorter side of {one} is typically {a.side:.0f} px, but {b.side:.0f} px of {other}: a "
            "probe may "
            "tell the sizes apart and not the origin; resize both in one way"
        )
    return None


@dataclass
class Probe:
    """A fitted detector.

    Attributes:
        size, channels: of the images that `score` takes, uint8 [n, H, W, channels].
        threshold: a score above it is a flag.
        calibration: what the probe does on the other half of the calibration images.
        looks: of the real and the synthetic calibration images.
        contents: hashes of all calibration images that were used.
    """

    extractors: Sequence[Any]
    judge: Judge
    size: Size
    channels: int
    threshold: float
    calibration: Calibration
    looks: dict[str, Looks]
    contents: frozenset[str]

    def score(self, images: np.ndarray) -> np.ndarray:
        """The probability that each image is synthetic, float64 [n], at equal shares in training."""
        return self.judge.probabilities(_features(self.extractors, images))[:, 1].numpy()


def fit_probe(
    real: Any,
    synthetic: Any,
    extractors: Sequence[Any],
    image_size: Size | None,
    seed: int,
    notes: list[str],
) -> Probe:
    """Fit a probe on two image sets of any kind that `difflab.compare` takes.

    Raises DataError for sets with fewer than `LEAST` different images that can be read, and for images that
    are in both.
    """
    listings = {
        "real": listing_of(real, "real", notes),
        "synthetic": listing_of(synthetic, "synthetic", notes),
    }
    size = image_size or _size(listings)
    views = {side: _views(listing, size, side, seed, notes) for side, listing in listings.items()}
    contents = {side: [view.content for view in of_side] for side, of_side in views.items()}
    shared = set(contents["real"]) & set(contents["synthetic"])
    if shared:
        raise DataError(
            f"calibration: {len(shared)} images are in the real and in the synthetic set; remove them from "
            "one"
        )
    train, test, looks = {}, {}, {}
    for side, of_side in views.items():
        looks[side] = Looks.of([view.format for view in of_side], [view.size for view in of_side])
        first, second = halves(contents[side], len(of_side) // 2)
        if min(len(first), len(second)) < LEAST // 2:
            raise DataError(
                f"calibration: the {side} set has fewer than {LEAST} different images; add images, 200 or "
                "more "
                "give a useful interval"
            )
        features = _features(extractors, np.stack([view.small for view in of_side]))  # type: ignore[misc]
        train[side], test[side] = features[first], features[second]
    labels = torch.cat([torch.zeros(len(train["real"])), torch.ones(len(train["synthetic"]))]).long()
    judge = Judge.fit(torch.cat([train["real"], train["synthetic"]]), labels, 2)
    threshold = len(train["synthetic"]) / len(labels)
    flags = {side: judge.probabilities(rows)[:, 1] > threshold for side, rows in test.items()}
    calibration = Calibration(
        int(flags["synthetic"].sum()),
        len(flags["synthetic"]),
        int((~flags["real"]).sum()),
        len(flags["real"]),
    )
    used = frozenset((*contents["real"], *contents["synthetic"]))
    return Probe(extractors, judge, size, 3, threshold, calibration, looks, used)


def _size(listings: dict[str, Listing]) -> Size:
    """A square whose side is the smallest median of the shorter sides, at most `LARGEST`."""
    sides = []
    for listing in listings.values():
        some = range(0, len(listing.keys), max(1, len(listing.keys) // 200))
        shorter = [
            min(view.size)
            for views in stream(listing, some, Options(pixels=False, marks=False))
            for view in _readable(views)
        ]
        if shorter:
            sides.append(int(np.median(shorter)))
    side = max(8, min([LARGEST, *sides]))
    return side, side


def _readable(views: Sequence[View]) -> list[View]:
    return [view for view in views if not view.failure]


def _views(listing: Listing, size: Size, side: str, seed: int, notes: list[str]) -> list[View]:
    """The images of a side that can be read, at most `MOST`, in random order."""
    order = numpy_generator("audit calibration", seed, side).permutation(len(listing.keys))[:MOST].tolist()
    options = Options(marks=False, small=size)
    kept: list[View] = []
    for views in stream(listing, order, options, frozenset()):
        kept += _readable(views)
    if len(kept) < len(order):
        notes.append(f"calibration: {len(order) - len(kept)} of {len(order)} {side} images cannot be read")
    if len(kept) < LEAST:
        raise DataError(
            f"calibration: the {side} set has {len(kept)} images that can be read; give {LEAST} or more"
        )
    return kept


def _features(extractors: Sequence[Any], images: np.ndarray) -> torch.Tensor:
    """Features of all extractors side by side, float32 [n, d]."""
    pixels = torch.from_numpy(images)
    return torch.cat([extractor(pixels).float() for extractor in extractors], 1)
