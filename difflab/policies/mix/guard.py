"""Limit the share of synthetic images and the depth of recursion of every training set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator, Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.core.files import write_json
from difflab.policies.interface import At, Policy
from difflab.runs.ledger import REAL
from difflab.runs.sizes import first_size
from difflab.runs.train_set import SHARED

SLACK = 1e-9  # 0.29 * 100 is not 29


def _fraction(value: Any) -> Any:
    """Read max_synthetic_fraction from a JSON file if a path is value. The number becomes part of the run's
    recipe.
    """
    if not isinstance(value, str):
        return value
    try:
        content = json.loads(Path(value).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{value} cannot be read as JSON ({error})") from None
    fraction = content.get("max_synthetic_fraction") if isinstance(content, dict) else None
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        raise ValueError(f"{value} holds no number max_synthetic_fraction")
    return fraction


@policy("guard")
class Guard(Policy):
    """Refuses or thins training sets with too many synthetic images, or images of late generations.

    The guard counts the rows that were drawn, after the regime and all earlier policies, and writes
    guard.json beside the training set. If the counts are known from the config, the config is refused before
    anything runs. Exact: in the generations in which the guard acts, no training set has a share of synthetic
    images above max_synthetic_fraction, or an image of a generation after max_generation.
    """

    source: ClassVar[str] = "Bertrand et al., arXiv 2310.00429 (stability below a share of samples)"

    first: int = Field(
        1, ge=1, description="First generation in which it acts; generation 0 has real images only."
    )
    max_synthetic_fraction: Annotated[float, BeforeValidator(_fraction), Field(ge=0, le=1)] = Field(
        1.0,
        description="Largest share of samples in a training set, 0 to 1, or the path of a JSON file with "
        "this key (difflab calibrate); 1 = off.",
    )
    max_generation: int | None = Field(
        None,
        ge=0,
        description="Last generation whose samples may train later ones: samples of 0 are one step from "
        "real images; null = off.",
    )
    mode: Literal["refuse", "thin"] = Field(
        "refuse",
        description="refuse = stop with an error; thin = leave samples out at random until it holds.",
    )
    fill: bool = Field(
        False,
        description="thin: put real images of generation 0's training set in the place of what is left out; "
        "false = smaller sets.",
    )

    def check(self, config: Any) -> None:
        if not self.model_fields_set & {"max_synthetic_fraction", "max_generation"}:
            raise ConfigError("policies: guard guards nothing; set max_synthetic_fraction, or max_generation")
        if self.fill and self.mode == "refuse":
            raise ConfigError(
                "policies: guard with mode=refuse leaves nothing out that fill could make up for; set "
                "mode=thin"
            )
        for later in config.policies[config.policies.index(self) + 1 :]:
            if later.overrides("pools") or later.overrides("rows"):
                raise ConfigError(
                    f"policies: {later.policy} comes after guard and could undo it; put guard after all that "
                    "change training sets"
                )
        if self.mode == "thin" and config.model.chains > 1:
            raise ConfigError(
                "policies: guard cannot thin the sets of parallel chains, which share rows; set "
                "model.replicates=1 and use several seeds"
            )

    def pools(self, at: At, drawn: list[Any], budget: int | None) -> tuple[list[Any], int | None]:
        drawable = sum(pool.count for pool in drawn)
        if not drawable:
            return drawn, budget
        size = drawable if budget is None else min(budget, drawable)
        fraction = size / drawable  # of each pool, on average
        real = fraction * sum(pool.count for pool in drawn if pool.generation == REAL)
        late = fraction * sum(pool.count for pool in drawn if self._late(pool.generation))
        first = fraction * sum(pool.count for pool in drawn if pool.kind == "fixed_real")
        self._allowed(at, size, real, size - real - late, first_size(at.config, at.n_train) - first)
        return drawn, budget

    def _late(self, generation: Any) -> Any:
        """Whether samples of this generation, a number or an array, may not be trained on."""
        return generation > (np.inf if self.max_generation is None else self.max_generation)

    def _allowed(self, at: At, size: float, real: float, synthetic: float, spare: float) -> tuple[int, int]:
        """How many of the `synthetic` images are kept, and how many real images are added.

        Raises ConfigError if a limit is exceeded and cannot be kept by this mode.

        Args:
            size: rows that were drawn. The rest, neither `real` nor `synthetic`, are too late.
            real: real images among them.
            synthetic: synthetic images among them that are not too late.
            spare: real images of generation 0's training set that are not among them.
        """
        late = size - real - synthetic
        share = (size - real) / size
        if late <= SLACK and share <= self.max_synthetic_fraction + SLACK:
            return round(synthetic), 0
        found = f"{share:.4g} of training set {at.generation} "
        found += f"({size - real:.6g} of {size:.6g} images) are samples"
        if late > SLACK:
            found += f", {late:.6g} of them of generations after {self.max_generation}"
        if self.mode == "refuse":
            raise ConfigError(
                f"policies: guard refuses: {found}; allowed: {self._limits()}. "
                "Use more real images, or mode=thin"
            )
        kept = int(min(synthetic, self._room(size, real)) + SLACK)
        added = round(size - real) - kept if self.fill else 0
        if kept + added + real < 1:
            raise ConfigError(
                f"policies: guard leaves nothing: {found}, and there are no real images; "
                "set fill=true or add real images to the regime"
            )
        if added > spare + SLACK:
            raise ConfigError(
                f"policies: guard wants {added} more real images to fill training set {at.generation}, "
                f"{spare:.6g} are left of generation 0's; set fill=false or lower regime.set_size"
            )
        return kept, added

    def _limits(self) -> str:
        """The limits that are set, in words."""
        limits = []
        if self.max_synthetic_fraction < 1:
            limits.append(f"at most {self.max_synthetic_fraction:g}")
        if self.max_generation is not None:
            limits.append(f"none after generation {self.max_generation}")
        return ", ".join(limits)

    def _room(self, size: float, real: float) -> float:
        """The largest number of synthetic images that the limit allows beside `real` real images.

        With `fill` the size of the set stays, without it the set shrinks.
        """
        most = self.max_synthetic_fraction
        if self.fill:
            return most * size
        if most == 1:
            return np.inf
        return most / (1 - most) * real

    def rows(self, at: At, rows: pa.Table) -> pa.Table:
        generation = rows["generation"].to_numpy()
        real, late = generation == REAL, self._late(generation)
        first = np.arange(first_size(at.config, at.n_train))
        spare = np.setdiff1d(first, rows["index"].to_numpy()[real])
        chain = rows["replicate"].to_numpy()
        kept, added = len(rows), 0
        for replicate in range(max(1, chain.max() + 1)):  # each of parallel chains has its own rows
            here = (chain < 0) | (chain == replicate)
            n_real, n_synthetic = int((real & here).sum()), int((~real & ~late & here).sum())
            kept, added = self._allowed(at, int(here.sum()), n_real, n_synthetic, len(spare))
        out = rows
        if self.mode == "thin":
            candidates = at.rng("guard").permutation(np.flatnonzero(~real & ~late))
            places = np.sort(np.concatenate([np.flatnonzero(real), candidates[:kept]]))
            if len(places) < len(rows):
                out = rows.take(pa.array(places))
            if added:
                out = filled(out, np.sort(at.rng("fill").permutation(spare)[:added]))
        self._record(at, rows, out, added)
        return out

    def _record(self, at: At, drawn: pa.Table, used: pa.Table, added: int) -> None:
        """Write guard.json, and say what was left out."""
        n, removed = len(drawn), len(drawn) - (len(used) - added)
        before, after = (float((rows["generation"].to_numpy() != REAL).mean()) for rows in (drawn, used))
        record = {
            "max_synthetic_fraction": self.max_synthetic_fraction,
            "max_generation": self.max_generation,
            "mode": self.mode,
            "images": n,
            "left_out": removed,
            "real_put_in": added,
            "synthetic_fraction_drawn": before,
            "synthetic_fraction": after,
        }
        write_json(at.run.gen(at.generation) / "guard.json", record)
        if removed:
            at.say(
                f"guard: training set {at.generation} had {before:.3g} samples; {removed} of {n} images left "
                "out, "
                f"{added} real ones put in, {after:.3g} now"
            )


def filled(rows: pa.Table, index: np.ndarray) -> pa.Table:
    """`rows`, followed by the real images `index`."""
    count = len(index)
    values: dict[str, Any] = {
        "pool": ["fixed_real"] * count,
        "lab": [0] * count,
        "generation": [REAL] * count,
        "index": index,
        "replicate": [SHARED] * count,
    }
    kinds = {field.name: field.type for field in rows.schema} | {"pool": pa.string()}
    added = pa.table({name: pa.array(values.get(name, [None] * count), kind) for name, kind in kinds.items()})
    column = rows.schema.get_field_index("pool")
    plain = rows.set_column(column, "pool", rows["pool"].cast(pa.string()))
    both = pa.concat_tables([plain, added]).combine_chunks()
    return both.set_column(column, "pool", both["pool"].dictionary_encode())
