"""The rows of judge drift in a run. See `difflab.metrics.judge_drift`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from difflab.core.errors import MeasureError
from difflab.core.hashing import digest
from difflab.core.rows import Row, row
from difflab.core.seeds import numpy_generator
from difflab.features.extractor import Extractor
from difflab.metrics.evaluate import Side
from difflab.metrics.judge import Judge
from difflab.metrics.judge_drift import Labelled, three_judges
from difflab.runs.run import Run

JUDGED = {
    "judge_frozen": ("frozen", "on_samples"),
    "judge_retrained": ("retrained", "on_samples"),
    "judge_rebased": ("re-based", "on_samples"),
    "judge_retrained_on_real": ("retrained", "on_real"),
}
"""Name of a row -> the judge, and the images on which the row gives its accuracy."""
JUDGES = list(JUDGED)
UNCONDITIONAL = "samples are unconditional"


def judge_drift_rows(
    run: Run,
    generation: int,
    extractor: Extractor,
    judge: Judge | None,
    no_judge: str | None,
    train: Side,
    real: Side,
    fake: Side,
) -> list[Row]:
    """The accuracy of the three judges on the half of the samples that the retrained judge was not fitted on.

    Fresh real images are limited. So the re-based judge is fitted on a bootstrap sample of the train split,
    which is as large as the split and is drawn anew in every generation. The difference between the re-based
    and the frozen judge is due to chance in the training images. For the floor, held-out images replace the
    samples, and images of the train split replace the held-out images.

    Args:
        no_judge: the reason why `judge` is None.
    """
    (train, notes_train), (real, notes_real), (fake, notes_fake) = (
        train.finite("training images"),
        real.finite("real images"),
        fake.finite("samples"),
    )
    notes, n = [*notes_train, *notes_real, *notes_fake], len(fake.features)
    shared = {"extractor": extractor.recipe, "judge": judge and judge.recipe, "n": n, "real": run.real.hash()}
    recipes = {name: digest({"measure": name, **shared}) for name in JUDGED}
    try:
        judged, floors = _judged(run, generation, judge, no_judge, train, real, fake)
    except MeasureError as error:
        reason = "; ".join([str(error), *notes])
        return [
            row(generation, name, extractor.name, None, None, n, None, recipes[name], reason)
            for name in JUDGED
        ]
    return [_row(generation, name, extractor, judged, floors, recipes[name], notes) for name in JUDGED]


def _judged(
    run: Run,
    generation: int,
    judge: Judge | None,
    no_judge: str | None,
    train: Side,
    real: Side,
    fake: Side,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of `three_judges` for the samples and for the floor.

    Raises MeasureError if classes are missing.
    """
    if judge is None or fake.labels is None or real.labels is None or train.labels is None:
        raise MeasureError(
            "judge drift has no value: it needs the classes of real images and of samples, but "
            f"{no_judge or UNCONDITIONAL}"
        )
    seed, n_train = run.config.seed, len(train.features)
    drawn = numpy_generator("judge drift", seed, generation).integers(n_train, size=n_train)
    bootstrap = torch.from_numpy(drawn)
    fresh: Labelled = train.features[bootstrap], train.labels[bootstrap]
    samples: Labelled = fake.features, fake.labels
    held_out: Labelled = real.features, real.labels
    n = len(fake.features)
    trained: Labelled = train.features[:n], train.labels[:n]
    return (
        three_judges(judge, held_out, samples, fresh, (seed, generation)),
        three_judges(judge, trained, held_out, fresh, (seed, generation)),
    )


def _row(
    generation: int,
    name: str,
    extractor: Extractor,
    judged: Sequence[dict[str, Any]],
    floors: Sequence[dict[str, Any]],
    recipe: str,
    notes: Sequence[str],
) -> Row:
    judge_name, images = JUDGED[name]
    accuracy = next(r for r in judged if r["judge"] == judge_name)
    floor = next(r for r in floors if r["judge"] == judge_name)
    reason = accuracy["reason"] or (floor["reason"] and f"its floor: {floor['reason']}")
    value, ci, floor_value = accuracy[images], None, None
    if value is not None:
        ci = (accuracy[f"{images}_low"], accuracy[f"{images}_high"])
        floor_value = floor[images]
    reasons = "; ".join(filter(None, [reason, *notes])) or None
    n = accuracy[f"{images}_n"]
    return row(generation, name, extractor.name, value, ci, n, floor_value, recipe, reasons)
