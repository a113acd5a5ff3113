"""Judge drift: is it the samples that changed, or the judge that no longer fits?

Three class judges side by side on the samples of every generation:

    frozen      fitted once, on real images of generation 0: what the samples are by the standard of the start
    retrained   fitted on samples of the same generation: what they are by their own standard
    re-based    fitted on fresh real images at every generation: how much of all this is the judge's own luck

Samples that frozen fails on and retrained reads have *drifted*: classes are still told apart, but no longer look like themselves.
Samples that neither reads have lost the class. A retrained judge that fails on real images is what a pipeline gets that keeps
training its filters on its own output. frozen against re-based is noise, as long as the real world stands still.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflab.errors import MeasureError
from difflab.metrics.classes import Judge
from difflab.metrics.interval import wilson

Labelled = tuple[Tensor, Tensor]
"""Features [n, d] and their classes, int64 [n]; of samples, the class that was asked for."""


def judge_drift(
    real: Labelled, held_out: Labelled, samples: Sequence[Labelled], fresh: Sequence[Labelled], n_classes: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Accuracy of the three judges on the samples of each generation and on held-out real images.

    Args:
        real: real images of generation 0.
        held_out: real images that are in no other argument.
        samples: one set a generation. A random half fits the retrained judge; all three are tested on the other half.
        fresh: one set of real images a generation, new each time.
        n_classes: labels are 0 to n_classes - 1.
        seed: of the halves.

    Returns three rows a generation: generation (0, 1, ...), judge, on_samples and on_real (shares), each with Wilson's 95% _low and
    _high and with _n images, and reason: why a retrained judge could not be fitted (its numbers are then None), or None.
    The intervals are about the test images; the judge's own luck in its training images is not in them.
    Raises MeasureError for sets that do not go together.

    >>> x, y = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1])
    >>> rows = judge_drift((x, y), (x, y), samples=[(-x, y)], fresh=[(x, y)], n_classes=2)
    >>> [row["on_real"] for row in rows if row["judge"] != "retrained"]
    [1.0, 1.0]
    """
    if not samples or len(samples) != len(fresh):
        raise MeasureError(f"judge drift wants fresh real images for each generation: {len(samples)} sets of samples, {len(fresh)} of real images")
    for name, group in (("real", [real]), ("held-out", [held_out]), ("sample", samples), ("fresh", fresh)):
        for features, labels in group:
            if features.ndim != 2 or features.shape[1] != real[0].shape[1] or labels.shape != (len(features),) or len(features) < 2:
                raise MeasureError(
                    f"{name} features {tuple(features.shape)} with labels {tuple(labels.shape)}: all sets want [n, {real[0].shape[-1]}] and [n], n >= 2"
                )
    frozen = Judge.fit(*real, n_classes)
    rows = []
    for generation, (features, labels) in enumerate(samples):
        order = torch.from_numpy(np.random.default_rng([seed, generation]).permutation(len(features))).to(features.device)
        fitted, kept = order[: len(order) // 2], order[len(order) // 2 :]
        tests = {"on_samples": (features[kept], labels[kept]), "on_real": held_out}
        reason = None
        try:
            retrained = Judge.fit(features[fitted], labels[fitted], n_classes)
        except MeasureError as error:
            retrained, reason = None, str(error)
        for name, judge in (("frozen", frozen), ("retrained", retrained), ("re-based", Judge.fit(*fresh[generation], n_classes))):
            row: dict[str, Any] = {"generation": generation, "judge": name}
            for where, test in tests.items():
                row |= _accuracy(judge, *test, where)
            rows.append({**row, "reason": reason if judge is None else None})
    return rows


def _accuracy(judge: Judge | None, features: Tensor, labels: Tensor, where: str) -> dict[str, Any]:
    if judge is None:
        return {where: None, f"{where}_low": None, f"{where}_high": None, f"{where}_n": len(labels)}
    share = float((judge.predict(features) == labels.to(features.device)).double().mean())
    low, high = wilson(share, len(labels))
    return {where: share, f"{where}_low": low, f"{where}_high": high, f"{where}_n": len(labels)}
