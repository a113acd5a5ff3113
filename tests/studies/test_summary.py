"""The end of a sweep."""

from __future__ import annotations

import pytest

from difflab.core.errors import ConfigError
from difflab.studies.compare_runs import Arm, compare_runs
from difflab.studies.summary import summary_of_arms, summary_of_sweep
from difflab.studies.sweep import Sweep, run_sweep

BASE = {
    "generations": 5,
    "data": {"source": "exact", "train_size": 10},
    "model": {"family": "gaussian", "replicates": 100},
    "sample": {"count": 10},
}


class Stub:
    def __init__(self, **values):
        self.values = values

    def rows(self):
        return [
            {"generation": 0, "metric": name, "extractor": "pixels", "value": value, "floor": 0.9}
            for name, value in self.values.items()
        ]


def arm(name, *values):
    return Arm(name, {seed: Stub(recall=value, vendi=0.5) for seed, value in enumerate(values)})


def test_a_sweep_ends_with_what_differs_between_its_arms(tmp_path):
    arms = {"replace": {}, "accumulate": {"regime.name": "accumulate"}}
    run_sweep(Sweep(base=BASE, seeds=3, arms=arms), tmp_path, tmp_path / "out")
    end = summary_of_sweep(tmp_path / "out")
    assert end.verdict.startswith("accumulate: differs from replace in ") and "in generation 5" in end.verdict
    assert end.verdict.splitlines()[-1].startswith("budgets match")
    variance = next(change for change in end.changes if change.metric == "variance")
    assert variance.arm == "accumulate" and variance.last > variance.first and variance.clear
    assert variance.n == 3 and str(variance).startswith("accumulate: variance (model): ")
    assert end.look_at == []
    assert end.next_commands[0] == f"difflab compare-runs {tmp_path / 'out'}"
    with pytest.raises(ConfigError, match="holds no sweep"):
        summary_of_sweep(tmp_path)


@pytest.mark.parametrize(
    ("arms", "verdict"),
    [
        (
            [arm("a", 0.5, 0.51), arm("b", 0.2, 0.21)],
            "b: differs from a in 1 of 2 measures in generation 0",
        ),
        (
            [arm("a", 0.5, 0.6), arm("b", 0.6, 0.5)],
            "b: not distinguishable from a in any of 2 measures in generation 0",
        ),
        ([arm("a", 0.5, 0.6)], "a is the only arm: there is nothing to compare it with"),
        (
            [arm("a", 0.5, 0.6), Arm("b", {})],
            "b has no finished run",
        ),
    ],
)
def test_verdicts(arms, verdict):
    assert summary_of_arms(arms, compare_runs(arms)).verdict == verdict


def test_one_seed_cannot_tell_and_a_missing_first_arm_is_said():
    arms = [arm("a", 0.5), arm("b", 0.2)]
    assert "b: cannot tell whether it differs from a" in summary_of_arms(arms, compare_runs(arms)).verdict
    gone = [Arm("a", {}), arm("b", 0.2)]
    end = summary_of_arms(gone, compare_runs(gone))
    assert end.verdict.startswith("a has no finished run: it is the arm to compare with") and not end.changes
