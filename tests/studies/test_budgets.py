"""Whether arms had the same budget."""

from __future__ import annotations

import pytest

from difflab.studies.budgets import budgets
from difflab.studies.compare_runs import Arm


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


def test_budgets_that_do_not_match_are_named():
    assert (
        budgets([arm("a", [0.1]), arm("b", [0.1])])
        == "budgets match: images seen, set size and samples drawn are the same in all arms"
    )
    said = budgets([arm("a", [0.1]), arm("b", [0.1], seen=200)])
    assert said == "budgets do NOT match: images seen 100 in a, 200 in b (generation 0)"
    assert "training set 50 in a, 60 in b (generation 0)" in budgets(
        [arm("a", [0.1]), arm("b", [0.1], size=60)]
    )
    assert budgets([arm("a", [0.1]), Arm("b", {})]) == "budgets: there are no two arms with runs to match"


def sized(name, *sizes):
    return Arm(
        name, {seed: Stub({}, size=list(own), generations=range(len(own))) for seed, own in enumerate(sizes)}
    )


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (
            [sized("a", [500], [500]), sized("b", [310], [500])],
            "training set 500 in a, 310 to 500 in b (generation 0)",
        ),  # not the last seed alone
        (
            [sized("a", [9, 500, 500]), sized("b", [9, 400, 90])],
            "training set 500 in a, 90 in b (generation 2)",
        ),  # not the first generation
        (
            [sized("a", [9, 9]), sized("b", [9, 8]), sized("c", [9, 3])],
            "training set 9 in a, 3 in c (generation 1; b too)",
        ),
        (
            [sized("a", [2000], [10]), sized("b", [10], [2000])],
            "training set 2,000 in a, 10 in b (generation 0)",
        ),  # seed by seed
        ([sized("a", [9, 9]), sized("b", [9])], None),  # the generations that both have
        (
            [sized("a", [9], [9]), Arm("b", {7: Stub({}, size=8, generations=[0])})],
            "training set 9 in a, 8 in b (generation 0)",
        ),  # no seed in common
        ([sized("a", [9], [8]), sized("b", [9])], None),
        (
            [sized("a", [9]), *(sized(name, [8]) for name in "bcdef")],
            "training set 9 in a, 8 in b (generation 0; 4 other arms too)",
        ),
    ],
)
def test_budgets_are_compared_seed_by_seed_and_the_worst_is_said(arms, said):
    assert (
        budgets(arms).startswith("budgets match")
        if said is None
        else budgets(arms) == f"budgets do NOT match: {said}"
    )


def test_the_budget_of_an_ecosystem_is_that_of_its_labs():
    class Both(Stub):
        def training(self, t):
            pytest.fail("an ecosystem has no training of its own")

    both = Both({})
    both.parts = [Stub({}), Stub({}, seen=30)]
    assert budgets([arm("one", [0.1]), Arm("two labs", {0: both})]) == (
        "budgets do NOT match: images seen 100 in one, 130 in two labs (generation 0); "
        "training set 50 in one, 100 in two labs (generation 0); samples drawn 10 in one, 20 in two labs "
        "(generation 0)"
    )


def test_a_formula_has_no_budget_of_images():
    formula = Stub({})
    formula.training = lambda t: {}
    assert budgets([Arm("a", {0: formula}), Arm("b", {0: formula})]).startswith("budgets match")
    assert "images seen none in a, 100 in b" in budgets([Arm("a", {0: formula}), arm("b", [0.1])])
