"""The autoencoder: its training loss is re-derived, its batches and its error are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from difflab.config import Train
from difflab.models.denoiser import to_pixels
from difflab.models.latent_encoder import moments
from difflab.pretraining.autoencoder import Autoencoder, Memory, build, reconstruction_error


def small(channels: tuple[int, ...] = (4, 8), latents: int = 3) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(list(channels), latents, 1, 4, 16).eval()


IMAGES = torch.from_numpy(tiny.images(7))


@torch.no_grad()
def test_the_loss_is_pixel_error_edge_error_and_a_little_kl():
    vae = small()
    model = Autoencoder(vae, kl_weight=0.3)
    x, noise = to_pixels(IMAGES), torch.randn((7, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    ours = model.loss(model.net, x, noise, Train())
    posterior = vae.encode(x).latent_dist
    back = vae.decode(posterior.mean + posterior.std * noise).sample
    for i in range(7):
        a, b = back[i].double().numpy(), x[i].double().numpy()
        edges = (
            np.abs(np.diff(a, axis=1) - np.diff(b, axis=1)).mean()
            + np.abs(np.diff(a, axis=2) - np.diff(b, axis=2)).mean()
        )
        kl = float(posterior.kl()[i]) / noise[i].numel()  # diffusers sums over a latent
        assert float(ours[i]) == pytest.approx(np.abs(a - b).mean() + edges + 0.3 * kl, rel=1e-5)


def test_draws_mirror_and_permute_colours_and_nothing_else():
    model, images = Autoencoder(small(), 0.0), torch.from_numpy(tiny.images(200, seed=3))
    drawn = model.draws(images, None, slice(0, 200), 200, Train(), torch.Generator().manual_seed(0))
    clean = to_pixels(images)
    seen: set[tuple[bool, tuple[int, ...]]] = set()
    for x, own in zip(drawn["x"], clean, strict=True):
        fits = [
            (flip, order)
            for flip in (False, True)
            for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
            if torch.equal(x, (own.flip(2) if flip else own)[list(order)])
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 12  # every combination occurs
    assert drawn["noise"].shape == (200, 3, 8, 8)
    assert abs(float(drawn["noise"].mean())) < 4 / drawn["noise"].numel() ** 0.5 and float(
        drawn["noise"].std()
    ) == pytest.approx(1, abs=0.02)


def test_draws_are_drawn_for_the_whole_batch_and_cut():
    model, images = Autoencoder(small(), 0.0), torch.from_numpy(tiny.images(8))
    whole = model.draws(images, None, slice(0, 8), 8, Train(), torch.Generator().manual_seed(5))
    parts = [
        model.draws(images[r], None, r, 8, Train(), torch.Generator().manual_seed(5))
        for r in (slice(0, 3), slice(3, 8))
    ]
    for name in ("x", "noise"):
        assert torch.equal(torch.cat([p[name] for p in parts]), whole[name])


@torch.no_grad()
def test_the_reconstruction_error_is_in_grey_levels():
    vae = small()
    x = to_pixels(IMAGES)
    back = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    levels = np.abs((back.double().numpy() + 1) * 127.5 - IMAGES.permute(0, 3, 1, 2).numpy()).mean()
    assert reconstruction_error(vae, IMAGES) == pytest.approx(levels, rel=1e-4) and levels > 1


@pytest.mark.parametrize("channels", [(8,), (4, 8), (4, 4, 8)])
def test_every_further_entry_of_channels_halves_the_latents(channels):
    vae = small(channels, 5)
    side = 16 // 2 ** (len(channels) - 1)
    assert moments(vae, IMAGES).shape == (7, 10, side, side)
    assert vae.config.latent_channels == 5 and tuple(vae.config.block_out_channels) == channels


def test_a_set_in_memory_reads_rows():
    data = Memory(np.arange(12).reshape(4, 3), np.array([0, 1, 0, 1]))
    assert (
        len(data) == 4
        and (data.inputs(np.array([2, 0])) == [[6, 7, 8], [0, 1, 2]]).all()
        and data.conditions is not None
    )
