"""A map of samples and real images in a feature space, and samples beside their nearest training images."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from difflab.metrics import nearest_real
from difflab.report.data_uri import encoder
from difflab.report.rounding import rounded
from difflab.runs.run import Run
from difflab.runs.sizes import first_size

POINTS = 400
"""Largest number of dots of one generation on the map."""
NEAREST = 8
"""Number of samples that are shown beside their nearest training images."""


def folder_name(extractor: str) -> str:
    """The name of an extractor in file names.

    >>> folder_name("open_clip:tiny-clip")
    'open_clip-tiny-clip'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", extractor)


def feature_spaces(run: Run) -> dict[str, str]:
    """The feature spaces that are on disk for all measured generations.

    Returns a dict: name of the extractor in file names -> key.
    """
    files = sorted((run.path / "real" / "features").glob("*-00000.safetensors"))
    keys = [path.name.rsplit("-", 1)[0] for path in files]
    spaces = {}
    for key in keys:
        if all(run.samples(t).feature_path(key, 0).exists() for t in run.generations):
            spaces[key.rsplit("-", 1)[0]] = key
    return spaces


def first_space(run: Run) -> tuple[str, str] | None:
    """The first extractor of the config whose features are on disk, and its key; None = there is none."""
    keys = feature_spaces(run)
    for extractor in run.config.measure.feature_extractors:
        if folder_name(extractor) in keys:
            return extractor, keys[folder_name(extractor)]
    return None


def feature_map(run: Run, most: int = POINTS) -> dict[str, Any] | None:
    """Real images and samples in the plane of the first two principal directions of held-out real images.

    Each generation has at most `most` dots. The entry `extent` is the box [x0, y0, x1, y1] of the map. The
    entry `outside` is the number of samples of each generation that lie outside the box and are drawn at its
    edge. Returns None if no feature space is on disk.
    """
    space = first_space(run)
    if space is None:
        return None
    about, labels = run.about, run.real.labels()
    start, stop = about["n_train"], about["n_train"] + about["n_held_out"]
    real = run.real.features(space[1])[start:stop].double()
    if len(real) < 3:
        return None
    mean = real.mean(0)
    _, scale, axes = torch.linalg.svd(real - mean, full_matrices=False)
    plane, explained = axes[:2].T, float(scale[:2].square().sum() / scale.square().sum())
    size = float(((real - mean) @ plane).abs().max()) or 1.0

    def projected(features: torch.Tensor) -> np.ndarray:
        return ((features[:most].double() - mean) @ plane / size).numpy()

    real_points = projected(real)
    points = {t: projected(run.samples(t).features(space[1])) for t in run.generations}
    low, high = extent(real_points, np.concatenate(list(points.values())))

    def drawn(positions: np.ndarray) -> list[list[float]]:
        return [[round(x, 3), round(y, 3)] for x, y in positions.clip(low, high).tolist()]

    return {
        "space": space[0],
        "explained": round(explained, 3),
        "extent": [round(v, 3) for v in (*low.tolist(), *high.tolist())],
        "real": drawn(real_points),
        "classes": about["classes"] if labels is not None else None,
        "real_labels": None if labels is None else labels[start:stop][:most].tolist(),
        "generations": {t: drawn(positions) for t, positions in points.items()},
        "outside": {t: int(((p < low) | (p > high)).any(1).sum()) for t, p in points.items()},
        "labels": {t: _labels(run, t, most) for t in run.generations},
    }


def _labels(run: Run, generation: int, most: int) -> list[int] | None:
    labels = run.samples(generation).labels()
    return None if labels is None else labels[:most].tolist()


def extent(real: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper corner of a box around points [n, d], without the few samples that lie far outside.

    At most 1% of the samples at each end of an axis are outside the box. They are further away from the
    others than half of the width of the others.

    >>> extent(np.array([[0.0], [1.0]]), np.array([[0.5]] * 300 + [[1.2], [90.0]]))
    (array([0.]), array([1.5]))
    """
    least = np.minimum(real.min(0), np.quantile(samples, 0.01, 0))
    most = np.maximum(real.max(0), np.quantile(samples, 0.99, 0))
    room = (most - least) / 2
    low = np.minimum(real, samples.min(0)).min(0)
    high = np.maximum(real, samples.max(0)).max(0)
    return np.maximum(low, least - room), np.minimum(high, most + room)


def nearest_pairs(run: Run, budget: int) -> dict[str, Any] | None:
    """The samples of the last generation that are closest to a training image, each beside it.

    The unit of distance is the median distance of a held-out real image to its nearest training image. A
    distance far below 1 is a copy. Returns None if no feature space is on disk.

    Args:
        budget: largest number of characters of all images together.
    """
    space = first_space(run)
    if space is None:
        return None
    t, n_train = run.generations[-1], run.about["n_train"]
    features, trained = run.real.features(space[1]), first_size(run.config, n_train)
    if not trained or len(features) <= n_train:
        return None
    unit = float(nearest_real(features[n_train:], features[:trained])[0].median())
    samples = run.samples(t)
    distance, index = nearest_real(samples.features(space[1]), features[:trained])
    chosen = distance.argsort()[:NEAREST]
    sampled, real = samples.gather(chosen.numpy()), run.real.gather(index[chosen].numpy())
    encode, _ = encoder([*sampled[:4], *real[:4]], 2 * NEAREST, budget)
    return {
        "generation": t,
        "space": space[0],
        "pairs": [
            {
                "sample": encode(a),
                "real": encode(b),
                "distance": rounded(float(distance[i]) / unit if unit else None, 3),
            }
            for a, b, i in zip(sampled, real, chosen, strict=True)
        ],
    }
