"""Shifts of artefact statistics: their unit, their signs on changed images, and what has no value."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import stats

from difflab.config import Data, parse
from difflab.core.errors import MeasureError
from difflab.core.rows import KEYED
from difflab.core.rows import STATISTICS as EXTRACTORS
from difflab.data.registry import open_source
from difflab.features.artefacts import STATISTICS, artefacts
from difflab.loop.chain import run_chain
from difflab.metrics import METRICS, Pair

run_chain = partial(run_chain, plots=False)  # curves take seconds
SHIFTS = [f"{name}_shift" for name in STATISTICS]


def read(name: str, n: int, size: int | None = None) -> np.ndarray:
    source = open_source(Data(source=name, image_size=size), 0)
    order = np.random.default_rng(1).permutation(len(source))[:n]
    return np.stack([source.read(int(i)) for i in order])


@pytest.fixture(scope="module")
def emoji() -> np.ndarray:
    return read("emoji", 320, 32)


def each(images: np.ndarray, change) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(x.squeeze()))) for x in images]).reshape(images.shape)


def jpeg(quality: int):
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, subsampling=0)
        return Image.open(file)

    return change


def levels(n: int):
    return lambda x: (np.round(x / 255 * (n - 1)) * 255 / (n - 1)).round().astype(np.uint8)


def truncated(x: np.ndarray) -> np.ndarray:
    """Without the upper half of the frequencies: Gibbs' ringing."""
    y = np.pad(x, ((0, 0), (0, x.shape[1]), (0, x.shape[2]), (0, 0)), "symmetric")
    kept = [np.abs(np.fft.fftfreq(n)) <= 0.25 for n in y.shape[1:3]]
    spectrum = np.fft.fft2(y, axes=(1, 2)) * (kept[0][:, None] & kept[1])[None, :, :, None]
    y = np.fft.ifft2(spectrum, axes=(1, 2)).real[:, : x.shape[1], : x.shape[2]]
    return y.round().clip(0, 255).astype(np.uint8)


def blur(x: np.ndarray) -> np.ndarray:
    return each(x, lambda image: image.filter(ImageFilter.GaussianBlur(0.7)))


def sharpen(x: np.ndarray) -> np.ndarray:
    return each(x, lambda image: image.filter(ImageFilter.UnsharpMask(1, 150, 0)))


def shifts(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    pair = Pair(*(artefacts(torch.from_numpy(x)) for x in (real, fake)))
    return {name: METRICS[name].of(pair) for name in SHIFTS}


def test_a_shift_counts_interquartile_ranges_but_no_smaller_ones_than_can_be_seen():
    wide = torch.arange(101.0).unsqueeze(1).expand(101, 4)
    narrow = wide / 1e5
    for name, visible in zip(SHIFTS, (0.1, 0.2, 0.1, 0.01), strict=True):
        assert METRICS[name].of(Pair(wide, wide - 75)) == pytest.approx(-75 / stats.iqr(np.arange(101)))
        assert METRICS[name].of(Pair(narrow, narrow + 0.3)) == pytest.approx(0.3 / visible, rel=1e-5)
        assert METRICS[name].of(Pair(wide, wide.flip(0))) == 0


@pytest.mark.parametrize(
    ("change", "name", "least"),
    [
        (levels(16), "palette_shift", -2),
        (levels(8), "palette_shift", -4),
        (levels(4), "palette_shift", -5),
        (lambda x: each(x, lambda image: image.quantize(8, dither=0).convert("RGB")), "palette_shift", -4),
        (levels(32), "banding_shift", 1),
        (lambda x: each(x, jpeg(20)), "blocking_shift", 0.5),
        (lambda x: each(x, jpeg(10)), "blocking_shift", 1),
        (truncated, "ringing_shift", 2),
    ],
)
def test_each_artefact_moves_its_own_statistic(emoji, change, name, least):
    value = shifts(emoji[:160], change(emoji[160:]))[name]
    assert value * np.sign(least) > abs(least)


@pytest.mark.parametrize("change", [lambda x: x, blur, sharpen, lambda x: each(x, jpeg(90))])
def test_other_changes_move_none_of_them(emoji, change):
    moved = shifts(emoji[:160], change(emoji[160:]))
    worse = {"palette_shift": -1, "banding_shift": 1, "blocking_shift": 1, "ringing_shift": 1}
    assert all(moved[name] * worse[name] < 0.5 for name in SHIFTS), moved


def test_digits_are_too_small_for_blocks_and_rings_and_say_so():
    real = artefacts(torch.from_numpy(read("digits", 100)))
    for name, why in (
        ("blocking_shift", "they have no border of 8 x 8 blocks inside"),
        ("ringing_shift", "they have no edge with a flat side of 7 pixels"),
    ):
        with pytest.raises(
            MeasureError, match=f"{name} has no value: .* is the same in all real images: {why}"
        ):
            METRICS[name].of(Pair(real, real))
    few = artefacts(torch.from_numpy(levels(4)(read("digits", 100))))
    assert METRICS["palette_shift"].of(Pair(real, few)) < -2


@pytest.mark.parametrize("name", SHIFTS)
def test_every_artefact_measure_reads_its_extractor_alone(name):
    cls = METRICS[name]
    assert cls.extractor == "artefacts" and cls.needs == "features" and cls.better == "real"
    with pytest.raises(MeasureError, match="the extractor artefacts read its 4 statistics, got 8 features"):
        cls.of(Pair(torch.randn(9, 8), torch.randn(9, 8)))


def test_measures_of_statistics_name_an_extractor_that_there_is():
    named = {metric.extractor for metric in METRICS.values()} - {None}
    assert named == {*EXTRACTORS, *KEYED}


RUN = {
    "generations": 0,
    "data": {"source": "digits"},
    "model": {"family": "memoriser"},
    "sample": {"count": 80},
    "probe": {"per_condition": 0},
}


def test_a_run_takes_the_measures_of_each_extractor_of_statistics_on_it_alone(tmp_path):
    measure = {
        "extractors": ["artefacts", "texture", "pixels"],
        "metrics": ["fd", "palette_shift", "contrast_shift", "ringing_shift"],
        "resamples": 20,
        "count": 70,
    }
    rows = {
        (r["metric"], r["extractor"]): r
        for r in run_chain(parse({**RUN, "measure": measure}), tmp_path / "run").rows()
    }
    assert set(rows) - {("flagged_share", "none")} == {
        ("fd", "pixels"),
        ("palette_shift", "artefacts"),
        ("contrast_shift", "texture"),
        ("ringing_shift", "artefacts"),
    }
    assert abs(rows["palette_shift", "artefacts"]["value"]) < 1
    assert "no edge with a flat side" in rows["ringing_shift", "artefacts"]["reason"]
    with pytest.raises(
        MeasureError, match="palette_shift is measured on the extractor 'artefacts'; add it to"
    ):
        lacking = {"metrics": ["fd", "palette_shift"], "extractors": ["pixels", "texture"]}
        run_chain(parse({**RUN, "measure": lacking}), tmp_path / "other")
