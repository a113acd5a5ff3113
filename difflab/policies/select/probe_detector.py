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
    """A logistic regression between real and synthetic features drops the samples that it takes for synthetic: as strong as its features.

    Generation 0's training images and the samples are both halved at random. Fitted to one half of each, the probe is calibrated on the
    other half of the real ones to `false_positive_rate` and judges the other half of the samples; then the halves change places, so that
    no sample is judged by a probe that learned from it. How many samples are found (the true positive rate) is said in their reason.
    Exact: a new real image is taken for synthetic with at most that probability (split conformal). No real image is dropped, for which
    `detector` has a rate.
    """

    source: ClassVar[str] = (
        "linear probes as detectors of synthetic images (for one, arXiv 2509.12995); split conformal calibration"
    )

    false_positive_rate: float = Field(
        0.05, gt=0, lt=1, description="Share of real images that the probe may take for synthetic."
    )

    def select(self, at: At, candidates: Any) -> list[str | None]:
        found = self.found(at, candidates)
        why = f"the probe takes it for synthetic, as {found.mean():.1%} of the samples at {self.false_positive_rate:.1%} of real images"
        return [why if f else None for f in found]

    def found(self, at: At, candidates: Any) -> np.ndarray:
        """Which candidates are taken for synthetic, bool [n]."""
        extractor = at.extractor(self.extractor)
        fake, real = candidates.features(extractor), candidates.real(extractor)[0]
        halves = [
            np.array_split(at.rng(side).permutation(len(x)), 2)
            for side, x in (("fake", fake), ("real", real))
        ]
        (fakes, reals), smallest = halves, math.ceil(1 / self.false_positive_rate - 1 - 1e-9)
        if min(map(len, reals)) < smallest or min(map(len, fakes)) < 1:
            raise ConfigError(
                f"policies: probe_detector wants {smallest} real images in either half for false_positive_rate={self.false_positive_rate:g} and at least "
                f"2 samples; there are {len(real)} real images and {len(fake)} samples"
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
