from __future__ import annotations

import numpy as np
import pytest
import torch
from test_pictures import opened

from difflab.metrics import METRICS, Judge, Pair, nearest_real
from difflab.report.detail import _concepts, _cost, _map, _nearest, _pictures, _spectra, feature_spaces
from difflab.run import Run


def features(run: Run, t: int | None = None) -> torch.Tensor:
    shards = run.real if t is None else run.samples(t)
    return shards.features(feature_spaces(run)["pixels"])


def test_pictures_are_the_probe_to_the_bit(hostile: Run) -> None:
    found = _pictures(hostile, 10**6)
    assert found is not None and found["per"] == 2 and len(found["asked"]) == 10 and set(found["generations"]) == {0, 1, 2}
    probe = hostile.probe(1, 10)
    images = np.concatenate([probe.decode(k) for k in probe.shards])
    assert all((np.asarray(opened(text)) == image[..., 0]).all() for text, image in zip(found["generations"][1], images, strict=True))
    assert found["asked"] == probe.column("class")


def test_the_map_is_one_fixed_plane(hostile: Run) -> None:
    """Against scikit-learn's PCA of the same features, up to sign and scale."""
    from sklearn.decomposition import PCA

    found = _map(hostile)
    assert found is not None
    held_out = features(hostile)[hostile.about["n_train"] :].double().numpy()
    pca = PCA(2).fit(held_out)
    assert found["explained"] == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-3)
    for ours, theirs in ((found["real"], held_out), (found["generations"][2], features(hostile, 2).double().numpy())):
        projected = pca.transform(theirs)
        for axis in range(2):
            assert abs(np.corrcoef(np.array(ours)[:, axis], projected[: len(ours), axis])[0, 1]) > 0.999
    assert max(abs(v) for point in found["real"] for v in point) == pytest.approx(1, abs=1e-3)


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
    assert sum(found["tables"][2][i][i] for i in range(5)) / len(asked) == pytest.approx(METRICS["class_accuracy"].of(pair))
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
    assert [p["distance"] for p in found["pairs"]] == pytest.approx((distance.sort().values[:8] / honest).tolist(), rel=1e-2)
    first = int(distance.argmin())
    assert (np.asarray(opened(found["pairs"][0]["sample"])) == hostile.samples(2).gather(np.array([first]))[0, ..., 0]).all()
    assert (np.asarray(opened(found["pairs"][0]["real"])) == hostile.real.gather(index[[first]].numpy())[0, ..., 0]).all()


def test_spectra_are_geometric_means_of_ring_power(hostile: Run) -> None:
    found = _spectra(hostile)
    assert found is not None and len(found["frequency"]) == len(found["real"]) == 3 and set(found["generations"]) == {0, 1, 2}
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
    assert train["times"] == 3 and train["speed"] == pytest.approx(3000 / sum(row["seconds"] for row in own), rel=0.02)
