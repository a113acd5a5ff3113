"""Images are encoded to the mean and standard deviation of the posterior that diffusers computes."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from difflab.models import latent_encoder
from difflab.models.latent_encoder import moments
from difflab.pretraining.autoencoder import build

pytestmark = tiny.LIBRARIES
PIXELS = torch.from_numpy(tiny.images(7))


def autoencoder(dtype: torch.dtype = torch.float32) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build([4, 8], 3, 1, 4, 16).eval().to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_moments_are_mean_and_std_of_diffusers_posterior(batch):
    vae = autoencoder()
    theirs = vae.encode(PIXELS.permute(0, 3, 1, 2).float() / 255 * 2 - 1).latent_dist
    ours = moments(vae, PIXELS, batch)
    assert ours.shape == (7, 6, 8, 8) and ours.dtype == torch.float32
    mean, std = ours.chunk(2, dim=1)
    torch.testing.assert_close(mean, theirs.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std, theirs.std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std, (0.5 * theirs.logvar).exp(), rtol=1e-4, atol=1e-5)
    assert (std > 0).all() and std.std() > 1e-3  # a posterior that says something


@torch.no_grad()
def test_moments_of_a_bfloat16_encoder_are_float32():
    ours = moments(autoencoder(torch.bfloat16), PIXELS)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, moments(autoencoder(), PIXELS), rtol=0.1, atol=0.1)


def test_large_images_are_encoded_a_few_at_a_time(tmp_path, monkeypatch):
    model = tiny.model("sd15", tiny.make("sd15", tmp_path / "sd15"))
    images = torch.from_numpy(tiny.images(11))
    whole = model.encoder("cpu")(images)
    monkeypatch.setattr(latent_encoder, "DECODED_PIXELS", 3 * tiny.SIDE**2)
    torch.testing.assert_close(model.encoder("cpu")(images), whole, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(latent_encoder, "DECODED_PIXELS", 1)
    torch.testing.assert_close(model.encoder("cpu")(images), whole, rtol=1e-4, atol=1e-5)
