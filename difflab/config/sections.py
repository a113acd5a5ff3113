"""The sections of a config that every model family shares: data, regime, train, sample, probe, measure."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from difflab.config.spec import Precision, Spec, read_by
from difflab.core.rows import STATISTICS


class Tail(Spec):
    """A long-tailed version of a labelled set: tails are what collapse takes first."""

    kind: Literal["none", "zipf"] = Field(
        "none",
        description="none = keep the set as it is; zipf = class of rank r keeps a share r^-exponent of the "
        "largest class.",
    )
    exponent: float = Field(1.0, ge=0, le=10, description="Exponent of the Zipf law; 0 = balanced.")


class Data(Spec):
    """Where the real images come from and how they are split. Held-out images are never trained on."""

    source: str = Field(
        "digits",
        description="digits | emoji | mnist5k | photos | imagefolder:PATH | parquet:PATH | hub:NAME | exact "
        "(drawn from the model family's own truth).",
    )
    image_size: int | None = Field(
        None, ge=4, le=4096, description="Side of the square images in pixels; null = the source's own size."
    )
    color: Literal["auto", "L", "RGB"] = Field(
        "auto", description="L = grey, RGB = colour, auto = as the source says."
    )
    label: str | None = Field(
        None,
        description="Which column or attribute of the source is the class (emoji: style, category, "
        "subcategory, concept); "
        "null = the source's default, a column `label`; none = images have no class.",
    )
    caption_column: str | None = Field(
        None,
        description="Column of the captions in a table or metadata file, or the suffix of text files beside "
        "the images (.txt, .caption); "
        "null = the first that is there of text, prompt, caption, .txt, .caption.",
    )
    caption: str | None = Field(
        None,
        description="Captions made from this text, where {class} and {prompt} stand for an image's own; "
        "null = the source's captions.",
    )
    styles: list[str] | None = Field(
        None, description="emoji only: drawing styles to keep; null = all bundled ones."
    )
    held_out: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the real images that is held out for measuring, stratified by class, never "
        "trained on.",
    )
    split_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Seed of tail, limit and the split into train and held-out; null = the run's seed. A "
        "pretrained base needs the one it was trained under.",
    )
    train_size: int | None = Field(
        None,
        ge=2,
        description="Images in generation 0's training set; the rest of the train split is the reserve for "
        "fresh_real. null = the whole train split.",
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


class Regime(Spec):
    """Which images training set t is made of: three pools, a count for each, an optional budget over their
    union.

    The name sets the defaults of the other fields; see difflab/loop/regimes.py for the table.
    """

    name: Literal["replace", "accumulate", "accumulate_subsample", "fixed_real", "fresh_real"] = Field(
        "replace", description="The published regime."
    )
    real_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="fixed_real, fresh_real: share of real images in training sets t >= 1; null = 0.5. No "
        "meaning elsewhere.",
    )
    set_size: int | None = Field(
        None,
        ge=2,
        description="Images in training sets t >= 1; null = the size of generation 0's (replace: every "
        "sample, accumulate: everything so far).",
    )
    synthetic_from: Literal["last", "all"] | None = Field(
        None,
        description="Samples of the last generation, or of all so far; null = as the regime's name says.",
    )
    stratified: bool = Field(
        False,
        description="accumulate_subsample: the same number of images from the real set and from each "
        "generation (Shi et al. 2025) instead of a uniform draw.",
    )


class Train(Spec):
    """One training loop for every trainable family; progress is counted in images seen."""

    start_from: Literal["scratch", "base", "previous"] = Field(
        "scratch",
        description="Weights that generation t >= 1 starts from: new ones, generation 0's, or generation "
        "t-1's.",
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
        description="Images per forward pass of one process: gradients are accumulated over the rest; null "
        "= no accumulation.",
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
        description="Learning-rate decay to 0 at images_seen, as in diffusers (polynomial: power 2); none = "
        "off.",
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
        description="Share of labels replaced by 'none' in training, which classifier-free guidance needs; "
        "0 = off.",
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
        json_schema_extra=read_by(),
    )


class Sample(Spec):
    """One sharded sampling loop for every family. Every image has its own seed."""

    count: int | list[int] = Field(
        1000,
        description="Images drawn from each generation; a list gives generation t its t-th entry and "
        "repeats the last.",
    )
    scheduler: str = Field("DDIMScheduler", description="Any scheduler class of diffusers, by name.")
    scheduler_options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments for that scheduler; {} = its defaults."
    )
    steps: int = Field(50, ge=1, description="Denoising steps.")
    guidance_scale: float = Field(
        1.0,
        ge=0,
        description="Classifier-free guidance as in diffusers: at most 1 = none, the conditional prediction "
        "alone.",
    )
    conditions: Literal["real", "balanced"] = Field(
        "real",
        description="Classes (and captions) asked for: as often as in generation 0's training set, or "
        "classes equally often.",
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
    """A fixed list of conditions asked of every generation with the same seeds, for eyes.

    Never trained on.
    """

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
        description="Feature spaces: pixels | texture, artefacts (their own measures only) | fitted "
        "| efficientnet-lite0 | inception[:PATH] | open_clip:NAME_OR_PATH | timm:NAME_OR_PATH "
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
        description="Measures by name; [] = none.",
    )
    judge: str | None = Field(
        None,
        description="Extractor whose features the class judge reads; null = the first of extractors.",
        json_schema_extra=read_by("select", "measure"),
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
        description="What the concept measures tell apart on the first open_clip extractor: 'classes', or a "
        "file of names that captions hold; null = off.",
    )
    judge_drift: bool = Field(
        False,
        description="Rows of three class judges: frozen, retrained on samples, re-based on other real "
        "images (labelled sets); false = off.",
    )
    aesthetic: str | None = Field(
        None,
        description="Head of an aesthetic score, .safetensors or .npz, for the first open_clip extractor, "
        "which is its backbone; null = off.",
    )
    held_out_loss: int = Field(
        256,
        ge=0,
        description="Held-out real images, and as many trained ones, whose denoising loss is taken after "
        "each training (denoising families); 0 = off.",
        json_schema_extra=read_by("train", "measure"),
    )

    @property
    def statistics_extractors(self) -> list[str]:
        """The extractors of statistics, which have measures of their own, in order."""
        return [spec for spec in self.extractors if spec in STATISTICS]

    @property
    def feature_extractors(self) -> list[str]:
        """The extractors that all other measures are taken on, in order."""
        return [spec for spec in self.extractors if spec not in STATISTICS]

    @property
    def judge_extractor(self) -> str | None:
        """The extractor whose features the class judge reads; None where there is none."""
        if self.judge is not None:
            return self.judge
        return next(iter(self.feature_extractors), None)

    @field_validator("resamples")
    @classmethod
    def _enough(cls, resamples: int) -> int:
        if 0 < resamples < 20:
            raise ValueError("fewer than 20 half-samples make no 95% interval; use 0 for none")
        return resamples
