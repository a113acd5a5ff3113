from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from difflab import config
from difflab.core.errors import StoreError
from difflab.core.shape import Shape
from difflab.models.gaussian import Gaussian, normals

HOW = config.Sample()


def spec(**fields) -> config.Gaussian:
    return config.Gaussian(family="gaussian", **fields)


def fitted(records: np.ndarray, **fields) -> Gaussian:
    model = Gaussian(
        spec(replicates=records.shape[1], dim=records.shape[2], **fields), Shape(records.shape[1:])
    )
    model.fit(records)
    return model


def records(n: int = 30, replicates: int = 4, dim: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, replicates, dim)) @ np.triu(np.ones((dim, dim))) + 2


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize(("estimator", "ddof"), [("mle", 0), ("unbiased", 1)])
def test_the_fit_is_numpys_mean_and_covariance(estimator, ddof, dim):
    x = records(dim=dim)
    model = fitted(x, estimator=estimator)
    for r in range(4):
        np.testing.assert_allclose(model.mean[r], x[:, r].mean(0), rtol=1e-12)
        np.testing.assert_allclose(model.cov[r], np.cov(x[:, r].T, ddof=ddof).reshape(dim, dim), rtol=1e-10)


def test_measures_are_those_of_the_fitted_model():
    x = records(dim=1)
    model = fitted(x)
    out = model.measures()
    v, m = x.var(0)[:, 0], x.mean(0)[:, 0]
    wanted = {
        "variance": v,
        "squared_drift": m**2,
        "log_variance": np.log(v),
        "sd": np.sqrt(v),
        "w2_squared": m**2 + (np.sqrt(v) - 1) ** 2,
    }
    assert out.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(out[name], value, rtol=1e-10, err_msg=name)
    x = records(dim=3)
    out = fitted(x).measures()
    assert out.keys() == {"variance", "squared_drift"}  # per dimension
    np.testing.assert_allclose(out["variance"], x.var(0).mean(1), rtol=1e-10)
    np.testing.assert_allclose(out["squared_drift"], (x.mean(0) ** 2).mean(1), rtol=1e-10)


def test_the_truth_is_standard_normal():
    x = Gaussian.truth(spec(dim=2, replicates=3), list(range(3000)))
    assert x.shape == (3000, 3, 2) and x.dtype == np.float64
    flat = x.reshape(3000, -1)
    n = len(flat)
    assert (abs(flat.mean(0)) * np.sqrt(n) < 4).all()
    assert (abs(flat.var(0) - 1) / np.sqrt(2 / n) < 4).all()
    off = np.corrcoef(flat.T)[np.triu_indices(6, 1)]
    assert (abs(off) * np.sqrt(n) < 4).all()  # chains and dimensions are independent
    assert stats.kstest(flat[:, 0], "norm").pvalue > 1e-4


@pytest.mark.parametrize("bias", [1.0, 0.5])
def test_samples_have_the_fitted_mean_and_the_biased_covariance(bias):
    model = fitted(records(dim=3), sampling_bias=bias)
    x = model.sample(None, list(range(4000)), HOW)
    assert x.shape == (4000, 4, 3)
    for r in range(4):
        want = bias * model.cov[r]
        z_mean = (x[:, r].mean(0) - model.mean[r]) / np.sqrt(np.diag(want) / 4000)
        # Var of a sample covariance entry: (s_ij^2 + s_ii s_jj) / n.
        d = np.diag(want)
        z_cov = (np.cov(x[:, r].T) - want) / np.sqrt((want**2 + np.outer(d, d)) / 4000)
        assert (abs(z_mean) < 4).all() and (abs(z_cov) < 4).all()


def test_a_singular_covariance_can_be_sampled():
    x = np.zeros((5, 2, 3))
    x[:, 0, 0] = np.arange(5)
    out = fitted(x).sample(None, [1, 2, 3], HOW)
    assert np.isfinite(out).all()
    assert (out[:, 1] == 0).all() and (abs(out[:, 0, 1:]) < 1e-12).all() and len(np.unique(out[:, 0, 0])) == 3


def test_a_record_depends_on_its_seed_and_not_on_its_batch():
    model, seeds = fitted(records()), [7, 8, 9, 10, 11]
    together = model.sample(None, seeds, HOW)
    assert (model.sample(None, seeds, HOW) == together).all()
    alone = np.concatenate([model.sample(None, [s], HOW) for s in seeds])
    np.testing.assert_allclose(alone, together, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(model.sample(None, seeds[::-1], HOW)[::-1], together, rtol=1e-13, atol=1e-13)
    assert len(np.unique(together)) == together.size
    assert (normals([1, 2], 3) == np.stack([normals([1], 3)[0], normals([2], 3)[0]])).all()


def test_saving_is_exact(tmp_path):
    model = fitted(records())
    model.save(tmp_path)
    read = Gaussian.load(model.spec, model.shape, tmp_path)
    assert (read.mean == model.mean).all() and (read.cov == model.cov).all()
    assert (read.sample(None, [3, 4], HOW) == model.sample(None, [3, 4], HOW)).all()


def test_a_damaged_model_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"gaussian\.safetensors"):
        Gaussian.load(spec(), Shape((1, 1)), tmp_path)
