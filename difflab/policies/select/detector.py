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
    `false_positive_rate`, independently of its content. The decision on a real image is the same in the
    whole run. Generation 0 is trained on all real images. If the regime draws only some of the real images,
    it draws them from those that pass. If it uses all of them, and for the unseen images of `fresh_real`, the
    images that fail are lost. Exact: samples and real images are dropped with these two probabilities,
    independently of each other. A real detector would keep the samples that are harder to detect; see
    `probe_detector`.
    """

    source: ClassVar[str] = (
        "a model of any detector; detectors reach accuracies near 95% only in-distribution (arXiv "
        "2507.10236, 2509.12995)"
    )

    true_positive_rate: float = Field(
        ge=0, le=1, description="Probability that a sample is detected and dropped, 0 to 1; 0 = off."
    )
    false_positive_rate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability that a real image is classified as synthetic and dropped, 0 to 1; 0 = off.",
    )

    def select(self, at: At, candidates: Any) -> list[str | None]:
        detected = (
            at.rng().random(at.config.sample.count_of(candidates.generation))[candidates.index]
            < self.true_positive_rate
        )
        return ["detected" if flag else None for flag in detected]

    def keeps(self, count: int) -> int:
        # the expected number: the exact one is not known before sampling
        return round(count * (1 - self.true_positive_rate))

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
