"""HiDream-I1: a mixture-of-experts transformer that reads every layer of a Llama, a T5 and two CLIPs."""

from __future__ import annotations

from typing import Any

import torch

from difflab.core.errors import ConfigError
from difflab.models.text_to_image.architecture import Architecture, Texts, linear_shift


class HiDream(Architecture):
    """Training updates all experts.

    Diffusers' training script runs the experts without gradients (``force_inference_output``), at the same
    value of the loss. The pipeline rescales every size to the area of 1024 x 1024 pixels; difflab does not.
    """

    title = "HiDream-I1"
    pipelines = ("HiDreamImagePipeline",)
    backbone = "HiDreamImageTransformer2DModel"
    published = {
        "HiDream-I1": {
            "patch_size": 2,
            "in_channels": 16,
            "axes_dims_rope": (64, 32, 32),
            "caption_channels": [4096, 4096],  # T5-XXL and Llama 3.1 8B
            "llama_layers": [*range(32), *[31] * 16],  # one of its 32 layers for each of the 48 blocks
        }
    }
    statistics = ("scaling_factor", "shift_factor")

    def check(self) -> None:
        if self.index.get("text_encoder_4", [None])[0] is None:
            raise ConfigError(
                f"{self.path / 'model_index.json'}: there is no text_encoder_4, which is a Llama 3.1 that "
                "published folders lack; load the pipeline with it in diffusers and save it to a folder"
            )
        super().check()

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        """``llama`` [n, layers, L, D] are the states of all layers of the Llama."""
        t5, _, llama, _, pooled, _ = pipe.encode_prompt(
            prompts, device=device, do_classifier_free_guidance=False
        )
        return {"states": t5, "llama": llama.transpose(0, 1), "pooled": pooled}

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        if x.is_meta:  # experts are chosen by numbers, which tensors on the meta device do not have
            return torch.empty_like(x)
        out = net(
            hidden_states=x,
            timesteps=t.expand(len(x)),
            encoder_hidden_states_t5=texts["states"],
            encoder_hidden_states_llama3=texts["llama"].transpose(0, 1),
            pooled_embeds=texts["pooled"],
            return_dict=False,
        )[0]
        return -(out if out.shape == x.shape else self._image(out, x.shape))

    def _image(self, tokens: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Tokens [n, C, tokens, patch * patch], which the network returns in training, as [n, C, h, w]."""
        h, w = (side // self.token_side for side in shape[2:])
        patches = tokens[:, :, : h * w].unflatten(2, (h, w)).unflatten(4, (self.token_side, -1))
        return patches.transpose(3, 4).flatten(4).flatten(2, 3)

    def schedule(self, scheduler: dict[str, Any], steps: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        """The pipeline computes the shift from the largest number of tokens, for every size."""
        height, width = self.network_config.get("max_resolution", (128, 128))
        return {"mu": linear_shift({}, height * width // self.token_side**2)}
