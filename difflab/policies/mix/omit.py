"""Leave classes out of the training sets."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.policies.interface import At, Policy
from difflab.runs.sizes import first_size
from difflab.runs.store import Shards
from difflab.runs.train_set import TrainSet


@policy("omit")
class Omit(Policy):
    """Some classes are removed from the training sets, real and synthetic images alike.

    The model forgets these classes, which is not collapse. The policy serves as a control for measures, or
    as an attack. Samples of all classes are still generated, so the measures show what the model generates
    for the removed classes. Training sets become smaller, and the number of images seen stays the same. The
    class of a sample is its requested class. Exact: training sets first..last contain no image of these
    classes.
    """

    source: ClassVar[str] = "catastrophic forgetting, which popular accounts distinguish from collapse"

    first: int = Field(
        1,
        ge=0,
        description="First generation whose training set lacks the classes; 0 = no model is ever trained on "
        "them.",
    )
    classes: list[str] | None = Field(
        None, min_length=1, description="Names of the removed classes; null = unused."
    )
    count: int | None = Field(
        None,
        ge=1,
        description="Number of removed classes, the rarest of training set 0 first; null = unused.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Omit:
        if (self.classes is None) == (self.count is None):
            raise ValueError("set either classes (names) or count (the number of rarest classes)")
        return self

    def check(self, config: Any) -> None:
        if not config.conditional:
            raise ConfigError(
                "policies: omit selects samples by their requested class, but the samples of this model have "
                "no requested class"
            )

    def rows(self, at: At, rows: pa.Table) -> pa.Table:
        out, labels = self.left_out(at), TrainSet(rows, at.run.samples, Shards.labels).conditions
        if labels is None:
            raise ConfigError(
                "policies: omit selects samples by their requested class, but some samples have none"
            )
        keep = np.flatnonzero(~np.isin(labels, out))
        if not len(keep):
            raise ConfigError(
                f"policies: omit removes every image of training set {at.generation}; remove fewer classes"
            )
        return rows.take(pa.array(keep))

    def left_out(self, at: At) -> np.ndarray:
        """The numbers of the removed classes, int64.

        Raises ConfigError for an unknown class, and if no class would remain.
        """
        labels, known = at.run.real.labels(), at.run.about["classes"]
        if labels is None:
            raise ConfigError("policies: omit removes classes, but the real images have no classes")
        counts = np.bincount(labels[: first_size(at.config, at.run.about["n_train"])], minlength=len(known))
        shown = np.flatnonzero(counts)
        if self.classes is not None:
            unknown = [name for name in self.classes if name not in known]
            if unknown:
                raise ConfigError(
                    f"policies: omit: '{unknown[0]}' is not one of the classes {', '.join(known[:20])}"
                )
            out = np.array([known.index(name) for name in self.classes])
        else:
            out = shown[np.argsort(counts[shown], kind="stable")][: self.count]
        if np.isin(shown, out).all():
            raise ConfigError(
                f"policies: omit removes all {len(shown)} classes of training set 0; remove fewer"
            )
        return out
