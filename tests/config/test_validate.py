from __future__ import annotations

from typing import Any

import pytest
import yaml
from config_files import merged, written

from difflab.config import Config, load, parse
from difflab.core.errors import ConfigError

DIGITS: dict[str, Any] = {"model": {"family": "pixel-mlp"}}
EXACT: dict[str, Any] = {"data": {"source": "exact", "train_size": 10}, "model": {"family": "gaussian"}}


# -------------------------------------------------------------------------------------------------- reading
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
            "does not fit model.family=pixel-mlp",
        ),
        (merged(EXACT, data={"source": "digits"}), "does not fit model.family=gaussian"),
        ({"data": {"source": "exact"}, "model": {"family": "gaussian"}}, "needs data.train_size"),
        (merged(DIGITS, regime={"real_fraction": 0.5}), "no effect with regime.name=replace"),
        (
            merged(DIGITS, regime={"name": "accumulate", "real_fraction": 0.0}),
            "no effect with regime.name=accumulate",
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
        (merged(DIGITS, train={"condition_dropout": 1}), "the model never sees a label"),
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


# ------------------------------------------------------------------------------------------------ overrides
# --------------------------------------------------------------------------------------------------- recipe
# --------------------------------------------------------------------------------------------------- schema
