"""What to run: one typed config, read from YAML plus dotted ``key=value`` overrides.

Every field says its unit and its off value in its description, so that ``difflab schema`` is the reference.
How to run it (processes, devices, output folder) is the command line's business and never part of a config.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from difflab.core.errors import ConfigError, DataError, reading
from difflab.core.files import read_text

# YAML 1.1 reads a bare no as false.
Precision = Annotated[
    Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)
]


class Spec(BaseModel):
    # strict: `seed: true` or `batch_size: "128"` is a slip of the pen, and the JSON schema refuses it too.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False
    )


# --------------------------------------------------------------------------------------------------- data
class Tail(Spec):
    """A long-tailed version of a labelled set: tails are what collapse takes first."""

    kind: Literal["none", "zipf"] = Field(
        "none",
        description="none = keep the set as it is; zipf = class of rank r keeps a share r^-exponent of the largest class.",
    )
    exponent: float = Field(1.0, ge=0, le=10, description="Exponent of the Zipf law; 0 = balanced.")


class Data(Spec):
    """Where the real images come from and how they are split. Held-out images are never trained on."""

    source: str = Field(
        "digits",
        description="digits | emoji | mnist5k | photos | imagefolder:PATH | parquet:PATH | hub:NAME | exact (drawn from the model family's own truth).",
    )
    image_size: int | None = Field(
        None, ge=4, le=4096, description="Side of the square images in pixels; null = the source's own size."
    )
    color: Literal["auto", "L", "RGB"] = Field(
        "auto", description="L = grey, RGB = colour, auto = as the source says."
    )
    label: str | None = Field(
        None,
        description="Which column or attribute of the source is the class (emoji: style, category, subcategory, concept); "
        "null = the source's default, a column `label`; none = images have no class.",
    )
    caption_column: str | None = Field(
        None,
        description="Column of the captions in a table or metadata file, or the suffix of text files beside the images (.txt, .caption); "
        "null = the first that is there of text, prompt, caption, .txt, .caption.",
    )
    caption: str | None = Field(
        None,
        description="Captions made from this text, where {class} and {prompt} stand for an image's own; null = the source's captions.",
    )
    styles: list[str] | None = Field(
        None, description="emoji only: drawing styles to keep; null = all bundled ones."
    )
    held_out: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the real images that is held out for measuring, stratified by class, never trained on.",
    )
    split_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Seed of tail, limit and the split into train and held-out; null = the run's seed. A pretrained base needs the one it was trained under.",
    )
    train_size: int | None = Field(
        None,
        ge=2,
        description="Images in generation 0's training set; the rest of the train split is the reserve for fresh_real. null = the whole train split.",
    )
    limit: int | None = Field(
        None, ge=4, description="Use only this many images of the source, drawn with split_seed; null = all."
    )
    tail: Tail = Field(default_factory=Tail, description="Impose a long tail on the classes.")
    bad_images: Literal["error", "skip"] = Field(
        "error", description="error = stop at an unreadable image; skip = leave it out, count it and say so."
    )
    max_pixels: int = Field(
        64_000_000, ge=1, description="Refuse a file that decodes to more pixels than this (image bombs)."
    )

    def drawn_with(self, seed: int) -> int:
        """The seed that tail, limit and split are drawn with in a run of seed `seed`."""
        return seed if self.split_seed is None else self.split_seed


# ------------------------------------------------------------------------------------------------- models
class Gaussian(Spec):
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
        description="Variance factor of the sampler (lambda of MAD); 1 = off. Applied from generation 0's samples on.",
    )


class Mixture(Spec):
    """A mixture of labelled normal components: weights, means and variances refitted each generation (MLE)."""

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
        description="Guidance of the sampler, on the exact scores of a component and of all together (taken as one normal distribution); 1 = off.",
    )
    replicates: int = Field(1, ge=1, description="Independent chains carried side by side.")


class Categorical(Spec):
    """Counts of categories, refitted each generation: the Wright-Fisher process."""

    family: Literal["categorical"]
    categories: int = Field(10, ge=2, description="Number of categories of the truth.")
    truth: Literal["uniform", "zipf"] = Field("uniform", description="Frequencies of the truth.")
    exponent: float = Field(1.0, ge=0, description="Exponent of the Zipf truth; unused for uniform.")
    temperature: float = Field(
        1.0, gt=0, description="Sampling temperature T: log-odds are divided by T; 1 = off."
    )
    replicates: int = Field(1, ge=1, description="Independent chains carried side by side.")


class Memoriser(Spec):
    """Samples are copies of training images drawn with replacement: every stage is tried without training."""

    family: Literal["memoriser"]


class _Denoiser(Spec):
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


class PixelMLP(_Denoiser):
    """A small multi-layer perceptron that denoises flattened images: about twelve seconds a generation on digits."""

    family: Literal["pixel-mlp"]
    width: int = Field(256, ge=8, description="Hidden units per layer.")
    depth: int = Field(3, ge=1, description="Residual blocks.")


class PixelUNet(_Denoiser):
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


class _Pretrained(Spec):
    base: str = Field(
        description="The pretrained model: tiny-sd (bundled), a local diffusers folder, or a hub id like org/name."
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
        description="fit = generation 0 is the base fine-tuned on the real train set; base = the base taken as it is.",
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
    def _lora(self) -> _Pretrained:
        if self.lora_alpha is not None and not self.lora_rank:
            raise ValueError("lora_alpha has no meaning without lora_rank")
        return self


class StableDiffusion(_Pretrained):
    """Stable Diffusion 1.x, 2.x, XL or tiny-sd: noise schedule and prediction type are the base's own."""

    family: Literal["stable-diffusion"]
    train_text_encoder: bool = Field(
        False,
        description="Train the text encoder too (bases with one text encoder); false = frozen, prompts cached.",
    )

    @model_validator(mode="after")
    def _text(self) -> StableDiffusion:
        if self.train_text_encoder and self.lora_rank:
            raise ValueError("train_text_encoder goes with full fine-tuning only; set lora_rank=0")
        return self


class Flow(_Pretrained):
    """A transformer trained by flow matching over latents: Stable Diffusion 3 and 3.5."""

    family: Literal["flow"]
    train_text_encoder: Literal[False] = Field(False, description="Text encoders are frozen in this family.")
    timestep_sampling: Literal["logit_normal", "uniform"] = Field(
        "logit_normal", description="Density of training times (Esser et al. 2403.03206, sec. 3.1)."
    )
    precondition_outputs: bool = Field(
        True,
        description="Error of the denoised image, as diffusers' SD3 script has it: the velocity's error times sigma squared; false = of the velocity.",
    )


Model = Annotated[
    Gaussian | Mixture | Categorical | Memoriser | PixelMLP | PixelUNet | StableDiffusion | Flow,
    Field(
        discriminator="family",
        description="What is trained: `family` says which kind, and what its other fields are.",
    ),
]
EXACT = (Gaussian, Mixture, Categorical)


# ----------------------------------------------------------------------------------------------- the loop
class Regime(Spec):
    """Which images training set t is made of: three pools, a count for each, an optional budget over their union.

    The name sets the defaults of the other fields; see difflab/loop/regimes.py for the table.
    """

    name: Literal["replace", "accumulate", "accumulate_subsample", "fixed_real", "fresh_real"] = Field(
        "replace", description="The published regime."
    )
    real_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="fixed_real, fresh_real: share of real images in training sets t >= 1; null = 0.5. No meaning elsewhere.",
    )
    set_size: int | None = Field(
        None,
        ge=2,
        description="Images in training sets t >= 1; null = the size of generation 0's (replace: every sample, accumulate: everything so far).",
    )
    synthetic_from: Literal["last", "all"] | None = Field(
        None,
        description="Samples of the last generation, or of all so far; null = as the regime's name says.",
    )
    stratified: bool = Field(
        False,
        description="accumulate_subsample: the same number of images from the real set and from each generation (Shi et al. 2025) instead of a uniform draw.",
    )


class Train(Spec):
    """One training loop for every trainable family; progress is counted in images seen."""

    start_from: Literal["scratch", "base", "previous"] = Field(
        "scratch",
        description="Weights that generation t >= 1 starts from: new ones, generation 0's, or generation t-1's.",
    )
    images_seen: int = Field(
        200_000,
        ge=1,
        description="Images seen in each generation's training (with repetition): the matched budget.",
    )
    batch_size: int = Field(128, ge=1, description="Images per optimiser step, over all processes.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Images per forward pass of one process: gradients are accumulated over the rest; null = no accumulation.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, slower; false = off."
    )
    min_snr_gamma: float = Field(
        0.0, ge=0, description="Min-SNR loss weighting (Hang et al. 2303.09556); 5 is usual, 0 = off."
    )
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup_images: int = Field(
        0, ge=0, description="Images over which the learning rate rises linearly from 0; 0 = off."
    )
    decay: Literal["none", "linear", "cosine", "cosine_with_restarts", "polynomial"] = Field(
        "cosine",
        description="Learning-rate decay to 0 at images_seen, as in diffusers (polynomial: power 2); none = off.",
    )
    restarts: int = Field(1, ge=1, description="Cycles of cosine_with_restarts; 1 = cosine.")
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="AdamW, or with 8-bit state (bitsandbytes, GPU only)."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay; 0 = off.")
    gradient_clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 = off.")
    condition_dropout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of labels replaced by 'none' in training, which classifier-free guidance needs; 0 = off.",
    )
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="Decay per step of the averaged weights that sample; 0 = off."
    )
    precision: Precision = Field("no", description="Mixed precision; no = float32, fp16 wants a GPU.")
    compile: bool = Field(False, description="torch.compile the repeated blocks of the network; false = off.")
    checkpoint_every: int = Field(
        50_000,
        ge=0,
        description="Images between checkpoints inside one training; 0 = off. Does not change the result.",
    )


class Sample(Spec):
    """One sharded sampling loop for every family. Every image has its own seed."""

    count: int | list[int] = Field(
        1000,
        description="Images drawn from each generation; a list gives generation t its t-th entry and repeats the last.",
    )
    scheduler: str = Field("DDIMScheduler", description="Any scheduler class of diffusers, by name.")
    scheduler_options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments for that scheduler; {} = its defaults."
    )
    steps: int = Field(50, ge=1, description="Denoising steps.")
    guidance_scale: float = Field(
        1.0,
        ge=0,
        description="Classifier-free guidance as in diffusers: at most 1 = none, the conditional prediction alone.",
    )
    conditions: Literal["real", "balanced"] = Field(
        "real",
        description="Classes (and captions) asked for: as often as in generation 0's training set, or classes equally often.",
    )
    precision: Precision = Field(
        "no", description="Type of the network's weights while sampling; no = float32."
    )
    compile: bool = Field(False, description="torch.compile the repeated blocks of the network; false = off.")
    batch_size: int = Field(250, ge=1, description="Images per forward pass.")
    shard_size: int = Field(
        1000, ge=1, description="Images per parquet file; the unit of work of one process."
    )

    @field_validator("count")
    @classmethod
    def _positive(cls, count: int | list[int]) -> int | list[int]:
        values = count if isinstance(count, list) else [count]
        if not values or min(values) < 2:
            raise ValueError("count wants at least 2 images per generation")
        return count

    def count_of(self, generation: int) -> int:
        """Images that generation `generation` is asked for."""
        if isinstance(self.count, int):
            return self.count
        return self.count[min(generation, len(self.count) - 1)]


class Probe(Spec):
    """A fixed list of conditions asked of every generation with the same seeds, for eyes. Never trained on."""

    per_condition: int = Field(
        2, ge=0, description="Images per class (unconditional: images per row of eight); 0 = no pictures."
    )
    conditions: int = Field(
        10,
        ge=1,
        description="Classes shown, the most frequent and the rarest alternating; of captions, how many.",
    )
    prompts: list[str] | None = Field(
        None,
        description="Captions shown (text-to-image families); null = some of generation 0's training set.",
    )


class Measure(Spec):
    """Numbers taken on the samples of every generation against held-out real images."""

    extractors: list[str] = Field(
        ["pixels"],
        description="Feature spaces: pixels | texture (its own measures only) | fitted | efficientnet-lite0 | inception[:PATH] | open_clip:NAME_OR_PATH | timm:NAME_OR_PATH | python:FILE.py:NAME; [] = no distribution measures.",
    )
    metrics: list[str] = Field(
        [
            "fd",
            "kid",
            "precision",
            "recall",
            "density",
            "coverage",
            "trace_ratio",
            "class_accuracy",
            "class_entropy",
            "rare_class_survival",
        ],
        description="Measures by name; [] = none.",
    )
    judge: str | None = Field(
        None, description="Extractor whose features the class judge reads; null = the first of extractors."
    )
    count: int | None = Field(
        None,
        ge=10,
        description="Images on either side; null = the most that samples, held-out and train split all have.",
    )
    neighbours: int = Field(5, ge=1, description="k of precision, recall, density and coverage.")
    resamples: int = Field(
        100, ge=0, description="Half-samples behind each 95% interval; 0 = no intervals, else at least 20."
    )

    concepts: str | None = Field(
        None,
        description="What the concept measures tell apart on the first open_clip extractor: 'classes', or a file of names that captions hold; null = off.",
    )
    judge_drift: bool = Field(
        False,
        description="Rows of three class judges: frozen, retrained on samples, re-based on other real images (labelled sets); false = off.",
    )
    aesthetic: str | None = Field(
        None,
        description="Head of an aesthetic score, .safetensors or .npz, for the first open_clip extractor, which is its backbone; null = off.",
    )
    held_out_loss: int = Field(
        256,
        ge=0,
        description="Held-out real images, and as many trained ones, whose denoising loss is taken after each training (denoising families); 0 = off.",
    )

    @field_validator("resamples")
    @classmethod
    def _enough(cls, resamples: int) -> int:
        if 0 < resamples < 20:
            raise ValueError("fewer than 20 half-samples make no 95% interval; use 0 for none")
        return resamples


PRESETS = ("isolated", "pooled", "one_way")


def _exchange(raw: Any) -> Any:
    """Refuse here what the union of a name and a matrix would refuse twice."""
    if isinstance(raw, str) and raw not in PRESETS:
        near = difflib.get_close_matches(raw, PRESETS, 1)
        raise ValueError(
            (f"did you mean '{near[0]}'? " if near else "") + f"give a matrix or one of {', '.join(PRESETS)}"
        )
    if not isinstance(raw, str) and not (isinstance(raw, list) and all(isinstance(row, list) for row in raw)):
        raise ValueError(f"give a list with one row of shares per lab, or one of {', '.join(PRESETS)}")
    for i, row in enumerate(raw if isinstance(raw, list) else []):
        if len(row) != len(raw):
            raise ValueError(
                f"row {i} has {len(row)} shares, there are {len(raw)} rows: one row and one column per lab"
            )
        if any(isinstance(x, bool) or not isinstance(x, (int, float)) or not x >= 0 for x in row):
            raise ValueError(f"row {i} is {row}: every share is a number from 0 to 1")
        if abs(sum(row) - 1) > 1e-6:
            raise ValueError(f"row {i} sums to {sum(row):.6g}, not to 1")
    return raw


class Ecosystem(Spec):
    """Several labs, each a lineage of models of its own, that train on each other's samples."""

    labs: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="How many; null = as many as exchange has rows or overrides has entries.",
    )
    exchange: Annotated[
        Literal["isolated", "pooled", "one_way"] | list[list[float]], BeforeValidator(_exchange)
    ] = Field(
        "pooled",
        description="Row i: the share of each lab's samples among the synthetic training images of lab i; isolated = one's own alone, pooled = all alike, one_way = lab 0's alone.",
    )
    overrides: list[dict[str, Any]] = Field(
        default_factory=list,
        description="Dotted keys and their values, one mapping per lab; {} = the config as it is, [] = so for all labs.",
    )
    real: Literal["shared", "disjoint"] = Field(
        "shared",
        description="Real images in the train split of each lab: the same ones, or parts that have none in common. Held-out are the same.",
    )
    lab: int | None = Field(
        None,
        ge=0,
        description="Which lab this is the config of; null = of the ecosystem. Set by the engine in the run.yaml of labs.",
    )

    @model_validator(mode="after")
    def _sizes(self) -> Ecosystem:
        said = {
            "labs": self.labs,
            "exchange": len(self.exchange) if isinstance(self.exchange, list) else None,
            "overrides": len(self.overrides) or None,
        }
        sizes = {name: size for name, size in said.items() if size is not None}
        if not sizes:
            raise ValueError("how many labs? set ecosystem.labs")
        if len(set(sizes.values())) > 1:
            raise ValueError(
                "the number of labs is not the same in "
                + ", ".join(f"{name} ({size})" for name, size in sizes.items())
            )
        if self.count < 2:
            raise ValueError(
                "an ecosystem has at least 2 labs; a chain by itself is a config without this section"
            )
        if self.lab is not None and self.lab >= self.count:
            raise ValueError(f"there is no lab {self.lab} among {self.count}; the first one is lab 0")
        own = [
            key
            for mapping in self.overrides
            for key in mapping
            if key.split(".")[0] in ("name", "seed", "generations", "ecosystem")
        ]
        if own:
            raise ValueError(
                f"overrides: '{own[0]}' is the same for all labs (which draw different random numbers in any case)"
            )
        return self

    @property
    def count(self) -> int:
        """How many labs there are."""
        return self.labs or (len(self.exchange) if isinstance(self.exchange, list) else len(self.overrides))

    @property
    def matrix(self) -> list[list[float]]:
        """The exchange as numbers: [lab that trains][lab whose samples they are]."""
        if isinstance(self.exchange, list):
            return self.exchange
        n = self.count
        one = {
            "isolated": lambda i, j: float(i == j),
            "pooled": lambda i, j: 1 / n,
            "one_way": lambda i, j: float(j == 0),
        }[self.exchange]
        return [[one(i, j) for j in range(n)] for i in range(n)]


def _policies(raw: Any) -> Any:
    from difflab.policies import parse  # each is a spec of its own, and they are found by looking

    return [parse(entry) for entry in raw] if isinstance(raw, list) else raw


class Config(Spec):
    """One chain: generations 0..T under one recipe and one seed."""

    name: str = Field(
        "run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Folder under runs/ when --out is not given.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="The one seed everything is derived from.")
    generations: int = Field(
        5,
        ge=0,
        description="Last generation T; 0 = only the fit to real images. Raising it later extends the run.",
    )
    data: Data = Field(default_factory=Data)
    model: Model
    regime: Regime = Field(default_factory=Regime)
    train: Train = Field(default_factory=Train)
    sample: Sample = Field(default_factory=Sample)
    policies: Annotated[list[Any], BeforeValidator(_policies)] = Field(
        default_factory=list,
        description="What is done for or against collapse, in order, see difflab/policies/; [] = nothing.",
    )
    probe: Probe = Field(default_factory=Probe)
    measure: Measure = Field(default_factory=Measure)
    track: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default_factory=list,
        description="Trackers that get every generation's measures and pictures; [] = none. Changes no number.",
    )
    ecosystem: Ecosystem | None = Field(
        None, description="Several labs that train on each other's samples; null = a chain by itself."
    )

    @property
    def lab(self) -> int:
        """The lab that this is the config of; 0 in a chain by itself."""
        return (self.ecosystem and self.ecosystem.lab) or 0

    def labs(self) -> list[Config]:
        """The configs of an ecosystem's labs; of a chain by itself, and of one lab, only its own. Raises ConfigError that names the lab."""
        if self.ecosystem is None or self.ecosystem.lab is not None:
            return [self]
        raw = self.model_dump(mode="json")
        own = self.ecosystem.overrides or [{}] * self.ecosystem.count
        return [
            parse(
                merged(raw, {**values, "name": f"{self.name}-lab-{i}", "ecosystem.lab": i}),
                f"ecosystem.overrides of lab {i}",
            )
            for i, values in enumerate(own)
        ]

    @property
    def exact(self) -> bool:
        """True for the families with exact laws, whose samples are numbers and carry a replicate axis."""
        return isinstance(self.model, EXACT)

    @property
    def text(self) -> bool:
        """True for the families that are conditioned on captions."""
        return isinstance(self.model, _Pretrained)

    @property
    def denoises(self) -> bool:
        """True for the families that sample by removing noise."""
        return isinstance(self.model, (_Denoiser, _Pretrained))

    @property
    def conditional(self) -> bool:
        return bool(getattr(self.model, "conditional", False))

    @model_validator(mode="after")
    def _possible(self) -> Config:
        regime, sample = self.regime, self.sample
        if self.exact != (self.data.source == "exact"):
            raise ValueError(
                f"data.source={self.data.source} does not go with model.family={self.model.family}: the families gaussian, mixture and categorical want data.source=exact, all others real images"
            )
        if self.exact and self.data.train_size is None:
            raise ValueError("data.source=exact wants data.train_size, the number n of real samples")
        if regime.real_fraction is not None and regime.name not in ("fixed_real", "fresh_real"):
            raise ValueError(
                f"regime.real_fraction has no meaning under regime.name={regime.name}; use fixed_real or fresh_real"
            )
        if regime.name == "accumulate" and regime.set_size is not None:
            raise ValueError(
                "regime.set_size has no meaning under regime.name=accumulate, which keeps everything; use accumulate_subsample"
            )
        if regime.stratified and regime.name != "accumulate_subsample":
            raise ValueError("regime.stratified needs regime.name=accumulate_subsample")
        if regime.name == "fresh_real" and not self.exact and self.data.train_size is None:
            raise ValueError(
                "regime.name=fresh_real needs data.train_size, so that a reserve of unseen real images is left"
            )
        if getattr(self.model, "lora_rank", 0) and self.train.start_from == "scratch":
            raise ValueError(
                "model.lora_rank trains layers on the base's weights; train.start_from=scratch leaves none: use base or previous"
            )
        if sample.guidance_scale != 1 and not self.conditional:
            raise ValueError(
                "sample.guidance_scale other than 1 needs a conditional model (model.conditional=true)"
            )
        if (
            sample.guidance_scale != 1 and self.train.condition_dropout == 0 and not self.text
        ):  # a text base knows the empty prompt
            raise ValueError(
                "sample.guidance_scale other than 1 needs train.condition_dropout above 0: without it the model has no unconditional prediction"
            )
        if self.conditional and self.train.condition_dropout == 1:
            raise ValueError(
                "train.condition_dropout=1 never shows the model a label; use model.conditional=false"
            )
        if sample.shard_size % sample.batch_size and sample.shard_size > sample.batch_size:
            raise ValueError(
                f"sample.shard_size {sample.shard_size} is not a multiple of sample.batch_size {sample.batch_size}"
            )
        self.labs()  # each must be possible
        return self


# ---------------------------------------------------------------------------------------- reading, hashing
# Fields that change where, how long or how safely a run goes, but no number of it.
NOT_IN_RECIPE = ("name", "generations", "train.checkpoint_every", "track")


class Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 as a number and refuses a key given twice, of which PyYAML would keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [
            self.construct_object(key, deep=True)
            for key, _ in node.value
            if key.tag != "tag:yaml.org,2002:merge"
        ]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{twice}' is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(path: str | Path, overrides: list[str] | None = None, kind: Any = Config) -> Any:
    """Read a YAML config, or the one in a run's run.yaml, and apply ``a.b=value`` overrides. Raises ConfigError that names key, file and nearest key."""
    path = Path(path)
    with reading(f"config {path}", ConfigError, "correct it; configs/digits.yaml is an example"):
        try:
            raw = yaml.load(read_text(path), Loader)
        except DataError as error:
            raise ConfigError(f"cannot read config {error}") from error
        except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
            raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no mapping of keys; see configs/digits.yaml for an example")
    if {"config", "recipe"} <= raw.keys() and isinstance(raw["config"], dict):
        raw = raw["config"]
    for override in overrides or []:
        _apply(raw, override)
    return parse(raw, str(path), kind)


def merged(raw: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a plain mapping with the values of dotted keys set. Raises ConfigError where a key leads through a value."""
    out = copy.deepcopy(raw)
    for key, value in values.items():
        _set(out, key, copy.deepcopy(value))
    return out


def parse(raw: dict[str, Any], where: str = "config", kind: Any = Config) -> Any:
    """Validate a plain mapping as a `kind`, by default a chain. `where` is named in errors."""
    with reading(where, ConfigError, "correct it; configs/digits.yaml is an example"):
        try:
            return kind.model_validate(raw)
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(e, where, kind) for e in error.errors())) from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"override '{override}' is not of the form key=value, for example train.images_seen=50000"
        )
    with reading(
        f"override '{override[:80]}'", ConfigError, "give a plain value, for example train.images_seen=50000"
    ):
        try:
            value = yaml.load(text, Loader)
        except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
            raise ConfigError(f"override '{override}': the value is not valid YAML") from error
    _set(raw, key, value, f"override '{override}'")


def _set(raw: dict[str, Any], key: str, value: Any, where: str | None = None) -> None:
    node = raw
    *parents, leaf = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{where or key}: {parent} is not a section")
    node[leaf] = value


def _explain(error: Any, where: str, root: Any = Config) -> str:
    families = {spec.model_fields["family"].annotation.__args__[0] for spec in Model.__origin__.__args__}  # type: ignore[attr-defined]
    branches = [
        families if i == 1 and error["loc"][0] == "model" else {"int", "list[int]"}
        for i in range(len(error["loc"]))
    ]  # of unions: no keys
    loc = [str(part) for part, names in zip(error["loc"], branches, strict=True) if part not in names]
    key = ".".join(loc) or "config"
    if error["type"] == "extra_forbidden":
        node: Any = root
        for part in error["loc"][:-1]:
            node = _child(node, str(part))
        known = sorted(node.model_fields) if node is not None else []
        near = difflib.get_close_matches(loc[-1], known, 1, 0.5) or difflib.get_close_matches(
            loc[-1], _all_keys(root), 1, 0.6
        )
        hint = f"did you mean '{near[0]}'?" if near else f"known keys here: {', '.join(known)}"
        return f"{where}: unknown key '{key}'; {hint}"
    if error["type"] == "missing":
        return f"{where}: '{key}' is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"].startswith("union_tag"):
        given = (error.get("ctx") or {}).get("tag")
        return f"{where}: 'model.family' is {given!r}; known families: {', '.join(sorted(families))}"
    if key == "config":
        return f"{where}: {message}"
    return f"{where}: '{key}': {message} (got {error['input']!r})"


def _child(node: Any, part: str) -> Any:
    """The spec class behind one step of an error's location; None when it is a plain value."""
    if node is None:
        return None
    if node is Config and part == "model":
        return Model
    if node is Model:
        return next(
            (s for s in Model.__origin__.__args__ if s.model_fields["family"].annotation.__args__[0] == part),
            None,
        )  # type: ignore[attr-defined]
    return _spec(node.model_fields[part]) if part in node.model_fields else None


def _spec(field: Any) -> Any:
    """The spec class of a section, also of one that may be null; None when the field is a plain value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return (
        next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if field.discriminator is None
        else None
    )


def _all_keys(root: Any) -> list[str]:
    keys = []
    for section, field in root.model_fields.items():
        keys.append(section)
        spec = _spec(field)
        keys += [f"{section}.{key}" for key in spec.model_fields] if spec else []
    return keys


def flat(config: Config) -> dict[str, Any]:
    """The config as ``{"train.batch_size": 128, ...}``."""

    def walk(prefix: str, node: Any) -> dict[str, Any]:
        if isinstance(node, dict) and node:
            return {
                k: v
                for key, value in node.items()
                for k, v in walk(f"{prefix}.{key}" if prefix else key, value).items()
            }
        return {prefix: node}

    return walk("", config.model_dump(mode="json"))


def recipe_of(config: Config) -> dict[str, Any]:
    """The flat config without the fields that change no number."""
    return {key: value for key, value in flat(config).items() if key not in NOT_IN_RECIPE}


def digest(thing: Any) -> str:
    """Twelve hex digits of the SHA-256 of any JSON-able thing: the recipe hash."""
    return hashlib.sha256(json.dumps(thing, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]
