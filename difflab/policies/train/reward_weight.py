"""Reward weights of synthetic images in the loss."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.policies import rewards
from difflab.policies.candidates import Candidates
from difflab.policies.interface import At, Policy
from difflab.runs.ledger import REAL


def tilt(reward: np.ndarray, temperature: float) -> np.ndarray:
    """exp(reward / temperature), divided by its mean, float64 [n].

    >>> tilt(np.array([0.0, np.log(3)]), 1.0).round(6).tolist()
    [0.5, 1.5]
    """
    raised = np.exp((reward - reward.max()) / temperature)
    return raised / raised.mean()


@policy("reward_weight")
class RewardWeight(Policy):
    """Synthetic images have weights proportional to exp(reward / temperature) in the loss (reward-weighted
    regression).

    The weights are divided by their mean over all synthetic images of the training set, so their total
    weight does not change. A real image has weight 1. The reward rises by construction, and the other
    measures show what it costs. Exact: the model is fitted to the training set weighted by exp(reward /
    temperature). If the reward is the sample x itself, this moves the mean of N(m, v) by v / temperature.
    """

    source: ClassVar[str] = "Peters & Schaal 2007 (reward-weighted regression); Lee et al., arXiv 2302.12192"

    first: int = Field(
        1,
        ge=1,
        description="First generation in which the policy acts. Generation 0 has no samples to train on.",
    )
    reward: str = Field(
        description="Name of the reward; difflab/policies/rewards.py lists all rewards. 'chance' is random: "
        "a control with equally spread weights."
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="Difference in reward that changes the weight by a factor e, in units of the reward; "
        "very large = off.",
    )

    @field_validator("reward")
    @classmethod
    def _known(cls, reward: str) -> str:
        rewards.find(reward)
        return reward

    def check(self, config: Any) -> None:
        rewards.check(config, self.policy, self.reward)
        if config.model.chains > 1:
            raise ConfigError(
                "policies: reward_weight gives each sample one weight, but parallel chains share samples; "
                "set model.replicates=1 and use several seeds"
            )

    def decides(self) -> tuple[str, ...]:
        return (f"the weight of samples by {self.reward}",)

    def row_weights(self, at: At, rows: pa.Table) -> np.ndarray:
        lab, generation, index = (rows[name].to_numpy() for name in ("lab", "generation", "index"))
        out, synthetic, scores = np.ones(len(rows)), generation != REAL, np.zeros(len(rows))
        for k, g in sorted(set(zip(lab[synthetic].tolist(), generation[synthetic].tolist(), strict=True))):
            of_generation = synthetic & (lab == k) & (generation == g)
            distinct, inverse = np.unique(index[of_generation], return_inverse=True)
            run = at.run if k == at.config.lab else at.run.labs[k]
            scores[of_generation] = rewards.scores(
                self.reward, at, Candidates(run, g, distinct, at.extractors)
            )[inverse]
        if synthetic.any():
            out[synthetic] = tilt(scores[synthetic], self.temperature)
        return out
