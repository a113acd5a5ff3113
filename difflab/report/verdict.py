"""The diagnosis of a run as plain data, kept beside it: made once per state of the run."""

from __future__ import annotations

from typing import Any

from difflab.core.errors import MeasureError
from difflab.core.files import read_json, write_json
from difflab.evaluation.rules import VERSION
from difflab.runs.run import Run

FILE = "diagnosis.json"


def verdict(run: Run, fresh: bool = True) -> dict[str, Any] | None:
    """What `difflab diagnose` says of a run in the feature spaces of its own measures; a reason where it has too few images.

    Read from diagnosis.json where that is of this recipe, of all generations measured so far and by these rules; else made, which takes
    seconds per generation, and written there. fresh: False = do not make it.
    """
    path, state = run.path / FILE, {"recipe": run.recipe, "generations": run.generations, "rules": VERSION}
    if path.exists():
        known = read_json(path)
        if {key: known.get(key) for key in state} == state:
            return known
    if not fresh:
        return None
    from difflab.evaluation.diagnose import diagnose_run

    own = [spec for spec in run.config.measure.extractors if spec != "texture"]
    try:
        found = state | as_data(diagnose_run(run, extractors=own or None))
    except MeasureError as reason:
        return {"reason": str(reason)}
    write_json(path, found)
    return found


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
        "first_alarm": list(result.first_alarm) if result.first_alarm else None,
        "alarms": result.alarms,
        "evidence": last.evidence(),
        "unknown": result.unknown,
        "left_out": last.left_out,
        "findings": [
            {"generation": f.generation, "words": f.words, "profile": f.profile} for f in result.findings
        ],
        "notes": result.notes,
        "doubts": result.doubts,
    }
