from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from difflab.metrics import METRICS, Judge, Pair
from difflab.report.concept_matrix import changes, concept_matrix
from difflab.report.feature_map import feature_spaces
from difflab.runs.run import Run


def features(run: Run, t: int | None = None) -> torch.Tensor:
    """The pixel features of the real images, or of the samples of a generation."""
    shards = run.real if t is None else run.samples(t)
    return shards.features(feature_spaces(run)["pixels"])


def test_the_concept_matrix_is_what_the_judge_says(hostile: Run) -> None:
    found = concept_matrix(hostile)
    assert found is not None
    key = feature_spaces(hostile)["pixels"]
    judge = Judge.load(hostile.path / "real" / f"judge-{key}.safetensors")
    asked, seen = hostile.samples(2).labels(), judge.predict(features(hostile, 2)).numpy()
    assert asked is not None
    table = np.zeros((5, 5), int)
    np.add.at(table, (asked, seen), 1)
    assert found["tables"][2] == table.tolist() and found["asked"][2] == table.sum(1).tolist()
    pair = Pair(features(hostile, 2), features(hostile, 2), fake_labels=torch.from_numpy(asked), judge=judge)
    assert sum(found["tables"][2][i][i] for i in range(5)) / len(asked) == pytest.approx(
        METRICS["class_accuracy"].of(pair)
    )
    first = {row["concept"]: row for row in found["changed"]}
    for i, name in enumerate(hostile.about["classes"]):
        assert first[name]["after"] == pytest.approx(table[i, i] / table[i].sum(), rel=1e-4)
    changes = [row["change"] for row in found["changed"]]
    assert changes == sorted(changes), "the most harmed first"


def test_without_a_judge_there_is_no_matrix(hostile: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difflab.report.concept_matrix.feature_spaces", lambda run: {})
    assert concept_matrix(hostile) is None


def test_many_concepts_show_the_ends(hostile: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difflab.report.concept_matrix.ROWS", 2)
    monkeypatch.setattr("difflab.report.concept_matrix.CHANGED", 4)
    shown = concept_matrix(hostile)
    assert shown is not None and shown["all"] == 5 and len(shown["changed"]) == 4
    ends = {shown["changed"][0]["concept"], shown["changed"][-1]["concept"]}
    assert set(shown["names"]) == ends and np.array(shown["tables"][2]).shape == (2, 2)


def test_changes_leave_out_concepts_without_samples() -> None:
    def row(n: int, accuracy: float | None) -> dict[str, Any]:
        return {"n": n, "accuracy": accuracy, "ci_low": accuracy, "ci_high": accuracy}

    first = [row(4, 0.5), row(4, 1.0), row(0, None)]
    last = [row(4, 0.75), row(8, 0.25), row(4, 1.0)]
    changed = changes(["a", "b", "c"], first, last)
    assert [(i, entry["concept"], entry["change"]) for i, entry in changed] == [
        (1, "b", -0.75),
        (0, "a", 0.25),
    ]
    assert changed[0][1]["n"] == 8 and changed[0][1]["before"] == 1.0
