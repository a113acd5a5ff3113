"""PixArt-Alpha, PixArt-Sigma: a transformer with cross-attention to T5 (2310.00426, 2403.04692)."""

from __future__ import annotations

from typing import Any

import torch

from difflab.models.text_to_image.architecture import Architecture, Texts

XL = {"caption_channels": 4096, "attention_bias": True}


class PixArtSigma(Architecture):
    """Captions are lower-cased. The pipeline also cleans them if beautifulsoup4 and ftfy are installed.

    difflab does not, so that embeddings do not depend on installed packages.
    """

    title = "PixArt-Sigma"
    pipelines = ("PixArtSigmaPipeline",)
    backbone = "PixArtTransformer2DModel"
    aliases = ("Transformer2DModel",)
    family = "stable-diffusion"
    published = {  # scripts/convert_pixart_sigma_to_diffusers.py of diffusers
        "PixArt-Sigma XL 512": XL | {"sample_size": 64, "interpolation_scale": 1},
        "PixArt-Sigma XL 1024": XL | {"interpolation_scale": 2, "use_additional_conditions": False},
    }

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        states, mask, *_ = pipe.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        return {"states": states, "mask": mask.bool()}

    def conditions(self, x: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """The size of the images, as an input of the network."""
        return {"resolution": None, "aspect_ratio": None}

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        out = net(
            x,
            encoder_hidden_states=texts["states"],
            encoder_attention_mask=texts["mask"],
            timestep=t.expand(len(x)),
            added_cond_kwargs=self.conditions(x),
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]]  # the other channels are the learned variance, which the pipeline drops


class PixArtAlpha(PixArtSigma):
    """The network gets the size of the images if it was made for images of 1024 pixels."""

    title = "PixArt-Alpha"
    pipelines = ("PixArtAlphaPipeline",)
    published = {  # scripts/convert_pixart_alpha_to_diffusers.py of diffusers
        "PixArt-Alpha XL 512": XL | {"sample_size": 64},
        "PixArt-Alpha XL 1024": XL,
    }

    def conditions(self, x: torch.Tensor) -> dict[str, torch.Tensor | None]:
        if self.network_config.get("sample_size", 128) != 128:
            return super().conditions(x)
        height, width = (self.downsampling * side for side in x.shape[2:])
        size, ratio = x.new_tensor([height, width]), x.new_tensor([height / width])
        return {"resolution": size.expand(len(x), -1), "aspect_ratio": ratio.expand(len(x), -1)}
