"""Find the measures of a run that cannot have a value, before any model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from difflab.core.errors import MeasureError
from difflab.core.rows import Row, row
from difflab.features.extractor import Extractor
from difflab.loop.conditions import sample_conditions
from difflab.loop.image_rows import comparisons
from difflab.loop.judge_drift_rows import UNCONDITIONAL
from difflab.loop.judges import judge_extractor, judge_of
from difflab.metrics.evaluate import MeasureSettings, left_out, measured
from difflab.metrics.interval import half_rows
from difflab.metrics.metric import PairMetric
from difflab.metrics.pair import Pair
from difflab.runs.run import Run
from difflab.runs.sizes import measured_count


class StandIn:
    """Held-out real images in place of samples, with the conditions of the samples of generation 0.

    It has the methods of Shards that `comparisons` calls.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._n = run, measured_count(run)
        self._conditions: Any = None
        if run.config.conditional:
            conditions = sample_conditions(run, 0, run.config.sample.count_of(0))
            self._conditions = conditions.part(range(self._n))

    def features(self, key: str) -> torch.Tensor:
        """The features of the first n held-out images, float32 [n, d]; n = number of measured samples."""
        start = self._run.about["n_train"]
        return self._run.real.features(key)[start : start + self._n]

    def labels(self) -> np.ndarray | None:
        """The class of each sample, int64 [n]; None if samples have no class."""
        return None if self._conditions is None else self._conditions.labels

    def column(self, name: str) -> list[Any]:
        """A column of the ledger of the samples, such as "prompt". The values are None if it is not set."""
        columns = {} if self._conditions is None else self._conditions.columns()
        return list(columns.get(name) or [None] * self._n)


def unmeasurable(run: Run, extractors: Sequence[Extractor], accelerator: Accelerator) -> dict[str, str]:
    """Find the measures that have no value even between two sets of real images.

    All processes must call this.

    Returns:
        The reason by measure and extractor. A key has the form 'recall (pixels)'.

    Raises MeasureError if no measure has a value, if two concepts of measure.concepts have the same text
    embedding, or if an image has no concept.
    """
    measure = run.config.measure
    if run.config.exact or not extractors:
        return {}
    stand_in = StandIn(run)

    def one_half(metric: type[PairMetric], pair: Pair) -> list[float]:
        """Raise MeasureError if half of the images are too few. The value is not used."""
        if measure.resamples:
            metric.of(pair, *half_rows(len(pair.real), len(pair.fake), 0, 0))
        return []

    def train_split(extractor: Extractor) -> torch.Tensor:
        return run.real.features(extractor.key)[: run.about["n_train"]]

    rows: list[Row] = []
    for extractor in extractors:
        judge, no_judge = judge_of(run, extractor, extractors, accelerator)
        for comparison in comparisons(run, extractor, extractors, stand_in, stand_in, train_split):
            settings = MeasureSettings(
                comparison.metrics,
                one_half,
                measure.neighbours,
                *(comparison.probe or (judge, no_judge)),
                comparison.concepts,
            )
            rows += measured(extractor, replace(comparison.sets, second_real=None), settings)
        drift = measure.judge_drift and extractor is judge_extractor(run, extractors)
        if drift and (judge is None or stand_in.labels() is None):
            reason = f"judge_drift has no value: {no_judge or UNCONDITIONAL}"
            rows.append(row(0, "judge_drift", extractor.name, None, None, 0, None, "", reason))
    reasons = {f"{row['metric']} ({row['extractor']})": row["reason"] for row in rows if row["value"] is None}
    if reasons and len(reasons) == len(rows) and measure.metrics and measure.aesthetic is None:
        raise MeasureError(f"none of measure.metrics can be measured here: {'; '.join(left_out(reasons))}")
    return reasons
