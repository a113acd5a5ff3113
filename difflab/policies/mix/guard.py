"""Hold every training set to a largest share of samples and a largest depth of recursion."""

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


def _fraction(given: Any) -> Any:
    """The number in a JSON file, for the path of one: what is read once goes into the run's recipe."""
    if not isinstance(given, str):
        return given
    try:
        content = json.loads(Path(given).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{given} cannot be read as JSON ({error})") from None
    value = content.get("max_synthetic_fraction") if isinstance(content, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{given} holds no number max_synthetic_fraction")
    return value


@policy("guard")
class Guard(Policy):
    """Training set t is refused, or thinned until it holds, where it has too many samples or samples of too late a generation.

    It looks at the rows that were drawn, so that it holds whatever regime and other policies make of them, and leaves guard.json beside
    them. A config of which this is known beforehand is refused before anything runs. Exact: no training set of the generations in which
    it acts has a share of samples above max_synthetic_fraction, or a sample of a generation beyond max_generation.
    """

    source: ClassVar[str] = "Bertrand et al., arXiv 2310.00429 (stability below a share of samples)"

    first: int = Field(
        1, ge=1, description="First generation in which it acts; generation 0 has real images only."
    )
    max_synthetic_fraction: Annotated[float, BeforeValidator(_fraction), Field(ge=0, le=1)] = Field(
        1.0,
        description="Largest share of samples in a training set, 0 to 1, or the path of a JSON file with this key (difflab calibrate); 1 = off.",
    )
    max_generation: int | None = Field(
        None,
        ge=0,
        description="Last generation whose samples may train later ones: samples of 0 are one step from real images; null = off.",
    )
    mode: Literal["refuse", "thin"] = Field(
        "refuse",
        description="refuse = stop with an error; thin = leave samples out at random until it holds.",
    )
    fill: bool = Field(
        False,
        description="thin: put real images of generation 0's training set in the place of what is left out; false = smaller sets.",
    )

    def check(self, config: Any) -> None:
        if not self.model_fields_set & {"max_synthetic_fraction", "max_generation"}:
            raise ConfigError("policies: guard guards nothing; set max_synthetic_fraction, or max_generation")
        if self.fill and self.mode == "refuse":
            raise ConfigError(
                "policies: guard with mode=refuse leaves nothing out that fill could make up for; set mode=thin"
            )
        for own in config.policies[config.policies.index(self) + 1 :]:
            if any(getattr(type(own), hook) is not getattr(Policy, hook) for hook in ("pools", "rows")):
                raise ConfigError(
                    f"policies: {own.policy} comes after guard and could undo it; put guard after all that change training sets"
                )
        if self.mode == "thin" and config.model.chains > 1:
            raise ConfigError(
                "policies: guard cannot thin the sets of parallel chains, which share rows; set model.replicates=1 and use several seeds"
            )

    # --------------------------------------------------------------------------------- before anything is drawn
    def pools(self, at: At, drawn: list[Any], budget: int | None) -> tuple[list[Any], int | None]:
        whole = sum(p.count for p in drawn)
        total = whole if budget is None else min(budget, whole)
        if whole:
            share = total / whole  # of each pool, in the mean
            real, late, first = (
                share * sum(p.count for p in drawn if which(p))
                for which in (
                    lambda p: p.generation == REAL,
                    lambda p: self._late(p.generation),
                    lambda p: p.kind == "fixed_real",
                )
            )
            self._kept(at, total, real, total - real - late, first_size(at.config, at.n_train) - first)
        return drawn, budget

    def _late(self, generation: Any) -> Any:
        return generation > (np.inf if self.max_generation is None else self.max_generation)

    def _kept(self, at: At, size: float, real: float, synthetic: float, spare: float) -> tuple[int, int]:
        """How many of `synthetic` samples that are not too late stay, and how many real images are put in. Raises ConfigError.

        Args:
            size: rows as they were drawn; what is neither in `real` nor in `synthetic` is too late a sample.
            spare: real images of generation 0's training set that are not among them.
        """
        t, most, late = at.generation, self.max_synthetic_fraction, size - real - synthetic
        share = (size - real) / size
        if late <= SLACK and share <= most + SLACK:
            return round(synthetic), 0
        found = f"{share:.4g} of training set {t} ({size - real:.6g} of {size:.6g} images) are samples"
        found += f", {late:.6g} of them of generations after {self.max_generation}" if late > SLACK else ""
        if self.mode == "refuse":
            limits = [f"at most {most:g}"] * (most < 1) + [f"none after generation {self.max_generation}"] * (
                self.max_generation is not None
            )
            raise ConfigError(
                f"policies: guard refuses: {found}; allowed: {', '.join(limits)}. Use more real images, or mode=thin"
            )
        room = most * size if self.fill else (np.inf if most == 1 else most / (1 - most) * real)
        stay = int(min(synthetic, room) + SLACK)
        put = round(size - real) - stay if self.fill else 0
        if stay + put + real < 1:
            raise ConfigError(
                f"policies: guard leaves nothing: {found}, and there are no real images; set fill=true or add real images to the regime"
            )
        if put > spare + SLACK:
            raise ConfigError(
                f"policies: guard wants {put} more real images to fill training set {t}, {spare:.6g} are left of generation 0's; "
                "set fill=false or lower regime.set_size"
            )
        return stay, put

    # ------------------------------------------------------------------------------------------------ what was drawn
    def rows(self, at: At, rows: pa.Table) -> pa.Table:
        t, n = at.generation, len(rows)
        generation, chain = rows["generation"].to_numpy(), rows["replicate"].to_numpy()
        real, late = generation == REAL, self._late(generation)
        spare = np.setdiff1d(np.arange(first_size(at.config, at.n_train)), rows["index"].to_numpy()[real])
        stay, put = n, 0
        for r in range(max(1, chain.max() + 1)):  # each of parallel chains has its own rows
            own = (chain < 0) | (chain == r)
            stay, put = self._kept(
                at, int(own.sum()), int((real & own).sum()), int((~real & ~late & own).sum()), len(spare)
            )
        out = rows
        if self.mode == "thin":
            fine = np.flatnonzero(~real & ~late)
            keep = np.sort(np.concatenate([np.flatnonzero(real), at.rng("guard").permutation(fine)[:stay]]))
            out = rows.take(pa.array(keep)) if len(keep) < n else rows
            out = filled(out, np.sort(at.rng("fill").permutation(spare)[:put])) if put else out
        left = n - (len(out) - put)
        share = [float((g != REAL).mean()) for g in (generation, out["generation"].to_numpy())]
        limits = {
            "max_synthetic_fraction": self.max_synthetic_fraction,
            "max_generation": self.max_generation,
            "mode": self.mode,
        }
        counts = {
            "images": n,
            "left_out": left,
            "real_put_in": put,
            "synthetic_fraction_drawn": share[0],
            "synthetic_fraction": share[1],
        }
        write_json(at.run.gen(t) / "guard.json", {**limits, **counts})
        if left:
            at.say(
                f"guard: training set {t} had {share[0]:.3g} samples; {left} of {n} images left out, {put} real ones put in, {share[1]:.3g} now"
            )
        return out


def filled(rows: pa.Table, index: np.ndarray) -> pa.Table:
    """`rows` and real images `index` after them."""
    count = len(index)
    values: dict[str, Any] = {
        "pool": ["fixed_real"] * count,
        "lab": [0] * count,
        "generation": [REAL] * count,
        "index": index,
    }
    values["replicate"] = [SHARED] * count
    kinds = {field.name: pa.string() if field.name == "pool" else field.type for field in rows.schema}
    more = pa.table({name: pa.array(values.get(name, [None] * count), kind) for name, kind in kinds.items()})
    at = rows.schema.get_field_index("pool")
    both = pa.concat_tables(
        [rows.set_column(at, "pool", rows["pool"].cast(pa.string())), more]
    ).combine_chunks()
    return both.set_column(at, "pool", both["pool"].dictionary_encode())
