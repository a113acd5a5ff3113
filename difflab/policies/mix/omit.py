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
    """Some classes are left out of the training sets, real and synthetic images alike.

    The model forgets them; that is not collapse. A control for measures, or an attack. Samples of all classes
    are still generated, so the measures show what the model makes of the classes that it no longer sees.
    Training sets become smaller; the number of images seen stays the same. The class of a sample is the class
    that it was generated for. Exact: training sets first..last hold no image of these classes.
    """

    source: ClassVar[str] = "catastrophic forgetting, as the popular accounts of collapse set it apart"

    first: int = Field(
        1, ge=0, description="First generation whose training set lacks the classes; 0 = they are never seen."
    )
    classes: list[str] | None = Field(
        None, min_length=1, description="Names of the classes that are left out; null = unused."
    )
    count: int | None = Field(
        None,
        ge=1,
        description="How many classes are left out, the rarest of training set 0 first; null = unused.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Omit:
        if (self.classes is None) == (self.count is None):
            raise ValueError("give either classes, their names, or count, how many of the rarest")
        return self

    def check(self, config: Any) -> None:
        if not config.conditional:
            raise ConfigError(
                "policies: omit tells samples apart by the class asked for, and samples of this model are "
                "not asked for by class"
            )

    def rows(self, at: At, rows: pa.Table) -> pa.Table:
        out, labels = self.left_out(at), TrainSet(rows, at.run.samples, Shards.labels).conditions
        if labels is None:
            raise ConfigError(
                "policies: omit tells samples apart by the class asked for, and some were asked for without "
                "one"
            )
        keep = np.flatnonzero(~np.isin(labels, out))
        if not len(keep):
            raise ConfigError(
                f"policies: omit leaves nothing of training set {at.generation}; leave out fewer classes"
            )
        return rows.take(pa.array(keep))

    def left_out(self, at: At) -> np.ndarray:
        """The classes, int64. Raises ConfigError for unknown ones and where none would be left."""
        labels, known = at.run.real.labels(), at.run.about["classes"]
        if labels is None:
            raise ConfigError("policies: omit leaves out classes, and the real images have none")
        counts = np.bincount(labels[: first_size(at.config, at.run.about["n_train"])], minlength=len(known))
        shown = np.flatnonzero(counts)
        if self.classes is not None:
            unknown = [name for name in self.classes if name not in known]
            if unknown:
                raise ConfigError(
                    f"policies: omit: '{unknown[0]}' is none of the classes {', '.join(known[:20])}"
                )
            out = np.array([known.index(name) for name in self.classes])
        else:
            out = shown[np.argsort(counts[shown], kind="stable")][: self.count]
        if np.isin(shown, out).all():
            raise ConfigError(
                f"policies: omit leaves none of the {len(shown)} classes of training set 0; leave out fewer"
            )
        return out
