"""The section `ecosystem`: several labs that train on each other's samples."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from difflab.config.spec import Spec
from difflab.core.suggest import did_you_mean

PRESETS = ("isolated", "pooled", "one_way")


def _exchange(raw: Any) -> Any:
    """Refuse here what the union of a name and a matrix would refuse twice."""
    if isinstance(raw, str) and raw not in PRESETS:
        hint = did_you_mean(raw, PRESETS)
        raise ValueError(f"{hint} give a matrix or one of {', '.join(PRESETS)}".lstrip())
    if not isinstance(raw, str) and not (isinstance(raw, list) and all(isinstance(row, list) for row in raw)):
        raise ValueError(f"give a list with one row of shares per lab, or one of {', '.join(PRESETS)}")
    for i, row in enumerate(raw if isinstance(raw, list) else []):
        if len(row) != len(raw):
            raise ValueError(
                f"row {i} has {len(row)} shares, there are {len(raw)} rows: one row and one column per lab"
            )
        if any(isinstance(x, bool) or not isinstance(x, (int, float)) or not x >= 0 for x in row):
            raise ValueError(f"row {i} is {row}: every share is a number from 0 to 1")
        if abs(sum(row) - 1) > 1e-6:
            raise ValueError(f"row {i} sums to {sum(row):.6g}, not to 1")
    return raw


class Ecosystem(Spec):
    """Several labs, each a lineage of models of its own, that train on each other's samples."""

    labs: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="How many; null = as many as exchange has rows or overrides has entries.",
    )
    exchange: Annotated[
        Literal["isolated", "pooled", "one_way"] | list[list[float]], BeforeValidator(_exchange)
    ] = Field(
        "pooled",
        description="Row i: the share of each lab's samples among the synthetic training images of lab i; "
        "isolated = one's own alone, pooled = all alike, one_way = lab 0's alone.",
    )
    overrides: list[dict[str, Any]] = Field(
        default_factory=list,
        description="Dotted keys and their values, one mapping per lab; {} = the config as it is, [] = so "
        "for all labs.",
    )
    real: Literal["shared", "disjoint"] = Field(
        "shared",
        description="Real images in the train split of each lab: the same ones, or parts that have none in "
        "common. Held-out are the same.",
    )
    lab: int | None = Field(
        None,
        ge=0,
        description="Which lab this is the config of; null = of the ecosystem. Set by the engine in the "
        "run.yaml of labs.",
    )

    @model_validator(mode="after")
    def _sizes(self) -> Ecosystem:
        said = {
            "labs": self.labs,
            "exchange": len(self.exchange) if isinstance(self.exchange, list) else None,
            "overrides": len(self.overrides) or None,
        }
        sizes = {name: size for name, size in said.items() if size is not None}
        if not sizes:
            raise ValueError("how many labs? set ecosystem.labs")
        if len(set(sizes.values())) > 1:
            raise ValueError(
                "the number of labs is not the same in "
                + ", ".join(f"{name} ({size})" for name, size in sizes.items())
            )
        if self.count < 2:
            raise ValueError(
                "an ecosystem has at least 2 labs; a chain by itself is a config without this section"
            )
        if self.lab is not None and self.lab >= self.count:
            raise ValueError(f"there is no lab {self.lab} among {self.count}; the first one is lab 0")
        for key in chain.from_iterable(self.overrides):
            if key.split(".")[0] in ("name", "seed", "generations", "ecosystem"):
                raise ValueError(
                    f"overrides: '{key}' is the same for all labs "
                    "(which draw different random numbers in any case)"
                )
        return self

    @property
    def count(self) -> int:
        """How many labs there are."""
        return self.labs or (len(self.exchange) if isinstance(self.exchange, list) else len(self.overrides))

    @property
    def matrix(self) -> list[list[float]]:
        """The exchange as numbers: [lab that trains][lab whose samples they are]."""
        if isinstance(self.exchange, list):
            return self.exchange
        n = self.count
        one = {
            "isolated": lambda i, j: float(i == j),
            "pooled": lambda i, j: 1 / n,
            "one_way": lambda i, j: float(j == 0),
        }[self.exchange]
        return [[one(i, j) for j in range(n)] for i in range(n)]
