"""Draw the pictures of a run: a grid for each generation, and the strip and curves after the last one."""

from __future__ import annotations

from difflab.core.files import atomic
from difflab.loop.work import Work


def draw_pictures(work: Work, generation: int) -> None:
    """Draw the probe of a generation as grid.png. After the last generation, draw strip.png and curves.png.

    grid.png and strip.png are drawn only if probe.per_condition > 0, and curves.png only if `work.plots` is
    set. Exact families have none of these pictures.
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
