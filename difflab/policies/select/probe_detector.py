"""A detector of synthetic images that is fitted in every generation."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.metrics.judge import Judge
from difflab.policies.interface import At
from difflab.policies.select.common import Featured


@policy("probe_detector")
class ProbeDetector(Featured):
    """A linear probe, fitted in every generation, drops the samples that it classifies as synthetic.

    The probe is a logistic regression on features. Generation 0's training images and the samples are both
    split into random halves. The probe is fitted to one half of each and calibrated on the other half of the
    real images to `false_positive_rate`; it then judges the other half of the samples. Then the halves are
    swapped, so no probe judges a sample that it was fitted to. The reason of a dropped sample states the
    share detected (the true positive rate). Exact: a new real image is classified as synthetic with at most
    that probability (split conformal calibration). No real image is dropped; see `detector` for that.
    """

    source: ClassVar[str] = (
        "linear probes as detectors of synthetic images (for one, arXiv 2509.12995); split conformal "
        "calibration"
    )

    false_positive_rate: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Largest share of real images that the probe may classify as synthetic, 0 to 1.",
    )

    def select(self, at: At, candidates: Any) -> list[str | None]:
        detected = self.detected(at, candidates)
        reason = (
            f"the probe classifies it as synthetic; it detects {detected.mean():.1%} of the samples "
            f"at a false positive rate of {self.false_positive_rate:.1%}"
        )
        return [reason if flag else None for flag in detected]

    def detected(self, at: At, candidates: Any) -> np.ndarray:
        """Whether the probe classifies each candidate as synthetic, bool [n]."""
        extractor = at.extractor(self.extractor)
        fake, real = candidates.features(extractor), candidates.real(extractor)[0]
        halves = [
            np.array_split(at.rng(side).permutation(len(x)), 2)
            for side, x in (("fake", fake), ("real", real))
        ]
        (fakes, reals), smallest = halves, math.ceil(1 / self.false_positive_rate - 1 - 1e-9)
        if min(map(len, reals)) < smallest or min(map(len, fakes)) < 1:
            raise ConfigError(
                f"policies: probe_detector needs {smallest} real images in each half for "
                f"false_positive_rate={self.false_positive_rate:g}, and at least 2 samples; there are "
                f"{len(real)} real images and {len(fake)} samples"
            )
        out = np.zeros(len(candidates), dtype=bool)
        for fit, judged in ((0, 1), (1, 0)):
            x = torch.cat([real[reals[fit]], fake[fakes[fit]]])
            probe = Judge.fit(
                x, torch.cat([torch.zeros(len(reals[fit])), torch.ones(len(fakes[fit]))]).long(), 2
            )
            of_real = probe.probabilities(real[reals[judged]])[:, 1].sort().values
            threshold = of_real[math.ceil((len(of_real) + 1) * (1 - self.false_positive_rate) - 1e-9) - 1]
            out[fakes[judged]] = (probe.probabilities(fake[fakes[judged]])[:, 1] > threshold).numpy()
        return out
