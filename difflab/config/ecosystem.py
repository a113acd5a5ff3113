"""The section `ecosystem`: several labs that train on each other's samples."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from difflab.config.spec import Spec
from difflab.core.suggest import did_you_mean

PRESETS = ("isolated", "pooled", "one_way")


def _exchange(raw: Any) -> Any:
    """Raise ValueError unless `raw` is the name of a preset or a valid matrix.

    Pydantic would report two errors.
    """
    if isinstance(raw, str) and raw not in PRESETS:
        hint = did_you_mean(raw, PRESETS)
        raise ValueError(f"{hint} set a matrix or one of {', '.join(PRESETS)}".lstrip())
    if not isinstance(raw, str) and not (isinstance(raw, list) and all(isinstance(row, list) for row in raw)):
        raise ValueError(f"set a list with one row of shares per lab, or one of {', '.join(PRESETS)}")
    for i, row in enumerate(raw if isinstance(raw, list) else []):
        if len(row) != len(raw):
            raise ValueError(
                f"row {i} has {len(row)} shares, but there are {len(raw)} rows; the matrix has one row and "
                "one column per lab"
            )
        if any(isinstance(x, bool) or not isinstance(x, (int, float)) or not x >= 0 for x in row):
            raise ValueError(f"row {i} is {row}, but every share must be a number from 0 to 1")
        if abs(sum(row) - 1) > 1e-6:
            raise ValueError(f"row {i} sums to {sum(row):.6g}, but must sum to 1")
    return raw


class Ecosystem(Spec):
    """Several labs that train on each other's samples. Each lab has its own chain of models."""

    labs: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="Number of labs; null = the number of rows of exchange or of entries of overrides.",
    )
    exchange: Annotated[
        Literal["isolated", "pooled", "one_way"] | list[list[float]], BeforeValidator(_exchange)
    ] = Field(
        "pooled",
        description="Matrix of shares. Row i holds the share of each lab's samples among the synthetic "
        "training images of lab i. isolated = only the lab's own samples, pooled = equal shares of all "
        "labs, one_way = only the samples of lab 0.",
    )
    overrides: list[dict[str, Any]] = Field(
        default_factory=list,
        description="Changes to the config, one mapping of dotted keys to values per lab; {} = no change "
        "for this lab, [] = no change for any lab.",
    )
    real: Literal["shared", "disjoint"] = Field(
        "shared",
        description="Real images in the train split of each lab: shared = the same images, disjoint = parts "
        "without common images. All labs have the same held-out images.",
    )
    lab: int | None = Field(
        None,
        ge=0,
        description="The lab that this config belongs to; null = the whole ecosystem. difflab sets it in "
        "the run.yaml of each lab.",
    )

    @model_validator(mode="after")
    def _sizes(self) -> Ecosystem:
        counts = {
            "labs": self.labs,
            "exchange": len(self.exchange) if isinstance(self.exchange, list) else None,
            "overrides": len(self.overrides) or None,
        }
        sizes = {name: size for name, size in counts.items() if size is not None}
        if not sizes:
            raise ValueError("the number of labs is unknown; set ecosystem.labs")
        if len(set(sizes.values())) > 1:
            raise ValueError(
                "the number of labs differs between "
                + ", ".join(f"{name} ({size})" for name, size in sizes.items())
            )
        if self.count < 2:
            raise ValueError("an ecosystem needs at least 2 labs; for a single chain, remove this section")
        if self.lab is not None and self.lab >= self.count:
            raise ValueError(f"there is no lab {self.lab} among {self.count} labs; the first lab is lab 0")
        for key in chain.from_iterable(self.overrides):
            if key.split(".")[0] in ("name", "seed", "generations", "ecosystem"):
                raise ValueError(
                    f"overrides: '{key}' must be the same for all labs (labs draw different random numbers "
                    "in any case)"
                )
        return self

    @property
    def count(self) -> int:
        """The number of labs."""
        return self.labs or (len(self.exchange) if isinstance(self.exchange, list) else len(self.overrides))

    @property
    def matrix(self) -> list[list[float]]:
        """The exchange matrix of shares: [lab that trains][lab that generated the samples]."""
        if isinstance(self.exchange, list):
            return self.exchange
        n = self.count
        share = {
            "isolated": lambda i, j: float(i == j),
            "pooled": lambda i, j: 1 / n,
            "one_way": lambda i, j: float(j == 0),
        }[self.exchange]
        return [[share(i, j) for j in range(n)] for i in range(n)]
