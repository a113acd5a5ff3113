"""Half-samples of a measure, divided over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from difflab.core.errors import MeasureError
from difflab.metrics.interval import resampled
from difflab.metrics.metric import PairMetric
from difflab.metrics.pair import Pair


def shared_resamples(
    accelerator: Accelerator, metric: type[PairMetric], pair: Pair, count: int, seed: int
) -> list[float]:
    """The values of a measure on `count` half-samples, on all processes. One process computes each value.

    See `difflab.metrics.interval.resampled`.
    """
    return shared(accelerator, lambda numbers: resampled(metric, pair, numbers, seed), count)


def shared(
    accelerator: Accelerator, compute: Callable[[Iterable[int]], list[float]], count: int
) -> list[float]:
    """The values of `count` resamples, on all processes. One process computes each value.

    With several processes the values are not in the order of the resamples. A MeasureError of one process is
    raised on all processes, so that no process waits for another.

    Args:
        accelerator: the processes.
        compute: maps the numbers of resamples to their values.
        count: the number of resamples. Their numbers are 0 ... count - 1.
    """
    values: list[Any]
    try:
        values = compute(range(count)[accelerator.process_index :: accelerator.num_processes])
    except MeasureError as error:
        values = [error]
    if accelerator.num_processes > 1:
        values = gather_object(values)
    for value in values:
        if isinstance(value, MeasureError):
            raise value
    return values
