from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from difflab.config import parse
from difflab.core.errors import MeasureError
from difflab.features.spread_spectrum import agreements, cell, marked
from difflab.loop.chain import run_chain
from difflab.loop.measure_run import measure_run
from difflab.metrics import METRICS, Pair
from difflab.metrics.measurement import take

BIT, DETECTED, Z = (METRICS[f"watermark_{name}"] for name in ("bit_accuracy", "detected", "z"))
RNG = np.random.default_rng(0)


def noisy(n: int, sigma: float = 6, side: int = 16) -> np.ndarray:
    """Images of common content that fine noise hides marks in."""
    content = np.random.default_rng(1).normal(scale=40, size=(1, side // 4, side // 4, 1))
    content = np.kron(content, np.ones((1, 4, 4, 1)))
    return np.clip(128 + content + RNG.normal(scale=sigma, size=(n, side, side, 1)), 0, 255).astype(np.uint8)


def of_keys(images: np.ndarray, keys: int) -> list[torch.Tensor]:
    """The agreements of the images with the first keys, which differ in signs only."""
    signs = agreements(torch.from_numpy(images), 0) * torch.from_numpy(cell(0)).flatten()
    return [signs * torch.from_numpy(cell(key)).flatten() for key in range(keys)]


def pair(key: int, fake: np.ndarray, real: np.ndarray) -> Pair:
    return Pair(agreements(torch.from_numpy(real), key), agreements(torch.from_numpy(fake), key))


def test_a_strong_mark_has_all_and_no_mark_has_none_of_it():
    with_mark, without = (pair(3, images, noisy(60)) for images in (marked(noisy(60), 3, 12), noisy(60)))
    assert DETECTED.of(with_mark) == 1 and BIT.of(with_mark) > 0.95 and Z.of(with_mark) > 15
    assert DETECTED.of(without) < 0.2 and abs(BIT.of(without) - 0.5) < 0.15 and abs(Z.of(without)) < 4


def test_bit_accuracy_and_detection_are_means_with_wilson_or_normal_intervals():
    both = np.concatenate([marked(noisy(30), 3, 20), noisy(90)])
    measured = take(DETECTED, pair(3, both, noisy(20)), lambda metric, pair: [])
    assert abs(measured.value - 0.25) < 0.05 and measured.counted == 120
    low, high = measured.interval
    assert low < 0.25 < high and 0.1 < high - low < 0.25


def test_the_evidence_grows_with_the_root_of_n():
    z = {}
    for n in (20, 80):
        z[n] = np.mean([Z.of(pair(key, marked(noisy(n, 20), key, 1), noisy(4 * n, 20))) for key in range(40)])
    assert 1.6 < z[80] / z[20] < 2.4 and z[20] > 1


def test_without_a_mark_z_is_at_most_standard_normal_over_keys():
    """Samples that are alike, and unlike the real images: the law of z over keys holds all the same."""
    real, fake = noisy(40), noisy(3, 1).repeat(10, 0)
    agreeing = list(zip(of_keys(real, 1500), of_keys(fake, 1500), strict=True))
    z = np.array([Z.of(Pair(*sides)) for sides in agreeing])
    for t in (0.5, 1.0, 1.645, 2.326):
        rate, p = (z >= t).mean(), norm.sf(t)
        assert rate <= p + 4 * (p / len(z)) ** 0.5 and rate > 0.5 * p
    # Trials of single images under one key are not independent, so that their sum has no such law.
    single = np.array([float(of_fake.sum()) for _, of_fake in agreeing])
    assert single.std() > 2 * (fake.shape[0] * 256) ** 0.5


def test_the_interval_of_z_covers_new_draws():
    real, draws = noisy(300), [pair(5, marked(noisy(200), 5, 1), noisy(200)) for _ in range(30)]
    values = [Z.of(draw) for draw in draws]
    measured = take(Z, pair(5, marked(noisy(200), 5, 1), real), lambda metric, pair: [])
    low, high = measured.interval
    assert 0.5 * (high - low) / 2 < 1.96 * np.std(values) < 2 * (high - low) / 2
    assert measured.error > 0


def test_equal_sets_give_no_evidence():
    same = pair(5, noisy(20), noisy(20))
    assert Z.of(Pair(same.fake, same.fake)) == 0


@pytest.mark.parametrize("metric", [BIT, DETECTED, Z])
def test_other_features_are_refused(metric):
    with pytest.raises(MeasureError, match="reads the 256 chips of an extractor watermark:KEY, got 8"):
        metric.of(Pair(torch.randn(9, 8), torch.randn(9, 8)))


RUN = {
    "generations": 0,
    "data": {"source": "digits"},
    "model": {"family": "memoriser"},
    "sample": {"count": 80},
    "probe": {"per_condition": 0},
}


def test_a_run_without_a_watermark_takes_them_with_a_key_and_later_ones_are_added(tmp_path):
    measure = {
        "extractors": ["pixels", "watermark:7"],
        "metrics": ["fd", "watermark_bit_accuracy", "watermark_detected", "watermark_z"],
        "count": 70,
    }
    run = run_chain(parse({**RUN, "measure": measure}), tmp_path / "run")
    rows = {(row["metric"], row["extractor"]): row for row in run.rows()}
    for name in measure["metrics"][1:]:
        row = rows[name, "watermark:7"]
        assert row["n"] == 70 and row["ci_low"] <= row["value"] <= row["ci_high"] and row["floor"] is not None
    assert abs(rows["watermark_bit_accuracy", "watermark:7"]["value"] - 0.5) < 0.2
    assert abs(rows["watermark_z", "watermark:7"]["value"]) < 4 and ("fd", "watermark:7") not in rows
    measure_run(run, ["watermark_detected"], extractors=["watermark:8,after=jpeg"])
    added = {row["extractor"] for row in run.rows() if row["metric"] == "watermark_detected"}
    assert added == {"watermark:7", "watermark:8,after=jpeg"}


def test_a_missing_key_is_said_before_the_run(tmp_path):
    lacking = {"metrics": ["watermark_z"], "extractors": ["pixels"]}
    with pytest.raises(MeasureError, match="measured on the extractor 'watermark:KEY'; add it to"):
        run_chain(parse({**RUN, "measure": lacking}), tmp_path / "run")
    with pytest.raises(MeasureError, match="needs the key of the mark"):
        run_chain(parse({**RUN, "measure": {**lacking, "extractors": ["watermark"]}}), tmp_path / "run")
