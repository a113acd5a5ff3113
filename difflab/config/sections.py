"""The sections that every model family shares, besides data: regime, train, sample, probe, measure."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from difflab.config.spec import Compile, Precision, Spec, read_by
from difflab.core.rows import statistics_of


class Regime(Spec):
    """The composition of training set t: three pools of images, a count for each, and an optional budget over
    their union.

    The name sets the defaults of the other fields. difflab/loop/regimes.py has the table.
    """

    name: Literal["replace", "accumulate", "accumulate_subsample", "fixed_real", "fresh_real"] = Field(
        "replace", description="Name of the regime, as in the literature."
    )
    real_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of real images in training sets t >= 1 (fixed_real and fresh_real only); null = "
        "0.5.",
    )
    set_size: int | None = Field(
        None,
        ge=2,
        description="Number of images in training sets t >= 1; null = the size of training set 0 (replace: "
        "all samples of the last generation; accumulate: all images so far).",
    )
    synthetic_from: Literal["last", "all"] | None = Field(
        None,
        description="Use the samples of the last generation, or of all earlier generations; null = the "
        "default of the regime: all with accumulate and accumulate_subsample, otherwise last.",
    )
    stratified: bool = Field(
        False,
        description="Draw the same number of images from the real set and from each generation (Shi et al. "
        "2509.16499), instead of uniformly from their union (accumulate_subsample only).",
    )


class Train(Spec):
    """The training of every generation, for all trainable families. Progress is counted in images seen."""

    start_from: Literal["scratch", "base", "previous"] = Field(
        "scratch",
        description="Initial weights of generation t >= 1: scratch = random; base = the weights of "
        "generation 0; previous = the weights of generation t-1.",
    )
    images_seen: int = Field(
        200_000,
        ge=1,
        description="Images seen in the training of each generation, with repetition: the training budget.",
    )
    batch_size: int = Field(128, ge=1, description="Images per optimiser step, summed over all processes.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Images per forward pass of one process. Gradients are accumulated until batch_size is "
        "reached; null = no accumulation.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward pass, which is slower but needs less memory; "
        "false = off.",
    )
    min_snr_gamma: float = Field(
        0.0,
        ge=0,
        description="Gamma of the Min-SNR loss weighting (Hang et al. 2303.09556); 5 is usual, 0 = off.",
    )
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup_images: int = Field(
        0, ge=0, description="Images over which the learning rate rises linearly from 0; 0 = off."
    )
    decay: Literal["none", "linear", "cosine", "cosine_with_restarts", "polynomial"] = Field(
        "cosine",
        description="Decay of the learning rate to 0 at images_seen, as in diffusers (polynomial has power "
        "2); none = constant.",
    )
    restarts: int = Field(
        1, ge=1, description="Number of cycles of cosine_with_restarts; 1 = the same as cosine."
    )
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw = AdamW; adamw8bit = AdamW with 8-bit state (bitsandbytes, GPU only)."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay; 0 = off.")
    gradient_clip: float = Field(
        1.0, ge=0, description="Largest norm of the gradient, to which it is clipped; 0 = off."
    )
    condition_dropout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Probability that training drops the condition of an image. Classifier-free guidance "
        "needs this; 0 = off.",
    )
    ema_decay: float = Field(
        0.995,
        ge=0,
        lt=1,
        description="Decay per step of the EMA of the weights. Samples are drawn with the EMA weights; 0 = "
        "off.",
    )
    precision: Precision = Field(
        "no",
        description="Mixed precision of training; no = float32; tf32 = float32 with products in TF32, on "
        "NVIDIA GPUs from compute capability 8.0; auto = the fastest on this machine, measured before the "
        "run starts and then kept. Weights, optimiser and loss are float32 in every case. fp16 needs a GPU.",
    )
    compile: Compile = Field(
        False,
        description="Compile the network for training with torch.compile; auto = if that saves time in this "
        "run, decided before it starts and then kept.",
    )
    checkpoint_every: int = Field(
        50_000,
        ge=0,
        description="Images seen between two checkpoints of one training; 0 = off. Does not change the "
        "results.",
        json_schema_extra=read_by(),
    )


class Sample(Spec):
    """The sampling of every generation, for all families. Every image has its own seed."""

    count: int | list[int] = Field(
        1000,
        description="Number of samples of each generation. Entry t of a list is for generation t, and the "
        "last entry is for all later generations.",
    )
    scheduler: str = Field("DDIMScheduler", description="Name of a scheduler class of diffusers.")
    scheduler_options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the scheduler; {} = its defaults."
    )
    steps: int = Field(50, ge=1, description="Number of denoising steps.")
    guidance_scale: float = Field(
        1.0,
        ge=0,
        description="Scale of classifier-free guidance, as in diffusers; at most 1 = no guidance, that is "
        "the conditional prediction alone. It is the argument of the base's own pipeline: for Z-Image "
        "and Krea 2 g means cond + g (cond - uncond), and only 0 = no guidance.",
    )
    conditions: Literal["real", "balanced"] = Field(
        "real",
        description="Classes and captions of the samples: real = as often as in training set 0; balanced = "
        "all classes equally often.",
    )
    precision: Precision = Field(
        "no",
        description="Data type of the network weights in sampling; no = float32; tf32 = float32 with "
        "products in TF32, on NVIDIA GPUs from compute capability 8.0; auto = the fastest on this machine, "
        "measured before the run starts and then kept. The pixel families sample in float32 or tf32.",
    )
    compile: Compile = Field(
        False,
        description="Compile the network for sampling with torch.compile; auto = if that saves time in this "
        "run, decided before it starts and then kept.",
    )
    batch_size: int = Field(250, ge=1, description="Images per forward pass.")
    shard_size: int = Field(
        1000, ge=1, description="Images per parquet file. One process draws a whole file."
    )

    @field_validator("count")
    @classmethod
    def _positive(cls, count: int | list[int]) -> int | list[int]:
        values = count if isinstance(count, list) else [count]
        if not values or min(values) < 2:
            raise ValueError("sample.count must be at least 2 for every generation")
        return count

    def count_of(self, generation: int) -> int:
        """The number of samples of generation `generation`."""
        if isinstance(self.count, int):
            return self.count
        return self.count[min(generation, len(self.count) - 1)]


class Probe(Spec):
    """Images of every generation for visual comparison, with the same conditions and seeds.

    They are never trained on.
    """

    per_condition: int = Field(
        2,
        ge=0,
        description="Images per class or caption (unconditional: 8 times this number in total); 0 = no "
        "pictures.",
    )
    conditions: int = Field(
        10,
        ge=1,
        description="Number of classes or captions. Half of the classes are the most frequent ones, half "
        "the rarest.",
    )
    prompts: list[str] | None = Field(
        None,
        description="Captions to use (text-to-image families); null = captions drawn at random from "
        "training set 0.",
    )


class Measure(Spec):
    """The measures, which compare the samples of every generation with held-out real images."""

    extractors: list[str] = Field(
        ["pixels"],
        description="Feature extractors: pixels | texture, artefacts, watermark:KEY (their own measures "
        "only) | fitted | efficientnet-lite0 | inception[:PATH] | open_clip:NAME_OR_PATH | timm:NAME_OR_PATH "
        "| python:FILE.py:NAME; [] = no distribution measures.",
        json_schema_extra=read_by("sample", "measure"),
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
        description="Names of the measures; [] = none.",
    )
    judge: str | None = Field(
        None,
        description="Extractor whose features the class judge uses; null = the first of extractors except "
        "texture.",
        json_schema_extra=read_by("select", "measure"),
    )
    count: int | None = Field(
        None,
        ge=10,
        description="Number of images in each set that is compared; null = the size of the smallest of "
        "samples, held-out images and train split.",
    )
    neighbours: int = Field(
        5, ge=1, description="k, the number of nearest neighbours in precision, recall, density and coverage."
    )
    resamples: int = Field(
        100,
        ge=0,
        description="Number of half-samples for each 95% interval of a measure that is not smooth, at least "
        "20; 0 = no intervals at all.",
    )

    concepts: str | None = Field(
        None,
        description="Concepts of the concept measures, which use the first open_clip extractor: 'classes', "
        "or a file with names that occur in the captions; null = off.",
    )
    judge_drift: bool = Field(
        False,
        description="Add the accuracy of three class judges: frozen, retrained on samples, and re-based on "
        "other real images (labelled sets only).",
    )
    aesthetic: str | None = Field(
        None,
        description="File with the head of an aesthetic score, .safetensors or .npz. Its backbone is the "
        "first open_clip extractor; null = off.",
    )
    held_out_loss: int = Field(
        256,
        ge=0,
        description="Number of held-out images, and of training images, whose denoising loss is measured "
        "after each training (denoising families only); 0 = off.",
        json_schema_extra=read_by("train", "measure"),
    )

    @property
    def statistics_extractors(self) -> list[str]:
        """The extractors of statistics, which have measures of their own, in order."""
        return [spec for spec in self.extractors if statistics_of(spec)]

    @property
    def feature_extractors(self) -> list[str]:
        """The extractors that all other measures are taken on, in order."""
        return [spec for spec in self.extractors if not statistics_of(spec)]

    @property
    def judge_extractor(self) -> str | None:
        """The extractor whose features the class judge uses; None = no judge."""
        if self.judge is not None:
            return self.judge
        return next(iter(self.feature_extractors), None)

    @field_validator("resamples")
    @classmethod
    def _enough(cls, resamples: int) -> int:
        if 0 < resamples < 20:
            raise ValueError(
                "a 95% interval needs at least 20 half-samples; use measure.resamples=0 for no intervals"
            )
        return resamples
