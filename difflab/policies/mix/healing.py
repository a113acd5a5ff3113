"""Train some generations on real images only."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.policies.interface import At, Policy
from difflab.runs.ledger import REAL
from difflab.runs.sizes import first_size
from difflab.runs.train_set import Pool


@policy("healing")
class Healing(Policy):
    """Generations `first` to `last` are trained only on the real images of generation 0's training set.

    Later generations follow the regime again. With train.start_from=previous a damaged model is trained
    further (Bohacek & Farid 2311.12202). With scratch a new model is trained. Exact: training sets
    first..last contain the images of training set 0 that count as real.
    """

    source: ClassVar[str] = "Bohacek & Farid, arXiv 2311.12202"

    first: int = Field(ge=1, description="First generation that is trained on real images only.")

    def check(self, config: Any) -> None:
        after = config.policies[config.policies.index(self) + 1 :]
        for other in after:
            if other.policy != "guard" and any(
                other.acts("pools", t) and self.acts("pools", t) for t in range(config.generations + 1)
            ):
                raise ConfigError(
                    f"policies: {other.policy} would change the training set of healing; put healing after it"
                )

    def pools(self, at: At, drawn: list[Any], budget: int | None) -> tuple[list[Any], int | None]:
        rows = at.real_rows(0, first_size(at.config, at.n_train))
        return [Pool("fixed_real", REAL, rows, len(rows))], None
