"""A detector of synthetic images with given error rates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.seeds import lab_seed, numpy_generator
from difflab.policies.interface import At
from difflab.policies.select.common import Selector
from difflab.runs.ledger import REAL


@policy("detector")
class Detector(Selector):
    """A detector of synthetic images with given error rates filters the training data.

    A sample is dropped with probability `true_positive_rate`, a real image with probability
    `false_positive_rate`, independently of its content. A real image gets one verdict for the whole run.
    Generation 0 is trained on all real images. If the regime draws a part of the real images, it draws from
    those that pass; if it uses all, and for the unseen images of `fresh_real`, those that fail are lost.
    Exact: both rates, independently of each other. A real detector leaves the samples that are harder to
    detect; see `probe_detector`.
    """

    source: ClassVar[str] = (
        "a model of any detector; accuracies near 95% are reached in-distribution only (arXiv 2507.10236, "
        "2509.12995)"
    )

    true_positive_rate: float = Field(
        ge=0, le=1, description="Probability that a sample is found and dropped; 0 = off."
    )
    false_positive_rate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability that a real image is taken for synthetic and dropped; 0 = off.",
    )

    def select(self, at: At, candidates: Any) -> list[str | None]:
        found = (
            at.rng().random(at.config.sample.count_of(candidates.generation))[candidates.index]
            < self.true_positive_rate
        )
        return ["detected" if f else None for f in found]

    def keeps(self, count: int) -> int:
        return round(count * (1 - self.true_positive_rate))  # on average; that is all that is known

    def pools(self, at: At, drawn: list[Any], budget: int | None) -> tuple[list[Any], int | None]:
        if at.generation == 0:
            return drawn, budget
        seed = lab_seed(at.config.seed, at.config.lab)
        passes = numpy_generator("detector", seed, at.position).random(at.n_train) >= self.false_positive_rate
        out = []
        for pool in drawn:
            rows = pool.rows[passes[pool.rows]] if pool.generation == REAL else pool.rows
            out.append(
                replace(pool, rows=rows, count=len(rows) if pool.count == len(pool.rows) else pool.count)
            )
        return out, budget
