from __future__ import annotations

import numpy as np
import pytest
import torch
from chains import DIGITS, config
from made import NUMBERS, checked

from difflab.core.errors import ConfigError
from difflab.core.seeds import image_seeds
from difflab.core.shape import Shape
from difflab.features.spread_spectrum import agreements, detected, marked
from difflab.loop.chain import run_chain
from difflab.loop.reuse import keys
from difflab.policies import At, parse

PIXELS = np.full((40, 16, 16, 3), 100, np.uint8)
SEEDS = image_seeds(0, 0, 0, range(40))
TINY = {
    **DIGITS,
    "generations": 1,
    "train": {**DIGITS["train"], "images_seen": 64, "checkpoint_every": 0},
    "sample": {**DIGITS["sample"], "count": 40, "steps": 1, "shard_size": 20, "batch_size": 40},
}


def drawn(pixels=PIXELS, seeds=SEEDS, **fields):
    made = config({"policy": "watermark", "key": 7, **fields}, base=TINY)
    return made.policies[0].drawn_images(At(generation=0, position=0, config=made), pixels, seeds)


def test_every_sample_carries_the_mark_of_the_key_at_the_strength():
    assert np.array_equal(drawn(strength=3), marked(PIXELS, 7, 3))
    psnr = 10 * np.log10(255**2 / np.square(drawn().astype(float) - PIXELS).mean())
    assert abs(psnr - 42.11) < 0.01  # the default strength 2


def test_a_share_is_chosen_by_the_seed_of_each_image():
    with_mark = (drawn(share=0.5) != PIXELS).any((1, 2, 3))
    assert 10 < with_mark.sum() < 30
    part = (drawn(PIXELS[5:9], SEEDS[5:9], share=0.5) != PIXELS[5:9]).any((1, 2, 3))
    assert part.tolist() == with_mark[5:9].tolist()


def test_images_of_several_sizes_are_marked_each_at_its_size():
    images = np.empty(2, dtype=object)
    images[:] = [np.full((8, 16, 1), 50, np.uint8), np.full((16, 8, 1), 50, np.uint8)]
    for image, before in zip(drawn(images, SEEDS[:2]), images, strict=True):
        assert np.array_equal(image, marked(before[None], 7, 2)[0])


def test_a_chain_differs_by_the_mark_only_and_its_recipe_knows_it(tmp_path):
    entry = {"policy": "watermark", "key": 7, "strength": 9, "last": 0}
    plain, own = (config(*entries, base=TINY) for entries in ([], [entry]))
    runs = [run_chain(made, tmp_path / str(i), until=0) for i, made in enumerate((plain, own))]
    before, after = (run.samples(0).gather(np.arange(40)) for run in runs)
    assert np.array_equal(marked(before, 7, 9), after)
    assert '"policies": ["watermark"]' in runs[1].samples(0).table(0, ["settings"])["settings"][0].as_py()
    other = config({**entry, "key": 8}, base=TINY)
    assert len({keys(made)[0, "sample"] for made in (plain, own, other)}) == 3
    assert keys(plain)[0, "train"] == keys(own)[0, "train"]
    resumed = run_chain(own, tmp_path / "1")
    whole = run_chain(own, tmp_path / "2")
    assert resumed.samples(1).hash() == whole.samples(1).hash()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strength": 0}, "'strength'"),
        ({"key": -1}, "'key'"),
        ({"share": 0}, "'share'"),
        ({"method": "tree-ring"}, "'method'"),
        ({"method": "dwtDct", "strength": 3}, "strength and chip belong to spread_spectrum"),
    ],
)
def test_settings_out_of_range_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        checked({"policy": "watermark", "key": 7, **fields})


def test_a_missing_key_and_numbers_are_refused():
    with pytest.raises(ConfigError, match="'key' is missing"):
        checked("watermark")
    with pytest.raises(ConfigError, match=r"marks images, but .*family=categorical are numbers"):
        checked({"policy": "watermark", "key": 7}, base=NUMBERS)


def test_small_images_are_refused_with_the_smallest_size_that_works(tmp_path):
    own = parse({"policy": "watermark", "key": 7, "chip": 2})
    with pytest.raises(ConfigError, match="needs images of 16 x 16 pixels or more for its 32 bits"):
        own.check_shape(Shape((8, 8, 1)))
    own.check_shape(Shape((16, 16, 1)))
    small = {"policy": "watermark", "key": 7, "method": "dwtDct"}
    with pytest.raises(
        ConfigError, match=r"dwtDct needs images of 256 x 256 .* but they have 8 x 8; use larger"
    ):
        run_chain(config(small, base=TINY), tmp_path / "run")  # before anything is fitted
    assert not (tmp_path / "run" / "gen-000").exists()
    with pytest.raises(ConfigError, match="have 64 x 64"):
        checked(small, data={"source": "photos", "image_size": 64})


def test_dwtdct_is_that_of_the_package():
    from imwatermark import WatermarkDecoder

    from difflab.core.seeds import numpy_generator

    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(60, 200, (1, 8, 8, 3)), np.ones((1, 64, 64, 1)))
    image = (coarse + rng.integers(0, 5, coarse.shape)).astype(np.uint8)
    with_mark = drawn(image, SEEDS[:1], method="dwtDct")[0]
    read = WatermarkDecoder("bits", 32).decode(with_mark[:, :, ::-1].copy(), "dwtDct")
    message = numpy_generator("watermark message", 7).integers(0, 2, 32)
    assert (np.array(read, dtype=int) == message).mean() > 0.9
    with pytest.raises(ConfigError, match="needs RGB images, but these are grey"):
        drawn(image[..., :1], SEEDS[:1], method="dwtDct")


def test_the_mark_of_another_key_is_not_read():
    assert not detected(agreements(torch.from_numpy(drawn()), 8)).any()
