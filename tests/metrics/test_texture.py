"""Shifts of texture statistics: oracles from scipy and numpy, signs, and runs that measure them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from difflab.config import parse
from difflab.core.errors import MeasureError
from difflab.features.texture import STATISTICS, texture
from difflab.loop.chain import run_chain
from difflab.metrics import METRICS, Pair
from difflab.metrics.texture import wasserstein

run_chain = partial(run_chain, plots=False)  # curves take seconds
SHIFTS = [f"{name}_shift" for name in STATISTICS]


def images(n, size=16, channels=3, seed=0):
    """Coloured noise with smooth parts, so that no statistic is degenerate."""
    draw = torch.Generator().manual_seed(seed)
    size = size if isinstance(size, tuple) else (size, size)
    coarse = nn.functional.interpolate(
        torch.rand(n, channels, 4, 4, generator=draw), size, mode="bilinear", align_corners=False
    )
    noise = torch.rand(n, channels, *size, generator=draw) * torch.rand(n, 1, 1, 1, generator=draw)
    return ((coarse + noise) / 2 * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("sizes", [(50, 50), (30, 47), (1, 9)])
def test_wasserstein_is_scipys(sizes):
    x, y = (torch.randn(n, dtype=torch.float64).round(decimals=1) for n in sizes)
    assert wasserstein(x, y) == pytest.approx(stats.wasserstein_distance(x.numpy(), y.numpy()), abs=1e-12)


def test_measures_equal_numpy_and_scipy():
    real, fake = texture(images(60, seed=1)), texture(images(45, 8, seed=2))
    pair, moved = Pair(real, fake), []
    for at, name in enumerate(SHIFTS):
        x, y = real[:, at].double().numpy(), fake[:, at].double().numpy()
        iqr = stats.iqr(x)
        # Where many images are grey a median is blind.
        centre = np.mean if name in ("colourfulness_shift", "saturation_shift") else np.median
        assert METRICS[name].of(pair) == pytest.approx((centre(y) - centre(x)) / iqr, rel=1e-6), name
        moved.append(stats.wasserstein_distance(x, y) / iqr)
    assert METRICS["texture_distance"].of(pair) == pytest.approx(np.mean(moved), rel=1e-9)


def test_the_same_images_have_not_moved():
    real = texture(images(40))
    pair = Pair(real, real.flip(0))
    assert METRICS["texture_distance"].of(pair) == pytest.approx(0, abs=1e-12)
    assert all(METRICS[name].of(pair) == 0 for name in SHIFTS)


def test_signs_say_which_way():
    real = images(80, 32)
    blurred = (
        nn.functional.avg_pool2d(real.permute(0, 3, 1, 2).float(), 3, 1, 1)
        .round()
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
    )
    pair = Pair(texture(real), texture(blurred))
    for name in (
        "sharpness",
        "spectral_slope",
        "high_frequency",
        "bits_per_pixel",
        "local_entropy",
        "contrast",
    ):
        assert METRICS[f"{name}_shift"].of(pair) < -0.1, name
    faded = Pair(texture(real), texture((real.float() / 4 + 96).to(torch.uint8)))
    for name in ("colourfulness", "saturation", "contrast"):
        assert METRICS[f"{name}_shift"].of(faded) < -1, name


def test_a_shift_counts_interquartile_ranges():
    real = torch.arange(101.0).unsqueeze(1).expand(101, 8)  # quartiles 25 and 75
    assert all(METRICS[name].of(Pair(real, real + 100)) == 2 for name in SHIFTS)
    assert METRICS["texture_distance"].of(Pair(real, real - 100)) == pytest.approx(2)


def test_grey_images_have_no_colour_and_say_so():
    real, fake = texture(images(40, channels=1)), texture(images(40, channels=1, seed=1))
    pair = Pair(real, fake)
    for name in ("colourfulness", "saturation"):
        with pytest.raises(
            MeasureError,
            match=f"{name}_shift has no value: {name} is the same in half of the real images .*: grey "
            "images have no colour",
        ):
            METRICS[f"{name}_shift"].of(pair)
    assert all(math.isfinite(METRICS[name].of(pair)) for name in SHIFTS[2:])
    six = [stats.wasserstein_distance(real[:, i], fake[:, i]) / stats.iqr(real[:, i]) for i in range(2, 8)]
    assert METRICS["texture_distance"].of(pair) == pytest.approx(np.mean(six), rel=1e-5)


def test_real_images_that_are_all_the_same_give_no_unit():
    real = texture(torch.full((9, 8, 8, 1), 3, dtype=torch.uint8))
    for name, match in (
        ("contrast_shift", "contrast is the same in half"),
        ("texture_distance", "no statistic varies among the real images"),
    ):
        with pytest.raises(MeasureError, match=match):
            METRICS[name].of(Pair(real, texture(images(9, 8, 1))))


@pytest.mark.parametrize("name", [*SHIFTS, "texture_distance"])
def test_every_texture_measure_says_what_it_is_and_takes_rows(name):
    cls = METRICS[name]
    assert (
        cls.extractor == "texture" and cls.unit == "real interquartile ranges" and cls.range[0] < cls.range[1]
    )
    real, fake = texture(images(60, seed=3)), texture(images(50, seed=4))
    r, f = torch.randperm(60)[:30].sort().values, torch.randperm(50)[:20].sort().values
    assert cls.of(Pair(real, fake), r, f) == pytest.approx(
        cls.of(Pair(real[r], fake[f])), rel=1e-9, abs=1e-12
    )
    with pytest.raises(
        MeasureError, match="measures of the extractor texture read its 8 statistics, got 3 features"
    ):
        cls.of(Pair(torch.randn(9, 3), torch.randn(9, 3)))
    metric = cls()
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert metric.compute().item() == pytest.approx(cls.of(Pair(real, fake)), rel=1e-9)


RUN = {
    "generations": 0,
    "data": {"source": "digits"},
    "model": {"family": "memoriser"},
    "sample": {"count": 80},
    "probe": {"per_condition": 0},
}


def test_a_run_takes_texture_measures_on_their_extractor_and_the_others_on_the_rest(tmp_path):
    measure = {
        "extractors": ["texture", "pixels"],
        "metrics": ["fd", "class_entropy", "texture_distance", *SHIFTS],
        "resamples": 20,
        "count": 70,
    }
    rows = {
        (r["metric"], r["extractor"]): r
        for r in run_chain(parse({**RUN, "measure": measure}), tmp_path / "run").rows()
    }
    on_texture = {(name, "texture") for name in (*SHIFTS, "texture_distance")}
    assert (
        set(rows) == {("flagged_share", "none"), ("fd", "pixels"), ("class_entropy", "pixels")} | on_texture
    )
    for metric, extractor in on_texture - {
        ("colourfulness_shift", "texture"),
        ("saturation_shift", "texture"),
    }:
        r = rows[metric, extractor]
        assert (
            r["ci_low"] <= r["value"] <= r["ci_high"] and abs(r["value"]) < 1 and math.isfinite(r["floor"])
        ), metric
    for metric in ("colourfulness_shift", "saturation_shift"):
        assert rows[metric, "texture"]["value"] is None and rows[metric, "texture"]["reason"].endswith(
            "grey images have no colour"
        )


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (
            {"metrics": ["fd", "texture_distance"]},
            "texture_distance is measured on the extractor 'texture'; add it to measure.extractors",
        ),
        (
            {"metrics": ["fd", "texture_distance"], "extractors": ["texture"]},
            "fd is not measured on the extractor 'texture'; add another",
        ),
        (
            {"metrics": ["fd"], "extractors": ["pixels", "texture"], "judge": "texture"},
            "measure.judge: class judges cannot use 'texture' features",
        ),
    ],
)
def test_measures_and_extractors_that_do_not_go_together_are_refused_before_anything_is_fitted(
    tmp_path, measure, said
):
    with pytest.raises(MeasureError, match=said):
        run_chain(parse({**RUN, "measure": measure}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("gen-*"))
