"""The specs of the model families: what each refuses, and which facts of a family the config can be asked for."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from difflab.config import Config, parse
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
