from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pictures import opened

from difflab.metrics import nearest_real
from difflab.report.feature_map import extent, feature_map, feature_spaces, first_space, nearest_pairs
from difflab.runs.run import Run


def features(run: Run, t: int | None = None) -> torch.Tensor:
    """The pixel features of the real images, or of the samples of a generation."""
    shards = run.real if t is None else run.samples(t)
    return shards.features(feature_spaces(run)["pixels"])


def test_the_map_is_one_fixed_plane(hostile: Run) -> None:
    """Against scikit-learn's PCA of the same features, up to sign and scale."""
    from sklearn.decomposition import PCA

    found = feature_map(hostile)
    assert found is not None
    held_out = features(hostile)[hostile.about["n_train"] :].double().numpy()
    pca = PCA(2).fit(held_out)
    assert found["explained"] == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-3)
    for ours, theirs in (
        (found["real"], held_out),
        (found["generations"][2], features(hostile, 2).double().numpy()),
    ):
        projected = pca.transform(theirs)
        for axis in range(2):
            assert abs(np.corrcoef(np.array(ours)[:, axis], projected[: len(ours), axis])[0, 1]) > 0.999
    assert max(abs(v) for point in found["real"] for v in point) == pytest.approx(1, abs=1e-3)
    x0, y0, x1, y1 = found["extent"]
    assert all(
        x0 <= x <= x1 and y0 <= y <= y1
        for points in (found["real"], *found["generations"].values())
        for x, y in points
    )


def test_dots_far_out_stand_at_the_edge_and_are_counted(
    hostile: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = feature_map(hostile)
    assert before is not None and set(before["outside"].values()) == {0}
    samples = type(hostile).samples

    class Far:
        """The samples of a generation, the first of the last generation in another world."""

        def __init__(self, run: Run, t: int) -> None:
            self.shards, self.t = samples(run, t), t

        def features(self, key: str) -> torch.Tensor:
            found = self.shards.features(key).clone()
            if self.t == 2:
                found[0] *= 1000
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self.shards, name)

    monkeypatch.setattr(type(hostile), "samples", lambda run, t: Far(run, t))
    found = feature_map(hostile)
    assert found is not None and found["outside"] == {0: 0, 1: 0, 2: 1}
    x0, y0, x1, y1 = found["extent"]
    x, y = found["generations"][2][0]
    assert x in (x0, x1) or y in (y0, y1)
    a0, b0, a1, b1 = before["extent"]
    assert x1 - x0 < 2.01 * (a1 - a0) and y1 - y0 < 2.01 * (b1 - b0), "the others are not drawn to a point"
    monkeypatch.undo()
    assert len(feature_map(hostile, 7)["generations"][2]) == 7


def test_extent_holds_all_points_but_the_absurd() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 2))
    for samples in (rng.normal(size=(300, 2)) * 3, rng.normal(size=(300, 2)) + 9, real[:20] * 0.1):
        low, high = extent(real, samples)
        both = np.concatenate([real, samples])
        assert (low == both.min(0)).all() and (high == both.max(0)).all()
    low, high = extent(real, np.concatenate([real, [[900.0, 0.0], [0.0, -900.0]]]))
    assert (
        (low > -20).all() and (high < 20).all() and (low <= real.min(0)).all() and (high >= real.max(0)).all()
    )


def test_nearest_are_the_nearest(hostile: Run) -> None:
    found = nearest_pairs(hostile, 10**6)
    assert found is not None and found["generation"] == 2
    n = hostile.about["n_train"]
    distance, index = nearest_real(features(hostile, 2), features(hostile)[:n])
    honest = nearest_real(features(hostile)[n:], features(hostile)[:n])[0].median()
    assert [p["distance"] for p in found["pairs"]] == pytest.approx(
        (distance.sort().values[:8] / honest).tolist(), rel=1e-2
    )
    first = int(distance.argmin())
    assert (
        np.asarray(opened(found["pairs"][0]["sample"]))
        == hostile.samples(2).gather(np.array([first]))[0, ..., 0]
    ).all()
    assert (
        np.asarray(opened(found["pairs"][0]["real"]))
        == hostile.real.gather(index[[first]].numpy())[0, ..., 0]
    ).all()


def test_without_features_on_disk_there_is_no_map(hostile: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_space(hostile) == ("pixels", feature_spaces(hostile)["pixels"])
    monkeypatch.setattr("difflab.report.feature_map.feature_spaces", lambda run: {"fitted": "fitted-1"})
    assert first_space(hostile) is None, "only the extractors of the config are read"
    assert feature_map(hostile) is None and nearest_pairs(hostile, 10**6) is None
