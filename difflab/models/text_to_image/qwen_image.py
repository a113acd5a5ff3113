"""Qwen-Image: a transformer on patches of 2 x 2 latent pixels of a video autoencoder, with one frame."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from difflab.core.errors import ConfigError
from difflab.models.text_to_image.architecture import Architecture, Texts, falling, linear_shift


class OneFrame(Architecture):
    """An architecture with the autoencoder of Qwen-Image. Its images and latents are videos of one frame."""

    autoencoder = "AutoencoderKLQwenImage"
    statistics = ("latents_mean", "latents_std")

    @property
    def latent_channels(self) -> int:
        return self.vae_config.get("z_dim", 16)

    @property
    def image_channels(self) -> int:
        return self.vae_config.get("input_channels", 3)

    @property
    def downsampling(self) -> int:
        return 2 ** len(self.vae_config.get("temperal_downsample", [False, True, True]))

    def encode(self, vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = vae.encode(pixels.unsqueeze(2)).latent_dist
        return posterior.mean.squeeze(2), posterior.std.squeeze(2)

    def decode(self, vae: Any, z: torch.Tensor) -> torch.Tensor:
        return vae.decode(z.unsqueeze(2)).sample.squeeze(2)

    def schedule(self, scheduler: dict[str, Any], steps: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"sigmas": falling(steps), "mu": linear_shift(scheduler, self.tokens(shape))}


class QwenImage(OneFrame):
    """Its guidance scale is the ``true_cfg_scale`` of the pipeline, with an empty negative prompt."""

    title = "Qwen-Image"
    pipelines = ("QwenImagePipeline",)
    backbone = "QwenImageTransformer2DModel"
    patch = 2
    published = {"Qwen-Image": {}}

    def check(self) -> None:
        super().check()
        for key in ("guidance_embeds", "use_additional_t_cond"):
            if self.network_config.get(key):
                raise ConfigError(
                    f"{self.path / self.component / 'config.json'}: {key} is true, which {self.pipeline} of "
                    "diffusers cannot run; use a text-to-image base"
                )

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        states, mask = pipe.encode_prompt(prompts, device=device)
        if mask is None:  # all prompts have the same length
            mask = torch.ones(states.shape[:2], device=states.device)
        return {"states": states, "mask": mask.bool()}

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        patches = pixel_unshuffle(x, self.patch)
        n, _, h, w = patches.shape
        out = net(
            hidden_states=patches.flatten(2).transpose(1, 2),
            timestep=t.expand(n) / 1000,
            guidance=None,
            encoder_hidden_states=texts["states"],
            encoder_hidden_states_mask=texts["mask"],
            img_shapes=[[(1, h, w)]] * n,
            return_dict=False,
        )[0]
        return pixel_shuffle(out.transpose(1, 2).unflatten(2, (h, w)), self.patch)

    def combine(self, unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
        """The pipeline gives each patch the norm of its conditional prediction."""
        guided = pixel_unshuffle(super().combine(unconditional, conditional, scale), self.patch)
        norm = pixel_unshuffle(conditional, self.patch).norm(dim=1, keepdim=True)
        return pixel_shuffle(guided * (norm / guided.norm(dim=1, keepdim=True)), self.patch)
