"""The pictures of a run: a grid per generation; after the last one the strip and the curves."""

from __future__ import annotations

from difflab.core.files import atomic
from difflab.loop.work import Work


def draw_pictures(work: Work, generation: int) -> None:
    """Draw the probe of generation t as grid.png; after the last generation strip.png and curves.png, if they
    are wanted.
    """
    run = work.run
    if not work.main or run.config.exact:
        return
    if run.config.probe.per_condition and not (run.gen(generation) / "grid.png").exists():
        with atomic(run.gen(generation) / "grid.png") as temporary:
            run.grid(generation).save(temporary, "PNG")
    if generation == run.config.generations:
        if run.config.probe.per_condition:
            with atomic(run.path / "strip.png") as temporary:
                run.strip().save(temporary, "PNG")
        if work.plots:
            with atomic(run.path / "curves.png") as temporary:
                run.curves().savefig(temporary, format="png", dpi=110)
