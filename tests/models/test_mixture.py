from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from difflab import config
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.models.mixture import Mixture, centres, guided

HOW = config.Sample()


def spec(**fields) -> config.Mixture:
    return config.Mixture(family="mixture", **fields)


def fitted(records: np.ndarray, components: int = 3) -> Mixture:
    model = Mixture(spec(components=components, replicates=records.shape[1]), Shape(records.shape[1:]))
    model.fit(records)
    return model


def records(n: int = 40, replicates: int = 4) -> np.ndarray:
    return Mixture.truth(spec(components=3, replicates=replicates), list(range(n)))


def test_centres_lie_evenly_around_zero():
    assert centres(spec(components=4, spacing=2.0)).tolist() == [-3, -1, 1, 3]
    assert centres(spec(components=3, spacing=0.0)).tolist() == [0, 0, 0]


def test_the_truth_has_equal_weights_and_unit_normals_at_the_centres():
    s = spec(components=4, spacing=5.0, replicates=3)
    x = Mixture.truth(s, list(range(3000)))
    assert x.shape == (3000, 3, 2)
    for r in range(3):
        component, value = x[:, r, 0], x[:, r, 1]
        counts = np.bincount(component.astype(int), minlength=4)
        assert (abs(counts - 750) / np.sqrt(3000 * 0.1875) < 4).all()
        z = value - centres(s)[component.astype(int)]
        assert stats.kstest(z, "norm").pvalue > 1e-4
        assert abs(np.corrcoef(z, component)[0, 1]) * np.sqrt(3000) < 4


def test_the_fit_is_numpys_moments_of_each_component():
    x = records()
    model = fitted(x)
    for r in range(4):
        for c in range(3):
            own = x[x[:, r, 0] == c, r, 1]
            assert model.p[r, c] == len(own) / 40
            np.testing.assert_allclose(model.mean[r, c], own.mean(), rtol=1e-12)
            np.testing.assert_allclose(model.variance[r, c], own.var(), rtol=1e-9)


def test_total_variance_and_drift_are_those_of_the_data():
    x = records()
    out = fitted(x).measures()
    np.testing.assert_allclose(out["variance"], x[..., 1].var(0), rtol=1e-10)
    np.testing.assert_allclose(out["squared_drift"], x[..., 1].mean(0) ** 2, rtol=1e-10)
    p = np.stack([(x[..., 0] == c).mean(0) for c in range(3)])
    np.testing.assert_allclose(out["gini_simpson"], 1 - (p**2).sum(0), rtol=1e-12)
    assert (out["survivors"] == 3).all()


def test_a_component_without_members_is_lost_for_good():
    x = records()
    x[:, 1, 0] = np.where(x[:, 1, 0] == 2, 0, x[:, 1, 0])
    model = fitted(x)
    assert np.isfinite(model.mean).all() and model.measures()["survivors"].tolist() == [3, 2, 3, 3]
    drawn = model.sample(None, list(range(500)), HOW)
    assert set(drawn[:, 1, 0]) == {0, 1} and set(drawn[:, 0, 0]) == {0, 1, 2}


def test_samples_have_the_fitted_moments():
    model = fitted(records())
    x = model.sample(None, list(range(4000)), HOW)
    for c in range(3):
        own = x[x[:, 0, 0] == c, 0, 1]
        p, v = model.p[0, c], model.variance[0, c]
        assert abs(len(own) - 4000 * p) / np.sqrt(4000 * p * (1 - p)) < 4
        assert abs(own.mean() - model.mean[0, c]) / np.sqrt(v / len(own)) < 4
        assert abs(own.var() / v - 1) / np.sqrt(2 / len(own)) < 4


def test_a_record_depends_on_its_seed_alone():
    model = fitted(records())
    together = model.sample(None, list(range(20)), HOW)
    assert (np.concatenate([model.sample(None, [s], HOW) for s in range(20)]) == together).all()


def test_saving_is_exact(tmp_path):
    model = fitted(records())
    model.save(tmp_path)
    read = Mixture.load(model.spec, model.shape, tmp_path)
    assert all((getattr(read, k) == getattr(model, k)).all() for k in ("p", "mean", "variance"))
    (tmp_path / "mixture.safetensors").unlink()
    with pytest.raises(StoreError, match=r"mixture\.safetensors"):
        Mixture.load(model.spec, model.shape, tmp_path)


# ---------------------------------------------------------------------------------------------- guidance
def by_solver(g: float, m: float, v: float, overall: float, total: float, start: float, top: float) -> float:
    """Where the guided probability-flow equation leads from `start` at noise `top`, by an adaptive solver in t itself."""

    def slope(t: float, x: np.ndarray) -> np.ndarray:
        return t * (g * (x - m) / (v + t * t) + (1 - g) * (x - overall) / (total + t * t))

    return float(
        integrate.solve_ivp(slope, (top, 0), [start], method="DOP853", rtol=1e-9, atol=1e-12).y[0, -1]
    )


@pytest.mark.parametrize("g", [0.0, 0.5, 1.25, 3.0, 7.5])
def test_guided_is_the_probability_flow_of_the_guided_score(g):
    p, mean, variance = np.array([[0.2, 0.5, 0.3]]), np.array([[-2.0, 0.5, 3.0]]), np.array([[0.3, 1.0, 2.0]])
    overall = float((p * mean).sum())
    total = float((p * (variance + mean**2)).sum()) - overall**2
    got, sd = guided(p, mean, variance, g)
    for c in range(3):
        middle, one = (
            by_solver(g, mean[0, c], variance[0, c], overall, total, overall + z * 1e4, 1e4) for z in (0, 1)
        )
        assert got[0, c] == pytest.approx(middle, abs=2e-3)
        assert sd[0, c] == pytest.approx(one - middle, rel=1e-4)


def test_guidance_1_is_off_to_the_bit_and_0_asks_for_no_component():
    model = fitted(records())
    mean, sd = guided(model.p, model.mean, model.variance, 1.0)
    np.testing.assert_allclose(mean, model.mean, atol=1e-3)
    np.testing.assert_allclose(sd, np.sqrt(model.variance), rtol=1e-5)
    out = model.measures()
    mean, sd = guided(model.p, model.mean, model.variance, 0.0)
    np.testing.assert_allclose(
        mean, (model.p * model.mean).sum(1, keepdims=True) + np.zeros((1, 3)), atol=2e-3
    )
    np.testing.assert_allclose(sd**2, out["variance"][:, None] + np.zeros((1, 3)), rtol=1e-5)
    free = Mixture(spec(components=3, replicates=4, guidance_scale=1.0), model.shape)
    free.p, free.mean, free.variance = model.p, model.mean, model.variance
    assert (free.sample(None, [1, 2], HOW) == model.sample(None, [1, 2], HOW)).all()


def test_guidance_narrows_pushes_and_leaves_a_component_of_one_point_alone():
    p = np.array([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    mean, variance = (
        np.array([[-2.0, 2.0, 0.0], [-2.0, 2.0, 0.0], [1.0, 0.0, 0.0]]),
        np.array([[0.0, 1e-20, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    )
    got, sd = guided(p, mean, variance, 2.0)
    assert np.isfinite(got).all() and np.isfinite(sd).all()
    assert got[0, 0] == -2 and sd[0, 0] == 0 and 0 < sd[0, 1] < 1e-18 and got[2, 0] == 1
    assert (
        got[1, 0] < -2.3
        and got[1, 1] > 2.3
        and sd[1, 0] == pytest.approx(sd[1, 1])
        and sd[1, 1] ** 2 == pytest.approx(1 / 5, rel=1e-4)
    )


def test_samples_are_guided_and_a_record_still_depends_on_its_seed_alone():
    plain = fitted(records())
    model = Mixture(spec(components=3, replicates=4, guidance_scale=2.0), plain.shape)
    model.p, model.mean, model.variance = plain.p, plain.mean, plain.variance
    x = model.sample(None, list(range(4000)), HOW)
    mean, sd = guided(model.p, model.mean, model.variance, 2.0)
    for c in range(3):
        own = x[x[:, 0, 0] == c, 0, 1]
        assert abs(own.mean() - mean[0, c]) / (sd[0, c] / np.sqrt(len(own))) < 4
        assert abs(own.std() / sd[0, c] - 1) * np.sqrt(2 * len(own)) < 4
    assert (np.concatenate([model.sample(None, [s], HOW) for s in range(5)]) == x[:5]).all()
    with pytest.raises(ConfigError, match=r"guidance_scale.*greater than or equal to 0"):
        config.parse(
            {
                "model": {"family": "mixture", "guidance_scale": -1.0},
                "data": {"source": "exact", "train_size": 4},
            }
        )
