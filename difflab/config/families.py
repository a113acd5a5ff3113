"""The section `model`: one spec per model family, chosen by `model.family`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from difflab.config.spec import Spec


class FamilySpec(Spec):
    """Base of the specs. Its properties exist for every family, whichever fields the family has."""

    @property
    def chains(self) -> int:
        """Independent chains carried side by side in every sample."""
        return getattr(self, "replicates", 1)

    @property
    def dimension(self) -> int:
        """Numbers in one sample of an exact family."""
        return getattr(self, "dim", 1)

    @property
    def is_conditional(self) -> bool:
        """Whether samples are conditioned on classes or captions."""
        return bool(getattr(self, "conditional", False))

    @property
    def trains_lora(self) -> bool:
        """Whether LoRA layers are trained instead of all weights."""
        return bool(getattr(self, "lora_rank", 0))

    @property
    def trains_text_encoder(self) -> bool:
        """Whether the text encoder is trained as well as the backbone."""
        return bool(getattr(self, "train_text_encoder", False))

    @property
    def starts_as_base(self) -> bool:
        """Whether generation 0 is the pretrained base itself, without any training."""
        return getattr(self, "generation_0", "fit") == "base"

    @property
    def shown_name(self) -> str:
        """The name of the base, else of the family, for titles."""
        return Path(str(getattr(self, "base", getattr(self, "family", "")))).name


class Gaussian(FamilySpec):
    """Fit-sample-refit of a normal distribution: exact laws are known. Truth: N(0, I)."""

    family: Literal["gaussian"]
    dim: int = Field(1, ge=1, description="Dimension d of one sample.")
    replicates: int = Field(1, ge=1, description="Independent chains carried side by side in every sample.")
    estimator: Literal["mle", "unbiased"] = Field(
        "mle", description="mle divides the variance by n, unbiased by n - 1."
    )
    sampling_bias: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Variance factor of the sampler (lambda of MAD); 1 = off. Applied from generation 0's "
        "samples on.",
    )


class Mixture(FamilySpec):
    """A mixture of labelled normal components: weights, means and variances are refitted each time (MLE)."""

    family: Literal["mixture"]
    components: int = Field(
        5, ge=2, description="Number of components; their means lie `spacing` apart on a line, centred on 0."
    )
    spacing: float = Field(
        4.0,
        ge=0,
        description="Distance between neighbouring means in units of a component's standard deviation.",
    )
    guidance_scale: float = Field(
        1.0,
        ge=0,
        description="Guidance of the sampler, on the exact scores of a component and of all together (taken "
        "as one normal distribution); 1 = off.",
    )
    replicates: int = Field(1, ge=1, description="Independent chains carried side by side.")


class Categorical(FamilySpec):
    """Counts of categories, refitted each generation: the Wright-Fisher process."""

    family: Literal["categorical"]
    categories: int = Field(10, ge=2, description="Number of categories of the truth.")
    truth: Literal["uniform", "zipf"] = Field("uniform", description="Frequencies of the truth.")
    exponent: float = Field(1.0, ge=0, description="Exponent of the Zipf truth; unused for uniform.")
    temperature: float = Field(
        1.0, gt=0, description="Sampling temperature T: log-odds are divided by T; 1 = off."
    )
    replicates: int = Field(1, ge=1, description="Independent chains carried side by side.")


class Memoriser(FamilySpec):
    """Samples are copies of training images drawn with replacement: every stage is tried without training."""

    family: Literal["memoriser"]


class DenoiserSpec(FamilySpec):
    conditional: bool = Field(
        True, description="Condition on the class label (needs a labelled set); false = unconditional."
    )
    prediction_type: Literal["epsilon", "v_prediction"] = Field(
        "v_prediction", description="What the network predicts, as in diffusers."
    )
    train_timesteps: int = Field(1000, ge=2, description="Steps T of the forward process.")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        "squaredcos_cap_v2", description="Noise schedule, as in diffusers."
    )


class PixelMLP(DenoiserSpec):
    """A small multi-layer perceptron that denoises flattened images: about twelve seconds a generation on
    digits.
    """

    family: Literal["pixel-mlp"]
    width: int = Field(256, ge=8, description="Hidden units per layer.")
    depth: int = Field(3, ge=1, description="Residual blocks.")


class PixelUNet(DenoiserSpec):
    """diffusers' UNet2DModel in pixel space."""

    family: Literal["pixel-unet"]
    channels: list[int] = Field(
        [32, 64], min_length=1, description="Channels per resolution (block_out_channels)."
    )
    layers_per_block: int = Field(1, ge=1, description="Residual layers per resolution.")
    attention: list[bool] | None = Field(
        None, description="Self-attention per resolution; null = at the lowest resolution only."
    )
    norm_groups: int = Field(
        8, ge=1, description="Groups of the group norm; must divide every entry of channels."
    )

    @model_validator(mode="after")
    def _shapes(self) -> PixelUNet:
        if any(c % self.norm_groups for c in self.channels):
            raise ValueError(
                f"norm_groups {self.norm_groups} does not divide every entry of channels {self.channels}"
            )
        if self.attention is not None and len(self.attention) != len(self.channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries, channels has {len(self.channels)}"
            )
        return self


class PretrainedSpec(FamilySpec):
    base: str = Field(
        description="The pretrained model: tiny-sd (bundled), a local diffusers folder, or a hub id like "
        "org/name."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id; null = the newest.")
    variant: str | None = Field(
        None, description="Weight files of this variant, for example fp16; null = the plain ones."
    )
    conditional: bool = Field(
        True, description="Condition on the caption of each image; false = the empty prompt for all."
    )
    generation_0: Literal["fit", "base"] = Field(
        "fit",
        description="fit = generation 0 is the base fine-tuned on the real train set; base = the base taken "
        "as it is.",
    )
    lora_rank: int = Field(
        0,
        ge=0,
        description="Rank of the LoRA layers that are trained instead of all weights; 0 = full fine-tuning.",
    )
    lora_alpha: int | None = Field(
        None, ge=1, description="LoRA scale, alpha / rank multiplies the layers; null = the rank."
    )
    lora_targets: list[str] = Field(
        ["to_k", "to_q", "to_v", "to_out.0"],
        min_length=1,
        description="Layers that get a LoRA, by the end of their names.",
    )

    @model_validator(mode="after")
    def _lora(self) -> PretrainedSpec:
        if self.lora_alpha is not None and not self.lora_rank:
            raise ValueError("lora_alpha has no meaning without lora_rank")
        return self


class StableDiffusion(PretrainedSpec):
    """Stable Diffusion 1.x, 2.x, XL or tiny-sd: noise schedule and prediction type are the base's own."""

    family: Literal["stable-diffusion"]
    train_text_encoder: bool = Field(
        False,
        description="Train the text encoder too (bases with one text encoder); false = frozen, prompts "
        "cached.",
    )

    @model_validator(mode="after")
    def _text(self) -> StableDiffusion:
        if self.train_text_encoder and self.lora_rank:
            raise ValueError("train_text_encoder goes with full fine-tuning only; set lora_rank=0")
        return self


class Flow(PretrainedSpec):
    """A transformer trained by flow matching over latents: Stable Diffusion 3 and 3.5."""

    family: Literal["flow"]
    train_text_encoder: Literal[False] = Field(False, description="Text encoders are frozen in this family.")
    timestep_sampling: Literal["logit_normal", "uniform"] = Field(
        "logit_normal", description="Density of training times (Esser et al. 2403.03206, sec. 3.1)."
    )
    precondition_outputs: bool = Field(
        True,
        description="Error of the denoised image, as diffusers' SD3 script has it: the velocity's error "
        "times sigma squared; false = of the velocity.",
    )


Model = Annotated[
    Gaussian | Mixture | Categorical | Memoriser | PixelMLP | PixelUNet | StableDiffusion | Flow,
    Field(
        discriminator="family",
        description="What is trained: `family` says which kind, and what its other fields are.",
    ),
]


EXACT = (Gaussian, Mixture, Categorical)
