"""Marks made by invisible-watermark itself and by diffusers' SDXL watermarker; photographs carry none."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

from difflab.config import Data
from difflab.data.registry import open_source
from difflab.data.watermark import MESSAGES, bits_of, block_scores, can_carry, least_agreeing, read_mark


def picture(side: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some texture, uint8 [side, side, 3]."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(30, 225, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + random.integers(-4, 5, (side, side, 3)), 0, 255).astype(np.uint8)


def encoder(kind: str, message: object) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("imwatermark")
    made = package.WatermarkEncoder()
    made.set_watermark(kind, message)
    return made


def marked(image: np.ndarray, kind: str, message: object) -> np.ndarray:
    bgr = encoder(kind, message).encode(np.ascontiguousarray(image[..., ::-1]), "dwtDct")  # type: ignore[attr-defined]
    return np.ascontiguousarray(bgr[..., ::-1])


@pytest.mark.parametrize("side", [256, 320, 515])
def test_bits_are_those_that_the_package_reads(side: int) -> None:
    encoder("bytes", b"x")
    from imwatermark import WatermarkDecoder

    image = marked(picture(side), "bytes", b"StableDiffusionV1")
    theirs = WatermarkDecoder("bits", 136).decode(np.ascontiguousarray(image[..., ::-1]), "dwtDct")
    # The package rounds colours in fixed point: a value on the edge of two bits may differ.
    assert (np.asarray(theirs).astype(int) == bits_of(block_scores(image), 136)).mean() > 0.97


@pytest.mark.parametrize("side", [256, 512])
@pytest.mark.parametrize(
    ("kind", "message", "name"),
    [
        ("bytes", b"StableDiffusionV1", "Stable Diffusion v1 scripts"),
        ("bits", MESSAGES[-1].bits.tolist(), "Stable Diffusion XL"),
    ],
)
def test_a_mark_is_found_and_named(side: int, kind: str, message: object, name: str) -> None:
    images = [picture(side, seed) for seed in range(10)]
    found = [read_mark(marked(image, kind, message)) for image in images]
    # 48 bits over 1,024 blocks: the method itself loses so many that some images are missed
    least = 5 if side == 256 else 9
    assert found.count(name) >= least and set(found) <= {name, None}
    assert all(read_mark(image) is None for image in images)


def test_the_message_of_sdxl_is_that_of_diffusers() -> None:
    encoder("bytes", b"x")
    from diffusers.pipelines.stable_diffusion_xl import watermark

    assert MESSAGES[-1].bits.tolist() == watermark.WATERMARK_BITS


def test_sizes_that_cannot_carry_a_mark() -> None:
    assert not can_carry(255, 256) and can_carry(256, 256) and can_carry(128, 512)
    assert read_mark(picture(128)) is None
    assert read_mark(picture(256)[..., 0]) is None
    with pytest.raises(RuntimeError, match="too small"):
        marked(picture(128), "bytes", b"StableDiffusionV1")


def test_photographs_carry_no_mark() -> None:
    """Bundled photographs enlarged to 256 pixels, flat images and noise."""
    source = open_source(Data(source="digits"), 0)
    random = np.random.default_rng(1)
    images = [np.full((256, 256, 3), level, np.uint8) for level in range(0, 256, 5)]
    images += [random.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(20)]
    for i in range(50):
        small = Image.fromarray(source.read(i).squeeze()).convert("RGB")
        images.append(np.asarray(small.resize((256, 256), Image.Resampling.BICUBIC)))
    assert [read_mark(image) for image in images] == [None] * len(images)


def test_a_jpeg_file_loses_the_mark() -> None:
    """A mark that is not found says nothing."""
    image, buffer = marked(picture(256), "bytes", b"StableDiffusionV1"), io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    assert read_mark(image) is not None
    assert read_mark(np.asarray(Image.open(buffer))) is None


@pytest.mark.parametrize("length", [32, 48, 136])
def test_the_threshold_is_a_tail_of_the_binomial_distribution(length: int) -> None:
    least = least_agreeing(length)
    assert binom.sf(least - 1, length, 0.5) <= 1e-6 < binom.sf(least - 2, length, 0.5)
