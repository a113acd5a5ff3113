from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from config_files import merged, written

from difflab import config as configs
from difflab.config import NOT_IN_RECIPE, Config, flat, load, parse, recipe_of, stages_of
from difflab.core.errors import ConfigError
from difflab.core.hashing import digest
from difflab.pretraining.clip_parts import ClipPretraining
from difflab.pretraining.stable_diffusion import Pretraining
from difflab.studies.claims import Claim
from difflab.studies.sweep import Sweep

DIGITS: dict[str, Any] = {"model": {"family": "pixel-mlp"}}


EXACT: dict[str, Any] = {"data": {"source": "exact", "train_size": 10}, "model": {"family": "gaussian"}}


def test_every_bundled_config_is_valid_and_agrees_with_the_schema():
    home = Path(__file__).parents[2] / "configs"
    own: dict[Path, Any] = {
        home / "assets" / "tiny-sd.yaml": Pretraining,
        home / "assets" / "tiny-clip.yaml": ClipPretraining,
    }
    own |= {path: Sweep for path in home.glob("sweeps/*.yaml")} | {
        path: Claim for path in home.glob("claims/*.yaml")
    }
    kinds = {
        path: own.get(path, Config)
        for path in sorted(home.rglob("*.yaml"))
        if path.parent.name != "accelerate"
    }
    assert len(kinds) > 20 and set(kinds.values()) == {Config, Pretraining, ClipPretraining, Sweep, Claim}
    for path, kind in kinds.items():
        assert isinstance(load(path, kind=kind), kind)
        jsonschema.validate(yaml.safe_load(path.read_text()), kind.model_json_schema())


def test_defaults_are_what_the_descriptions_say():
    config = parse(DIGITS)
    assert (config.name, config.seed, config.generations) == ("run", 0, 5)
    assert config.regime.name == "replace" and config.sample.guidance_scale == 1
    assert config.conditional and not config.exact
    assert parse(EXACT).exact and not parse(EXACT).conditional


OTHER: dict[str, Any] = {
    "name": "other", "seed": 9, "generations": 9,
    "data.source": "emoji", "data.image_size": 16, "data.color": "RGB", "data.label": "style", "data.styles": ["a"], "data.held_out": 0.25,
    "data.train_size": 77, "data.limit": 500, "data.tail.kind": "zipf", "data.tail.exponent": 2.0, "data.bad_images": "skip", "data.max_pixels": 10,
    "data.provenance": "trust", "data.unknown_origin": "synthetic",
    "data.audit": "audits/other", "data.audit_content": "0123456789ab", "data.audit_layers": ["watermark"],
    "data.weight": "weight",
    "data.caption": "a {class}", "data.caption_column": "title", "data.split_seed": 5, "data.buckets": [[8, 8], [8, 12]],
    "model.family": "memoriser", "model.conditional": False, "model.prediction_type": "epsilon", "model.train_timesteps": 50,
    "model.beta_schedule": "linear", "model.width": 16, "model.depth": 2,
    "regime.name": "fixed_real", "regime.real_fraction": 0.25, "regime.set_size": 60, "regime.synthetic_from": "all", "regime.stratified": True,
    "train.start_from": "base", "train.images_seen": 10, "train.batch_size": 10, "train.learning_rate": 0.1, "train.warmup_images": 10,
    "train.decay": "none", "train.weight_decay": 0.1, "train.gradient_clip": 0.0, "train.condition_dropout": 0.3, "train.ema_decay": 0.0,
    "train.precision": "bf16", "train.checkpoint_every": 0, "train.micro_batch_size": 4, "train.gradient_checkpointing": True,
    "train.min_snr_gamma": 5.0, "train.restarts": 2, "train.optimizer": "adamw8bit", "train.compile": True,
    "sample.count": 40, "sample.scheduler": "DDPMScheduler", "sample.scheduler_options": {"eta": 1.0}, "sample.steps": 9, "sample.guidance_scale": 2.0,
    "sample.conditions": "balanced", "sample.precision": "bf16", "sample.compile": True, "sample.batch_size": 500, "sample.shard_size": 500,
    "policies": ["unflagged"], "probe.per_condition": 0, "probe.conditions": 3, "probe.prompts": ["a"],
    "measure.extractors": [], "measure.metrics": [], "measure.judge": "pixels", "measure.count": 20, "measure.neighbours": 3, "measure.resamples": 0,
    "measure.concepts": "classes", "measure.held_out_loss": 7, "measure.judge_drift": True, "measure.aesthetic": "head.npz", "ecosystem": {"labs": 2},
    "track": ["tensorboard"],
}  # fmt: skip


AUDITED = {"data.source": "imagefolder:mine", "data.audit": "audits/mine"}
WITH = {
    "data.audit": {"data.source": "imagefolder:mine"},
    "data.audit_content": AUDITED,
    "data.audit_layers": AUDITED,
    "data.weight": {"data.source": "imagefolder:mine"},
    "data.buckets": {"model.family": "pixel-unet"},
    "regime.real_fraction": {"regime.name": "fixed_real"},
    "regime.stratified": {"regime.name": "accumulate_subsample"},
}


def changed(changes: dict[str, Any]) -> Config:
    raw = json.loads(json.dumps(DIGITS))
    for key, value in changes.items():
        configs.apply_override(raw, f"{key}={json.dumps(value)}")
    if changes.get("model.family") == "memoriser":
        raw["model"] = {"family": "memoriser"}
    return parse(raw)


def test_the_recipe_table_covers_every_field_with_a_value_that_is_not_the_default():
    assert [key for key, value in OTHER.items() if flat(parse(DIGITS)).get(key) == value] == []
    assert set(OTHER) == {
        k if not k.startswith("sample.scheduler_options") else "sample.scheduler_options"
        for k in flat(parse(DIGITS))
    }


@pytest.mark.parametrize("key", OTHER)
def test_the_recipe_ignores_exactly_the_fields_that_change_no_number(key):
    context = WITH.get(key, {})
    same = digest(recipe_of(changed(context))) == digest(recipe_of(changed({**context, key: OTHER[key]})))
    assert same == (key in {"name", "generations", "train.checkpoint_every", "track", "data.audit"})
    assert (key in NOT_IN_RECIPE) == same


def test_the_recipe_does_not_depend_on_how_the_config_was_written(tmp_path):
    spelt = parse(parse(DIGITS).model_dump(mode="json"))
    assert digest(recipe_of(spelt)) == digest(recipe_of(parse(DIGITS)))
    read = load(written(tmp_path, yaml.safe_dump(spelt.model_dump(mode="json"))))
    assert read == spelt
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": 2})
    assert len(digest({})) == 12


def test_the_schema_is_valid_and_describes_every_field():
    schema = Config.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    specs = [schema, *schema["$defs"].values()]
    sections = set(Config.model_fields) - {"name", "seed", "generations"}
    for spec in specs:
        if "enum" in spec:
            continue
        assert len(spec["description"]) > 15, spec["title"]
        for name, field in spec["properties"].items():
            if name == "family" or (spec is schema and name in sections):
                continue
            assert len(field.get("description", "")) > 10, f"{spec['title']}.{name} has no description"


@pytest.mark.parametrize(
    "raw",
    [
        {"seed": True},
        {"name": 5},
        {"train": {"batch_size": "128"}},
        {"nonsense": 1},
        {"sample": {"count": "x"}},
        {"model": {"family": "x"}},
    ],
)
def test_the_schema_refuses_what_reading_refuses(raw):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged(DIGITS, **raw), Config.model_json_schema())
    with pytest.raises(ConfigError):
        parse(merged(DIGITS, **raw))


def test_every_field_says_which_stages_read_it():
    stages = {"real", "mix", "train", "sample", "select", "measure", "policies"}
    for section, field in Config.model_fields.items():
        assert "read_by" in (field.json_schema_extra or {}), f"{section} says not which stages read it"
    for key in flat(parse({"model": {"family": "pixel-mlp"}, "sample": {"scheduler_options": {"eta": 1}}})):
        assert set(stages_of(key)) <= stages
    assert stages_of("sample.scheduler_options.eta") == ("sample",)
    assert stages_of("measure.judge") == ("select", "measure") and stages_of("train.checkpoint_every") == ()
