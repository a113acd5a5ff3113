"""Judge drift: whether the samples have changed, or the judge no longer fits them.

Three class judges classify the samples of every generation:

    frozen      fitted once, on real images of generation 0: the samples by the standard of the start
    retrained   fitted on samples of the same generation: the samples by their own standard
    re-based    fitted on fresh real images in every generation: the effect of chance in a judge's
        training images

Samples that the frozen judge misclassifies and the retrained one recognises have *drifted*: classes can
still be told apart, but look different than at the start. Where neither recognises the samples, the class
is lost. A retrained judge that misclassifies real images is what a pipeline gets that keeps training its
filters on its own output. The difference between frozen and re-based is noise, as long as the real data
do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.rows import RowKind
from difflab.metrics.interval import wilson
from difflab.metrics.judge import Judge

Labelled = tuple[Tensor, Tensor]
"""Features [n, d] and their classes, int64 [n]; of samples, the class that was asked for."""


_SAMPLES = "share of samples"
ROWS = (
    RowKind(
        "judge_frozen",
        unit=_SAMPLES,
        better="higher",
        about="Share of samples in which a classifier fitted once, on real images, sees the class that was "
        "asked for.",
        topic="Concepts",
        title="class accuracy, frozen judge",
    ),
    RowKind(
        "judge_retrained",
        unit=_SAMPLES,
        better="higher",
        about="The same share for a classifier fitted on the other half of the samples of the same "
        "generation. Where it stays high while the frozen judge falls, classes can still be told apart but "
        "look different.",
        topic="Concepts",
        title="class accuracy, retrained judge",
    ),
    RowKind(
        "judge_rebased",
        unit=_SAMPLES,
        better="higher",
        about="The same share for a classifier fitted on a bootstrap of the real training images, drawn anew "
        "in every generation. Its distance from the frozen judge shows the chance in a judge's training "
        "images.",
        topic="Concepts",
        title="class accuracy, re-based judge",
    ),
    RowKind(
        "judge_retrained_on_real",
        unit="share of real images",
        better="higher",
        about="Accuracy on held-out real images of the classifier that was fitted on samples of this "
        "generation.",
        topic="Concepts",
        title="accuracy on real images, retrained judge",
    ),
)
"""In metrics.jsonl each share is taken on the half of the samples that the retrained judge was not fitted on.
"""


def judge_drift(
    real: Labelled,
    held_out: Labelled,
    samples: Sequence[Labelled],
    fresh: Sequence[Labelled],
    n_classes: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Accuracy of the three judges on the samples of each generation and on held-out real images.

    Args:
        real: real images of generation 0.
        held_out: real images that are in no other argument.
        samples: one set per generation. Half of each class fits the retrained judge; all three are tested
            on the other half.
        fresh: one set of real images per generation, new each time.
        n_classes: labels are 0 to n_classes - 1.
        seed: of the halves.

    Returns three rows per generation: generation (0, 1, ...), judge, on_samples and on_real (shares),
    each with Wilson's 95% _low and _high and with _n images, and reason: why a retrained judge could not
    be fitted (its numbers are then None), or None. The intervals cover the choice of test images, not
    that of the judge's training images. Raises MeasureError for sets that do not fit together.

    >>> x, y = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1])
    >>> rows = judge_drift((x, y), (x, y), samples=[(-x, y)], fresh=[(x, y)], n_classes=2)
    >>> [row["on_real"] for row in rows if row["judge"] != "retrained"]
    [1.0, 1.0]
    """
    if not samples or len(samples) != len(fresh):
        raise MeasureError(
            f"judge drift needs fresh real images for each generation: {len(samples)} sets of samples, "
            f"{len(fresh)} of real images"
        )
    _check_sets(
        [
            ("real", real),
            ("held-out", held_out),
            *(("sample", s) for s in samples),
            *(("fresh", f) for f in fresh),
        ]
    )
    frozen = Judge.fit(*real, n_classes)
    rows = []
    for generation, (sample_set, fresh_set) in enumerate(zip(samples, fresh, strict=True)):
        judged = three_judges(frozen, held_out, sample_set, fresh_set, (seed, generation))
        rows += [{"generation": generation, **row} for row in judged]
    return rows


def three_judges(
    frozen: Judge, held_out: Labelled, samples: Labelled, fresh: Labelled, seed: Sequence[int]
) -> list[dict[str, Any]]:
    """The rows of `judge_drift` for one generation, with the frozen judge already fitted. `seed`: of the
    halves.
    """
    _check_sets([("sample", samples), ("held-out", held_out), ("fresh", fresh)])
    features, labels = samples
    order = torch.from_numpy(np.random.default_rng(list(seed)).permutation(len(features))).to(features.device)
    order = order[labels[order].argsort(stable=True)]  # by class, in random order inside each
    fitted, kept = order[::2], order[1::2]
    reason, retrained = None, None
    unseen = sorted({*held_out[1].tolist(), *labels.tolist()} - set(labels[fitted].tolist()))
    try:
        if unseen:
            raise MeasureError(
                f"the retrained judge has no sample of class {unseen[0]} to learn from; raise sample.count "
                "or measure.count"
            )
        retrained = Judge.fit(features[fitted], labels[fitted], frozen.n_classes)
    except MeasureError as error:
        reason = str(error)
    rows = []
    for name, judge in (
        ("frozen", frozen),
        ("retrained", retrained),
        ("re-based", Judge.fit(*fresh, frozen.n_classes)),
    ):
        row = (
            {"judge": name}
            | _accuracy(judge, features[kept], labels[kept], "on_samples")
            | _accuracy(judge, *held_out, "on_real")
        )
        rows.append({**row, "reason": reason if judge is None else None})
    return rows


def _check_sets(sets: list[tuple[str, Labelled]]) -> None:
    width = sets[0][1][0].shape[-1]
    for name, (features, labels) in sets:
        if (
            features.ndim != 2
            or features.shape[1] != width
            or labels.shape != (len(features),)
            or len(features) < 2
        ):
            raise MeasureError(
                f"{name} features {tuple(features.shape)} with labels {tuple(labels.shape)}: all sets need "
                f"[n, {width}] and [n], n >= 2"
            )


def _accuracy(judge: Judge | None, features: Tensor, labels: Tensor, name: str) -> dict[str, Any]:
    if judge is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None, f"{name}_n": len(labels)}
    share = float((judge.predict(features) == labels.to(features.device)).double().mean())
    low, high = wilson(share, len(labels))
    return {name: share, f"{name}_low": low, f"{name}_high": high, f"{name}_n": len(labels)}
