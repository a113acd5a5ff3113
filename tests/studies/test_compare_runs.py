from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from difflab.core.errors import ConfigError
from difflab.studies.compare_runs import (
    Arm,
    arms_of,
    better_of,
    compare_runs,
    interval,
    unfinished,
    worse,
)


class Stub:
    """A run that has nothing but numbers."""

    def __init__(self, values, generations=(0, 1), seen=100, size=50):
        self.values, self.generations, self.seen, self.size, self.parts = (
            values,
            list(generations),
            seen,
            size,
            [self],
        )

    def rows(self):
        return [
            {"generation": t, "metric": name, "extractor": "pixels", "value": value + t, "floor": 0.5}
            for t in self.generations
            for name, value in self.values.items()
        ]

    def training(self, t):
        return {
            "images_seen": self.seen,
            "set_size": self.size[t] if isinstance(self.size, list) else self.size,
        }

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
    ("other", "verdict"),
    [
        ([0.2, 0.3, 0.1], "not distinguishable"),
        ([-0.5, -0.41, -0.6], "lower than base"),
        ([0.3], "cannot tell"),
    ],
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


def test_an_arm_without_runs_keeps_its_rows_and_has_gaps():
    rows = compare_runs([arm("base", [0.1, 0.2]), Arm("failed", {}), arm("other", [0.2, 0.35])])
    assert [(r["arm"], r["seeds"], r["value"], r["verdict"]) for r in rows][1] == (
        "failed",
        0,
        None,
        "cannot tell",
    )
    assert rows[2]["pairs"] == 2 and rows[2]["difference"] == pytest.approx(0.125)
    assert (
        unfinished([arm("base", [0.1]), Arm("failed", {})]) == ["failed has no finished run"]
        and unfinished([arm("base", [0.1])]) == []
    )


def test_where_the_first_arm_has_no_runs_no_other_takes_its_place():
    arms = [Arm("base", {}), arm("one", [0.1, 0.2]), arm("two", [0.3, 0.4])]
    rows = compare_runs(arms)
    assert [(r["arm"], r["verdict"]) for r in rows] == [
        ("base", "baseline"),
        ("one", "cannot tell"),
        ("two", "cannot tell"),
    ]
    assert [r["difference"] for r in rows] == [None] * 3 and rows[1]["value"] == pytest.approx(1.15)
    assert unfinished(arms) == [
        "base has no finished run: it is the arm to compare with, so no differences are computed"
    ]


def test_a_measure_that_an_arm_lacks_is_a_gap():
    arms = [Arm("a", {0: Stub({"recall": 0.1})}), Arm("b", {0: Stub({"recall": 0.2, "fd": 1.0})})]
    found = {(r["metric"], r["arm"]): r for r in compare_runs(arms)}
    assert (
        found["fd", "a"]["value"] is None
        and found["fd", "b"]["value"] == 2.0
        and found["fd", "b"]["pairs"] == 0
    )


def test_runs_are_grouped_by_recipe_without_the_seed(tmp_path):
    from difflab import config as configs
    from difflab.runs.run import Run

    base = {"data": {"source": "exact", "train_size": 20}, "model": {"family": "gaussian"}}
    made = [
        Run(tmp_path / f"{i}", configs.parse(configs.merged(base, changes)))
        for i, changes in enumerate(({"seed": 0}, {"seed": 1}, {"regime.name": "accumulate"}))
    ]
    assert [(a.name, sorted(a.runs)) for a in arms_of(made)] == [
        ("name replace", [0, 1]),
        ("name accumulate", [0]),
    ]
    with pytest.raises(ConfigError, match=r"one arm .* with one seed"):
        arms_of([made[0], made[0]])


@pytest.mark.parametrize(
    ("metric", "change", "by"),
    [
        ("recall", -0.25, 0.25),
        ("recall", 0.25, -0.25),
        ("fd", 0.5, 0.5),
        ("fid", -0.5, -0.5),
        ("trace_ratio", -0.5, 0.5),
        ("trace_ratio", 0.5, 0.5),
        ("held_out_loss", 0.5, 0.5),
        ("variance", -0.5, 0.5),
    ],
)
def test_worse_is_what_the_measure_says(metric, change, by):
    assert worse(better_of(metric), change) == by
