"""The loss of one training step of a flow family, computed by difflab and by hand with the parts of the plain pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tiny
import torch

from difflab.config import Train


@torch.no_grad()
def losses(
    model: Any,
    pipe: Any,
    clean: Callable[[torch.Tensor], torch.Tensor],
    velocity: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [4] of `model`, and those of the usual training script of diffusers, for the first four captions.

    Args:
        model: the difflab model, with architecture.posterior "mode", or set so.
        pipe: the pipeline of the same folder.
        clean: pixels [4, 3, H, W] in [-1, 1] -> normalised latents, by the mode of the posterior.
        velocity: (noisy latents, noise levels [4], timesteps [4]) -> prediction of e - x.
    """
    images, train = torch.from_numpy(tiny.images(4, model.shape.record[0])), Train()
    inputs, rng = model.encoder("cpu")(images), torch.Generator().manual_seed(1)
    mean, std = inputs.chunk(2, dim=1)
    inputs = torch.cat([mean, torch.zeros_like(std)], 1)  # a draw from the posterior is its mode
    drawn = model.draws(inputs, torch.arange(4), slice(0, 4), 4, train, rng)
    drawn["conditions"] = torch.arange(4)
    model.prepare_training(train, "cpu")
    ours = model.loss(model.net, **drawn, train=train)
    x, noise = clean(images.permute(0, 3, 1, 2) / 127.5 - 1), drawn["noise"]
    sigmas, times = pipe.scheduler.sigmas[drawn["t"]], pipe.scheduler.timesteps[drawn["t"]]
    s = sigmas.view(-1, 1, 1, 1)
    guess = velocity((1 - s) * x + s * noise, sigmas, times)
    return ours, (guess - (noise - x)).square().flatten(1).mean(1)
