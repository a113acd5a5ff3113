"""The config of one chain, its flat form and its recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from difflab.config.data import Data
from difflab.config.ecosystem import Ecosystem
from difflab.config.families import EXACT, DenoiserSpec, Model, PretrainedSpec
from difflab.config.policy_registry import parse_policy
from difflab.config.sections import Measure, Probe, Regime, Sample, Train
from difflab.config.spec import Spec, merged, read_by
from difflab.config.validate import parse, spec_of


def _policies(raw: Any) -> Any:
    return [parse_policy(entry) for entry in raw] if isinstance(raw, list) else raw


class Config(Spec):
    """One chain: generations 0..T under one recipe and one seed."""

    name: str = Field(
        "run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run. Without --out it is the name of the folder under runs/.",
        json_schema_extra=read_by(),
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Seed from which all random numbers of the run are derived.",
        json_schema_extra=read_by("real"),
    )
    generations: int = Field(
        5,
        ge=0,
        description="Last generation T; 0 = only the training on real images. A larger value later extends "
        "the run.",
        json_schema_extra=read_by(),
    )
    data: Data = Field(default_factory=Data, json_schema_extra=read_by("real"))
    model: Model = Field(json_schema_extra=read_by("train"))
    regime: Regime = Field(default_factory=Regime, json_schema_extra=read_by("mix"))
    train: Train = Field(default_factory=Train, json_schema_extra=read_by("train"))
    sample: Sample = Field(default_factory=Sample, json_schema_extra=read_by("sample"))
    policies: Annotated[list[Any], BeforeValidator(_policies)] = Field(
        default_factory=list,
        description="List of policies, applied in order; docs/policies/ describes them all; [] = none.",
        json_schema_extra=read_by("policies"),
    )
    probe: Probe = Field(default_factory=Probe, json_schema_extra=read_by("sample"))
    measure: Measure = Field(default_factory=Measure, json_schema_extra=read_by("measure"))
    track: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default_factory=list,
        description="Trackers that receive the measures and pictures of every generation; [] = none. They "
        "do not change the results.",
        json_schema_extra=read_by(),
    )
    ecosystem: Ecosystem | None = Field(
        None,
        description="Several labs that train on each other's samples; null = a single chain.",
        json_schema_extra=read_by("real"),
    )

    @property
    def lab(self) -> int:
        """The lab that this config belongs to; 0 for a single chain."""
        return (self.ecosystem and self.ecosystem.lab) or 0

    def labs(self) -> list[Config]:
        """The configs of all labs of an ecosystem. A single chain, or one lab, has only its own config.

        Raises ConfigError. The message names the lab.
        """
        if self.ecosystem is None or self.ecosystem.lab is not None:
            return [self]
        raw = self.model_dump(mode="json")
        overrides_by_lab = self.ecosystem.overrides or [{}] * self.ecosystem.count
        return [
            parse(
                merged(raw, {**_content_again(values), "name": f"{self.name}-lab-{i}", "ecosystem.lab": i}),
                f"ecosystem.overrides of lab {i}",
                Config,
            )
            for i, values in enumerate(overrides_by_lab)
        ]

    @property
    def exact(self) -> bool:
        """True for the families with exact laws. Their samples are numbers and have a replicate axis."""
        return isinstance(self.model, EXACT)

    @property
    def text(self) -> bool:
        """True for the families that are conditioned on captions."""
        return isinstance(self.model, PretrainedSpec)

    @property
    def denoises(self) -> bool:
        """True for the families that sample by denoising."""
        return isinstance(self.model, (DenoiserSpec, PretrainedSpec))

    @property
    def conditional(self) -> bool:
        return self.model.is_conditional

    @model_validator(mode="after")
    def _possible(self) -> Config:
        self._check_data()
        self._check_regime()
        self._check_guidance()
        self._check_batches()
        self.labs()  # validates the config of each lab
        return self

    def _check_data(self) -> None:
        if self.data.buckets is not None and (not self.denoises or self.model.family == "pixel-mlp"):
            raise ValueError(
                f"data.buckets needs a network that takes images of several sizes, not model.family="
                f"{self.model.family}; use pixel-unet, stable-diffusion or flow, or data.image_size"
            )
        if self.exact != (self.data.source == "exact"):
            raise ValueError(
                f"data.source={self.data.source} does not fit model.family={self.model.family}: the families "
                "gaussian, mixture and categorical need data.source=exact, all others need real images"
            )
        if self.exact and self.data.train_size is None:
            raise ValueError("data.source=exact needs data.train_size, the number n of real samples")

    def _check_regime(self) -> None:
        regime = self.regime
        if regime.real_fraction is not None and regime.name not in ("fixed_real", "fresh_real"):
            raise ValueError(
                f"regime.real_fraction has no effect with regime.name={regime.name}; use fixed_real or "
                "fresh_real"
            )
        if regime.name == "accumulate" and regime.set_size is not None:
            raise ValueError(
                "regime.set_size has no effect with regime.name=accumulate, which keeps all images; use "
                "accumulate_subsample"
            )
        if regime.stratified and regime.name != "accumulate_subsample":
            raise ValueError("regime.stratified needs regime.name=accumulate_subsample")
        if regime.name == "fresh_real" and not self.exact and self.data.train_size is None:
            raise ValueError(
                "regime.name=fresh_real needs data.train_size, so that there is a reserve of unseen real "
                "images"
            )

    def _check_guidance(self) -> None:
        sample = self.sample
        if sample.guidance_scale != 1 and not self.conditional:
            raise ValueError(
                "sample.guidance_scale other than 1 needs a conditional model (model.conditional=true)"
            )
        # A text-to-image base has an unconditional prediction: the empty prompt.
        if sample.guidance_scale != 1 and self.train.condition_dropout == 0 and not self.text:
            raise ValueError(
                "sample.guidance_scale other than 1 needs train.condition_dropout above 0: without it the "
                "model has no unconditional prediction"
            )
        if self.conditional and self.train.condition_dropout == 1:
            raise ValueError(
                "with train.condition_dropout=1 the model never sees a label; use model.conditional=false"
            )

    def _check_batches(self) -> None:
        sample = self.sample
        if self.model.trains_lora and self.train.start_from == "scratch":
            raise ValueError(
                "model.lora_rank trains layers on top of the weights of the base, but "
                "train.start_from=scratch does not use them; set train.start_from to base or previous"
            )
        if sample.shard_size % sample.batch_size and sample.shard_size > sample.batch_size:
            raise ValueError(
                f"sample.shard_size {sample.shard_size} is not a multiple of sample.batch_size "
                f"{sample.batch_size}"
            )


def _content_again(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides of a lab. One with files of its own has no hash of the files of the other labs."""
    again: dict[str, Any] = {}
    if overrides.keys() & {"model.base", "model.base_lora"}:
        again["model.base_content"] = None
    if "data.audit" in overrides:
        again["data.audit_content"] = None
    return {**again, **overrides}


def flat(config: Config) -> dict[str, Any]:
    """The config as ``{"train.batch_size": 128, ...}``."""
    values: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if not isinstance(node, dict) or not node:
            values[prefix] = node
            return
        for key, value in node.items():
            walk(f"{prefix}.{key}" if prefix else key, value)

    walk("", config.model_dump(mode="json"))
    return values


def readers() -> dict[str, tuple[str, ...]]:
    """The stages that read each field (see `spec.read_by`), by the key of the field, such as
    train.batch_size.

    The fields of `model` depend on the family. The stages of the section `model` read all of them.
    """
    stages: dict[str, tuple[str, ...]] = {}
    for section, field in Config.model_fields.items():
        stages[section] = _mark(field)
        spec = spec_of(field)
        for name, inner in spec.model_fields.items() if spec else ():
            marked = "read_by" in (inner.json_schema_extra or {})
            stages[f"{section}.{name}"] = _mark(inner) if marked else stages[section]
    return stages


def _mark(field: Any) -> tuple[str, ...]:
    return tuple(field.json_schema_extra["read_by"])


READERS = readers()
NOT_IN_RECIPE = tuple(key for key, stages in READERS.items() if not stages)
"""Fields that do not change the results of a run, only where, how long or how safely it runs."""


ADDED_LATER = {
    "data.audit_content": None,
    "data.audit_layers": ["declared synthetic", "known synthetic", "watermark", "hidden text", "probe"],
    "data.buckets": None,
    "data.provenance": "declared",
    "data.unknown_origin": "real",
    "data.weight": None,
    "model.base_config": None,
    "model.base_lora": None,
    "model.base_lora_scale": 1.0,
    "model.base_content": None,
    "model.quantize": "none",
}
"""Fields that are not part of the recipe at these values.

They were added when runs with the other fields had been stored. The hashes of those recipes stay the same.
"""


POLICY_FIELDS_ADDED_LATER = {("guard", "max_unknown_fraction"): 1.0}
"""The same for fields of policies: (policy, field) -> value."""


def stages_of(key: str) -> tuple[str, ...]:
    """The stages that read a key of `flat`.

    The key may lie inside a field, such as sample.scheduler_options.eta.
    """
    while key not in READERS:
        key = key.rpartition(".")[0]
    return READERS[key]


def recipe_of(config: Config) -> dict[str, Any]:
    """The flat config without the fields that do not change the results, see also `ADDED_LATER`."""
    fields = {key: value for key, value in flat(config).items() if stages_of(key)}
    fields["policies"] = [_policy_recipe(entry) for entry in fields["policies"]]
    return {
        key: value for key, value in fields.items() if key not in ADDED_LATER or ADDED_LATER[key] != value
    }


def _policy_recipe(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of a policy without those that were added later and have no effect."""
    nothing = object()
    return {
        field: value
        for field, value in entry.items()
        if POLICY_FIELDS_ADDED_LATER.get((entry["policy"], field), nothing) != value
    }
