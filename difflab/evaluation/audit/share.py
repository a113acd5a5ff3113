"""What the counts of an audit say about the share of synthetic images, if they say anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from difflab.core.errors import DataError
from difflab.evaluation.audit.labels import counted
from difflab.evaluation.audit.layers import Counts
from difflab.evaluation.audit.probe import Probe, difference
from difflab.evaluation.audit.result import Share, WhatIf
from difflab.metrics.prevalence import (
    LEAST_YOUDEN,
    Labelled,
    least_share,
    post_stratified,
    share_at_rates,
    share_in_set,
    tells,
)

WORSE = ((0.8, 1.0), (0.6, 1.0), (1.0, 2.0))
"""Factors of the sensitivity and of the false positive rate in `Share.what_if`."""
FEWEST_LABELS = 10


@dataclass(frozen=True)
class Evidence:
    """What the share is estimated from, besides the counts."""

    probe: Probe | None = None
    labels: Mapping[str, bool] | None = None


def share_of(counts: Counts, keys: Sequence[str], evidence: Evidence) -> Share:
    """The share of synthetic images among those that can be read.

    With labels their interval is taken, because it assumes nothing about the probe.
    Raises DataError for fewer than `FEWEST_LABELS` labels of images that can be read.
    """
    tally, probe = counts.tally, evidence.probe
    readable = int(tally.readable.sum())
    synthetic = tally.mask("synthetic") & tally.readable
    share = Share(declared=int(synthetic.sum()) / readable)
    if evidence.labels is not None:
        flags = synthetic if probe is None else counts.masks["probe"]
        return _from_labels(share, flags, tally.readable, keys, evidence.labels)
    if probe is None:
        return Share(
            share.declared,
            reason="nothing measures what the layers miss; give images of known origin with --calibrate REAL "
            "SYNTHETIC, or labels of a random part with --labels",
        )
    return _from_probe(share, counts, probe)


def _from_labels(
    share: Share, flags: np.ndarray, readable: np.ndarray, keys: Sequence[str], labels: Mapping[str, bool]
) -> Share:
    positions = {key: i for i, key in enumerate(keys) if key in labels}
    usable = {key: bool(flags[i]) for key, i in positions.items() if readable[i]}
    labelled = Labelled(*counted(labels, usable))
    if labelled.n < FEWEST_LABELS:
        raise DataError(
            f"labels: {labelled.n} labels of images that can be read are too few; label {FEWEST_LABELS} or "
            "more, drawn "
            "at random"
        )
    estimate = post_stratified(int((flags & readable).sum()), int(readable.sum()), labelled)
    return Share(share.declared, estimate, labelled=labelled)


def _from_probe(share: Share, counts: Counts, probe: Probe) -> Share:
    layer = {layer.name: layer for layer in counts.layers}["probe"]
    rates, flagged, scored = probe.calibration, layer.count, layer.of
    reason = _unusable(counts, probe)
    if reason is not None or not tells(rates):
        weak = (
            f"the probe detects {rates.sensitivity:.0%} with {1 - rates.specificity:.0%} false positives, "
            "and "
            f"sensitivity + specificity - 1 = {rates.youden:.2f} is below {LEAST_YOUDEN:g}"
        )
        return Share(share.declared, None, reason or weak, flagged, scored, rates)
    cases = []
    for of_sensitivity, of_false in WORSE:
        sensitivity, false = of_sensitivity * rates.sensitivity, of_false * (1 - rates.specificity)
        told = None
        if sensitivity - false >= LEAST_YOUDEN:
            told = share_at_rates(flagged, scored, sensitivity, 1 - false)
        cases.append(WhatIf(sensitivity, false, told))
    return Share(
        share.declared,
        share_in_set(flagged, scored, rates),
        "",
        flagged,
        scored,
        rates,
        None,
        least_share(flagged, scored, rates),
        tuple(cases),
    )


def _unusable(counts: Counts, probe: Probe) -> str | None:
    """Why the rates of the probe are not those on the audited images; None if nothing speaks against it."""
    sides = probe.looks
    apart = difference("the real calibration images", sides["real"], "the synthetic ones", sides["synthetic"])
    return apart or difference(
        "the calibration images", sides["real"], "the audited images", counts.tally.looks
    )
