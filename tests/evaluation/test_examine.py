"""Images changed in a known way get the name of the change."""

from __future__ import annotations

import numpy as np
import pytest
from changed_digits import N, changed, examined

from difflab.core.errors import MeasureError
from difflab.evaluation import examine as examine_module
from difflab.evaluation import readings
from difflab.evaluation.readings import Images
from difflab.evaluation.signs import (
    DEFECTS,
    LOOK,
    PRESENT,
    TAILS,
    UNKNOWN,
    VARIANCE,
)
from difflab.evaluation.simulate import simulate
from difflab.metrics import open_extractor


# ------------------------------------------------------------------------------------- what was done is named
@pytest.mark.parametrize(
    ("kind", "degree", "name"),
    [
        ("tails_cut", 0.8, "early"),
        ("shrunk", 0.6, "early"),
        ("blended", 0.8, "late"),
        ("repeated", 0.6, "catastrophic"),
        ("dropped", 0.6, "forgetting"),
        ("swapped", 0.6, "poisoned labels"),
        ("permuted", 0.6, "poisoned labels"),
        ("copied", 0.6, "overfitting"),
        ("blurred", 0.8, "blurred"),
        ("sharpened", 0.8, "sharpened"),
        ("posterised", 0.8, "posterised"),
    ],
)
def test_what_was_done_is_named_with_evidence(digits, kind, degree, name):
    finding = examined(digits, changed(digits, kind, degree)).findings[0]
    assert finding.name == name and finding.alarm and finding.n == N
    assert finding.gone or finding.evidence()
    assert finding.advice


@pytest.mark.parametrize(
    ("kind", "degree"),
    [("nothing", 1.0), ("fewer", 0.4), ("fewer", 1.0), ("reencoded", 0.5), ("reencoded", 1.0)],
)
def test_where_nothing_is_lost_there_is_no_alarm(digits, kind, degree):
    finding = examined(digits, changed(digits, kind, degree)).findings[0]
    assert not finding.alarm and PRESENT not in finding.profile.values()
    assert (finding.name == "changed encoding") == (kind == "reencoded")


def test_the_verdict_does_not_lean_on_the_name_of_a_set(digits):
    """Real images in the place of samples, in many draws: an alarm in none of them."""
    alarms = [examined(digits, changed(digits, "nothing", 1.0, seed)).findings[0].alarm for seed in range(3)]
    assert sum(alarms) == 0


def test_wrong_labels_and_blended_images_are_both_said(digits):
    both = examined(digits, changed(digits, "blended+permuted", 0.8)).findings[0]
    assert both.stage == "late" and both.instead == ["poisoned labels"]
    assert examined(digits, changed(digits, "blended", 0.8)).findings[0].instead == []


def test_wrong_labels_are_told_beside_a_loss_of_tails_and_a_blur(digits):
    tails = examined(digits, changed(digits, "tails_cut+swapped", 0.8)).findings[0]
    assert (tails.stage, tails.instead) == ("early", ["poisoned labels"])
    blurred = examined(digits, changed(digits, "blurred+swapped", 0.8)).findings[0]
    assert blurred.name == "poisoned labels" and "blurred" in blurred.looks


def test_variance_is_read_by_the_classes_that_images_show_if_labels_are_wrong(digits):
    """Wrong labels mix the classes: by them the variance within classes would be larger than real."""
    finding = examined(digits, changed(digits, "tails_cut+swapped", 0.8)).findings[0]
    within = next(r for r in finding.readings[VARIANCE] if r.sign.metric == "within_class_ratio")
    assert within.value < 0.9 * within.controls["real images"][0] and within.verdict == PRESENT
    assert finding.profile[VARIANCE] == PRESENT
    # Controls are read by judged classes as well, which are not quite those that were asked for.
    healthy = examined(digits, changed(digits, "nothing", 1.0)).findings[0]
    asked = next(r for r in healthy.readings[VARIANCE] if r.sign.metric == "within_class_ratio")
    assert within.controls["real images"][0] != asked.controls["real images"][0]
    swapped = examined(digits, changed(digits, "swapped", 0.8)).findings[0]
    assert swapped.stage in ("none", "cannot tell") and swapped.profile[VARIANCE] != PRESENT


def test_a_blur_that_brings_images_nearer_to_all_others_is_no_copying():
    """Blurred noise is nearer to any noise than other noise is."""
    rng = np.random.default_rng(0)
    noise = [Images(rng.integers(0, 256, (60, 16, 16, 1), dtype=np.uint8)) for _ in range(4)]
    wide = np.stack(
        [np.roll(noise[3].pixels.astype(float), (i, j), (1, 2)) for i in range(3) for j in range(3)]
    )
    parts = {"reference": noise[0], "other": noise[1], "train": noise[2]}
    finding = examined(parts, Images(wide.mean(0).astype(np.uint8)), classes=None).findings[0]
    copies = finding.readings["copies"][0]
    assert copies.worse_than("real images") and copies.effects()["real images"][0] > 0.5
    assert "blurred" in finding.looks and "overfitting" not in finding.instead


def test_a_defect_has_controls_of_its_own(digits):
    """Real images with few levels explain what few levels change."""
    posterised = changed(digits, "posterised", 0.8)
    finding = examined(digits, posterised).findings[0]
    reading = finding.readings[TAILS][0]
    assert {f"real images {LOOK}", f"real images {DEFECTS}"} <= set(reading.controls)
    blurred = examined(digits, changed(digits, "blurred", 0.8)).findings[0]
    assert f"real images {DEFECTS}" not in blurred.readings[TAILS][0].controls


def test_degrees_are_ordered(digits):
    effects = []
    for degree in (0.4, 0.7, 1.0):
        finding = examined(digits, changed(digits, "tails_cut", degree)).findings[0]
        effects.append(next(r.effect for r in finding.readings[TAILS] if r.sign.metric == "recall"))
    assert effects == sorted(effects) and effects[0] < effects[-1] - 0.2


def test_few_images_give_less_to_say(digits):
    """The same change, at fewer images: cannot tell, and never the opposite."""
    profile = [
        examined(digits, changed(digits, "tails_cut", 0.5)[:n]).findings[0].profile[TAILS] for n in (200, 40)
    ]
    assert profile == [PRESENT, UNKNOWN]
    with pytest.raises(MeasureError, match="needs at least 30 images"):
        examined(digits, changed(digits, "nothing", 1.0)[:20])


def test_missing_classes_and_a_loss_in_the_others_are_both_said(digits):
    pool, keep = digits["pool"], np.isin(digits["pool"].labels, np.arange(6))
    both = Images(*simulate("blended", pool.pixels[keep], pool.labels[keep], 1.0, N, 0))
    finding = examined(digits, both).findings[0]
    assert (
        finding.stage == "late" and "forgetting" in finding.instead and finding.gone == ["6", "7", "8", "9"]
    )


def test_a_first_model_that_falls_short_is_no_collapse_until_more_is_lost(digits):
    weak = [changed(digits, "blended", 0.8, seed) for seed in range(3)]
    result = examined(digits, *weak, changed(digits, "repeated", 0.8))
    assert (
        all(f.stage in ("none", "cannot tell") for f in result.findings[:3])
        and "weak first model" in result.findings[0].instead
    )
    assert result.findings[3].stage == "catastrophic"


def test_controls_are_taken_only_if_something_is_worse_than_real_images(digits, monkeypatch):
    calls = []
    for name in ("reencoded", "in_look"):
        original = getattr(readings, name)
        monkeypatch.setattr(
            readings, name, lambda *args, _do=original, _name=name: calls.append(_name) or _do(*args)
        )
    healthy = examined(digits, changed(digits, "nothing", 1.0)).findings[0]
    assert calls == [] and not healthy.alarm
    assert {name for rs in healthy.readings.values() for r in rs for name in r.controls} == {"real images"}
    blurred = examined(digits, changed(digits, "blurred", 0.8)).findings[0]
    assert calls == ["reencoded", "in_look"] and blurred.name == "blurred"


def test_controls_are_measured_once_and_in_the_spaces_that_are_asked_for(digits, monkeypatch):
    measured = []
    original = readings.RealSide._measure
    monkeypatch.setattr(
        readings.RealSide,
        "_measure",
        lambda self, space, *rest: measured.append(space) or original(self, space, *rest),
    )
    real = readings.RealSide(
        digits["reference"], digits["other"], None, None, [open_extractor("pixels")],
        [open_extractor(name) for name in ("texture", "artefacts")], [str(i) for i in range(10)], 5, 20, 0,
    )  # fmt: skip
    assert {space for space, _ in real.measure_reencoded({"pixels"})} == {"pixels"} == set(measured)
    both = real.measure_reencoded({"pixels", "texture"})
    assert {space for space, _ in both} == {"pixels", "texture"} and measured == ["pixels", "texture"]


def test_the_finding_is_the_same_with_all_controls(digits, monkeypatch):
    sets = [changed(digits, kind, 0.8) for kind in ("nothing", "tails_cut", "swapped", "sharpened", "fewer")]
    lazy = [examined(digits, images).findings[0] for images in sets]
    monkeypatch.setattr(
        examine_module, "unexplained", lambda found: {r.space for rs in found.values() for r in rs}
    )
    every = [examined(digits, images).findings[0] for images in sets]
    assert [finding.words for finding in lazy] == [finding.words for finding in every]


def test_defects_that_a_control_explains_are_given_to_no_control():
    """JPEG of quality 75 makes blocks in gentle ramps. Re-encoded real images have them too, so nothing is called
    blocked, and no control has blocks of its own.
    """
    rng = np.random.default_rng(0)

    def ramps(n: int) -> np.ndarray:
        a, b, c = rng.normal(0, 30, (3, n, 1, 1))
        y, x = np.mgrid[-1:1:32j, -1:1:32j]
        values = 128 + a * x + b * y + c * x * y + rng.normal(0, 1, (n, 32, 32))
        return values.clip(0, 255).round().astype(np.uint8)[..., None]

    reference, other, unseen = (Images(ramps(60)) for _ in range(3))
    saved = Images(readings.reencoded(unseen.pixels))
    extractors = [open_extractor("pixels")]
    finding = examine_module.examine(reference, other, [saved], extractors=extractors, resamples=20).findings[
        0
    ]
    assert finding.words == "changed encoding"
    assert all(r.worse_than("real images") for r in finding.readings["look: blocked"])
    controls = {name for of_name in finding.readings.values() for r in of_name for name in r.controls}
    assert controls == {"real images", "re-encoded", f"real images {LOOK}"}


def test_few_levels_that_a_filter_leaves_are_not_posterised(digits, monkeypatch):
    """Were it so that real images, filtered like the samples, had as few levels."""
    posterised = changed(digits, "posterised", 0.8)
    assert "posterised" in examined(digits, posterised).findings[0].looks
    monkeypatch.setattr(readings, "matched", lambda images, like, levels: like)
    assert "posterised" not in examined(digits, posterised).findings[0].looks
