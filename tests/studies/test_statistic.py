"""Expressions over arms, regions and verdicts."""

from __future__ import annotations

import math

import pytest

from difflab.core.errors import ConfigError
from difflab.studies.statistic import Seed, Statistic, inside, judged, overall


class Stub:
    def __init__(self, **curves):
        self.curves = curves

    def rows(self):
        return [
            {"generation": t, "metric": name, "extractor": "pixels", "value": value, "floor": None}
            for name, values in self.curves.items()
            for t, value in enumerate(values)
        ]


class Labs(Stub):
    """Of two labs, the second with twice the values of the first."""

    def rows(self):
        return [{**row, "value": row["value"] * k} for k in (1, 2) for row in super(Labs, self).rows()]


BACK = Stub(recall=[0.8, 0.2, 0.5, 0.7], trace_ratio=[1.0, 1.5, 1.3, 1.1], tail_recall=[0.0, 0.0, 0.0, 0.0])


SEED = Seed(
    {
        "back": BACK,
        "labs": Labs(recall=[0.2, 0.4]),
        "a": Stub(recall=[0.8, 0.6, 0.4, 0.2], fd=[1.0, 1.0, 1.2, 2.0]),
        "b": Stub(recall=[0.8, 0.8, 0.8, 0.7]),
    }
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("at('a', 'recall', 1) - at('b', 'recall', 1)", -0.2),
        ("at('a', 'recall', -1)", 0.2),
        ("at('a', 'recall@pixels', 0)", 0.8),
        ("change('labs', 'recall')", 0.3),
        ("change('a', 'recall', 2)", -0.4),
        ("change('a', 'recall') / change('b', 'recall')", 6.0),
        ("mean('a', 'recall', 1, 2)", 0.5),
        ("slope('a', 'recall')", -0.2),
        ("slope('a', 'fd', 2)", 0.8),
        ("onset('a', 'recall', 0.3)", 2),
        ("onset('b', 'recall', 0.5)", 4),
        ("recovery('a', 'fd', 0, 0.3)", 1),
        ("recovery('a', 'fd', 2, 0.3)", 2),  # in the one generation after 2 it is not
        ("recovery('b', 'recall', 0, 0.01)", 1),
        ("recovery('back', 'recall', 1, 0.15)", 2),
        ("recovery('back', 'recall', 1, 0.01)", 3),
        ("recovery('back', 'trace_ratio', 0, 0.15)", 3),  # too much of it is no better
        ("max(1, 2 ** 3) - abs(-3)", 5),
    ],
)
def test_expressions_have_their_value(text, value):
    assert SEED.evaluate(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "only numbers"),
        ("open('x')", "only numbers"),
        ("at('a', 'recall', 1).real", "only numbers"),
        ("[1 for x in 'ab']", "only numbers"),
        ("at('c', 'recall', 1)", "names the arm 'c'; there are: back, labs, a, b"),
        ("at('a', 'recal', 1)", "names the measure 'recal'"),
        ("at('a', 'recall', 9)", "has no value"),
        ("1 / 0", "has no value"),
        ("at('a'", "has no value"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        SEED.evaluate(text)


def test_where_there_is_nothing_to_lose_nobody_can_tell_when_it_was_lost():
    value = SEED.evaluate("onset('back', 'tail_recall', 0.5) - onset('a', 'recall', 0.5)")
    assert math.isnan(value)
    assert (
        judged([value, 1.0, 1.0], Statistic(value="0", confirm="> 0", refute="< 0"))["verdict"]
        == "cannot tell"
    )


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.2, 0.21, 0.19], "reproduced"),
        ([-0.2, -0.21, -0.19], "refuted here"),
        ([0.2, -0.2, 0.1], "cannot tell"),
        ([0.2], "cannot tell"),
        ([], "cannot tell"),
        ([0.2, float("nan"), 0.2], "cannot tell"),
        ([0.02, 0.021, 0.019], "cannot tell"),
    ],
)
def test_a_verdict_wants_the_whole_interval_in_a_region(values, verdict):
    assert judged(values, Statistic(value="0", confirm="> 0.1", refute="< 0"))["verdict"] == verdict


def test_regions_and_several_statistics():
    assert inside(0.2, 0.3, "> 0.1") and not inside(0.05, 0.3, "> 0.1") and inside(-3, -2, "<-1e0")
    with pytest.raises(ConfigError, match="not of the form"):
        inside(0, 0, "more than 1")
    assert overall(["reproduced", "reproduced"]) == "reproduced"
    assert overall(["reproduced", "cannot tell"]) == "cannot tell"
    assert overall(["cannot tell", "refuted here"]) == "refuted here"
    assert overall([]) == "cannot tell"
