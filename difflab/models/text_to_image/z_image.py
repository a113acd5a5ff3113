"""Z-Image: a transformer on one sequence of image and caption tokens, guided from the conditional side."""

from __future__ import annotations

from typing import Any

import torch

from difflab.core.errors import ConfigError
from difflab.models.text_to_image.architecture import (
    Architecture,
    Texts,
    falling,
    linear_shift,
    padded,
    stored_weight,
    unpadded,
)

PADDING = ("x_pad_token", "cap_pad_token")
"""The weights that stand for padding in the sequences of the network."""


class ZImage(Architecture):
    """The network counts time from noise to image and predicts x - e; `predict` changes both signs.

    The pipeline's guidance scale g means pos + g (pos - neg), so 0 is no guidance.
    """

    title = "Z-Image"
    pipelines = ("ZImagePipeline",)
    backbone = "ZImageTransformer2DModel"
    statistics = ("scaling_factor", "shift_factor")
    posterior = "mode"
    unguided = 0.0
    token_side = 2
    published = {"Z-Image": {}}

    def check(self) -> None:
        super().check()
        config, file = self.network_config, self.path / self.component / "config.json"
        if config.get("siglip_feat_dim") is not None:
            raise ConfigError(
                f"{file}: siglip_feat_dim is {config['siglip_feat_dim']}: this network reads images besides "
                "text; use a text-to-image base"
            )
        if self.token_side not in config.get("all_patch_size", [self.token_side]):
            raise ConfigError(
                f"{file}: all_patch_size is {config['all_patch_size']}, but {self.pipeline} uses patches of "
                f"{self.token_side}; use another base"
            )
        for name in PADDING:
            if not stored_weight(self.path / self.component, name).float().isfinite().all():
                raise ConfigError(
                    f"{self.path / self.component}: {name} is not finite, so every prediction would be NaN; "
                    "fetch the weights again, or set this tensor and save them"
                )

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        # encode_prompt writes into the list that it gets
        states, _ = pipe.encode_prompt(list(prompts), device=device, do_classifier_free_guidance=False)
        return padded(states)

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        latents, time = x.unsqueeze(2).unbind(), (1000 - t.expand(len(x))) / 1000
        velocities = net(list(latents), time, unpadded(texts), return_dict=False)[0]
        return -torch.stack(velocities).squeeze(2)

    def schedule(self, scheduler: dict[str, Any], steps: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"sigmas": falling(steps), "mu": linear_shift(scheduler, self.tokens(shape))}
