from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from difflab import config
from difflab.core.errors import StoreError
from difflab.core.shape import Shape
from difflab.models.categorical import Categorical, count, pick, truth_of

HOW = config.Sample()


def spec(**fields) -> config.Categorical:
    return config.Categorical(family="categorical", **fields)


def holding(p: np.ndarray, **fields) -> Categorical:
    model = Categorical(spec(categories=p.shape[1], replicates=len(p), **fields), Shape((len(p), 1)))
    model.p = p
    return model


def test_pick_inverts_the_distribution_function():
    p = np.array([[0.2, 0.0, 0.5, 0.3], [0.0, 1.0, 0.0, 0.0]])
    u = np.array([[0.0, 0.0], [0.19, 0.5], [0.2, 1 - 2**-53], [0.69, 0.1], [0.71, 0.1], [1 - 2**-53, 0.9]])
    assert pick(p, u).tolist() == [[0, 1], [0, 1], [2, 1], [2, 1], [3, 1], [3, 1]]


def test_a_lost_category_never_returns():
    rng = np.random.default_rng(0)
    p = rng.random((50, 20)) * (rng.random((50, 20)) < 0.3)
    p[:, 7] += 0.1
    p /= p.sum(1, keepdims=True)
    edges = np.concatenate([np.cumsum(p, 1).T.clip(0, 1 - 2**-53), rng.random((200, 50)), np.zeros((1, 50))])
    chosen = pick(p, edges)
    assert (p[np.arange(50), chosen] > 0).all()


def test_count_is_bincount_chain_by_chain():
    x = np.random.default_rng(0).integers(0, 5, (40, 6)).astype(float)
    x[x == 3] = 0
    assert (count(x, 5) == np.stack([np.bincount(x[:, r].astype(int), minlength=5) for r in range(6)])).all()


def test_the_truth_is_uniform_or_zipf():
    np.testing.assert_allclose(truth_of(spec(categories=4)), 0.25)
    np.testing.assert_allclose(
        truth_of(spec(categories=50, truth="zipf", exponent=1.5)),
        stats.zipfian.pmf(np.arange(1, 51), 1.5, 50),
        rtol=1e-12,
    )
    np.testing.assert_allclose(truth_of(spec(categories=4, truth="zipf", exponent=0)), 0.25)


def test_records_follow_the_truth():
    s = spec(categories=5, truth="zipf", replicates=4)
    x = Categorical.truth(s, list(range(2000)))
    assert x.shape == (2000, 4, 1)
    p = truth_of(s)
    z = (count(x[..., 0], 5) - 2000 * p) / np.sqrt(2000 * p * (1 - p))
    assert (abs(z) < 4).all()
    assert (abs(np.corrcoef(x[..., 0].T)[np.triu_indices(4, 1)]) * np.sqrt(2000) < 4).all()


def test_the_fit_is_the_frequencies():
    x = np.array([[[0.0], [2.0]], [[0.0], [2.0]], [[1.0], [2.0]], [[2.0], [0.0]]])
    model = holding(np.ones((2, 3)) / 3)
    model.fit(x)
    assert model.p.tolist() == [[0.5, 0.25, 0.25], [0.25, 0, 0.75]]
    out = model.measures()
    np.testing.assert_allclose(out["gini_simpson"], [1 - 0.375, 1 - 0.625])
    assert out["survivors"].tolist() == [3, 2] and out["first_share"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_log_odds(temperature):
    p = np.array([[0.5, 0.3, 0.2]])
    x = holding(p, temperature=temperature).sample(None, list(range(6000)), HOW)
    want = np.exp(np.log(p[0]) / temperature)
    want /= want.sum()
    z = (np.bincount(x.ravel().astype(int), minlength=3) - 6000 * want) / np.sqrt(6000 * want * (1 - want))
    assert (abs(z) < 4).all()


def test_law_g2_log_odds_shrink_as_temperature_to_the_minus_t(monkeypatch):
    # Without sampling noise: a grid of uniforms in the place of random ones, refitted generation after generation.
    p, temperature, grid = np.array([[0.4, 0.35, 0.25]]), 1.25, 200_000
    model = holding(p, temperature=temperature)
    monkeypatch.setattr(
        "difflab.models.categorical.uniforms",
        lambda seeds, replicates: ((np.arange(grid) + 0.5) / grid)[:, None],
    )
    for t in range(1, 6):
        model.fit(model.sample(None, [0], HOW))
        got = np.log(model.p[0, :2] / model.p[0, 2])
        np.testing.assert_allclose(got, np.log(p[0, :2] / p[0, 2]) * temperature**-t, rtol=1e-3)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_extreme_temperatures_stay_finite(temperature):
    p = np.array([[0.15, 0.2, 0.0] + [0.13] * 5])
    x = holding(p, temperature=temperature).sample(None, list(range(500)), HOW).ravel()
    assert (x == 1).all() if temperature < 1 else set(x) == {0, 1, 3, 4, 5, 6, 7}


def test_a_record_depends_on_its_seed_alone():
    model = holding(np.random.default_rng(0).dirichlet(np.ones(6), 5))
    together = model.sample(None, list(range(20)), HOW)
    assert (np.concatenate([model.sample(None, [s], HOW) for s in range(20)]) == together).all()
    assert (model.sample(None, list(range(20)), HOW) == together).all()
    assert (model.sample(None, list(range(20, 40)), HOW) != together).any()


def test_saving_is_exact(tmp_path):
    model = holding(np.random.default_rng(0).dirichlet(np.ones(6), 5))
    model.save(tmp_path)
    assert (Categorical.load(model.spec, model.shape, tmp_path).p == model.p).all()
    (tmp_path / "categorical.safetensors").write_bytes(b"junk")
    with pytest.raises(StoreError, match=r"categorical\.safetensors"):
        Categorical.load(model.spec, model.shape, tmp_path)
