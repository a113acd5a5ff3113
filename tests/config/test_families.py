"""The specs of the model families: what each refuses, and which facts of a family the config can be asked for."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from difflab.config import Config, parse, recipe_of
from difflab.config.families import EXACT, Model
from difflab.core.errors import ConfigError
from difflab.models import family_of

NUMBERS: dict[str, Any] = {"data": {"source": "exact", "train_size": 8}}
SD = {"family": "stable-diffusion", "base": "tiny-sd"}
TRAINED = {"train": {"start_from": "base"}}


def model(**fields: Any) -> Config:
    exact = fields["family"] in ("gaussian", "mixture", "categorical")
    more = TRAINED if fields["family"] in ("stable-diffusion", "flow") else {}
    return parse({"model": fields, **(NUMBERS if exact else {}), **more})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"family": "pixel-unet", "channels": [32, 60]},
            "norm_groups 8 does not divide every entry of channels",
        ),
        ({"family": "pixel-unet", "attention": [True]}, "attention has 1 entries, channels has 2"),
        ({**SD, "lora_alpha": 4}, "lora_alpha has no effect without lora_rank"),
        ({**SD, "lora_rank": 4, "train_text_encoder": True}, "works only with full fine-tuning"),
        ({"family": "flow", "base": "x", "train_text_encoder": True}, "train_text_encoder"),
        ({"family": "mixture", "components": 1}, "model.components"),
        ({"family": "stable-diffusion"}, "'model.base' is missing"),
        ({"family": "gausian"}, "known families: categorical, flow, gaussian"),
    ],
)
def test_what_a_family_cannot_be_is_refused_by_the_key(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        model(**fields)


def test_every_family_of_the_config_has_a_model() -> None:
    specs = get_args(get_args(Model)[0])
    names = [get_args(spec.model_fields["family"].annotation)[0] for spec in specs]
    assert len(set(names)) == len(specs) == 8
    for spec, name in zip(specs, names, strict=True):
        fields = {"family": name} | ({"base": "tiny-sd"} if "base" in spec.model_fields else {})
        config = model(**fields)
        assert isinstance(config.model, spec) and callable(family_of(config.model))
        assert config.exact == isinstance(config.model, EXACT)
        assert config.text == ("base" in spec.model_fields)
        assert config.denoises == (not config.exact and name != "memoriser")


def test_facts_can_be_asked_of_every_family() -> None:
    for name in ("gaussian", "memoriser", "pixel-mlp"):
        spec = model(family=name).model
        assert (spec.chains, spec.trains_lora, spec.starts_as_base, spec.shown_name) == (
            1,
            False,
            False,
            name,
        )
    assert model(family="gaussian", replicates=5).model.chains == 5
    assert model(family="pixel-mlp").conditional and not model(family="gaussian").conditional
    base = model(**SD | {"base": "org/some-model", "lora_rank": 4, "generation_0": "base"}).model
    assert (base.trains_lora, base.starts_as_base, base.shown_name) == (True, True, "some-model")


# ------------------------------------------------------------------------------------------- bases from files
@pytest.fixture
def files(tmp_path, monkeypatch):
    """A checkpoint and a LoRA; their content does not matter here."""
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    for name in ("model.safetensors", "lora.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def of_files(files, **fields):
    return model(**SD | {"base": str(files / "model.safetensors")} | fields).model


def test_the_content_of_files_is_part_of_the_recipe(files):
    spec = of_files(files, base_config="org/configs")
    lora = of_files(files, base_config="org/configs", base_lora=str(files / "lora.safetensors"))
    assert len(spec.base_content) == 12 and spec.base_content != lora.base_content
    (files / "model.safetensors").write_bytes(b"other content")
    changed = of_files(files, base_config="org/configs")
    assert changed.base_content != spec.base_content
    kept = of_files(files, base_config="org/configs", base_content=spec.base_content)
    assert kept == spec  # as in run.yaml: the content of then
    assert of_files(files, base="nowhere.safetensors").base_content is None
    assert model(**SD).model.base_content is None
    assert of_files(files, base="tiny-sd", base_lora=str(files / "lora.safetensors")).base_content is not None


def test_old_recipes_stay_the_same(files):
    """The fields of bases from files are part of the recipe only where they are used."""
    recipe = recipe_of(model(**SD))
    assert not [key for key in recipe if key.startswith(("model.base_", "base_"))]
    used = recipe_of(model(**SD | {"base_lora": str(files / "lora.safetensors"), "base_lora_scale": 0.5}))
    assert {key for key in used if key.startswith("model.base_")} == {
        "model.base_lora",
        "model.base_lora_scale",
        "model.base_content",
    }


def test_names_of_bases_from_files(files):
    assert of_files(files).shown_name == "model.safetensors" and of_files(files).base_is_file
    assert (
        of_files(files, base="tiny-sd", base_lora="a/style.safetensors").shown_name
        == "tiny-sd + style.safetensors"
    )
    assert of_files(files, base="x/Q8.GGUF").base_is_file and not model(**SD).model.base_is_file


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": "tiny-sd", "base_config": "org/x"}, r"base_config is for a base in one file"),
        ({"base_lora_scale": 0.5}, r"base_lora_scale has no effect without base_lora"),
        ({"base_lora": "a", "base_lora_scale": float("inf")}, "finite"),
        ({"base_lora": 3}, "base_lora"),
    ],
)
def test_fields_of_files_that_have_no_effect(fields, message, files):
    with pytest.raises(ConfigError, match=message):
        of_files(files, **fields)


def test_a_lab_with_files_of_its_own_has_their_content(files):
    ecosystem = {"labs": 2, "overrides": [{}, {"model.base": str(files / "lora.safetensors")}]}
    labs = parse(
        {"model": SD | {"base": str(files / "model.safetensors")}, "ecosystem": ecosystem} | TRAINED
    ).labs()
    contents = [lab.model.base_content for lab in labs]
    assert len(set(contents)) == 2 and None not in contents
