"""The section `model`: one spec per model family. `model.family` selects the spec."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from difflab.config.spec import Spec
from difflab.core.hashing import digest, file_hash_once

SINGLE_FILES = (".safetensors", ".gguf")
"""The endings of checkpoints in a single file that model.base can name."""


class FamilySpec(Spec):
    """Properties that every family has, whichever fields its spec has."""

    @property
    def chains(self) -> int:
        """The number of independent chains that every sample holds."""
        return getattr(self, "replicates", 1)

    @property
    def dimension(self) -> int:
        """The number of values in one sample of an exact family."""
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
    def quantized(self) -> str:
        """The type of quantised frozen weights: "int8" or "nf4"; "none" = they are not quantised."""
        return getattr(self, "quantize", "none")

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
        """The name of the base and of its LoRA, or of the family if there is no base. Titles show it."""
        name = Path(str(getattr(self, "base", getattr(self, "family", "")))).name
        lora = getattr(self, "base_lora", None)
        return f"{name} + {Path(lora).name}" if lora else name


class Gaussian(FamilySpec):
    """A normal distribution that is fitted and sampled again and again.

    Its laws are known exactly. The true distribution is N(0, I).
    """

    family: Literal["gaussian"]
    dim: int = Field(1, ge=1, description="Dimension d of one sample.")
    replicates: int = Field(1, ge=1, description="Number of independent chains that every sample holds.")
    estimator: Literal["mle", "unbiased"] = Field(
        "mle", description="Estimator of the variance: mle divides by n, unbiased divides by n - 1."
    )
    sampling_bias: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor by which the sampler multiplies the variance (lambda in Alemohammad et al. "
        "2307.01850), above 0 to 1. It applies to the samples of every generation; 1 = off.",
    )


class Mixture(FamilySpec):
    """A mixture of labelled normal components. Each generation fits weights, means and variances (MLE)."""

    family: Literal["mixture"]
    components: int = Field(
        5,
        ge=2,
        description="Number of components. Their means lie on a line, `spacing` apart and centred on 0.",
    )
    spacing: float = Field(
        4.0,
        ge=0,
        description="Distance between neighbouring means in units of a component's standard deviation.",
    )
    guidance_scale: float = Field(
        1.0,
        ge=0,
        description="Guidance scale of the sampler. It combines the exact score of a component with that of "
        "the whole mixture, approximated by one normal distribution; 1 = off.",
    )
    replicates: int = Field(1, ge=1, description="Number of independent chains that every sample holds.")


class Categorical(FamilySpec):
    """Frequencies of categories that are fitted again in each generation: the Wright-Fisher process."""

    family: Literal["categorical"]
    categories: int = Field(10, ge=2, description="Number of categories of the true distribution.")
    truth: Literal["uniform", "zipf"] = Field("uniform", description="Frequencies of the true distribution.")
    exponent: float = Field(1.0, ge=0, description="Exponent of truth=zipf; unused with truth=uniform.")
    temperature: float = Field(
        1.0, gt=0, description="Sampling temperature T: log-odds are divided by T; 1 = off."
    )
    replicates: int = Field(1, ge=1, description="Number of independent chains that every sample holds.")


class Memoriser(FamilySpec):
    """Samples are copies of training images, drawn with replacement.

    It runs every stage without training a network.
    """

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
    """A small multi-layer perceptron that denoises flattened images.

    A generation on digits takes about twelve seconds.
    """

    family: Literal["pixel-mlp"]
    width: int = Field(256, ge=8, description="Hidden units per layer.")
    depth: int = Field(3, ge=1, description="Residual blocks.")


class PixelUNet(DenoiserSpec):
    """The UNet2DModel of diffusers in pixel space."""

    family: Literal["pixel-unet"]
    channels: list[int] = Field(
        [32, 64], min_length=1, description="Channels at each resolution (block_out_channels in diffusers)."
    )
    layers_per_block: int = Field(1, ge=1, description="Residual layers at each resolution.")
    attention: list[bool] | None = Field(
        None, description="Whether each resolution has self-attention; null = only the lowest resolution."
    )
    norm_groups: int = Field(
        8, ge=1, description="Number of groups of the group norm. It must divide every entry of channels."
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


def content_of(base: Any, lora: Any) -> str | None:
    """Hash of the content of a base in one file and of a LoRA that is added to a base.

    None if neither is given, and if one of them cannot be read.
    """
    hashes = {}
    for name, value in (("base", base), ("lora", lora)):
        if not isinstance(value, str) or (name == "base" and Path(value).suffix.lower() not in SINGLE_FILES):
            continue
        try:
            hashes[name] = file_hash_once(Path(value).expanduser())
        except (OSError, RuntimeError):
            return None
    return digest(hashes) if hashes else None


class PretrainedSpec(FamilySpec):
    base: str = Field(
        description="The pretrained model: tiny-sd (bundled), a local folder in diffusers layout, a hub id "
        "such as org/name, or a checkpoint in one file, .safetensors or .gguf."
    )
    base_config: str | None = Field(
        None,
        description="For a base in one file: diffusers folder or hub id that has the configs, the tokenizers "
        "and the components that the file lacks; null = the repository that diffusers knows for this "
        "kind of file.",
    )
    base_lora: str | None = Field(
        None,
        description="File of a LoRA (.safetensors, with the keys of diffusers, peft or kohya) whose layers "
        "are added to the weights of the base before the run; null = none.",
    )
    base_lora_scale: float = Field(1.0, description="Factor of the layers of base_lora.")
    base_content: str | None = Field(
        None,
        description="Hash of the files in base and base_lora, so that the recipe says which content they "
        "had; null = difflab computes it.",
    )
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of the hub repository in base or base_config; null = the newest "
        "version of the main branch.",
    )
    variant: str | None = Field(
        None, description="Variant of the weight files, for example fp16; null = the files without a variant."
    )
    conditional: bool = Field(
        True, description="Condition on the caption of each image; false = all images have the empty prompt."
    )
    generation_0: Literal["fit", "base"] = Field(
        "fit",
        description="Model of generation 0: fit = the base, fine-tuned on the real training set; base = the "
        "base without training.",
    )
    lora_rank: int = Field(
        0,
        ge=0,
        description="Rank of the LoRA layers that are trained instead of all weights; 0 = all weights are "
        "trained.",
    )
    lora_alpha: int | None = Field(
        None, ge=1, description="LoRA alpha. The layers are multiplied by alpha / rank; null = the rank."
    )
    lora_targets: list[str] = Field(
        ["to_k", "to_q", "to_v", "to_out.0"],
        min_length=1,
        description="Ends of the names of the layers that get a LoRA.",
    )

    quantize: Literal["none", "int8", "nf4"] = Field(
        "none",
        description="Type of the frozen weights of the linear layers in the network's blocks, in training "
        "and sampling: int8 = 8 bits with one scale per output; nf4 = 4-bit NormalFloat (needs "
        "bitsandbytes); none = off. It needs lora_rank.",
    )

    @property
    def base_is_file(self) -> bool:
        """Whether the base is a checkpoint in one file."""
        return Path(self.base).suffix.lower() in SINGLE_FILES

    @model_validator(mode="before")
    @classmethod
    def _content(cls, raw: Any) -> Any:
        """Fill in base_content. It stays null if a file does not exist; opening the base then says so."""
        if not isinstance(raw, dict) or raw.get("base_content") is not None:
            return raw
        content = content_of(raw.get("base"), raw.get("base_lora"))
        return raw if content is None else raw | {"base_content": content}

    @model_validator(mode="after")
    def _start(self) -> PretrainedSpec:
        if self.base_config is not None and not self.base_is_file:
            raise ValueError(
                f"base_config is for a base in one file ({', '.join(SINGLE_FILES)}); base={self.base} has "
                "its own configs"
            )
        if self.base_lora is None and self.base_lora_scale != 1:
            raise ValueError("base_lora_scale has no effect without base_lora")
        return self

    @model_validator(mode="after")
    def _quantize(self) -> PretrainedSpec:
        if self.quantize != "none" and not self.lora_rank:
            raise ValueError(
                f"quantize={self.quantize} freezes the weights of the base, so it needs LoRA layers; "
                "set lora_rank=16 or quantize=none"
            )
        return self

    @model_validator(mode="after")
    def _lora(self) -> PretrainedSpec:
        if self.lora_alpha is not None and not self.lora_rank:
            raise ValueError("lora_alpha has no effect without lora_rank")
        return self


class StableDiffusion(PretrainedSpec):
    """Stable Diffusion 1.x, 2.x, XL or tiny-sd.

    The base defines the noise schedule and the prediction type.
    """

    family: Literal["stable-diffusion"]
    train_text_encoder: bool = Field(
        False,
        description="Also train the text encoder, for bases with one text encoder; false = the text encoder "
        "is frozen and text embeddings are cached.",
    )

    @model_validator(mode="after")
    def _text(self) -> StableDiffusion:
        if self.train_text_encoder and self.lora_rank:
            raise ValueError("train_text_encoder works only with full fine-tuning; set lora_rank=0")
        return self


class Flow(PretrainedSpec):
    """A text-to-image model that is trained by flow matching in latent space.

    The pipeline class of the base decides which architecture it is.
    """

    family: Literal["flow"]
    train_text_encoder: Literal[False] = Field(False, description="Text encoders are frozen in this family.")
    timestep_sampling: Literal["logit_normal", "uniform"] = Field(
        "logit_normal",
        description="Density from which training timesteps are drawn (Esser et al. 2403.03206, sec. 3.1).",
    )
    precondition_outputs: bool | None = Field(
        None,
        description="true = compute the loss on the denoised image, which is the loss on the velocity times "
        "sigma squared; false = compute it on the velocity; null = as the base's training script in "
        "diffusers (true for Stable Diffusion 3, false for the others).",
    )
    embedded_guidance: float = Field(
        3.5,
        ge=0,
        description="Guidance scale that the network gets in training, for bases that have it as an input "
        "(Flux.1 dev, Flux.2 dev). Other bases do not read it.",
    )


Model = Annotated[
    Gaussian | Mixture | Categorical | Memoriser | PixelMLP | PixelUNet | StableDiffusion | Flow,
    Field(
        discriminator="family",
        description="The model that is trained. `family` selects the kind of model and its other fields.",
    ),
]


EXACT = (Gaussian, Mixture, Categorical)
