from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from difflab.evaluation import diagnose as diagnosis
from difflab.report.verdict import FILE, as_data, verdict
from difflab.runs.run import Run, open_run


def test_as_the_diagnosis_says_and_made_once(
    hostile: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(shutil.copytree(hostile.path, tmp_path / "run"))
    assert verdict(run, fresh=False) is None
    quick = dict(extractors=["pixels"], resamples=4)
    made = diagnosis.diagnose_run(run, **quick)
    calls = []
    monkeypatch.setattr(
        diagnosis, "diagnose_run", lambda run, extractors: calls.append((run, extractors)) or made
    )
    found = verdict(run)
    assert found is not None and calls == [(run, ["pixels"])]
    last = made.findings[-1]
    assert (
        found["generation"] == 2
        and found["n"] == last.n
        and found["stage"] == last.stage
        and found["advice"] == last.advice
    )
    assert found["evidence"] == last.evidence() and [f["generation"] for f in found["findings"]] == [0, 1, 2]
    assert found["findings"][-1]["profile"] == last.profile
    assert json.loads((run.path / FILE).read_text()) == json.loads(json.dumps(found))
    assert verdict(run, fresh=False) == verdict(run) and len(calls) == 1, "read, not made again"
    assert json.loads(json.dumps(as_data(made))) == as_data(made), "plain data"


def test_a_verdict_of_an_earlier_state_is_not_shown(hostile: Run, tmp_path: Path) -> None:
    run = open_run(shutil.copytree(hostile.path, tmp_path / "run"))
    (run.path / FILE).write_text(json.dumps({"recipe": run.recipe, "generations": [0, 1], "words": "old"}))
    assert verdict(run, fresh=False) is None
    (run.path / FILE).write_text(json.dumps({"recipe": "another", "generations": [0, 1, 2], "words": "old"}))
    assert verdict(run, fresh=False) is None
    (run.path / FILE).write_text(
        json.dumps({"recipe": run.recipe, "generations": [0, 1, 2], "words": "by other rules"})
    )
    assert verdict(run, fresh=False) is None


def test_too_few_images_are_a_reason_not_a_verdict(hostile: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(run: Run, extractors: list[str]) -> None:
        raise diagnosis.MeasureError("a diagnosis wants 30 images")

    monkeypatch.setattr(diagnosis, "diagnose_run", few)
    assert verdict(hostile) == {"reason": "a diagnosis wants 30 images"}
    assert not (hostile.path / FILE).exists()
