"""One reading of one measure: when an effect is present, absent or not to be told."""

from __future__ import annotations

import pytest

from difflab.evaluation.signs import (
    ABSENT,
    PRESENT,
    UNKNOWN,
    Reading,
    Sign,
)


# ----------------------------------------------------------------------------------------------- the one rule
def reading(
    value: float, error: float, worse: str = "lower", relevant: float = 0.1, **controls: tuple[float, float]
) -> Reading:
    return Reading(
        Sign("recall", worse, relevant),
        value,
        error,
        {name.replace("_", " "): c for name, c in controls.items()},
        1.0,
        100,
    )


@pytest.mark.parametrize(
    ("look", "samples", "expected"),
    [
        (0.65, 0.54, UNKNOWN),  # half of 0.25 may be the look as well
        (0.65, 0.5, PRESENT),
        (0.65, 0.65, ABSENT),
        (0.35, 0.25, PRESENT),  # half of 0.55 is more than a fifth of 0.35
        (0.85, 0.75, PRESENT),  # the look explains little
    ],
)
def test_a_little_beyond_a_look_may_be_the_look_itself(look, samples, expected):
    """0.9 falls to `look` in this look. A tenth of 0.9 is relevant."""
    controls = {"real images": (0.9, 0.01), "real images in this look": (look, 0.01)}
    assert Reading(Sign("recall", "lower"), samples, 0.01, controls, 0.9, 200).verdict == expected


def test_present_wants_every_control_to_be_better_by_three_errors_and_by_what_is_relevant():
    assert reading(0.5, 0.03, real_images=(0.9, 0.03), generation_0=(0.8, 0.03)).verdict == PRESENT
    assert (
        reading(0.5, 0.03, real_images=(0.9, 0.03), generation_0=(0.6, 0.03)).verdict == UNKNOWN
    )  # 2.4 errors
    assert reading(0.5, 0.03, real_images=(0.9, 0.03), generation_0=(0.5, 0.03)).verdict == ABSENT
    assert (
        reading(0.85, 0.001, real_images=(0.9, 0.001)).verdict == ABSENT
    )  # 35 errors, but less than a tenth
    assert reading(0.95, 0.02, real_images=(0.9, 0.02)).verdict == ABSENT  # better
    assert reading(2.0, 0.1, "higher", real_images=(1.0, 0.1)).verdict == PRESENT
    assert reading(0.8, 0.2, real_images=(0.9, 0.2)).verdict == UNKNOWN  # too few images to say


def test_the_control_that_explains_most_is_named_and_its_effect_given():
    one = reading(0.5, 0.03, real_images=(0.9, 0.04), generation_0=(0.6, 0.04))
    assert one.nearest == "generation 0" and one.effect == pytest.approx(0.1) and one.z == pytest.approx(2)
    row = one.row()
    assert (
        row["control_value"] == 0.6
        and row["effect_high"] == pytest.approx(0.1 + 1.96 * 0.05)
        and row["verdict"] == UNKNOWN
    )
    assert (
        reading(1.0, 0.0, real_images=(1.0, 0.0)).z == 0
        and reading(0.5, 0.0, real_images=(1.0, 0.0)).row()["z"] is None
    )


def test_a_control_that_no_change_brought_nearer_to_the_look_is_not_told_twice():
    real, in_look = {"real_images": (0.9, 0.03)}, {"real_images_in_this_look": (0.9001, 0.04)}
    assert str(reading(0.5, 0.03, **real, **in_look)).endswith("(real images 0.9)")
    changed = {"real_images_in_this_look": (0.6, 0.03)}
    told = str(reading(0.5, 0.03, **real, **changed))
    assert told.endswith("(real images 0.9, real images in this look 0.6)")
    assert str(reading(0.5, 0.03, **changed)).endswith("(real images in this look 0.6)")
