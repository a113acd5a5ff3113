"""Weights of real and synthetic images in the loss."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.policies.interface import At, Policy


def golden(r: float) -> float:
    """The weight of real data that minimises the long-run variance of the estimated mean of a Gaussian.

    It minimises (w^2 + r (1 - w)^2) / (w (2 - w)), and the value of the minimum equals the weight (He, Xu &
    Cheng 2502.18049).

    r: number of real points per synthetic point.

    >>> round(golden(1), 4)
    0.618
    """
    return (math.sqrt(r * r + 4 * r) - r) / 2


@policy("real_weight")
class RealWeight(Policy):
    """The real images of a training set have total weight w in the loss, the synthetic ones 1 - w.

    The numbers of real and synthetic images do not matter. A training set of only real or only synthetic
    images is not weighted. With n real and k synthetic points of unit variance and r = n/k, the variance of
    the estimated mean of a Gaussian converges to Var with n Var = (w^2 + r (1 - w)^2) / (w (2 - w)); for r =
    1 it is smallest at w = 1 / golden ratio. If the variance is estimated too, as in this package, the exact
    law is `closed_forms.weighted`.
    """

    source: ClassVar[str] = "He, Xu & Cheng, arXiv 2502.18049"

    first: int = Field(
        1,
        ge=1,
        description="First generation in which the policy acts. Generation 0 trains on real images only.",
    )
    weight: float | str = Field(
        "golden",
        description="Total weight w of the real rows in the loss, above 0 to 1; golden = (sqrt(r^2 + 4r) - "
        "r)/2 with r = real rows / synthetic rows; w equal to the share of real rows = off.",
    )

    @field_validator("weight", mode="plain")
    @classmethod
    def _known(cls, weight: Any) -> float | str:
        if weight == "golden" or (type(weight) in (int, float) and 0 < weight <= 1):
            return weight if weight == "golden" else float(weight)
        raise ValueError("the weight must be a number above 0 and up to 1, or golden")

    def check(self, config: Any) -> None:
        if config.regime.name == "replace" and not any(
            other.policy == "real_share" or getattr(other, "fill", False) for other in config.policies
        ):
            raise ConfigError(
                "policies: real_weight weights real images against samples, but regime.name=replace trains "
                "only on samples; use another regime or real_share"
            )

    def decides(self) -> tuple[str, ...]:
        return ("the weight of real images",)

    def row_weights(self, at: At, rows: pa.Table) -> np.ndarray:
        real = rows["generation"].to_numpy() < 0
        chain = rows["replicate"].to_numpy()
        shared, chains = chain < 0, max(1, int(chain.max()) + 1)

        def numbers(kind: np.ndarray) -> np.ndarray:  # number of such rows of each chain, [chains]
            return (kind & shared).sum() + np.bincount(chain[kind & ~shared], minlength=chains)

        n, k = numbers(real).astype(float), numbers(~real).astype(float)
        if not n.any() or not k.any():
            return np.ones(len(rows))
        with np.errstate(divide="ignore", invalid="ignore"):
            w = (
                np.array([golden(r) for r in n / k])
                if self.weight == "golden"
                else np.full(chains, self.weight)
            )
            each = np.where(real, (w / n)[np.maximum(chain, 0)], ((1 - w) / k)[np.maximum(chain, 0)])
        return np.where(((n > 0) & (k > 0))[np.maximum(chain, 0)], each, 1.0 / (n + k)[np.maximum(chain, 0)])
