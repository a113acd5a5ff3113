"""What follows from the findings of all generations."""

from __future__ import annotations

import json
import math

from changed_digits import changed, examined

from difflab.evaluation.advice import HELP, Chain, advice
from difflab.evaluation.finding import DAMAGED, Diagnosis, Finding
from difflab.evaluation.signs import (
    ABSENT,
    DIVERGING,
    ENTANGLED,
    INCREASE,
    LOOK,
    PRESENT,
    SCALING,
    SIGNS,
    TAILS,
    UNKNOWN,
    Reading,
    Sign,
)


def test_a_finding_asks_for_its_own_name_and_chain() -> None:
    finding = Finding(3, {}, "early", [], [], {}, chain=Chain(real=0.3, fresh=0.3))
    assert finding.advice == advice("early", finding.chain) != advice("early", Chain())
    assert Finding(3, {}, "none", [], [], {}).advice == HELP["none"]


def test_wrong_labels_beside_a_stage_have_their_own_advice() -> None:
    both = Finding(3, {}, "late", ["poisoned labels"], [], {})
    assert both.advice == f"{advice('late', Chain())}; {HELP['poisoned labels']}"
    assert Finding(3, {}, "none", ["poisoned labels"], [], {}).advice == HELP["poisoned labels"]


def test_damaged_classes_are_said_with_what_is_wrong_and_at_most_five() -> None:
    classes = {"cat": ["blurred", "less contrast"], "a\nb": ["less variety"]}
    finding = Finding(1, {}, "none", [DAMAGED], [], {}, classes=classes)
    assert finding.words == "damaged classes (cat: blurred, less contrast; a\\nb: less variety)"
    assert finding.alarm and finding.advice == HELP[DAMAGED]
    many = Finding(1, {}, "none", [DAMAGED], [], {}, classes={str(i): ["blurred"] for i in range(7)})
    assert "4: blurred; and 2 more)" in many.words and "5: blurred" not in many.words


def test_what_is_open_is_said_with_the_reason() -> None:
    one = Reading(Sign("recall", "lower"), 0.8, 0.2, {"real images": (0.9, 0.2)}, 1.0, 100)
    readings: dict[str, list[Reading]] = {name: [one] for name in SIGNS} | {ENTANGLED: []}
    profile = dict(
        sorted(
            (
                {name: ABSENT for name in SIGNS}
                | {name: UNKNOWN for name in (DIVERGING, SCALING, ENTANGLED, TAILS)}
            ).items()
        )
    )
    findings = [Finding(t, profile, "cannot tell", [], [], readings) for t in range(5)]
    assert Diagnosis(findings, [], {}).unknown == {
        "cannot tell at this n": [DIVERGING],
        "cannot tell at this n; about 8,700 images on each side would be enough": [TAILS],
        "not answerable from one chain": [SCALING],
        "not measured": [ENTANGLED],
    }
    assert Diagnosis(findings[:3], [], {}).unknown["not answerable from fewer than 5 generations"] == [
        DIVERGING
    ]


# ------------------------------------------------------------------------------------------- over generations
def test_a_chain_is_judged_from_its_generation_0_and_the_first_alarm_is_found(digits):
    degrees = (0.1, 0.2, 0.6, 1.0)
    result = examined(
        digits,
        changed(digits, "nothing", 1.0),
        *(changed(digits, "tails_cut", d, i) for i, d in enumerate(degrees)),
    )
    assert result.findings[0].stage in ("none", "cannot tell")
    assert [f.alarm for f in result.findings] == [False, False, True, True, True]
    generation, measures = result.first_alarm
    assert generation == 2 and measures == ["within_class_ratio"]
    assert result.alarms["recall"] == 3
    assert {r.sign.metric: set(r.controls) for r in result.findings[3].readings[TAILS]}["recall"] == {
        "real images",
        "re-encoded",
        "generation 0",
        f"generation 0 {LOOK}",
    }


def test_rows_have_one_line_per_generation_and_definition(digits):
    result = examined(digits, changed(digits, "nothing", 1.0), changed(digits, "repeated", 0.8))
    rows = result.rows()
    assert len(rows) == 2 * 8 and {row["generation"] for row in rows} == {0, 1}
    json.dumps(rows, allow_nan=False)
    risk = next(row for row in rows if row["generation"] == 1 and row["definition"] == INCREASE)
    assert (
        risk["verdict"] == PRESENT
        and risk["diagnosis"] == "catastrophic"
        and risk["effect_low"] < risk["effect"] < risk["effect_high"]
    )
    assert math.isfinite(risk["effect"]) and len(result.frame) == 16
