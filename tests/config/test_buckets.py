"""Sizes of nearly equal area, and the forms of data.buckets."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from difflab.config import Data, parse, recipe_of
from difflab.config.buckets import EqualArea
from difflab.core.size import bucket_of

# Podell et al. 2307.01952, appendix I: (height, width) of the upright half; the rest is mirrored.
SDXL = [
    *((2048, 512), (1984, 512), (1920, 512), (1856, 512), (1792, 576), (1728, 576), (1664, 576), (1600, 640)),
    *((1536, 640), (1472, 704), (1408, 704), (1344, 704), (1344, 768), (1280, 768), (1216, 832), (1152, 832)),
    *((1152, 896), (1088, 896), (1088, 960), (1024, 960), (1024, 1024)),
]
MODEL = {"family": "pixel-unet"}


def test_1024_64_and_4_are_the_buckets_of_sdxl():
    sizes = EqualArea(size=1024).sizes
    assert set(sizes) == {*SDXL, *((w, h) for h, w in SDXL)} and len(sizes) == 41
    assert [w / h for h, w in sizes] == sorted(w / h for h, w in sizes)


@pytest.mark.parametrize(
    ("size", "step", "ratio"), [(64, 8, 2.0), (512, 64, 2.0), (48, 4, 3.0), (32, 32, 4.0)]
)
def test_buckets_meet_their_definition(size, step, ratio):
    sizes = EqualArea(size=size, step=step, max_ratio=ratio).sizes
    assert (size, size) in sizes and len(set(sizes)) == len(sizes)
    for height, width in sizes:
        assert height % step == width % step == 0 and (width, height) in sizes
        assert 0.9 * size**2 < height * width <= size**2 and max(height, width) <= ratio * min(height, width)


@pytest.mark.parametrize(
    ("image", "bucket"), [((300, 500), 2), ((500, 300), 0), ((100, 110), 1), ((1, 999), 2)]
)
def test_an_image_goes_to_the_nearest_logarithm_of_the_aspect_ratio(image, bucket):
    assert bucket_of(*image, [(12, 8), (8, 8), (8, 12)]) == bucket


def test_the_boundary_between_two_buckets_is_their_geometric_mean():
    sizes = [(8, 8), (8, 16)]  # ratios 1 and 2
    assert bucket_of(1000, 1413, sizes) == 0 and bucket_of(1000, 1416, sizes) == 1


def test_the_order_of_the_sizes_has_no_meaning():
    first = Data(buckets=[[8, 12], [12, 8], [8, 8]])
    assert first == Data(buckets=[[12, 8], [8, 8], [8, 12]])
    assert first.bucket_sizes == [(12, 8), (8, 8), (8, 12)]


def test_a_config_survives_yaml_and_json():
    for buckets in ([[8, 12], [12, 8]], {"size": 64, "step": 8, "max_ratio": 2.0}):
        config = parse({"data": {"buckets": buckets}, "model": MODEL})
        assert parse(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_the_recipe_of_a_run_without_buckets_is_that_of_before():
    without = recipe_of(parse({"data": {}, "model": MODEL}))
    assert "data.buckets" not in without
    few = recipe_of(parse({"data": {"buckets": [[8, 8], [8, 12]]}, "model": MODEL}))
    assert few["data.buckets"] == [[8, 8], [8, 12]]
    area = recipe_of(parse({"data": {"buckets": {"size": 64}}, "model": MODEL}))
    assert area["data.buckets.size"] == 64 and area["data.buckets.step"] == 64


@pytest.mark.parametrize(
    "values", [{"size": 0}, {"size": 64, "step": 0}, {"size": 65}, {"step": 64}, {"size": "64"}]
)
def test_impossible_areas(values):
    with pytest.raises(ValidationError):
        EqualArea(**values)
