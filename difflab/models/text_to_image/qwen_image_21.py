"""Qwen-Image 2.1: a transformer on single latent pixels that reads prompt and picture as one sequence."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from difflab.core.errors import ConfigError
from difflab.models.text_to_image.architecture import Texts, falling, unpadded
from difflab.models.text_to_image.qwen_image import OneFrame

SLOT = 2
"""Side of the square of latent pixels for which one token of the text encoder stands."""


class QwenImage21(OneFrame):
    """Its autoencoder has a fourth channel, opacity: training images are opaque, and samples lose it.

    The rotary positions of the picture begin behind the prompt *and its padding*, so that a padded prompt
    would give another picture. Prompts of different lengths therefore go through the network one length at a
    time, and every picture is the one that the pipeline paints for its prompt alone.
    """

    title = "Qwen-Image 2.1"
    pipelines = ("QwenImage21Pipeline",)
    backbone = "QwenImage21Transformer2DModel"
    autoencoder = "AutoencoderKLQwenImage21"
    flags = ("sample_sigmas",)
    published = {"Qwen-Image 2.1": {}}

    @property
    def latent_channels(self) -> int:
        return self.vae_config.get("z_dim", 64)

    @property
    def image_channels(self) -> int:
        channels = self.vae_config.get("in_channels", 4)
        return 3 if channels == 4 else channels

    @property
    def downsampling(self) -> int:
        return self.vae_config.get("scale_factor_spatial", 16)

    @property
    def multiple(self) -> int:
        return self.downsampling * SLOT

    def encode(self, vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().encode(vae, torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1))

    def decode(self, vae: Any, z: torch.Tensor) -> torch.Tensor:
        return super().decode(vae, z)[:, :3]

    def schedule(self, scheduler: dict[str, Any], steps: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        own = self.index.get("sample_sigmas")
        if own and len(own) != steps:
            raise ConfigError(
                f"{self.path / 'model_index.json'}: this base is made for the {len(own)} noise levels of its "
                f"sample_sigmas; set sample.steps={len(own)}"
            )
        return super().schedule(scheduler, steps, shape) | {"sigmas": own or falling(steps)}

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        states, mask, _ = pipe.encode_prompt(prompts, device=device)
        if mask is None:  # all prompts have the same length
            mask = torch.ones(states.shape[:2], device=states.device)
        return {"states": states, "mask": mask.bool()}

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        prompts, t = unpadded(texts), t.expand(len(x))
        by_length: dict[int, list[int]] = {}
        for row, states in enumerate(prompts):
            by_length.setdefault(len(states), []).append(row)
        parts = [
            _of_one_length(net, x[rows], t[rows], torch.stack([prompts[row] for row in rows]))
            for rows in by_length.values()
        ]
        places = torch.tensor([*chain.from_iterable(by_length.values())], device=x.device)
        return torch.cat(parts)[places.argsort()]


def _of_one_length(net: Any, x: torch.Tensor, t: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """The prediction [n, C, h, w] for prompts [n, L, D] without padding."""
    n, length, _ = states.shape
    h, w = x.shape[2:]
    if x.is_meta:  # the network reads values of the mask, so only its first and last layers can be computed
        net.txt_in(states)
        return net.proj_out(net.img_in(x.flatten(2).transpose(1, 2))).transpose(1, 2).unflatten(2, (h, w))
    if isinstance(x, FakeTensor):
        raise ConfigError(
            "plan --gpu cannot estimate Qwen-Image 2.1: its network reads the values of a mask, which an "
            "estimate without values does not have; try one step on the GPU"
        )
    is_picture = torch.zeros(n, length + h * w // SLOT**2, dtype=torch.bool, device=x.device)
    is_picture[:, length:] = True
    out = net(
        hidden_states=x.flatten(2).transpose(1, 2),
        timestep=t / 1000,
        encoder_hidden_states=states,
        img_shapes=[[(1, h, w)]] * n,
        img_mask=is_picture,
        return_dict=False,
    )[0]
    return out[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))
