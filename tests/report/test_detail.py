from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_data_uri import opened

from difflab.metrics import METRICS, Judge, Pair, nearest_real
from difflab.report.detail import (
    _concepts,
    _cost,
    _map,
    _nearest,
    _pictures,
    _spectra,
    extent,
    feature_spaces,
    in_common,
)
from difflab.runs.probe import SameSeeds
from difflab.runs.run import Run


def features(run: Run, t: int | None = None) -> torch.Tensor:
    shards = run.real if t is None else run.samples(t)
    return shards.features(feature_spaces(run)["pixels"])


def test_pictures_are_the_probe_to_the_bit(hostile: Run) -> None:
    found = _pictures(hostile, 10**6)
    assert (
        found is not None
        and found["per"] == 2
        and len(found["asked"]) == 10
        and set(found["generations"]) == {0, 1, 2}
    )
    probe = hostile.probe(1, 10)
    images = np.concatenate([probe.decode(k) for k in probe.shards])
    assert all(
        (np.asarray(opened(text)) == image[..., 0]).all()
        for text, image in zip(found["generations"][1], images, strict=True)
    )
    assert found["asked"] == probe.column("class")


def test_the_map_is_one_fixed_plane(hostile: Run) -> None:
    """Against scikit-learn's PCA of the same features, up to sign and scale."""
    from sklearn.decomposition import PCA

    found = _map(hostile)
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
    before = _map(hostile)
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
    found = _map(hostile)
    assert found is not None and found["outside"] == {0: 0, 1: 0, 2: 1}
    x0, y0, x1, y1 = found["extent"]
    x, y = found["generations"][2][0]
    assert x in (x0, x1) or y in (y0, y1)
    a0, b0, a1, b1 = before["extent"]
    assert x1 - x0 < 2.01 * (a1 - a0) and y1 - y0 < 2.01 * (b1 - b0), "the others are not drawn to a point"
    monkeypatch.undo()
    assert len(_map(hostile, 7)["generations"][2]) == 7


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


def test_pictures_beyond_the_budget_are_fewer_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    seeds = SameSeeds([name for name in "abcd" for _ in "12"], 2, noise, {t: noise for t in range(21)})
    monkeypatch.setattr("difflab.report.detail.same_seeds", lambda run: seeds)
    size = lambda found: sum(  # noqa: E731
        map(len, (*found["real"], *(p for images in found["generations"].values() for p in images)))
    )
    whole = _pictures(None, 10**7)
    assert (
        in_common([whole]) == ""
        and len(whole["generations"]) == 21
        and opened(whole["real"][0]).format == "PNG"
    )
    for budget, generations, columns in (
        (1_500_000, 21, 8),
        (500_000, 13, 8),
        (200_000, 6, 4),
        (100_000, 6, 2),
    ):
        found = _pictures(None, budget)
        assert size(found) <= 1.02 * budget and opened(found["real"][0]).format == "WEBP"
        assert abs(len(found["generations"]) - generations) <= 1 and len(found["real"]) == columns == len(
            found["asked"]
        )
        assert (
            min(found["generations"]) == 0
            and max(found["generations"]) == 20
            and all(len(p) == columns for p in found["generations"].values())
        )
        said = in_common([found])
        assert (f"{len(found['generations'])} of 21 generations and {columns} of 8 columns" in said) == (
            generations < 21
        ) and "compressed" in said
    wide, narrow = _pictures(None, 200_000), found
    assert wide["asked"] == ["a", "a", "c", "c"] and narrow["asked"] == ["a", "a"]
    in_common([wide, narrow])
    assert wide["asked"] == narrow["asked"] and {
        len(p) for p in (wide["real"], *wide["generations"].values())
    } == {2}, "arms keep the same columns"


def test_the_concept_matrix_is_what_the_judge_says(hostile: Run) -> None:
    found = _concepts(hostile)
    assert found is not None
    key = feature_spaces(hostile)["pixels"]
    judge = Judge.load(hostile.path / "real" / f"judge-{key}.safetensors")
    asked, seen = hostile.samples(2).labels(), judge.predict(features(hostile, 2)).numpy()
    assert asked is not None
    table = np.zeros((5, 5), int)
    np.add.at(table, (asked, seen), 1)
    assert found["tables"][2] == table.tolist() and found["asked"][2] == table.sum(1).tolist()
    pair = Pair(features(hostile, 2), features(hostile, 2), fake_labels=torch.from_numpy(asked), judge=judge)
    assert sum(found["tables"][2][i][i] for i in range(5)) / len(asked) == pytest.approx(
        METRICS["class_accuracy"].of(pair)
    )
    first = {row["concept"]: row for row in found["changed"]}
    for i, name in enumerate(hostile.about["classes"]):
        assert first[name]["after"] == pytest.approx(table[i, i] / table[i].sum(), rel=1e-4)
    changes = [row["change"] for row in found["changed"]]
    assert changes == sorted(changes), "the most harmed first"


def test_nearest_are_the_nearest(hostile: Run) -> None:
    found = _nearest(hostile, 10**6)
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


def test_spectra_are_geometric_means_of_ring_power(hostile: Run) -> None:
    found = _spectra(hostile)
    assert (
        found is not None
        and len(found["frequency"]) == len(found["real"]) == 3
        and set(found["generations"]) == {0, 1, 2}
    )
    assert found["frequency"] == sorted(found["frequency"]) and 0.2 < found["frequency"][0] < 0.5
    images = hostile.samples(2).gather(np.arange(len(hostile.samples(2))))[..., 0].astype(float)
    window = np.outer(*[0.5 - 0.5 * np.cos(2 * np.pi * np.arange(8) / 8)] * 2)
    mean = (images * window).sum((1, 2), keepdims=True) / window.sum()
    power = np.abs(np.fft.fft2((images - mean) * window)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(8), np.fft.fftfreq(8)))
    ring = power[:, np.round(radius * 8) == 2].mean(1).clip((window**2).sum() / 12)
    assert found["generations"][2][0] == pytest.approx(np.exp(np.log(ring).mean()), rel=1e-3)
    assert all(low <= high for low, high in zip(found["low"], found["high"], strict=True))


def test_cost_adds_up(hostile: Run) -> None:
    found, timings = _cost(hostile), hostile.timings()
    assert found["seconds"] == pytest.approx(sum(row["seconds"] for row in timings), abs=0.2)
    train = next(s for s in found["stages"] if s["stage"] == "train")
    own = [row for row in timings if row["stage"] == "train"]
    assert train["times"] == 3 and train["speed"] == pytest.approx(
        3000 / sum(row["seconds"] for row in own), rel=0.02
    )
