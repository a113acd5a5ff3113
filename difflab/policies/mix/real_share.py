"""A share of real images that grows or shrinks over the generations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.policies.interface import At, Policy
from difflab.runs.ledger import REAL
from difflab.runs.sizes import first_size
from difflab.runs.train_set import Pool


def parts(total: int, sizes: list[int]) -> list[int]:
    """Split `total` into integers proportional to `sizes`, by the largest-remainder method. Ties go to the
    first.

    >>> parts(5, [10, 10, 5])
    [2, 2, 1]
    """
    whole = sum(sizes)
    exact = [total * size / whole for size in sizes]
    out = [int(x) for x in exact]
    for i in sorted(range(len(sizes)), key=lambda i: (out[i] - exact[i], i))[: total - sum(out)]:
        out[i] += 1
    return out


@policy("real_share")
class RealShare(Policy):
    """The share of real images in the training sets changes linearly from `start` to `end`.

    The size of the sets does not change. The real images of this policy replace those of the regime. The
    pools of synthetic images keep their proportions. Exact: the number of real images is round(share * size)
    with share = start + (end - start) min(1, (t - first) / over).
    """

    source: ClassVar[str] = "Alemohammad et al., arXiv 2307.01850 (constant share)"

    first: int = Field(
        1,
        ge=1,
        description="First generation in which the policy acts. Generation 0 trains on real images only.",
    )
    start: float = Field(
        ge=0,
        le=1,
        description="Share of real images in training set `first`, 0 to 1. The share is constant if start "
        "equals end.",
    )
    end: float = Field(
        ge=0, le=1, description="Share of real images from generation first + over on, 0 to 1."
    )
    over: int = Field(
        1, ge=1, description="Number of generations in which the share changes from start to end."
    )
    real: Literal["fixed", "fresh"] = Field(
        "fixed",
        description="fixed = the first images of generation 0's training set, in every generation; fresh = "
        "unseen images from the reserve (see data.train_size).",
    )

    def check(self, config: Any) -> None:
        name = config.regime.name
        if name == "fresh_real" or config.regime.real_fraction is not None:
            raise ConfigError(
                "policies: real_share and regime.real_fraction both set the share of real images; leave "
                "real_fraction null and use regime.name=replace or fixed_real"
            )
        if sum(other.policy == self.policy for other in config.policies) > 1:
            raise ConfigError("policies: two entries real_share would overwrite each other; use one entry")
        if self.real == "fresh" and (
            name == "accumulate" or (name == "replace" and config.regime.set_size is None)
        ):
            raise ConfigError(
                "policies: real_share with real=fresh must know the size of the training sets; set "
                f"regime.set_size (regime.name={name})"
            )

    def share(self, generation: int) -> float:
        """Share of real images in this generation's training set."""
        return self.start + (self.end - self.start) * min(1.0, (generation - self.first) / self.over)

    def pools(self, at: At, drawn: list[Any], budget: int | None) -> tuple[list[Any], int | None]:
        n0, t = first_size(at.config, at.n_train), at.generation
        synthetic = [pool for pool in drawn if pool.generation != REAL]
        total = sum(pool.count for pool in drawn) if budget is None else budget
        n_real = round(self.share(t) * total)
        if self.real == "fixed":
            real = Pool("fixed_real", REAL, at.real_rows(0, n0), n_real, same=True)
            have, mend = len(real.rows), "raise data.train_size"
        else:
            start = self._drawn(at.config, n0, t)
            reserve = at.real_rows(n0, at.n_train)
            real = Pool("fresh_real", REAL, reserve[start : start + n_real], n_real)
            have, mend = len(real.rows), "lower data.train_size, so that the reserve is larger"
        if n_real > have:
            raise ConfigError(
                f"policies: real_share needs {n_real} {self.real} real images in training set {t} "
                f"({self.share(t):.3g} of {total}), but there are {have}; {mend}, or lower start, end or "
                "regime.set_size"
            )
        if total > n_real and not sum(pool.count for pool in synthetic):
            raise ConfigError(
                f"policies: there are no samples for the other {total - n_real} images of training set {t} "
                "of real_share; put real_share first in the list"
            )
        counts = (
            parts(total - n_real, [pool.count for pool in synthetic])
            if total > n_real
            else [0] * len(synthetic)
        )
        return [
            real,
            *(replace(pool, count=count) for pool, count in zip(synthetic, counts, strict=True)),
        ], None

    def fresh(self, config: Any, n0: int) -> int:
        return self._drawn(config, n0, config.generations + 1)

    def _drawn(self, config: Any, n0: int, before: int) -> int:
        """The number of fresh images in the training sets before generation `before`."""
        if self.real != "fresh":
            return 0
        return sum(
            round(self.share(t) * (config.regime.set_size or n0))
            for t in range(before)
            if self.acts("pools", t)
        )
