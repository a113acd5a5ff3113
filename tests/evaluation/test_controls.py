"""Real images in the look of others: what a filter and colours explain is explained, content stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.fft import dctn, idctn

from difflab.config import Data
from difflab.data.registry import open_source
from difflab.evaluation.controls import (
    LUMA,
    _few_levels,
    _n_colours,
    _power,
    _ring,
    defective,
    in_look,
    matched,
    recoloured,
    reencoded,
)
from difflab.evaluation.simulate import SMALLEST, simulate
from difflab.features.artefacts import STATISTICS as artefact_names
from difflab.features.artefacts import artefacts
from difflab.features.texture import STATISTICS, texture


@pytest.fixture(scope="module", params=["digits", "emoji"])
def halves(request) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint halves of 300 real images."""
    source = open_source(Data(source=request.param), 0)
    order = np.random.default_rng(0).permutation(len(source))[:600]
    images = np.stack([source.read(int(i)) for i in order])
    return images[:300], images[300:]


def median(images: np.ndarray, statistic: str) -> float:
    return float(texture(torch.from_numpy(images))[:, STATISTICS.index(statistic)].median())


@pytest.mark.parametrize(
    ("kind", "statistic"), [("blurred", "sharpness"), ("sharpened", "sharpness"), ("saturated", "saturation")]
)
def test_the_look_of_changed_images_is_taken_on(halves, kind, statistic):
    """At least two thirds of the shift are matched (saturation in HSV is not quite the mean chroma)."""
    real, other = halves
    if kind == "saturated" and real.shape[3] == 1:
        return
    changed, _ = simulate(kind, other, np.zeros(len(other), np.int64), 0.7, 300)
    before, after, target = (median(x, statistic) for x in (real, matched(real, changed), changed))
    assert abs(before - target) > 0.1 * before  # there was something to take on
    assert abs(after - target) < abs(before - target) / 3


@pytest.mark.parametrize(
    ("kind", "looks"),
    [("posterised", ["posterised"]), ("banded", ["banded", "posterised"]), ("blocked", ["blocked"])],
)
def test_defects_that_no_filter_makes_are_taken_on(halves, kind, looks):
    """At least two thirds of the shift of the statistic that shows the defect."""
    real, other = halves
    if kind == "blocked" and real.shape[1] < SMALLEST:
        return
    changed, _ = simulate(kind, other, np.zeros(len(other), np.int64), 0.8, 300)
    statistic = artefact_names.index("blocking" if kind == "blocked" else "palette")
    before, filtered, after, target = (
        float(artefacts(torch.from_numpy(x))[:, statistic].median())
        for x in (real, matched(real, changed), in_look(real, changed, looks), changed)
    )
    assert abs(after - target) < abs(before - target) / 3
    # Levels of grey images that are the same in all of them are matched by rank already.
    assert abs(filtered - target) >= 2 * abs(after - target)


@pytest.mark.parametrize("kind", ["posterised", "banded"])
def test_a_filter_alone_copies_no_levels(halves, kind):
    """Less than a third of the shift of the palette, also where all samples have the same levels."""
    real, other = halves
    changed, _ = simulate(kind, other, np.zeros(len(other), np.int64), 0.8, 300)
    before, after, target = (
        float(artefacts(torch.from_numpy(x))[:, artefact_names.index("palette")].median())
        for x in (real, matched(real, changed, levels=False), changed)
    )
    assert before - after < (before - target) / 3


def test_without_such_a_look_nothing_is_quantised(halves):
    real, other = halves
    assert defective(real, other, ["blurred", "sharpened"]) is real
    assert in_look(real, real, []) is real  # looks like them as it is


@pytest.mark.parametrize(
    ("kind", "change"), [("blurred", matched), ("sharpened", matched), ("faded", recoloured)]
)
def test_the_change_that_comes_nearest_is_made(halves, kind, change):
    """A blur is a filter. Less contrast is a change of colours, and a filter would break flat areas."""
    real, other = halves
    if kind == "faded":
        if real.shape[3] == 1:
            return  # grey images without flat areas: both changes are the same
        changed = (64 + other * 0.5).astype(np.uint8)
    else:
        changed, _ = simulate(kind, other, np.zeros(len(other), np.int64), 0.8, 300)
    assert np.array_equal(in_look(real, changed, []), change(real, changed))


def test_images_that_were_selected_have_no_control_in_their_look():
    """The half of least contrast looks different from all, but all with less contrast look different from it."""
    rng = np.random.default_rng(0)
    contrast = rng.uniform(10, 100, (400, 1, 1, 1))
    images = (128 + contrast * rng.choice((-1, 1), (400, 16, 16, 1))).astype(np.uint8)
    real, other = images[:200], images[200:]
    selected = other[other.std((1, 2, 3)) < 55]
    assert in_look(real, selected, []) is real
    lowered = (64 + other * 0.5).astype(np.uint8)
    assert np.allclose(
        np.sort(in_look(real, lowered, []).std((1, 2, 3))), np.sort(lowered.std((1, 2, 3))), rtol=0.2
    )


def test_equal_levels_stay_equal():
    """A monotone change of grey levels is undone exactly, chroma apart."""
    image = np.array([10, 10, 10, 200, 200, 90, 10, 90], np.uint8).reshape(1, 2, 4, 1)
    assert np.array_equal(recoloured(image, image // 2), image // 2)


def test_colours_are_counted_by_hand():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[0, 1] = (1, 0, 0), (0, 1, 0)
    assert _n_colours(image) == 3 and _n_colours(image[..., :1]) == 2
    two = np.array([[[0], [200]]], np.uint8)[None]
    assert _few_levels(np.array([[[[90], [120]]]], np.uint8), two).ravel().tolist() == [0, 200]


def test_a_linear_filter_is_found_exactly_where_nothing_clips():
    """Images of little contrast around grey: the look of a blur is the blur itself, image by image."""
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 25, (200, 16, 16, 1)).clip(40, 215).astype(np.uint8)
    blurred = np.stack(
        [np.asarray(Image.fromarray(x[..., 0]).filter(ImageFilter.GaussianBlur(1)))[..., None] for x in noise]
    )
    got, inner = matched(noise, blurred).astype(float), (slice(None), slice(3, -3), slice(3, -3))
    assert np.corrcoef(got[inner].ravel(), blurred[inner].ravel())[0, 1] > 0.97
    assert np.corrcoef(noise[inner].ravel(), blurred[inner].ravel())[0, 1] < 0.6


def test_the_look_of_equal_images_changes_next_to_nothing(halves):
    real, other = halves
    assert np.abs(matched(real, real).astype(int) - real).max() <= 1
    assert np.abs(matched(real, other).astype(int) - real).mean() < 6  # the halves differ a little


def test_content_is_not_taken_on(halves):
    """One image repeated has no variety; other images in its look keep theirs."""
    real, other = halves
    got = matched(real, other[:1].repeat(300, axis=0)).astype(float)
    assert got.var(0).sum() > 0.3 * real.astype(float).var(0).sum()


def test_brightness_is_taken_on_and_shapes_and_types_stay(halves):
    real, _ = halves
    dark = (real * 0.4).astype(np.uint8)
    got = matched(real, dark)
    assert got.dtype == np.uint8 and got.shape == real.shape
    weight = LUMA if real.shape[3] == 3 else np.ones(1)
    assert float((got @ weight).mean()) == pytest.approx(float((dark @ weight).mean()), abs=2)


def test_constant_images_on_either_side_are_no_error():
    flat = np.full((4, 8, 8, 3), 7, np.uint8)
    noisy = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    assert np.abs(matched(noisy, flat).astype(int) - 7).max() <= 1
    assert matched(flat, noisy).shape == flat.shape


def test_reencoding_changes_little_and_is_what_pillow_does(halves):
    real, _ = halves
    got = reencoded(real)
    assert got.shape == real.shape and got.dtype == np.uint8
    assert 0 < np.abs(got.astype(int) - real).mean() < 12
    assert np.abs(reencoded(real, 95).astype(int) - real).mean() < np.abs(got.astype(int) - real).mean()


def test_cosine_transforms_are_spectra_of_mirrored_images():
    """The power per ring and the filter, by the FFT of images that are mirrored at their edges."""
    height, width = 6, 10
    images = np.random.default_rng(0).uniform(0, 255, (5, height, width))
    mirrored = np.concatenate([images, images[:, ::-1]], axis=1)
    mirrored = np.concatenate([mirrored, mirrored[:, :, ::-1]], axis=2)
    radius = np.hypot(np.fft.fftfreq(2 * height)[:, None], np.fft.fftfreq(2 * width)) * min(height, width) * 2
    ring, spectrum = np.ceil(radius - 1e-9).astype(int), np.fft.fft2(mirrored, axes=(1, 2))
    inside = np.logical_and.outer(  # a mirrored image has nothing at the highest frequency
        *(np.fft.fftfreq(2 * side) > -0.5 for side in (height, width))
    )
    power = np.bincount(ring[inside], (np.abs(spectrum) ** 2).mean(0)[inside]) / np.bincount(ring[inside])
    got = _power(dctn(images, axes=(1, 2)))
    assert np.allclose(got, power[: len(got)])
    gain = np.linspace(1, 0.2, ring.max() + 1)
    filtered = np.fft.ifft2(spectrum * gain[ring], axes=(1, 2)).real[:, :height, :width]
    assert np.allclose(idctn(dctn(images, axes=(1, 2)) * gain[_ring(height, width)], axes=(1, 2)), filtered)
