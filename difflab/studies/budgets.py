"""Whether arms had the same budget: images seen in training, size of the training set, samples drawn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from difflab.runs.run import Run
from difflab.studies.compare_runs import Arm

Spending = dict[str, dict[int, int | None]]
"""By kind of budget and generation; None where a formula is fitted and nothing is counted."""
KINDS = ("images seen", "training set", "samples drawn")


@dataclass(frozen=True)
class Gap:
    """A difference between the budgets of the first arm and of another one in one generation.

    Attributes:
        size: relative distance of the worst pair, 0 to 1.
        pairs: both budgets, one pair per seed.
    """

    size: float
    arm: str
    generation: int
    pairs: list[tuple[int | None, int | None]]


def budgets(arms: Sequence[Arm]) -> str:
    """One sentence: whether all arms have the budgets of the first one, else the largest gap.

    Budgets are compared seed by seed in every generation.
    """
    spent_by_arm = {arm.name: _spent_by_seed(arm) for arm in arms if arm.runs}
    if len(spent_by_arm) < 2:
        return "budgets: there are no two arms with runs to match"
    baseline, *others = spent_by_arm
    differences = []
    for kind in KINDS:
        gaps: list[Gap] = []
        for arm in others:
            gaps += _gaps(kind, arm, _paired(spent_by_arm[baseline], spent_by_arm[arm]))
        if gaps:
            differences.append(_sentence(kind, baseline, gaps))
    if differences:
        return "budgets do NOT match: " + "; ".join(differences)
    return "budgets match: images seen, set size and samples drawn are the same in all arms"


def _spent_by_seed(arm: Arm) -> dict[int, Spending]:
    return {seed: _spent(run) for seed, run in arm.runs.items()}


def _spent(run: Run) -> Spending:
    """The budgets of a run by generation, summed over labs."""
    images: dict[int, int | None] = {}
    sizes: dict[int, int | None] = {}
    samples: dict[int, int | None] = {}
    for t in run.generations:
        records = [part.training(t) for part in run.parts]
        images[t] = _total(records, "images_seen")
        sizes[t] = _total(records, "set_size")
        samples[t] = sum(part.config.sample.count_of(t) for part in run.parts)
    return dict(zip(KINDS, (images, sizes, samples), strict=True))


def _total(records: Sequence[dict[str, int]], key: str) -> int | None:
    if not all(key in record for record in records):
        return None
    return sum(record[key] for record in records)


def _paired(first: dict[int, Spending], other: dict[int, Spending]) -> list[tuple[Spending, Spending]]:
    """The budgets of two arms, paired by seed; every run with every run if they have no seed in common."""
    paired = [(first[seed], other[seed]) for seed in other if seed in first]
    if paired:
        return paired
    return list(itertools.product(first.values(), other.values()))


def _gaps(kind: str, arm: str, paired: Sequence[tuple[Spending, Spending]]) -> list[Gap]:
    """The generations in which two arms differ, of those that both have."""
    generations = set()
    for first, other in paired:
        generations |= first[kind].keys() & other[kind].keys()
    gaps = []
    for t in sorted(generations):
        both = [(a[kind], b[kind]) for a, b in paired if t in a[kind].keys() & b[kind].keys()]
        pairs = [(a[t], b[t]) for a, b in both]
        size = max(_gap(a, b) for a, b in pairs)
        if size:
            gaps.append(Gap(size, arm, t, pairs))
    return gaps


def _sentence(kind: str, baseline: str, gaps: Sequence[Gap]) -> str:
    """The largest gap in words, and how many other arms differ too."""
    worst = max(gaps, key=lambda gap: gap.size)
    first, other = _span([a for a, _ in worst.pairs]), _span([b for _, b in worst.pairs])
    if first == other:  # the seeds have the same numbers in another order: show the worst pair
        a, b = max(worst.pairs, key=lambda pair: _gap(*pair))
        first, other = _span([a]), _span([b])
    too = _too([gap.arm for gap in gaps if gap.arm != worst.arm])
    return f"{kind} {first} in {baseline}, {other} in {worst.arm} (generation {worst.generation}{too})"


def _too(arms: Sequence[str]) -> str:
    """The other arms that differ: '; b, c too', or their number if there are more than three."""
    names = list(dict.fromkeys(arms))
    if len(names) > 3:
        return f"; {len(names)} other arms too"
    return f"; {', '.join(names)} too" if names else ""


def _gap(a: int | None, b: int | None) -> float:
    """Relative distance of two numbers, from 0 (equal) to 1.

    >>> _gap(500, 500), _gap(500, 250), _gap(None, 500)
    (0.0, 0.5, 1.0)
    """
    if a == b:
        return 0.0
    return 1 - min(a, b) / max(a, b) if a and b else 1.0


def _span(values: Sequence[int | None]) -> str:
    """'310 to 336', or one number if all are equal; "none" if there is no number."""
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    lowest, highest = min(known), max(known)
    return f"{lowest:,} to {highest:,}" if highest > lowest else f"{lowest:,}"
