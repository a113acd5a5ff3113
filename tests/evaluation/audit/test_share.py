"""At least, an estimate, or "cannot tell"."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from audit_counts import counts_of

from difflab.core.errors import DataError
from difflab.evaluation.audit.probe import Looks, Probe
from difflab.evaluation.audit.share import Evidence, share_of
from difflab.metrics.prevalence import Calibration, Labelled, post_stratified, share_in_set

SAME = Looks(0.0, 30.0)
PROBE = Probe(
    [], None, (8, 8), 3, 0.5, Calibration(90, 100, 95, 100), {"real": SAME, "synthetic": SAME}, frozenset()
)  # type: ignore[arg-type]


def test_the_estimate_is_that_of_the_flags_and_the_rates() -> None:
    counts, keys = counts_of(flagged=30, n=100, declared=4)
    share = share_of(counts, keys, Evidence(PROBE))
    assert share.declared == 0.04 and share.flagged == 30 and share.scored == 100
    assert share.estimate == share_in_set(30, 100, PROBE.calibration)
    assert share.least is not None and share.estimate is not None and share.least < share.estimate.low + 0.05
    assert [case.sensitivity for case in share.what_if] == pytest.approx([0.72, 0.54, 0.9])
    assert [case.false_positive_rate for case in share.what_if] == pytest.approx([0.05, 0.05, 0.1])


def test_it_cannot_tell_with_a_weak_probe_or_other_files() -> None:
    counts, keys = counts_of(flagged=30, n=100, declared=4)
    weak = replace(PROBE, calibration=Calibration(55, 100, 60, 100))
    share = share_of(counts, keys, Evidence(weak))
    assert share.estimate is None and "0.15 is below 0.2" in share.reason and share.low == 0.04
    biased = replace(PROBE, looks={"real": Looks(1.0, 30.0), "synthetic": SAME})
    assert "100% of the real calibration images" in share_of(counts, keys, Evidence(biased)).reason
    larger = replace(PROBE, looks={"real": Looks(0.0, 90.0), "synthetic": Looks(0.0, 90.0)})
    assert "30 px of the audited images" in share_of(counts, keys, Evidence(larger)).reason
    assert "--labels" in share_of(counts, keys, Evidence()).reason


def test_what_if_the_probe_were_too_weak_has_no_share() -> None:
    counts, keys = counts_of(flagged=30, n=100, declared=0)
    share = share_of(counts, keys, Evidence(replace(PROBE, calibration=Calibration(40, 100, 85, 100))))
    assert [case.share is None for case in share.what_if] == [True, True, True]
    assert share.estimate is not None


def test_labels_are_counted_by_flag() -> None:
    counts, keys = counts_of(flagged=30, n=100, declared=0)
    labels = {keys[i]: i < 25 for i in range(0, 100, 5)}
    share = share_of(counts, keys, Evidence(PROBE, labels))
    assert share.labelled == Labelled(5, 6, 0, 14)
    assert share.estimate == post_stratified(30, 100, Labelled(5, 6, 0, 14))
    with pytest.raises(DataError, match="5 labels"):
        share_of(counts, keys, Evidence(PROBE, dict(list(labels.items())[:5])))
    assert np.isclose(share.low, share.estimate.low if share.estimate else -1)
