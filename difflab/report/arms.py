"""Several runs or arms of a study in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from difflab.core.errors import StoreError
from difflab.plots.curves import curve_figure
from difflab.plots.sheet import LONGEST, one_line, sheet, shortened
from difflab.runs.probe import same_seeds
from difflab.runs.run import Run
from difflab.studies.compare_runs import Arm, compare_runs


def arm_strip(arms: Sequence[Arm], generation: int | None = None) -> Image.Image:
    """The same seeds in one generation of several arms, a row for each by its name; above them held-out real images and the first arm's generation 0.

    Of each arm it is the run of the smallest seed of training that all have.

    Args:
        generation: None = the last that all of these runs have drawn.

    Raises:
        StoreError: the arms have no seed in common, one has no pictures of the generation, or was asked for others than the first.
    """
    trained = set.intersection(*(set(arm.runs) for arm in arms)) if arms else set()
    if not trained:
        raise StoreError("the arms have no seed in common, so there are no pictures of the same seeds")
    seeds = {arm.name: same_seeds(arm.runs[min(trained)]) for arm in arms}
    shared = set.intersection(*(set(own.generations) for own in seeds.values()))
    t = max(shared, default=-1) if generation is None else generation
    first = next(iter(seeds.values()))
    for name, own in seeds.items():
        if t not in own.generations:
            raise StoreError(
                f"{name} has no pictures of generation {max(t, 0)}; all have {sorted(shared) or 'none'}"
            )
        if (own.asked, own.real.shape) != (first.asked, first.real.shape):
            raise StoreError(
                f"{name} was asked for other images than {next(iter(seeds))}: they cannot stand in columns"
            )
    rows = [
        ("real", first.real),
        ("generation 0", first.generations[0]),
        *((shortened(one_line(name), 2 * LONGEST), own.generations[t]) for name, own in seeds.items()),
    ]
    header = [name or "" for name in first.asked[:: first.per]] if first.asked[0] is not None else None
    return sheet(
        [(name, list(images)) for name, images in rows],
        header,
        f"the same seeds in generation {t} of each arm",
        first.per,
    )


def arm_curves(arms: list[Any], metrics: list[str] | None = None) -> Any:
    """A matplotlib figure with one small plot per measure: each arm's mean over seeds with Student's 95% interval, floors dashed.

    Args:
        arms: of difflab.studies.compare_runs.Arm.
    """
    common = set.intersection(*(set(run.generations) for arm in arms for run in arm.runs.values()))
    rows = compare_runs(arms, metrics, sorted(common))
    return curve_figure(
        [(arm.name, [r for r in rows if r["arm"] == arm.name and r["value"] is not None]) for arm in arms]
    )


def curves(
    runs: list[Run], metrics: list[str] | None = None, more: dict[str, list[dict[str, Any]]] | None = None
) -> Any:
    """A matplotlib figure with one small plot per measure and extractor; several runs are drawn over each other.

    Args:
        runs: runs to draw; their config's names make the legend, their folders' where two share a name.
        metrics: names to draw; None = all that were taken.
        more: rows of something else, by its label.
    """
    rows = [
        [r for r in run.rows() if r["value"] is not None and (metrics is None or r["metric"] in metrics)]
        for run in runs
    ]
    labels = [run.config.name for run in runs]
    labels = labels if len(set(labels)) == len(labels) else [run.path.name for run in runs]
    return curve_figure([*zip(labels, rows, strict=True), *(more or {}).items()])
