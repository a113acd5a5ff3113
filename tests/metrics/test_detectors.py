"""Thresholds, rates and scores of detectors, against closed forms, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.features.texture import radial_spectrum
from difflab.metrics.detectors import probe, rate, spectrum_score, threshold


def test_a_new_real_image_is_flagged_as_often_as_stated():
    """Split conformal: with n + 1 exchangeable scores the probability is floor((n + 1) a) / (n + 1)."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, 60, generator=generator)
    flagged = [float(row[59]) > threshold(row[:59], 0.1) for row in draws]
    assert np.mean(flagged) == pytest.approx(6 / 60, abs=3 * (0.09 / 4000) ** 0.5)


def test_rates_have_wilsons_interval():
    from scipy.stats import binomtest

    found = rate(torch.tensor([0.0, 1.0, 2.0, 3.0]), 1.0)
    expected = binomtest(2, 4).proportion_ci(method="wilson")
    assert (found.share, found.n) == (0.5, 4)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_probe_separates_what_it_was_fitted_to_and_not_the_mirror_image():
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(1)
    real, fake = (torch.randn(200, 3, generator=generator) + shift for shift in (0.0, 3.0))
    scores = {
        name: probe(real, fake).probabilities(x)[:, 1] for name, x in (("fake", fake), ("other", -fake))
    }
    assert rate(scores["fake"], 0.5).share > 0.97 and rate(scores["other"], 0.5).share < 0.01
    x = torch.cat([real, fake]).double()
    z = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    oracle = LogisticRegression(max_iter=5000).fit(z, np.repeat([0, 1], 200)).predict_proba(z)[:, 1]
    assert probe(real, fake).probabilities(x.float())[:, 1].numpy() == pytest.approx(oracle, abs=1e-3)


def test_blurred_noise_is_far_from_the_spectra_of_noise():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 1))
    blurred = (pixels + np.roll(pixels, 1, 1) + np.roll(pixels, 1, 2)) // 3
    real, new, smooth = (
        radial_spectrum(torch.from_numpy(x.astype(np.uint8)))[1]
        for x in (pixels[:100], pixels[100:200], blurred[200:])
    )
    limit = threshold(spectrum_score(real[:50], real[50:]), 0.05)
    assert rate(spectrum_score(real[:50], new), limit).share < 0.2
    assert rate(spectrum_score(real[:50], smooth), limit).share > 0.8
    log = real.log().numpy()
    expected = (((log - log.mean(0)) / log.std(0, ddof=1)) ** 2).mean(1)
    assert spectrum_score(real, real).numpy() == pytest.approx(expected)


def test_what_cannot_be_computed_is_refused_in_one_line():
    with pytest.raises(MeasureError, match="needs 19 real images for the threshold, got 18"):
        threshold(torch.zeros(18), 0.05)
    with pytest.raises(MeasureError, match="at least one image"):
        rate(torch.zeros(0), 0.5)
    with pytest.raises(MeasureError, match="all equal"):
        spectrum_score(torch.ones(3, 4), torch.ones(2, 4))
