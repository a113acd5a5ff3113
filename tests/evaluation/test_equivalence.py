"""When a definition is absent, which loss is excluded, and how many images are enough, against theory."""

from __future__ import annotations

import numpy as np
import pytest
from changed_digits import changed, examined

from difflab.evaluation.equivalence import bounds, bounds_in_words, enough, excluded
from difflab.evaluation.readings import Images
from difflab.evaluation.signs import ENTANGLED, ONE_SIDED, SIGNS, TAILS, VARIANCE, Reading, Sign
from difflab.report.table import diagnosis
from difflab.report.verdict import as_data

RECALL = Sign("recall", "lower")
TAIL = Sign("tail_recall", "lower", 0.3, decides=False)


def reading(sign: Sign, value: float, error: float, n: int = 100, space: str = "a") -> Reading:
    """Against a control of value 1, with the error of the difference."""
    controls = {"real images": (1.0, error)}
    return Reading(sign, value, error, controls, 1.0, n, space, {"real images": error})


def share_absent(harm: float, error: float, draws: int = 4000) -> float:
    """How often a harm of recall is called absent over draws of its estimate."""
    values = 1 - harm + error * np.random.default_rng(0).standard_normal(draws)
    return float(np.mean([excluded([reading(RECALL, value, error)]) for value in values]))


@pytest.mark.parametrize("error", [0.01, 0.02, 0.04])
def test_a_relevant_harm_is_called_absent_in_at_most_5_percent_of_draws(error):
    """4,000 draws: the share is known to 0.7%."""
    assert share_absent(RECALL.relevant, error) == pytest.approx(0.05, abs=0.012)
    assert share_absent(1.5 * RECALL.relevant, error) < 0.05


def test_at_the_number_that_is_enough_no_harm_is_absent_in_95_percent_of_draws():
    error = 0.08
    wanted = enough([reading(RECALL, 1.0, error, n=100)])
    assert wanted == pytest.approx(100 * (2 * ONE_SIDED * error / 0.1) ** 2, rel=0.1)
    assert share_absent(0.0, error) < 0.5
    assert share_absent(0.0, error * (100 / wanted) ** 0.5) == pytest.approx(0.955, abs=0.015)


def test_each_deciding_measure_has_to_exclude_a_harm_in_some_space_and_look_worse_in_none():
    sure, unsure = reading(RECALL, 1.0, 0.02), reading(RECALL, 1.0, 0.1, space="b")
    seems_worse = reading(RECALL, 0.85, 0.1, space="b")
    coverage = reading(Sign("coverage", "lower"), 1.0, 0.1)
    assert excluded([sure]) and excluded([sure, unsure])
    assert not excluded([unsure]) and not excluded([sure, seems_worse]) and not excluded([sure, coverage])
    assert not excluded([])


def test_measures_of_few_images_raise_alarms_but_do_not_decide_about_an_absence():
    sure, few = reading(RECALL, 1.0, 0.02), reading(TAIL, 0.6, 0.3)
    assert excluded([sure, few]) and not excluded([few])
    assert enough([sure, few]) == enough([sure]) and enough([few]) is None
    for name in (VARIANCE, ENTANGLED, TAILS):
        assert any(sign.decides for sign in SIGNS[name])


def test_the_bound_is_the_upper_end_of_the_space_that_excludes_most():
    readings = {TAILS: [reading(RECALL, 1.0, 0.02), reading(RECALL, 0.98, 0.01, space="b")]}
    assert bounds(readings) == {"recall": pytest.approx(ONE_SIDED * 0.02)}
    better = {TAILS: [reading(RECALL, 1.2, 0.01)]}
    assert bounds(better) == {"recall": 0.0}
    assert bounds_in_words(better) == "with 95% confidence per measure, less than 1% of recall is lost"
    assert bounds_in_words({TAILS: [reading(RECALL, 1.0, 0.2)]}) == bounds_in_words({}) == ""


def test_a_healthy_set_of_several_hundred_images_is_told_so_with_the_loss_that_is_excluded(digits):
    real = joined(digits)
    sides = [real[i * 590 : (i + 1) * 590] for i in range(3)]
    healthy = examined({"reference": sides[0], "other": sides[1], "train": None}, sides[2], train=None)
    finding = healthy.findings[0]
    assert (finding.stage, finding.words) == ("none", "no collapse found")
    assert "% of recall" in finding.excluded and "% of class accuracy" in finding.excluded
    assert finding.excluded in healthy.summary().verdict
    assert as_data(healthy)["excluded"] == finding.excluded
    assert finding.excluded in " ".join(str(diagnosis(healthy).renderables[-1]).split())
    assert all(0 <= share < 0.1 for share in bounds(finding.readings).values())


def test_a_small_set_is_told_how_many_images_would_be_enough(digits):
    few = examined(digits, changed(digits, "nothing", 1.0)[:60])
    assert few.findings[0].stage == "cannot tell" and not few.findings[0].excluded
    reasons = [reason for reason in few.unknown if "would be enough" in reason]
    assert reasons and all(few.unknown[reason] for reason in reasons)


def joined(parts: dict[str, Images]) -> Images:
    labels = [part.labels for part in parts.values() if part.labels is not None]
    return Images(np.concatenate([part.pixels for part in parts.values()]), np.concatenate(labels))
