"""The image sets of the detector measures in a run. See `difflab.metrics.detectors`."""

from __future__ import annotations

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.seeds import numpy_generator
from difflab.metrics.detectors import probe
from difflab.metrics.evaluate import ComparedSets, Side
from difflab.metrics.judge import Judge


def detector_sets(
    seed: int, real: Tensor, held_out: Tensor, first: Tensor, later: Tensor | None, identity: str
) -> tuple[tuple[Judge | None, str | None], ComparedSets]:
    """The probe of a run with the reason why there is none, and the sets it is tested on.

    The probe is fitted to a random half of `real` and a random half of `first`. The other half of `real`
    gives the threshold. Both halves depend on the seed only, so every generation has the same probe. The
    probe is not fitted to rows that are not finite.

    Args:
        seed: of the run.
        real: features of real training images [m, d].
        held_out: features of held-out real images [n, d].
        first: features of the samples of generation 0 [k, d].
        later: features of the samples to test [l, d]; None = the half of `first` that fitted nothing.
        identity: hash of the real set.
    """
    fitted_real, calibration = _halves(seed, "real", real)
    fitted_fake, tested = _halves(seed, "samples", first)
    detector, reason = None, None
    try:
        detector = probe(Side(fitted_real).finite("")[0].features, Side(fitted_fake).finite("")[0].features)
    except MeasureError as error:
        reason = f"the detector cannot be fitted: {error}"
    fake = tested if later is None else later
    sets = ComparedSets(Side(held_out), Side(fake), Side(calibration), calibration, identity)
    return (detector, reason), sets


def _halves(seed: int, name: str, features: Tensor) -> tuple[Tensor, Tensor]:
    """Two random halves of the rows. The second has one row more if their number is odd."""
    order = torch.from_numpy(numpy_generator("detector", name, seed).permutation(len(features)))
    half = len(features) // 2
    return features[order[:half]], features[order[half:]]
