from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from difflab.comparing import Arm, arms_of, better_of, budgets, compare_runs, interval, worse
from difflab.errors import ConfigError


class Stub:
    """A run that has nothing but numbers."""

    def __init__(self, values, generations=(0, 1), seen=100, size=50):
        self.values, self.generations, self.seen, self.size = values, list(generations), seen, size

    def rows(self):
        return [
            {"generation": t, "metric": name, "extractor": "pixels", "value": value + t, "floor": 0.5}
            for t in self.generations
            for name, value in self.values.items()
        ]

    def training(self, t):
        return {"images_seen": self.seen, "set_size": self.size}

    class config:
        class sample:
            @staticmethod
            def count_of(t):
                return 10


def arm(name, values, **more):
    return Arm(name, {seed: Stub({"recall": value}, **more) for seed, value in enumerate(values)})


def test_the_interval_is_students():
    values = [0.1, 0.4, 0.2, 0.6]
    low, high = interval(values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert interval([0.3]) is None


def test_differences_are_paired_by_seed():
    base, other = [0.1, 0.5, 0.9], [0.15, 0.56, 0.96]  # spread over seeds, a steady difference
    first, second = compare_runs([arm("base", base), arm("other", other)])
    assert first["verdict"] == "baseline" and first["difference"] is None
    paired = stats.ttest_rel(other, base).confidence_interval(0.95)
    assert (second["diff_low"], second["diff_high"]) == pytest.approx((paired.low, paired.high))
    assert second["verdict"] == "higher than base" and second["generation"] == 1
    assert second["ci_low"] < first["value"] < second["ci_high"]  # unpaired they could not be told apart


@pytest.mark.parametrize(
    ("other", "verdict"), [([0.2, 0.3, 0.1], "not distinguishable"), ([-0.5, -0.41, -0.6], "lower than base"), ([0.3], "cannot tell")]
)
def test_verdicts(other, verdict):
    rows = compare_runs([arm("base", [0.2, 0.29, 0.11]), arm("other", other)])
    assert rows[1]["verdict"] == verdict


def test_the_last_common_generation_unless_asked_otherwise():
    arms = [arm("a", [0.1, 0.2], generations=(0, 1, 2)), arm("b", [0.1, 0.2])]
    assert {r["generation"] for r in compare_runs(arms)} == {1}
    assert {r["generation"] for r in compare_runs(arms, generations=[0, 1])} == {0, 1}
    with pytest.raises(ConfigError, match=r"\[2\] are not in all runs; common are \[0, 1\]"):
        compare_runs(arms, generations=[2])


def test_an_unknown_measure_lists_those_there_are():
    with pytest.raises(ConfigError, match="no run has the measure 'recal'; there are: recall"):
        compare_runs([arm("a", [0.1])], metrics=["recal"])
    with pytest.raises(ConfigError, match="no run to compare"):
        compare_runs([])


def test_budgets_that_do_not_match_are_named():
    assert budgets([arm("a", [0.1]), arm("b", [0.1])]).startswith("budgets match")
    said = budgets([arm("a", [0.1]), arm("b", [0.1], seen=200)])
    assert said == "budgets do NOT match: images seen of generation 0: 100 in a, 200 in b"
    assert "training set of generation 0: 50 in a, 60 in b" in budgets([arm("a", [0.1]), arm("b", [0.1], size=60)])


def test_runs_are_grouped_by_recipe_without_the_seed(tmp_path):
    from difflab import config as configs
    from difflab.run import Run

    base = {"data": {"source": "exact", "train_size": 20}, "model": {"family": "gaussian"}}
    made = [
        Run(tmp_path / f"{i}", configs.parse(configs.merged(base, changes)))
        for i, changes in enumerate(({"seed": 0}, {"seed": 1}, {"regime.name": "accumulate"}))
    ]
    assert [(a.name, sorted(a.runs)) for a in arms_of(made)] == [("name replace", [0, 1]), ("name accumulate", [0])]
    with pytest.raises(ConfigError, match=r"one arm .* with one seed"):
        arms_of([made[0], made[0]])


@pytest.mark.parametrize(
    ("metric", "change", "by"),
    [("recall", -0.25, 0.25), ("recall", 0.25, -0.25), ("fd", 0.5, 0.5), ("fid", -0.5, -0.5), ("trace_ratio", -0.5, 0.5), ("trace_ratio", 0.5, 0.5),
     ("held_out_loss", 0.5, 0.5), ("variance", -0.5, 0.5)],
)  # fmt: skip
def test_worse_is_what_the_measure_says(metric, change, by):
    assert worse(better_of(metric), change) == by
