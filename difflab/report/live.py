"""The report of a run that is going on."""

from __future__ import annotations

from difflab.report.page import FILE, report
from difflab.report.verdict import verdict
from difflab.runs.run import Run


def after_generation(run: Run, generation: int, changed: bool = True) -> None:
    """Write report.html as it stands after a generation. Until the last one the page reloads itself.

    Nothing is written where the generation brought nothing new, unless it is the last one and there is no
    report.
    """
    path, last = run.path / FILE, generation == run.config.generations
    if changed or (last and not path.exists()):
        report([run], path, verdict=lambda part: verdict(part, fresh=False), live=not last)
