"""The normalisation of latents by the numbers of an autoencoder's config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from difflab.core.errors import ConfigError
from difflab.models.text_to_image.latent_scale import latent_scale

ALL = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


def written(folder: Path, **config: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    return file


def test_shift_and_scale(tmp_path):
    scale = latent_scale(written(tmp_path, scaling_factor=0.5, shift_factor=0.25), "P", ALL, 2)
    z = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    assert scale.normalise(z).flatten().tolist() == [0.375, 0.875]
    torch.testing.assert_close(scale.denormalise(scale.normalise(z)), z)


def test_mean_and_std_of_each_channel(tmp_path):
    file = written(tmp_path, latents_mean=[1.0, 0.0], latents_std=[2.0, 4.0])
    scale = latent_scale(file, "P", ("latents_mean", "latents_std"), 2)
    z = torch.tensor([3.0, 2.0], dtype=torch.bfloat16).view(1, 2, 1, 1)
    assert scale.normalise(z).flatten().tolist() == [1.0, 0.5] and scale.normalise(z).dtype == torch.bfloat16


def test_the_default_scale_is_that_of_stable_diffusion(tmp_path):
    assert latent_scale(written(tmp_path), "P", ("scaling_factor",), 4).scale == 0.18215


@pytest.mark.parametrize(
    ("config", "applied", "message"),
    [
        ({"shift_factor": 0.1}, ("scaling_factor",), "'shift_factor' is set, but P does not apply it"),
        ({"latents_mean": [0.1, 0.2]}, ALL, "with 2 numbers each; 'latents_std' is None"),
        ({"latents_mean": [0.1], "latents_std": [1.0, 1.0]}, ALL, r"'latents_mean' is \[0.1\]"),
    ],
)
def test_bad_statistics(config, applied, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        latent_scale(written(tmp_path, **config), "P", applied, 2)
