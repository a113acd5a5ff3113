"""The detector measures of a run, against scikit-learn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from measured_digits import digits, run_chain
from sklearn.linear_model import LogisticRegression

from difflab import Monitor, compare
from difflab.core.errors import MeasureError
from difflab.core.seeds import numpy_generator
from difflab.loop.detector_sets import detector_sets
from difflab.loop.measure_run import measure_run
from difflab.metrics.interval import wilson
from difflab.runs.run import Run

RATES = ["detector_true_positive_rate", "detector_false_positive_rate"]
MEASURE = {"metrics": RATES, "resamples": 20, "count": 70, "extractors": ["pixels", "texture"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_chain(digits(measure=MEASURE), tmp_path_factory.mktemp("detector") / "run")


def halves(name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    order = numpy_generator("detector", name, 0).permutation(n)
    return order[: n // 2], order[n // 2 :]


def test_one_probe_is_tested_in_all_generations(run: Run) -> None:
    n, n_train = 70, run.about["n_train"]
    real = run.real.gather(np.arange(n_train + n)).reshape(n_train + n, -1) / 255.0
    samples = [run.samples(t).gather(np.arange(n)).reshape(n, -1) / 255.0 for t in (0, 1)]
    fit_real, calibrate = halves("real", 100)  # data.train_size
    fit_fake, test_fake = halves("samples", n)
    x = np.concatenate([real[fit_real], samples[0][fit_fake]])
    mean, scale = x.mean(0), x.std(0)
    scale[scale == 0] = 1
    labels = np.repeat([0, 1], [len(fit_real), len(fit_fake)])
    oracle = LogisticRegression(max_iter=5000).fit((x - mean) / scale, labels)

    def score(images: np.ndarray) -> np.ndarray:
        return oracle.decision_function((images - mean) / scale)

    limit = np.sort(score(real[calibrate]))[math.ceil(51 * 0.95) - 1]
    false = float((score(real[n_train:]) > limit).mean())
    expected = {
        ("detector_true_positive_rate", 0): float((score(samples[0][test_fake]) > limit).mean()),
        ("detector_true_positive_rate", 1): float((score(samples[1]) > limit).mean()),
        ("detector_false_positive_rate", 0): false,
        ("detector_false_positive_rate", 1): false,
    }
    floors = {RATES[0]: false, RATES[1]: float((score(real[calibrate]) > limit).mean())}
    found = {
        (r["metric"], r["generation"]): r
        for r in run.rows()
        if r["metric"] in RATES and r["extractor"] == "pixels"
    }
    assert len(found) == 4 and floors[RATES[1]] == 1 / 50
    for (name, t), r in found.items():
        assert (r["value"], r["floor"]) == pytest.approx((expected[name, t], floors[name])), (name, t)
        assert r["n"] == (70 if t else 35) and r["reason"] is None
        low, high = wilson(r["value"], r["n"] if name == RATES[0] else 70)
        assert r["ci_low"] <= low and r["ci_high"] >= high
    assert expected["detector_true_positive_rate", 1] > 0.5 > false
    assert not [r for r in run.rows() if r["metric"] in RATES and r["extractor"] == "texture"]


def test_too_few_real_images_for_the_threshold_are_the_reason(tmp_path) -> None:
    few = digits(
        generations=0,
        data={"source": "digits", "train_size": 30},
        measure={"metrics": ["fd", *RATES], "resamples": 0},
    )
    rows = {r["metric"]: r for r in run_chain(few, tmp_path / "run").rows()}
    for name in RATES:
        assert rows[name]["value"] is rows[name]["floor"] is None
        assert "needs 19 real images for the threshold, got 15" in rows[name]["reason"]
    assert rows["fd"]["value"] is not None


def test_the_halves_share_no_image_and_a_probe_that_cannot_be_fitted_says_so() -> None:
    real, first = torch.arange(50.0)[:, None], torch.arange(100.0, 141.0)[:, None]
    (probe, reason), sets = detector_sets(3, real, real + 1000, first, None, "a set")
    assert probe is not None and reason is None and probe.recipe["n_train"] == 25 + 20
    assert sets.train is not None and len(sets.train) == 25 and len(sets.fake.features) == 21
    later = detector_sets(3, real, real + 1000, first, first + 7, "a set")
    assert later[1].fake.features.equal(first + 7) and later[1].train.equal(sets.train)
    assert later[0][0].predict(real).equal(probe.predict(real))
    other = detector_sets(4, real, real + 1000, first, None, "a set")[1]
    assert not other.train.equal(sets.train)
    broken = torch.full_like(first, math.nan)
    (probe, reason), _ = detector_sets(3, real, real, broken, None, "a set")
    assert probe is None and reason is not None
    assert "the detector cannot be fitted: a judge needs training images of at least 2 classes" in reason


def test_a_run_that_exists_takes_them_later_with_the_same_numbers(run: Run, tmp_path) -> None:
    later = run_chain(digits(measure=MEASURE | {"metrics": ["fd"]}), tmp_path / "run")
    measure_run(later.path, RATES, extractors=["pixels"])
    keys = ("generation", "metric", "value", "n", "floor", "recipe")
    found = [
        [tuple(r[key] for key in keys) for r in part.rows() if r["metric"] in RATES] for part in (run, later)
    ]
    assert sorted(found[0]) == sorted(found[1]) and len(found[0]) == 4


@pytest.mark.parametrize("name", RATES)
def test_only_a_run_takes_them(name: str) -> None:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    with pytest.raises(MeasureError, match="needs the samples of generation 0; take it in a run"):
        compare(images, images, metrics=[name], extractors=["pixels"])
    with pytest.raises(MeasureError, match="needs more than real images"):
        Monitor(images, metrics=[name])
