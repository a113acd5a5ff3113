from __future__ import annotations

import pytest
from curve_runs import legend, made_of_rows, numbers
from probes import PLAIN, beside, made

from difflab.core.errors import StoreError
from difflab.plots.curves import COLOURS
from difflab.report.arms import arm_curves, arm_strip
from difflab.runs.run import Run
from difflab.studies.compare_runs import Arm


def test_the_strip_of_arms_has_a_row_for_each_below_what_the_first_began_with(tmp_path):
    one, two = made(tmp_path / "one", PLAIN), made(tmp_path / "two", PLAIN, generations=2)
    unseen = Run(tmp_path / "nothing here", one.config)  # of seeds that are not all arms' or not the smallest
    picture = arm_strip(
        [Arm("one", {2: unseen, 9: unseen, 5: one}), Arm("two\n", {9: unseen, 5: two})]
    )  # in generation 1, the last that both have
    real = one.real.decode(0)[2:]
    for column, at in enumerate([0, 1, 3, 4, 6, 7]):
        assert (beside(picture, -4, column) == real[at]).all()
    for row, (run, t) in enumerate([(one, 0), (one, 1), (two, 1)], start=-3):
        probe = run.probe(t, 6).decode(0)
        for column in range(6):
            assert (beside(picture, row, column) == probe[column]).all()
    arms = [Arm("one", {5: one}), Arm("two\n", {5: two})]
    assert (beside(arm_strip(arms, 0), -1, 0) == two.probe(0, 6).decode(0)[0]).all(), (
        "the generation asked for"
    )
    with pytest.raises(StoreError, match=r"two\s+has no pictures of generation 2; all have \[0, 1\]"):
        arm_strip(arms, 2)


@pytest.mark.parametrize(
    "arms",
    [[], [Arm("one", {}), Arm("two", {})], [Arm("one", {1: None, 2: None}), Arm("two", {3: None})]],
    ids=str,
)
def test_arms_without_a_seed_in_common_have_no_strip(arms):
    with pytest.raises(StoreError, match="no seed in common"):
        arm_strip(arms)


def test_arms_that_draw_different_things_have_no_strip(tmp_path):
    first = made(tmp_path / "a", PLAIN)
    for k, other in enumerate((["a", "b", "d"], ["a", "b"], None)):
        with pytest.raises(StoreError, match="other images than one"):
            arm_strip([Arm("one", {0: first}), Arm("two", {0: made(tmp_path / str(k), other)})])


def test_an_arm_without_runs_is_not_in_the_legend_and_the_others_keep_their_colours(tmp_path):
    rows = [*numbers("fd", [1.0, 3.0]), *numbers("recall", [0.9, 0.2], 0.95)]
    figure = arm_curves([Arm("gone", {}), Arm("there", {0: made_of_rows(tmp_path, "one", rows)})])
    assert "there" in legend(figure) and "gone" not in legend(figure)
    assert {
        line.get_color() for axis in figure.axes for line in axis.lines if line.get_linestyle() != "--"
    } == {COLOURS[1]}
