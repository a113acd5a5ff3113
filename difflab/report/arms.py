"""Several runs or arms of a study in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from PIL import Image

from difflab.core.errors import StoreError
from difflab.plots.curves import curve_figure
from difflab.plots.sheet import LONGEST, one_line, sheet, shortened
from difflab.runs.probe import same_seeds
from difflab.runs.run import Run
from difflab.studies.compare_runs import Arm, compare_runs


def arm_strip(arms: Sequence[Arm], generation: int | None = None) -> Image.Image:
    """The same seeds in one generation of several arms: a row of pictures for each arm.

    The first two rows are held-out real images and generation 0 of the first arm. Each arm is shown by the
    run with the smallest training seed that all arms have.

    Args:
        generation: None = the last one that all of these runs have drawn.

    Raises:
        StoreError: the arms have no training seed in common, an arm has no pictures of the generation, or
            its pictures have other conditions than those of the first arm.
    """
    training_seeds = set.intersection(*(set(arm.runs) for arm in arms)) if arms else set()
    if not training_seeds:
        raise StoreError("the arms have no seed in common, so there are no pictures of the same seeds")
    probes = {arm.name: same_seeds(arm.runs[min(training_seeds)]) for arm in arms}
    first_name, first = next(iter(probes.items()))
    shared = set.intersection(*(set(probe.generations) for probe in probes.values()))
    t = max(shared, default=-1) if generation is None else generation
    for name, probe in probes.items():
        if t not in probe.generations:
            raise StoreError(
                f"{name} has no pictures of generation {max(t, 0)}; all have {sorted(shared) or 'none'}"
            )
        if (probe.asked, probe.real.shape) != (first.asked, first.real.shape):
            raise StoreError(
                f"{name} was asked for other images than {first_name}: they cannot stand in columns"
            )
    rows = [("real", list(first.real)), ("generation 0", list(first.generations[0]))]
    for name, probe in probes.items():
        rows.append((shortened(one_line(name), 2 * LONGEST), list(probe.generations[t])))
    header = None
    if first.asked[0] is not None:
        header = [name or "" for name in first.asked[:: first.per]]
    return sheet(rows, header, f"the same seeds in generation {t} of each arm", first.per)


def arm_curves(arms: list[Any], metrics: list[str] | None = None) -> Any:
    """A matplotlib figure with one small plot per measure. Floors are dashed.

    A curve is the mean of an arm over its seeds, with Student's 95% interval.

    Args:
        metrics: names of measures; None = all but those of the training.
    """
    runs = chain(*(arm.runs.values() for arm in arms))
    common = set.intersection(*(set(run.generations) for run in runs))
    rows_by_arm: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for row in compare_runs(arms, metrics, sorted(common)):
        if row["value"] is not None:
            rows_by_arm[row["arm"]].append(row)
    return curve_figure(list(rows_by_arm.items()))


def curves(
    runs: list[Run], metrics: list[str] | None = None, more: dict[str, list[dict[str, Any]]] | None = None
) -> Any:
    """A matplotlib figure with one small plot per measure and extractor, with all runs in each plot.

    Args:
        runs: named in the legend as their configs are, or as their folders where two configs have one name.
        metrics: names of measures; None = all that the runs have.
        more: rows that are of no run, by their label in the legend.
    """
    labels = [run.config.name for run in runs]
    if len(set(labels)) < len(labels):
        labels = [run.path.name for run in runs]
    return curve_figure(
        [*zip(labels, (_rows(run, metrics) for run in runs), strict=True), *(more or {}).items()]
    )


def _rows(run: Run, metrics: list[str] | None) -> list[dict[str, Any]]:
    """The rows of a run that have a value, of these measures or of all."""
    rows = [row for row in run.rows() if row["value"] is not None]
    return rows if metrics is None else [row for row in rows if row["metric"] in metrics]
