"""Classes that no sample was asked for, although by their share of the real images some should have been."""

from __future__ import annotations

import numpy as np

from difflab.evaluation.readings import Images, RealSide

CHANCE = 0.01
"""Probability that a class is called missing although samples show all as often as real images do."""
BY_NUMBER = 0.2
"""Share of that probability for the test of their number, which needs little: it sums over classes."""
RARE = 0.05
"""A class that is absent by chance as often as this is not named, even if many classes are missing."""


def missing_classes(real: RealSide, images: Images) -> np.ndarray:
    """The missing classes, int64, ascending. Without labels of samples: those that no sample shows.

    If samples show a class as often as real images do, all c images of the class are real ones with
    probability p = (N / (N + n))^c, for N real images and n samples (Fisher's exact test). A class is missing
    if p is too small for chance (Bonferroni), or if so many classes are absent that chance cannot explain
    their number (Poisson binomial distribution, with these p) and p is below `RARE`.
    """
    shown = _shown(real, images)
    if shown is None:
        return np.zeros(0, np.int64)
    labels = [side.labels for side in (real.reference, real.other) if side.labels is not None]
    classes, counts = np.unique(np.concatenate(labels), return_counts=True)
    n_real = sum(len(part) for part in labels)
    p = (n_real / (n_real + len(images))) ** counts
    absent = ~np.isin(classes, shown)
    wanted = p * len(classes) < CHANCE * (1 - BY_NUMBER)
    if at_least(int(absent.sum()), p) < CHANCE * BY_NUMBER:
        wanted |= p < RARE
    return np.asarray(classes[absent & wanted])


def at_least(count: int, p: np.ndarray) -> float:
    """Probability that `count` or more of independent events with probabilities `p` happen.

    >>> round(at_least(2, np.array([0.5, 0.5])), 6), at_least(0, np.array([0.1]))
    (0.25, 1.0)
    """
    happened = np.ones(1)
    for chance in p:
        happened = np.convolve(happened, [1 - chance, chance])
    return float(happened[count:].sum())


def _shown(real: RealSide, images: Images) -> np.ndarray | None:
    """The class of each sample; None = not known."""
    if real.reference.labels is None:
        return None
    if images.labels is not None or not real.judges:
        return images.labels
    extractor = real.extractors[-1]
    return real.judges[extractor.name].predict(real.features(extractor, images)).numpy()
