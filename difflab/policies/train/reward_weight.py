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
    """exp(reward / temperature) over its mean, float64 [n].

    >>> tilt(np.array([0.0, np.log(3)]), 1.0).round(6).tolist()
    [0.5, 1.5]
    """
    raised = np.exp((reward - reward.max()) / temperature)
    return raised / raised.mean()


@policy("reward_weight")
class RewardWeight(Policy):
    """Synthetic images have weights proportional to exp(reward / temperature) in the loss (reward-weighted
    regression).

    The weights are divided by their mean over all synthetic images of the training set, so their total weight
    does not change; a real image has weight 1. The reward rises by construction; the other measures show the
    cost. Exact: the model is fitted to the training set tilted by exp(reward / temperature). With the reward
    x this moves the mean of N(m, v) by v / temperature.
    """

    source: ClassVar[str] = "Peters & Schaal 2007 (reward-weighted regression); Lee et al., arXiv 2302.12192"

    first: int = Field(
        1, ge=1, description="First generation in which it acts; generation 0 has no samples to train on."
    )
    reward: str = Field(
        description="What is preferred, by name, see difflab/policies/rewards.py; 'chance' = nothing: a "
        "control with weights of that spread."
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="Difference of reward that makes a factor e of weight, in the unit of the reward; very "
        "large = off.",
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
                "policies: reward_weight gives a sample one weight, which parallel chains share; set "
                "model.replicates=1 and use several seeds"
            )

    def decides(self) -> tuple[str, ...]:
        return (f"the weight of samples by {self.reward}",)

    def row_weights(self, at: At, rows: pa.Table) -> np.ndarray:
        lab, generation, index = (rows[name].to_numpy() for name in ("lab", "generation", "index"))
        out, synthetic, found = np.ones(len(rows)), generation != REAL, np.zeros(len(rows))
        for k, g in sorted(set(zip(lab[synthetic].tolist(), generation[synthetic].tolist(), strict=True))):
            own = synthetic & (lab == k) & (generation == g)
            asked, place = np.unique(index[own], return_inverse=True)
            run = at.run if k == at.config.lab else at.run.labs[k]
            found[own] = rewards.scores(self.reward, at, Candidates(run, g, asked, at.extractors))[place]
        if synthetic.any():
            out[synthetic] = tilt(found[synthetic], self.temperature)
        return out
