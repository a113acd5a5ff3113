from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from difflab import config as configs
from difflab.config import NOT_IN_RECIPE, Config, flat, load, parse, recipe_of
from difflab.core.errors import ConfigError
from difflab.core.hashing import digest
from difflab.pretraining.clip_parts import ClipPretraining
from difflab.pretraining.stable_diffusion import Pretraining
from difflab.studies.claims import Claim
from difflab.studies.sweep import Sweep

DIGITS: dict[str, Any] = {"model": {"family": "pixel-mlp"}}
EXACT: dict[str, Any] = {"data": {"source": "exact", "train_size": 10}, "model": {"family": "gaussian"}}


def written(folder: Path, text: str) -> Path:
    path = folder / "wanted.yaml"
    path.write_text(text)
    return path


def merged(base: dict[str, Any], **sections: Any) -> dict[str, Any]:
    out = {**base}
    for name, content in sections.items():
        out[name] = {**out.get(name, {}), **content} if isinstance(content, dict) else content
    return out


# -------------------------------------------------------------------------------------------------- reading
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no mapping of keys"),
        ("- 1\n- 2\n", "holds no mapping of keys"),
        ("just words", "holds no mapping of keys"),
        ("model: {", "is not valid YAML"),
        ("a:\tb: c", "is not valid YAML"),
        ("train: {batch_size: 1}\ntrain: {batch_size: 2}\n", "'train' is given twice"),
        ("train:\n  batch_size: 1\n  batch_size: 1\n", "'batch_size' is given twice"),
        ("name: !!python/object/apply:os.system ['echo owned']\n", "python/object/apply"),
        ("name: !!python/name:os.system\n", "is not valid YAML"),
        ("? [a, b]\n: 1\n", "is not valid YAML"),
        ("{}", "'model' is missing"),
        ("model: 3", "'model'"),
        ("model: {}", "known families: categorical, flow, gaussian, memoriser"),
        ("model: {family: gausian}", "'gausian'; known families"),
        ("1: 2\nmodel: {family: memoriser}", "Keys should be strings"),
    ],
)
def test_unreadable_yaml_is_refused_and_the_file_is_named(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_yaml_objects_are_never_built(tmp_path):
    marker = tmp_path / "owned"
    path = written(
        tmp_path,
        f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]\n",
    )
    with pytest.raises(ConfigError):
        load(path)
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(written(tmp_path, yaml.safe_dump(DIGITS)), ["name=!!python/object/apply:os.getcwd []"])
    assert not marker.exists()


@pytest.mark.parametrize("what", ["missing", "folder", "binary"])
def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path, what):
    path = tmp_path / "x.yaml"
    if what == "folder":
        path.mkdir()
    if what == "binary":
        path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ConfigError, match=r"cannot read config .*x\.yaml"):
        load(path)


def test_numbers_in_exponent_form_are_numbers(tmp_path):
    text = "model: {family: pixel-mlp}\ntrain: {learning_rate: 1e-3}\nsample: {scheduler_options: {beta_start: 5e-5, clip: 1E2}}\n"
    config = load(written(tmp_path, text))
    assert config.train.learning_rate == 1e-3
    assert config.sample.scheduler_options == {"beta_start": 5e-5, "clip": 100.0}


def test_a_bare_no_means_no_mixed_precision(tmp_path):
    path = written(tmp_path, "model: {family: pixel-mlp}\ntrain: {precision: no}\nsample: {precision: no}\n")
    assert load(path).train.precision == load(path).sample.precision == "no"
    assert load(path, ["train.precision=bf16"]).train.precision == "bf16"
    with pytest.raises(ConfigError, match=r"train\.precision"):
        load(path, ["train.precision=yes"])


# --------------------------------------------------------------------------------------------- unknown keys
@pytest.mark.parametrize(
    ("raw", "key", "near"),
    [
        ({"generatons": 3}, "generatons", "generations"),
        ({"batch_size": 3}, "batch_size", "train.batch_size"),
        ({"data": {"held_ot": 0.5}}, "data.held_ot", "held_out"),
        ({"data": {"tail": {"expnent": 1}}}, "data.tail.expnent", "exponent"),
        ({"model": {"family": "pixel-mlp", "widht": 3}}, "model.widht", "width"),
        ({"model": {"family": "pixel-unet", "chanels": [8]}}, "model.chanels", "channels"),
        ({"model": {"family": "memoriser", "memoriser": 1}}, "model.memoriser", "family"),
        ({"regime": {"nme": "replace"}}, "regime.nme", "name"),
        ({"train": {"images_sen": 3}}, "train.images_sen", "images_seen"),
        ({"sample": {"shard_siz": 3}}, "sample.shard_siz", "shard_size"),
        ({"policis": []}, "policis", "policies"),
        ({"probe": {"per_conditon": 1}}, "probe.per_conditon", "per_condition"),
        ({"measure": {"extractor": []}}, "measure.extractor", "extractors"),
    ],
)
def test_an_unknown_key_at_any_depth_names_the_nearest(tmp_path, raw, key, near):
    path = written(tmp_path, yaml.safe_dump(merged(DIGITS, **raw)))
    with pytest.raises(ConfigError) as caught:
        load(path)
    said = str(caught.value)
    assert f"unknown key '{key}'" in said and str(path) in said
    assert near in said.split(f"unknown key '{key}'")[-1]


def test_an_unknown_key_like_nothing_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"known keys here: data, ecosystem, generations, measure, model"):
        parse({**DIGITS, "zzzzzzzz": 1})


def test_a_root_key_named_like_a_family_is_an_unknown_key():
    with pytest.raises(ConfigError, match="unknown key 'mixture'"):
        parse({**DIGITS, "mixture": {"components": 3}})


def test_several_faults_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse({**DIGITS, "seed": -1, "train": {"batch_sze": 1}})
    assert "'seed'" in str(caught.value) and "train.batch_sze" in str(caught.value)


# --------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"seed": True}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"name": 5}, "name"),
        ({"name": "../outside"}, "name"),
        ({"name": ""}, "name"),
        ({"generations": -1}, "generations"),
        ({"data": {"held_out": 0}}, "data.held_out"),
        ({"data": {"held_out": 1}}, "data.held_out"),
        ({"data": {"held_out": float("nan")}}, "data.held_out"),
        ({"data": {"color": "CMYK"}}, "data.color"),
        ({"data": {"image_size": "8"}}, "data.image_size"),
        ({"data": {"train_size": 1}}, "data.train_size"),
        ({"data": {"tail": {"kind": "pareto"}}}, "data.tail.kind"),
        ({"data": {"tail": {"exponent": float("inf")}}}, "data.tail.exponent"),
        ({"data": []}, "data"),
        ({"regime": {"name": "replay"}}, "regime.name"),
        ({"regime": {"real_fraction": 1.5}}, "regime.real_fraction"),
        ({"regime": {"stratified": 1}}, "regime.stratified"),
        ({"regime": {"stratified": "yes"}}, "regime.stratified"),
        ({"regime": {"set_size": 1}}, "regime.set_size"),
        ({"train": {"batch_size": 0}}, "train.batch_size"),
        ({"train": {"batch_size": "128"}}, "train.batch_size"),
        ({"train": {"learning_rate": 0}}, "train.learning_rate"),
        ({"train": {"learning_rate": "fast"}}, "train.learning_rate"),
        ({"train": {"ema_decay": 1}}, "train.ema_decay"),
        ({"sample": {"count": 1}}, "sample.count"),
        ({"sample": {"count": []}}, "sample.count"),
        ({"sample": {"count": [10, 1]}}, "sample.count"),
        ({"sample": {"count": "many"}}, "sample.count"),
        ({"sample": {"count": [10, "x"]}}, "sample.count.1"),
        ({"sample": {"guidance_scale": -1}}, "sample.guidance_scale"),
        ({"sample": {"scheduler_options": 3}}, "sample.scheduler_options"),
        ({"measure": {"count": 9}}, "measure.count"),
        ({"measure": {"extractors": "pixels"}}, "measure.extractors"),
        ({"model": {"family": "pixel-unet", "channels": []}}, "model.channels"),
        ({"model": {"family": "pixel-unet", "channels": [32, 30]}}, "model"),
        ({"model": {"family": "pixel-unet", "attention": [True]}}, "model"),
        ({"model": {"family": "gaussian", "dim": 0}}, "model.dim"),
        ({"model": {"family": "gaussian", "sampling_bias": 0}}, "model.sampling_bias"),
        ({"model": {"family": "categorical", "temperature": 0}}, "model.temperature"),
        ({"model": {"family": "mixture", "components": 1}}, "model.components"),
    ],
)
def test_a_wrong_value_is_refused_under_its_key(raw, key):
    with pytest.raises(ConfigError) as caught:
        parse(merged(DIGITS, **raw), "some.yaml")
    assert f"some.yaml: '{key}':" in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            merged(DIGITS, data={"source": "exact", "train_size": 10}),
            "does not go with model.family=pixel-mlp",
        ),
        (merged(EXACT, data={"source": "digits"}), "does not go with model.family=gaussian"),
        ({"data": {"source": "exact"}, "model": {"family": "gaussian"}}, "wants data.train_size"),
        (merged(DIGITS, regime={"real_fraction": 0.5}), "no meaning under regime.name=replace"),
        (
            merged(DIGITS, regime={"name": "accumulate", "real_fraction": 0.0}),
            "no meaning under regime.name=accumulate",
        ),
        (merged(DIGITS, regime={"name": "accumulate", "stratified": True}), "regime.stratified needs"),
        (merged(DIGITS, regime={"name": "fresh_real"}), "fresh_real needs data.train_size"),
        ({"model": {"family": "memoriser"}, "sample": {"guidance_scale": 2}}, "needs a conditional model"),
        (
            {"model": {"family": "pixel-mlp", "conditional": False}, "sample": {"guidance_scale": 0}},
            "needs a conditional model",
        ),
        (
            merged(DIGITS, sample={"guidance_scale": 2}, train={"condition_dropout": 0}),
            "needs train.condition_dropout above 0",
        ),
        (merged(DIGITS, train={"condition_dropout": 1}), "never shows the model a label"),
        (
            merged(DIGITS, sample={"shard_size": 300, "batch_size": 200}),
            "shard_size 300 is not a multiple of sample.batch_size 200",
        ),
    ],
)
def test_an_impossible_combination_is_refused(raw, said):
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        merged(DIGITS, regime={"name": "fixed_real", "real_fraction": 0.0}),
        merged(DIGITS, regime={"name": "fresh_real"}, data={"train_size": 100}),
        merged(EXACT, regime={"name": "fresh_real", "real_fraction": 1}),
        merged(DIGITS, regime={"name": "accumulate_subsample", "stratified": True}),
        merged(DIGITS, sample={"guidance_scale": 2.5}),
        merged(DIGITS, sample={"guidance_scale": 0}),
        merged(DIGITS, sample={"shard_size": 100, "batch_size": 250}),
        merged(DIGITS, train={"condition_dropout": 0}),
        {"model": {"family": "pixel-mlp", "conditional": False}, "train": {"condition_dropout": 1}},
    ],
)
def test_the_neighbours_of_the_impossible_are_possible(raw):
    assert isinstance(parse(raw), Config)


def test_count_of_repeats_the_last_entry():
    how = parse(merged(DIGITS, sample={"count": [20, 30]})).sample
    assert [how.count_of(t) for t in range(4)] == [20, 30, 30, 30]
    assert parse(merged(DIGITS, sample={"count": 7})).sample.count_of(9) == 7


def test_a_config_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        parse(DIGITS).train.batch_size = 3


# ------------------------------------------------------------------------------------------------ overrides
def test_overrides_take_yaml_values_at_any_depth(tmp_path):
    path = written(tmp_path, yaml.safe_dump(merged(DIGITS, data={"limit": 100})))
    asked = [
        "train.learning_rate=1e-3",
        "sample.count=[50, 60]",
        "data.limit=null",
        "model.conditional=false",
        "data.tail.kind=zipf",
        "name=other",
        "sample.scheduler_options={beta_start: 1e-4}",
        "measure.extractors=[]",
        "sample.scheduler_options.eta=0.5",
        "seed=1",
        "seed=2",
    ]
    config = load(path, asked)
    assert config.train.learning_rate == 1e-3
    assert config.sample.count == [50, 60]
    assert config.data.limit is None and config.data.tail.kind == "zipf"
    assert not config.conditional and config.name == "other" and config.measure.extractors == []
    assert config.sample.scheduler_options == {"beta_start": 1e-4, "eta": 0.5}
    assert config.seed == 2


def test_an_override_may_hold_an_equals_sign(tmp_path):
    assert (
        load(written(tmp_path, yaml.safe_dump(DIGITS)), ["data.source=imagefolder:/a=b"]).data.source
        == "imagefolder:/a=b"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch_size", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("", "not of the form key=value"),
        ("train.batch_size=", "'train.batch_size'"),
        ("train.=3", "unknown key 'train.'"),
        ("seed.deep=3", "seed is not a section"),
        ("name=[", "not valid YAML"),
        ("train.batchsize=3", "did you mean 'batch_size'"),
        ("trian.batch_size=3", "did you mean 'train'"),
        ("train=3", "'train'"),
    ],
)
def test_a_bad_override_is_refused(tmp_path, override, said):
    path = written(tmp_path, yaml.safe_dump({**DIGITS, "seed": 3}))
    with pytest.raises(ConfigError) as caught:
        load(path, [override])
    assert said in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_config(tmp_path, encoding):
    raw = {**DIGITS, "data": {"source": "imagefolder:/é"}}
    (tmp_path / "config.yaml").write_bytes(yaml.safe_dump(raw, allow_unicode=True).encode(encoding))
    assert load(tmp_path / "config.yaml").data.source == "imagefolder:/é"
    (tmp_path / "config.yaml").write_bytes(b"name: a\nseed: \xff")
    with pytest.raises(ConfigError, match=r"config.yaml, line 2: cannot be read as UTF-8"):
        load(tmp_path / "config.yaml")


# --------------------------------------------------------------------------------------------------- recipe
OTHER: dict[str, Any] = {
    "name": "other", "seed": 9, "generations": 9,
    "data.source": "emoji", "data.image_size": 16, "data.color": "RGB", "data.label": "style", "data.styles": ["a"], "data.held_out": 0.25,
    "data.train_size": 77, "data.limit": 500, "data.tail.kind": "zipf", "data.tail.exponent": 2.0, "data.bad_images": "skip", "data.max_pixels": 10,
    "data.caption": "a {class}", "data.caption_column": "title", "data.split_seed": 5,
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
WITH = {
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
    assert same == (key in {"name", "generations", "train.checkpoint_every", "track"})
    assert (key in NOT_IN_RECIPE) == same


def test_the_recipe_does_not_depend_on_how_the_config_was_written(tmp_path):
    spelt = parse(parse(DIGITS).model_dump(mode="json"))
    assert digest(recipe_of(spelt)) == digest(recipe_of(parse(DIGITS)))
    read = load(written(tmp_path, yaml.safe_dump(spelt.model_dump(mode="json"))))
    assert read == spelt
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": 2})
    assert len(digest({})) == 12


# --------------------------------------------------------------------------------------------------- schema
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


def test_every_spec_forbids_unknown_keys_and_changes():
    def specs(base: type[BaseModel]) -> list[type[BaseModel]]:
        return [s for c in base.__subclasses__() for s in [c, *specs(c)]]

    found = specs(configs.Spec)
    assert len(found) >= 15
    for spec in found:
        assert (
            spec.model_config["extra"] == "forbid"
            and spec.model_config["frozen"]
            and spec.model_config["strict"]
        ), spec


def test_the_record_of_a_run_is_a_config_too(tmp_path):
    config = parse(DIGITS | {"generations": 3})
    record = tmp_path / "run.yaml"
    record.write_text(
        yaml.safe_dump({"config": config.model_dump(mode="json"), "recipe": "abc", "versions": {}})
    )
    assert load(record) == config and load(record, ["generations=2"]).generations == 2
