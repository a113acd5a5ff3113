"""The diagnosis of a run as plain data, stored in the run's folder and made anew when the run changes."""

from __future__ import annotations

from typing import Any

from difflab.core.errors import MeasureError
from difflab.core.files import read_json, write_json
from difflab.evaluation import diagnose
from difflab.evaluation.rules import VERSION
from difflab.runs.run import Run

FILE = "diagnosis.json"


def verdict(run: Run, fresh: bool = True) -> dict[str, Any] | None:
    """What `difflab diagnose` says of a run, in the feature spaces of the run's own measures.

    It is read from diagnosis.json if that file is of the same recipe, the same generations and the same
    rules. Else it is made, which takes seconds per generation, and written there. A run with too few images
    gets {"reason": why}.

    Args:
        fresh: False = only read it; None is returned where it would have to be made.
    """
    path = run.path / FILE
    state = {"recipe": run.recipe, "generations": run.generations, "rules": VERSION}
    if path.exists():
        stored = read_json(path)
        if {key: stored.get(key) for key in state} == state:
            return stored
    if not fresh:
        return None
    extractors = run.config.measure.feature_extractors
    try:
        result = state | as_data(diagnose.diagnose_run(run, extractors=extractors or None))
    except MeasureError as error:
        return {"reason": str(error)}
    write_json(path, result)
    return result


def as_data(result: Any) -> dict[str, Any]:
    """A `difflab.evaluation.finding.Diagnosis` as strings, numbers, lists and dicts."""
    last = result.findings[-1]
    return {
        "generation": last.generation,
        "words": last.words,
        "stage": last.stage,
        "alarm": last.alarm,
        "n": last.n,
        "advice": last.advice,
        "gone": last.gone,
        "damaged": last.classes,
        "first_alarm": list(result.first_alarm) if result.first_alarm else None,
        "alarms": result.alarms,
        "excluded": last.excluded,
        "evidence": last.evidence(),
        "unknown": result.unknown,
        "left_out": last.left_out,
        "findings": [
            {"generation": f.generation, "words": f.words, "profile": f.profile} for f in result.findings
        ],
        "notes": result.notes,
        "doubts": result.doubts,
    }
