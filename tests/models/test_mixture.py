from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from difflab import config
from difflab.errors import StoreError
from difflab.models.base import Shape
from difflab.models.mixture import Mixture, centres

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
