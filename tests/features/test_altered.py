from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from difflab.config import Data
from difflab.core.errors import MeasureError
from difflab.data.emoji import open_emoji
from difflab.features.altered import check_change, open_change

NOISE = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_jpeg_is_that_of_pillow_at_the_quality():
    change, _ = open_change("jpeg30")
    for image, changed in zip(NOISE.numpy(), change(NOISE).numpy(), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "jpeg", quality=30)
        assert np.array_equal(np.array(Image.open(file)), changed)
    assert not torch.equal(open_change("jpeg")[0](NOISE), change(NOISE))


@pytest.mark.parametrize("name", ["jpeg", "resize", "crop"])
def test_a_change_keeps_shape_and_flat_images(name):
    change, _ = open_change(name)
    for images in (NOISE, NOISE[..., :1]):
        assert change(images).shape == images.shape and not torch.equal(change(images), images)
        flat = torch.full_like(images, 90)
        assert torch.equal(change(flat), flat)


def test_a_crop_enlarges_the_middle():
    images = torch.zeros(1, 32, 32, 1, dtype=torch.uint8)
    images[:, 4:28, 4:28] = 200
    assert (open_change("crop")[0](images) == 200).all()


def test_the_autoencoder_of_the_bundled_base_gives_back_what_it_was_made_for():
    source = open_emoji(Data(source="emoji"))
    images = torch.from_numpy(np.stack([source.read(i) for i in (0, 1)]))
    change, recipe = open_change("vae:tiny-sd")
    error = (change(images).float() - images.float()).abs().mean()
    assert 0 < error < 12 and len(recipe["vae_sha256"]) == 64
    assert change(images[..., :1]).shape == images[..., :1].shape
    with pytest.raises(MeasureError, match="multiples of"):
        change(images[:, :31])


@pytest.mark.parametrize("name", ["blur", "jpeg0", "jpeg96", "vae:", "jpegx", ""])
def test_unknown_changes_are_named(name):
    with pytest.raises(MeasureError, match=f"unknown change of images '{name}'; use one of jpeg"):
        check_change(name)


def test_a_folder_without_an_autoencoder_is_named(tmp_path):
    with pytest.raises(MeasureError, match="there is no autoencoder"):
        open_change(f"vae:{tmp_path}")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(MeasureError, match="cannot be opened"):
        open_change(f"vae:{tmp_path}")
