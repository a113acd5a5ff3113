from __future__ import annotations

import pytest
from steered import at, small

from difflab.config import parse
from difflab.core.errors import ConfigError
from difflab.core.files import write_json
from difflab.policies.sample import common


def config(family: str = "pixel-mlp", **sections):
    return parse({"model": {"family": family}, "generations": 2} | sections)


def test_a_family_that_removes_no_noise_is_refused() -> None:
    common.check_denoises("sims", config())
    with pytest.raises(ConfigError, match=r"policies: sims .* memoriser"):
        common.check_denoises("sims", config("memoriser"))


def test_an_unconditional_model_is_refused() -> None:
    common.check_conditional("cads", config())
    with pytest.raises(ConfigError, match=r"set model.conditional=true"):
        common.check_conditional("cads", config(model={"family": "pixel-mlp", "conditional": False}))


def test_a_model_that_learns_no_unconditional_prediction_cannot_be_guided() -> None:
    common.check_guidance("cads", config())
    with pytest.raises(ConfigError, match=r"needs train.condition_dropout above 0"):
        common.check_guidance("cads", config(train={"condition_dropout": 0.0}))


def test_a_policy_on_guidance_needs_a_scale_other_than_1_or_a_policy_that_sets_one() -> None:
    common.check_guided("base_guidance", config(sample={"guidance_scale": 2.0}))
    common.check_guided("base_guidance", config(policies=[{"policy": "guidance_schedule", "start": 3.0}]))
    with pytest.raises(ConfigError, match=r"base_guidance .* sample.guidance_scale=1"):
        common.check_guided("base_guidance", config(sample={"guidance_scale": 1.0}))


def test_the_scale_without_guidance_is_that_of_the_base(tmp_path) -> None:
    write_json(tmp_path / "model_index.json", {"_class_name": "ZImagePipeline"})
    based = {"model": {"family": "flow", "base": str(tmp_path)}, "data": {"source": "emoji"}}
    common.check_guided("base_guidance", config(**based, sample={"guidance_scale": 1.0}))
    with pytest.raises(ConfigError, match=r"base_guidance .* sample.guidance_scale=0"):
        common.check_guided("base_guidance", config(**based, sample={"guidance_scale": 0.0}))


def test_another_model_is_opened_ready_to_predict() -> None:
    model = small()
    model.net.train()
    assert common.opened(at(previous=model), "previous") is model
    assert not model.net.training
