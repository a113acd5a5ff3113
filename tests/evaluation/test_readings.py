"""The measures of a diagnosis on samples and on controls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from changed_digits import changed, examined

from difflab.evaluation import controls as look
from difflab.evaluation.readings import Images
from difflab.evaluation.signs import (
    ENTANGLED,
    LOOK,
    TAILS,
    UNKNOWN,
)


def test_copies_are_told_only_where_the_training_images_are_known(digits):
    copied = changed(digits, "copied", 0.8)
    assert examined(digits, copied).findings[0].name == "overfitting"
    assert not examined(digits, copied, train=None).findings[0].alarm


def test_without_labels_concepts_have_no_verdict_and_the_reason_is_given(digits):
    bare = {name: Images(part.pixels) for name, part in digits.items()}
    finding = examined(bare, Images(changed(digits, "swapped", 1.0).pixels), classes=None).findings[0]
    assert finding.profile[ENTANGLED] == UNKNOWN and not finding.alarm
    assert "class_accuracy" in finding.left_out
    assert (
        examined(bare, Images(changed(digits, "repeated", 0.6).pixels), classes=None).findings[0].name
        == "catastrophic"
    )


def test_the_look_of_samples_is_what_the_control_has(digits):
    """Blurred samples measure like real images with the same blur, so a blur is no loss of variety."""
    finding = examined(digits, changed(digits, "blurred", 1.0)).findings[0]
    recall = next(r for r in finding.readings[TAILS] if r.sign.metric == "recall")
    assert recall.worse_than("real images") and not recall.worse_than(f"real images {LOOK}")
    assert (
        look.matched(digits["reference"].pixels, changed(digits, "blurred", 1.0).pixels).shape
        == digits["reference"].pixels.shape
    )


def test_images_without_features_cost_a_measure_those_images_alone_and_reasons_are_sentences(digits):
    """A few black digits have no direction in pixels: vendi goes on without them.

    Where real images have no value at all, a sentence says so.
    """
    black = replace(digits["other"], pixels=digits["other"].pixels.copy())
    black.pixels[[3, 50, 90]] = 0
    result = examined(digits | {"other": black}, changed(digits, "shrunk", 0.6))
    assert (
        "vendi (pixels): 3 of 200 images have features of length 0, hence no direction, and are left out"
        in result.notes
    )
    assert "vendi" not in result.findings[0].left_out
    empty = replace(black, pixels=np.zeros_like(black.pixels))
    lost = examined(digits | {"other": empty}, changed(digits, "shrunk", 0.6)).findings[0].left_out
    assert lost["vendi"].startswith(
        "vendi has no value between real images: vendi needs at least 2 fake images, got 0: 200 of 200 "
        "images have"
    )
    for measure, reason in lost.items():
        assert reason[0].isalpha() and len(reason.split()) > 3 and not reason.startswith("("), measure
