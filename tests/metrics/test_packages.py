"""Oracles: the published packages on the very same features. prdc, vendi-score, torch-fidelity, to 1e-4
relative.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import mmd2
from vendi_score import vendi

from difflab.metrics import METRICS, Pair, vendi_score


@pytest.fixture(scope="module", params=[(300, 200, 12), (150, 150, 64)])
def features(request) -> tuple[torch.Tensor, torch.Tensor]:
    n, m, d = request.param
    draw = torch.Generator().manual_seed(n)
    return torch.randn(n, d, generator=draw), 0.8 * torch.randn(m, d, generator=draw) + 0.3


@pytest.mark.parametrize("k", [3, 5])
def test_precision_recall_density_coverage_are_those_of_prdc(features, k):
    real, fake = features
    published = compute_prdc(real.numpy().astype(np.float64), fake.numpy().astype(np.float64), nearest_k=k)
    pair = Pair(real, fake, neighbours=k)
    for name, value in published.items():
        assert METRICS[name].of(pair) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_the_frechet_distance_is_that_of_torch_fidelity(features):
    real, fake = features
    left, right = (fid_features_to_statistics(x.double()) for x in features)
    published = fid_statistics_to_metric(left, right, verbose=False)["frechet_inception_distance"]
    assert METRICS["fd"].of(Pair(real, fake)) == pytest.approx(float(published), rel=1e-4)


def test_the_kernel_distance_is_torch_fidelity_s_mmd_over_all_images(features):
    real, fake = (x[:150].double().numpy() for x in features)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    published = mmd2(
        kernel(fake, fake), kernel(fake, real), kernel(real, real), unit_diagonal=False, mmd_est="unbiased"
    )
    assert METRICS["kid"].of(Pair(features[0][:150], features[1][:150])) == pytest.approx(
        float(published), rel=1e-4
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of scipy, in the package
@pytest.mark.parametrize("q", [0.5, 1, 2])
def test_the_vendi_score_is_that_of_its_package(features, q):
    x = features[1].double().numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)  # its score_X passes no q on: score_K does
    assert vendi_score(features[1], q) == pytest.approx(vendi.score_K(unit @ unit.T, q=q), rel=1e-4)
    if q == 1:
        assert vendi_score(features[1]) == pytest.approx(vendi.score_dual(x, normalize=True), rel=1e-4)
