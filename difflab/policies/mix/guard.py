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
from difflab.data.audited import share_text
from difflab.policies.interface import At, Policy
from difflab.runs.ledger import REAL
from difflab.runs.origins import Evidence, counted, real_origins
from difflab.runs.sizes import first_size
from difflab.runs.train_set import SHARED

SLACK = 1e-9  # for rounding errors: 0.29 * 100 is not 29


def _fraction(value: Any) -> Any:
    """`value`, or the max_synthetic_fraction of the JSON file if `value` is a path.

    The recipe of the run then contains the number, not the path.
    """
    if not isinstance(value, str):
        return value
    try:
        content = json.loads(Path(value).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{value} cannot be read as JSON ({error})") from None
    fraction = content.get("max_synthetic_fraction") if isinstance(content, dict) else None
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        raise ValueError(f"{value} contains no number max_synthetic_fraction")
    return fraction


@policy("guard")
class Guard(Policy):
    """Refuses or thins training sets with too many synthetic images or with images of late generations.

    The guard counts the rows that the regime and all earlier policies have drawn, and writes guard.json
    beside the training set. Images of data.source that declare that they are synthetic count as such
    (docs/provenance.md). If the config and the real set determine the counts, the run is refused before
    anything is fitted; so is training set 0, which cannot be thinned. Exact: in the generations in
    which the guard acts, no training set has a share of synthetic images above max_synthetic_fraction, and
    none has an image of a generation after max_generation or of a depth above max_generation + 1.

    With data.audit, what the audit found counts too, and a source is also refused if the lower bound of the
    share that the audit estimates is above max_synthetic_fraction.
    """

    source: ClassVar[str] = "Bertrand et al., arXiv 2310.00429 (stability below a share of samples)"

    first: int = Field(
        1,
        ge=1,
        description="First generation in which the policy acts. Generation 0 trains on real images only.",
    )
    max_synthetic_fraction: Annotated[float, BeforeValidator(_fraction), Field(ge=0, le=1)] = Field(
        1.0,
        description="Largest share of synthetic images in a training set, 0 to 1, or the path of a JSON "
        "file with this key (written by difflab calibrate); 1 = off.",
    )
    max_generation: int | None = Field(
        None,
        ge=0,
        description="Last generation whose samples may be trained on, and largest depth minus 1. With 0, "
        "only samples of a model that was trained on real images; null = off.",
    )
    max_unknown_fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Largest share of images of unknown origin in a training set, 0 to 1, whatever they "
        "count as (data.unknown_origin). They cannot be thinned; 0 = none, 1 = off.",
    )
    mode: Literal["refuse", "thin"] = Field(
        "refuse",
        description="refuse = stop with an error; thin = remove random samples until the limits hold.",
    )
    fill: bool = Field(
        False,
        description="With mode=thin, replace removed samples by real images of generation 0's training set; "
        "false = the training set becomes smaller.",
    )

    def check(self, config: Any) -> None:
        limits = {"max_synthetic_fraction", "max_generation", "max_unknown_fraction"}
        if not self.model_fields_set & limits:
            raise ConfigError(
                "policies: guard has no limit; set max_synthetic_fraction, max_generation or "
                "max_unknown_fraction"
            )
        if self.fill and self.mode == "refuse":
            raise ConfigError(
                "policies: guard with mode=refuse removes no samples, so fill=true has no effect; set "
                "mode=thin"
            )
        for later in config.policies[config.policies.index(self) + 1 :]:
            if later.overrides("pools") or later.overrides("rows"):
                raise ConfigError(
                    f"policies: {later.policy} comes after guard and could exceed its limits; put guard "
                    "after all policies that change training sets"
                )
        if self.mode == "thin" and config.model.chains > 1:
            raise ConfigError(
                "policies: guard cannot thin the training sets of parallel chains, because the chains share "
                "rows; set model.replicates=1 and use several seeds"
            )

    def pools(self, at: At, drawn: list[Any], budget: int | None) -> tuple[list[Any], int | None]:
        drawable = sum(pool.count for pool in drawn)
        if not drawable:
            return drawn, budget
        size = drawable if budget is None else min(budget, drawable)
        fraction = size / drawable  # the expected share of each pool that is drawn
        known = [self._of_pool(at, pool) for pool in drawn]
        real = fraction * sum(of_pool[0] for of_pool in known)
        late = fraction * sum(of_pool[1] for of_pool in known)
        first = fraction * sum(pool.count for pool in drawn if pool.kind == "fixed_real")
        spare = len(at.real_rows(0, first_size(at.config, at.n_train))) - first
        self._allowed(at, size, real, size - real - late, spare)
        self._check_unknown(at, size, fraction * sum(_unknown_in(at, pool) for pool in drawn))
        return drawn, budget

    def check_real(self, at: At) -> None:
        """Refuse training set 0 if it exceeds the limits. It cannot be thinned."""
        if at.real_depths is None or self.first > 1:
            return
        size, evidence = first_size(at.config, at.n_train), at.evidence
        if evidence is not None:
            self._check_unknown(at, size, int(evidence.unknown[:size].sum()))
            self._check_estimate(at, evidence.audit)
        depths = at.real_depths[:size]
        generation = np.full(len(depths), REAL)
        synthetic, late = int((depths > 0).sum()), int(self._late(generation, depths).sum())
        if not late and synthetic <= (self.max_synthetic_fraction + SLACK) * len(depths):
            return
        raise ConfigError(
            f"policies: guard refuses data.source={at.config.data.source}: "
            f"{self._excess(0, len(depths), synthetic, late)}; allowed: {self._limits()}"
            f"{_told_by(evidence)}. Remove these images from the source, or raise the limit"
        )

    def _check_estimate(self, at: At, audit: dict[str, Any] | None) -> None:
        """Refuse a source whose audit estimates a larger share than is allowed, with its lower bound."""
        estimate = ((audit or {}).get("share") or {}).get("estimate")
        if estimate is None or estimate["low"] <= self.max_synthetic_fraction + SLACK:
            return
        raise ConfigError(
            f"policies: guard refuses data.source={at.config.data.source}: {share_text(audit)}; allowed: at "
            f"most {self.max_synthetic_fraction:g}. Remove what the audit finds (difflab audit --write), or "
            "raise the limit"
        )

    def _check_unknown(self, at: At, size: float, unknown: float) -> None:
        """Refuse a training set with too many images of unknown origin."""
        if unknown <= (self.max_unknown_fraction + SLACK) * size:
            return
        raise ConfigError(
            f"policies: guard refuses: {unknown / size:.4g} of training set {at.generation} ({unknown:.6g} "
            f"of {size:.6g} images) are of unknown origin; allowed: at most {self.max_unknown_fraction:g}"
            f"{_told_by(at.evidence)}. Declare the origin of your images in metadata.jsonl "
            "(docs/provenance.md), audit them (data.audit), or raise the limit"
        )

    def _of_pool(self, at: At, pool: Any) -> tuple[float, float]:
        """The expected numbers of real and of late images among those drawn from a pool.

        The depth of samples that are not drawn yet is counted in `rows`.
        """
        if pool.generation != REAL:
            return 0.0, pool.count * bool(self._late(pool.generation, np.int64(pool.generation + 1)))
        if at.real_depths is None or not len(pool.rows):
            return float(pool.count), 0.0
        depths = at.real_depths[pool.rows[: pool.count] if pool.same else pool.rows]
        late = self._late(np.full(len(depths), REAL), depths)
        return pool.count * float((depths == 0).mean()), pool.count * float(late.mean())

    def _late(self, generation: Any, depth: Any) -> Any:
        """Whether images come after max_generation or are deeper than max_generation + 1. Also for arrays."""
        most = np.inf if self.max_generation is None else self.max_generation
        return (generation > most) | (depth > most + 1)

    def _excess(self, generation: int, size: float, synthetic: float, late: float) -> str:
        """What exceeds the limits, in words."""
        excess = f"{synthetic / size:.4g} of training set {generation} "
        excess += f"({synthetic:.6g} of {size:.6g} images) are synthetic"
        if late > SLACK:
            excess += f", {late:.6g} of them from generations after {self.max_generation}"
        return excess

    def _allowed(self, at: At, size: float, real: float, synthetic: float, spare: float) -> tuple[int, int]:
        """The number of `synthetic` images that are kept, and the number of real images that are added.

        Args:
            size: rows that were drawn. Those that are neither `real` nor `synthetic` come from late
                generations.
            real: real images among the rows.
            synthetic: synthetic images among the rows that do not come from late generations.
            spare: real images of generation 0's training set that are not among the rows.

        Raises:
            ConfigError: a limit is exceeded, and this mode cannot restore it.
        """
        late = size - real - synthetic
        share = (size - real) / size
        if late <= SLACK and share <= self.max_synthetic_fraction + SLACK:
            return round(synthetic), 0
        excess = self._excess(at.generation, size, size - real, late)
        if self.mode == "refuse":
            raise ConfigError(
                f"policies: guard refuses: {excess}; allowed: {self._limits()}{_told_by(at.evidence)}. "
                "Use more real images, or mode=thin"
            )
        kept = int(min(synthetic, self._room(size, real)) + SLACK)
        added = round(size - real) - kept if self.fill else 0
        if kept + added + real < 1:
            raise ConfigError(
                f"policies: guard would remove every image: {excess}, and there are no real images; set "
                "fill=true or add real images to the regime"
            )
        if added > spare + SLACK:
            raise ConfigError(
                f"policies: guard needs {added} more real images to fill training set {at.generation}, but "
                f"only {spare:.6g} images of generation 0's training set are not in it yet; set fill=false "
                "or lower regime.set_size"
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
        """The largest number of synthetic images that the limit allows together with `real` real images.

        With `fill` the training set keeps its size; without it the set becomes smaller.
        """
        most = self.max_synthetic_fraction
        if self.fill:
            return most * size
        if most == 1:
            return np.inf
        return most / (1 - most) * real

    def rows(self, at: At, rows: pa.Table) -> pa.Table:
        generation, depth = rows["generation"].to_numpy(), counted_depths(at, rows)
        real, late = depth == 0, self._late(generation, depth)
        first = at.real_rows(0, first_size(at.config, at.n_train))
        spare = np.setdiff1d(first, rows["index"].to_numpy()[generation == REAL])
        chain = rows["replicate"].to_numpy()
        kept, added = len(rows), 0
        for replicate in range(max(1, chain.max() + 1)):  # parallel chains have their own rows
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
                out = filled(out, np.sort(at.rng("fill").permutation(spare)[:added]), at.run)
        self._check_unknown(at, len(out), unknown_rows(out))
        self._record(at, rows, out, added)
        return out

    def _record(self, at: At, drawn: pa.Table, used: pa.Table, added: int) -> None:
        """Write guard.json, and report how many images were removed."""
        n, removed = len(drawn), len(drawn) - (len(used) - added)
        before, after = (float((counted_depths(at, rows) > 0).mean()) for rows in (drawn, used))
        record = {
            "max_synthetic_fraction": self.max_synthetic_fraction,
            "max_generation": self.max_generation,
            "max_unknown_fraction": self.max_unknown_fraction,
            "mode": self.mode,
            "images": n,
            "left_out": removed,
            "real_put_in": added,
            "synthetic_fraction_drawn": before,
            "synthetic_fraction": after,
            "unknown_fraction": unknown_rows(used) / len(used),
        }
        write_json(at.run.gen(at.generation) / "guard.json", record)
        if removed:
            at.say(
                f"guard: {before:.3g} of training set {at.generation} were synthetic; {removed} of {n} "
                f"images were removed and {added} real images added; {after:.3g} are synthetic now"
            )


def _unknown_in(at: At, pool: Any) -> float:
    """The expected number of images of unknown origin among those drawn from a pool."""
    if at.evidence is None or pool.generation != REAL or not len(pool.rows):
        return 0.0
    rows = pool.rows[: pool.count] if pool.same else pool.rows
    return pool.count * float(at.evidence.unknown[rows].mean())


def _told_by(evidence: Evidence | None) -> str:
    """What the audit of the source says about the share, in brackets; "" without an audit."""
    audit = None if evidence is None else evidence.audit
    if audit is None:
        return ""
    sentences = [share_text(audit) or "the audit has no estimate of the share"]
    if audit["missing"]:
        sentences.append(f"{audit['missing']:,} of {audit['used']:,} images are not in the audit")
    return f" ({'; '.join(sentences)})"


def unknown_rows(rows: pa.Table) -> int:
    """The number of rows of a training set whose origin is unknown."""
    return rows["origin"].to_pylist().count("unknown") if "origin" in rows.column_names else 0


def counted_depths(at: At, rows: pa.Table) -> np.ndarray:
    """The counted depth of each row of a training set, int64 [n]; 0 = it counts as real."""
    if "depth" not in rows.column_names:  # rows of a policy that was written before there were depths
        return rows["generation"].to_numpy() + 1
    return counted(rows["origin"].to_pylist(), rows["depth"].to_pylist(), at.config.data.unknown_origin)


def filled(rows: pa.Table, index: np.ndarray, run: Any = None) -> pa.Table:
    """`rows`, followed by the real images `index` of `run`, whose origins are read."""
    count = len(index)
    values: dict[str, Any] = {
        "pool": ["fixed_real"] * count,
        "lab": [0] * count,
        "generation": [REAL] * count,
        "index": index,
        "replicate": [SHARED] * count,
    }
    if "origin" in rows.column_names:
        values |= real_origins(run).take(pa.array(index)).to_pydict()
    kinds = {field.name: field.type for field in rows.schema} | {"pool": pa.string()}
    added = pa.table({name: pa.array(values.get(name, [None] * count), kind) for name, kind in kinds.items()})
    column = rows.schema.get_field_index("pool")
    plain = rows.set_column(column, "pool", rows["pool"].cast(pa.string()))
    both = pa.concat_tables([plain, added]).combine_chunks()
    return both.set_column(column, "pool", both["pool"].dictionary_encode())
