"""Krea 2: a transformer on patches of 2 x 2 latent pixels that reads several layers of its text encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from difflab.core.errors import ConfigError
from difflab.models.text_to_image.architecture import Guidance, Texts, falling, linear_shift, padded
from difflab.models.text_to_image.flux2 import positions
from difflab.models.text_to_image.qwen_image import OneFrame

TURBO_SHIFT = 1.15
"""The shift mu of the noise levels of a distilled network, for all sizes."""


class Krea2(OneFrame):
    """``states`` is [n, L, layers, D], without the padding that the pipeline puts between prompt and suffix.

    The network ignores padding, and all tokens of a prompt have the same position. The pipeline's guidance
    scale g means cond + g (cond - uncond), so 0 is no guidance.
    """

    title = "Krea 2"
    pipelines = ("Krea2Pipeline",)
    backbone = "Krea2Transformer2DModel"
    flags = ("is_distilled",)
    unguided = 0.0
    patch = 2
    guidances = ("classifier-free", "none")
    published = {"Krea 2": {}}

    @property
    def guidance(self) -> Guidance:
        return "none" if self.index.get("is_distilled") else "classifier-free"

    def check(self) -> None:
        super().check()
        patch = self.index.get("patch_size", self.patch)
        if patch != self.patch:
            raise ConfigError(
                f"{self.path / 'model_index.json'}: patch_size is {patch}; difflab supports only {self.patch}"
            )

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        states, mask = pipe.encode_prompt(prompts, device=device)
        return padded([part[valid] for part, valid in zip(states, mask, strict=True)])

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        patches = pixel_unshuffle(x, self.patch)
        n, _, h, w = patches.shape
        image = positions(1, x.device, 1, h, w)[0].float()
        out = net(
            hidden_states=patches.flatten(2).transpose(1, 2),
            encoder_hidden_states=texts["states"],
            timestep=t.expand(n) / 1000,
            position_ids=torch.cat([image.new_zeros(texts["states"].shape[1], 3), image]),
            encoder_attention_mask=texts["mask"],
            return_dict=False,
        )[0]
        return pixel_shuffle(out.transpose(1, 2).unflatten(2, (h, w)), self.patch)

    def schedule(self, scheduler: dict[str, Any], steps: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        mu = linear_shift({"max_image_seq_len": 6400, **scheduler}, self.tokens(shape))
        return {"sigmas": falling(steps), "mu": TURBO_SHIFT if self.index.get("is_distilled") else mu}
