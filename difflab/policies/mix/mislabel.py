"""Poisoned labels: some training images carry the label of another class."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.core.seeds import lab_seed, numpy_generator
from difflab.policies.interface import At, Policy
from difflab.runs.ledger import REAL
from difflab.runs.train_set import TrainSet


@policy("mislabel")
class Mislabel(Policy):
    """With probability `share` an image of the training set gets the label of another class.

    All other classes are equally likely. This is data poisoning, not collapse. It serves as a control for
    measures, or as an attack. An image has the same wrong label in every training set. The images and the
    ledger are unchanged; the wrong labels are in the column `condition` of train_set.parquet. Exact: a label
    is right with probability 1 - share.
    """

    source: ClassVar[str] = "label noise as data poisoning, which popular accounts distinguish from collapse"

    first: int = Field(1, ge=0, description="First generation whose training set is poisoned.")
    share: float = Field(
        ge=0, le=1, description="Probability that an image gets the label of another class, 0 to 1; 0 = off."
    )
    of: Literal["all", "real", "synthetic"] = Field(
        "all",
        description="Which images can get a wrong label: all, only real images, or only synthetic images.",
    )

    def check(self, config: Any) -> None:
        if not config.conditional or config.text:
            raise ConfigError(
                f"policies: mislabel changes labels, but model.family={config.model.family} is not trained "
                "on labels in this config"
            )
        if sum(other.policy == self.policy for other in config.policies) > 1:
            raise ConfigError(
                "policies: two entries mislabel would overwrite each other's labels; use one entry"
            )

    def rows(self, at: At, rows: pa.Table) -> pa.Table:
        classes, data = len(at.run.about["classes"]), TrainSet(rows, at.run.samples, at.run.conditions)
        if classes < 2 or data.conditions is None:
            raise ConfigError("policies: mislabel needs images of at least 2 classes")
        wrong = np.zeros(len(rows), dtype=bool)
        labels = data.conditions.copy()
        for member, ((lab, generation), shards) in enumerate(data.sets.items()):
            if self.of == ("synthetic" if generation == REAL else "real"):
                continue
            rng = numpy_generator(
                "mislabel", lab_seed(at.config.seed, lab), at.position, generation
            )  # the same in every training set
            struck, shift = rng.random(len(shards)) < self.share, rng.integers(1, classes, len(shards))
            places = np.flatnonzero(data.member == member)
            wrong[places] = struck[data.index[places]]
            labels[places] = (labels[places] + shift[data.index[places]]) % classes
        return rows.append_column("condition", pa.array(labels, pa.int64(), mask=~wrong))
