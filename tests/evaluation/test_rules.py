"""Which stage and which other explanation follow from readings."""

from __future__ import annotations

import pytest
from changed_digits import changed, examined

from difflab.evaluation.finding import Finding
from difflab.evaluation.rules import failed, judge, over_time, unexplained, verdict
from difflab.evaluation.signs import (
    ABSENT,
    BETWEEN,
    COPIES,
    DIVERGING,
    ENTANGLED,
    HALLUCINATED,
    INCREASE,
    LABELS,
    LOOKS,
    PRESENT,
    REPEATS,
    SCALING,
    SIGNS,
    TAILS,
    UNKNOWN,
    VARIANCE,
    Reading,
    Sign,
)

REAL = (0.9, 0.01)


def reading(sign: Sign, value: float | None, **controls: tuple[float, float]) -> Reading:
    """A reading with a small error; value None = as the real images."""
    everywhere = {"real images": REAL, "re-encoded": REAL}
    named = {name.replace("_", " "): control for name, control in controls.items()}
    return Reading(sign, REAL[0] if value is None else value, 0.01, everywhere | named, 1.0, 200)


def worse(sign: Sign) -> float:
    return 3.0 if sign.worse == "higher" else -3.0


def readings(*present: str, **controls: tuple[float, float]) -> dict[str, list[Reading]]:
    """Readings that are clearly worse than all controls in the groups `present`, else as real images."""
    groups = SIGNS | {"repeats": (REPEATS,), "copies": COPIES, "encoding": ()}
    groups |= {"labels": LABELS, "between classes": BETWEEN}
    groups |= {f"look: {name}": signs for name, signs in LOOKS.items()}
    return {
        name: [reading(sign, worse(sign) if name in present else None, **controls) for sign in signs]
        for name, signs in groups.items()
    }


def test_a_definition_is_present_by_one_measure_and_absent_by_all():
    worse_recall, same = reading(Sign("recall", "lower"), 0.2), reading(Sign("coverage", "lower"), None)
    unknown = Reading(Sign("recall", "lower"), 0.7, 0.1, {"real images": REAL}, 1.0, 100)
    assert (worse_recall.verdict, same.verdict, unknown.verdict) == (PRESENT, ABSENT, UNKNOWN)
    assert verdict([worse_recall, same]) == PRESENT and verdict([same, same]) == ABSENT
    assert verdict([same, unknown]) == UNKNOWN and verdict([]) == UNKNOWN


@pytest.mark.parametrize(
    ("present", "stage", "instead", "looks"),
    [
        ((), "none", [], []),
        ((VARIANCE,), "early", [], []),
        ((TAILS,), "early", [], []),
        ((TAILS, "repeats"), "catastrophic", [], []),
        (("repeats",), "none", [], []),  # close together alone: images of a narrowed class
        ((ENTANGLED,), "cannot tell", ["poisoned labels"], []),  # nothing but the labels is different
        ((ENTANGLED, INCREASE), "late", [], []),
        ((ENTANGLED, HALLUCINATED), "late", [], []),
        ((ENTANGLED, HALLUCINATED, "between classes"), "late", [], []),
        ((ENTANGLED, "labels"), "cannot tell", ["poisoned labels"], []),
        # Wrong labels explain the classes, whatever else is lost,
        ((ENTANGLED, "labels", HALLUCINATED), "cannot tell", ["poisoned labels"], []),
        ((ENTANGLED, "labels", TAILS), "early", ["poisoned labels"], []),
        ((ENTANGLED, "labels", "look: blurred"), "cannot tell", ["poisoned labels"], ["blurred"]),
        # unless the images themselves lie between classes.
        ((ENTANGLED, "labels", "between classes"), "late", ["poisoned labels"], []),
        (("between classes",), "none", [], []),
        (("copies",), "none", ["overfitting"], []),
        (("look: blurred", "look: less contrast"), "none", [], ["blurred", "less contrast"]),
        (("look: banded", "look: posterised"), "none", [], ["posterised", "banded"]),
        (("look: blurred", "look: ringing", "look: blocked"), "none", [], ["blocked", "ringing", "blurred"]),
        (("look: sharpened", "look: banded"), "none", [], ["banded", "sharpened"]),
        ((TAILS, "look: posterised"), "early", [], ["posterised"]),
    ],
)  # fmt: skip
def test_the_stage_follows_from_what_is_present(present, stage, instead, looks):
    finding = judge(readings(*present), 3)
    assert (finding.stage, finding.instead, finding.looks, finding.generation) == (stage, instead, looks, 3)
    assert finding.profile[SCALING] == finding.profile[DIVERGING] == UNKNOWN
    assert list(finding.profile) == sorted(finding.profile)


def test_worse_than_real_but_not_than_reencoded_images_is_a_changed_encoding():
    same_as_jpeg = readings()
    sign = Sign("texture_distance", "higher", 0.0, "one")
    same_as_jpeg["encoding"] = [reading(sign, 2.0, re_encoded=(2.0, 0.01))]
    same_as_jpeg["encoding"][0].controls["re-encoded"] = (2.0, 0.01)
    assert judge(same_as_jpeg, 1).instead == ["changed encoding"]
    posterised = same_as_jpeg | {"look: posterised": readings("look: posterised")["look: posterised"]}
    assert (judge(posterised, 1).instead, judge(posterised, 1).name) == ([], "posterised")
    same_as_jpeg["encoding"][0].controls["re-encoded"] = (1.0, 0.01)
    assert judge(same_as_jpeg, 1).instead == []


def test_controls_are_wanted_where_something_is_worse_than_real_images():
    recall = Sign("recall", "lower")

    def found(value: float, error: float, group: str = TAILS) -> dict[str, list[Reading]]:
        """Recall between real images is 0.9 without an error, a tenth of 0.9 is relevant."""
        controls = {"real images": (0.9, 0.0)}
        same = Reading(recall, 0.9, 0.01, controls, 0.9, 200, "network")
        return {VARIANCE: [same], group: [Reading(recall, value, error, controls, 0.9, 200, "pixels")]}

    assert unexplained(found(0.9, 0.01)) == set()
    assert unexplained(found(0.85, 0.01)) == {"pixels", "network"}  # 5 standard errors, but a small loss
    assert unexplained(found(0.8, 0.05)) == {"pixels"}  # 2 standard errors, and not absent
    assert unexplained(found(0.84, 0.1)) == set()  # 0.6 standard errors
    assert unexplained(found(0.8, 0.01, "copies")) == set()  # other controls say nothing about copies


def test_a_first_model_failed_where_samples_are_as_bad_as_generation_0():
    signs = SIGNS[VARIANCE]
    as_bad = readings() | {VARIANCE: [reading(sign, 0.3, generation_0=(0.3, 0.01)) for sign in signs]}
    worse_still = readings() | {VARIANCE: [reading(sign, 0.3, generation_0=(0.6, 0.01)) for sign in signs]}
    assert failed(as_bad) and not failed(worse_still) and not failed(readings())


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0], PRESENT),  # grows as fast as before
        ([0.0, 1.5, 3.0, 3.1, 3.2], ABSENT),  # slows down
        ([0.0, 1.0, 2.0, 2.6, 3.2], UNKNOWN),  # between the two
        ([0.0, 0.0, 0.0, 0.0, 0.0], ABSENT),  # does not grow at all
        ([0.0, 1.0, 2.0, 3.0], UNKNOWN),  # too few generations
    ],
)
def test_the_course_of_the_risk(distances, expected):
    findings = []
    for t, distance in enumerate(distances):
        risk = Reading(SIGNS[INCREASE][0], distance, 0.01, {"real images": (0.1, 0.01)}, 5.0, 200)
        findings.append(Finding(t, {DIVERGING: UNKNOWN}, "none", [], [], {INCREASE: [risk]}))
    over_time(findings)
    assert findings[-1].profile[DIVERGING] == expected


def test_risk_that_goes_on_growing_diverges_and_a_plateau_does_not(digits):
    start = changed(digits, "nothing", 1.0)
    growing = [start, *(changed(digits, "blurred", d) for d in (0.2, 0.5, 0.75, 1.0))]
    level = [start, *(changed(digits, "blurred", 1.0, seed) for seed in range(4))]
    last = examined(digits, *growing).findings[-1]
    assert (
        last.profile[DIVERGING] == PRESENT and last.profile[SCALING] == UNKNOWN
    )  # that one takes runs of several sizes
    assert examined(digits, *level).findings[-1].profile[DIVERGING] == ABSENT
    assert (
        examined(digits, *growing[:2]).findings[-1].profile[DIVERGING] == UNKNOWN
    )  # two points are no course
