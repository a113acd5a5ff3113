"""How much of the real spread is left: `trace_ratio`."""

from __future__ import annotations

from torch import Tensor

from difflab.errors import MeasureError
from difflab.metrics.base import Pair, PairMetric, Rows, measure


def trace_of_covariance(x_ND: Tensor) -> float:
    """Total variance of rows [n, d] with the MLE covariance (divided by n), in float64.

    >>> import torch; trace_of_covariance(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    5.0
    """
    return float(x_ND.double().var(0, correction=0).sum())


@measure("trace_ratio")
class TraceRatio(PairMetric):
    """Total variance of the samples over that of the real images: 1 = as spread out, 0 = one point.

    Both by MLE (divided by n): take the same n on both sides, as the default `measure.count` does, or the ratio is off by
    (1 - 1/n_f)/(1 - 1/n_r). Against its own training set of n images a bootstrap memoriser falls as (1 - 1/n)^t in any feature
    space; the total variance is slow to show lost modes (Alemohammad et al. 2307.01850), `recall` is quicker.

    >>> import torch; TraceRatio.of(Pair(torch.tensor([[0.0], [4.0]]), torch.tensor([[0.0], [2.0]])))
    0.25
    """

    unit = "ratio"
    range = (0.0, float("inf"))
    better = "real"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        whole = trace_of_covariance(pair.real[real])
        if whole == 0:
            raise MeasureError("trace_ratio has no value: the real images are all the same in this feature space")
        return trace_of_covariance(pair.fake[fake]) / whole
