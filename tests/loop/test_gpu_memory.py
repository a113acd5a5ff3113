"""The estimate of GPU memory beside the bytes of real tensors in the same passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from difflab.config import parse
from difflab.core.errors import ConfigError
from difflab.core.tensor_bytes import TensorBytes
from difflab.loop import gpu_memory, passes
from difflab.loop.gpu_memory import RESERVE, StageMemory, bytes_of, stages
from difflab.models.weights import trainable

pytestmark = tiny.LIBRARIES


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    return {kind: tiny.make(kind, tmp_path_factory.mktemp("base") / kind) for kind in ("sd15", "sd3")}


def by_name(config: Any) -> dict[str, StageMemory]:
    return {stage.stage: stage for stage in stages(config)}


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train": {"gradient_checkpointing": True}},
        {"model": {"lora_rank": 2}},
        {"model": {"lora_rank": 2, "quantize": "int8"}, "train": {"micro_batch_size": 3}},
    ],
    ids=str,
)
def test_a_training_pass_takes_the_estimated_bytes(kind, changes, made):
    config = tiny.config(kind, made[kind], **changes)
    estimate = by_name(config)["train"]
    model = gpu_memory.model_of(config)
    model.initialise(0)
    model.prepare_training(config.train, "cpu")
    model.net.train()
    assert estimate.weights == bytes_of(model.net)
    assert estimate.gradients == sum(p.nbytes for p in trainable(model.net).values())
    assert estimate.optimiser == 3 * estimate.gradients  # two moments of AdamW and the EMA
    with TensorBytes() as count:
        passes.training_pass(model, config.train, "cpu")(
            config.train.micro_batch_size or config.train.batch_size
        )
    assert count.peak == pytest.approx(estimate.gradients + estimate.activations, rel=0.05)


def test_sampling_takes_the_estimated_bytes(made):
    config = tiny.config("sd3", made["sd3"])
    estimate = by_name(config)
    model = gpu_memory.model_of(config)
    model.initialise(0)
    model.prepare_sampling(config.sample, "cpu")
    assert estimate["sample"].weights == bytes_of(model.net) + bytes_of(model.vae)
    images = config.sample.batch_size * 2  # with guidance
    with TensorBytes() as count, torch.no_grad():
        passes.sampling_pass(model, "cpu", "no")(images)
    assert count.peak == pytest.approx(estimate["sample"].activations, rel=0.05)


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_the_text_encoders_are_counted(kind, made):
    estimate = by_name(tiny.config(kind, made[kind]))["texts"]
    pipe = tiny.pipeline(kind, made[kind])
    encoders = [pipe.text_encoder, getattr(pipe, "text_encoder_2", None)]
    assert estimate.weights == sum(bytes_of(encoder) for encoder in encoders if encoder is not None)
    assert estimate.activations > 0 and not estimate.note


def test_what_saves_memory_saves_it_in_the_estimate(made):
    plain = by_name(tiny.config("sd3", made["sd3"]))["train"]

    def train(**changes: Any) -> StageMemory:
        return by_name(tiny.config("sd3", made["sd3"], **changes))["train"]

    assert train(train={"gradient_checkpointing": True}).activations < plain.activations
    assert train(train={"micro_batch_size": 1}).activations < plain.activations / 4
    assert train(train={"precision": "bf16"}).activations < plain.activations
    assert train(train={"ema_decay": 0.0}).optimiser == plain.optimiser * 2 / 3
    assert train(train={"optimizer": "adamw8bit"}).optimiser < plain.optimiser * 0.51
    lora = train(model={"lora_rank": 2})
    assert lora.optimiser + lora.gradients < 0.1 * (plain.optimiser + plain.gradients)
    small = [train(model={"lora_rank": 2, "quantize": kind}).weights for kind in ("none", "int8", "nf4")]
    assert small[0] > small[1] > small[2]


def test_a_base_as_generation_0_is_not_trained(made):
    config = tiny.config("sd15", made["sd15"], generations=0, model={"generation_0": "base"})
    assert "train" not in by_name(config)
    assert by_name(config)["sample"].needed > RESERVE


def test_a_trained_text_encoder_is_trained_memory(made):
    plain = by_name(tiny.config("sd15", made["sd15"]))["train"]
    config = tiny.config("sd15", made["sd15"], model={"train_text_encoder": True})
    both = by_name(config)
    assert both["train"].gradients > plain.gradients and "texts" not in both


def test_encoders_that_need_values_are_counted_by_their_files(made, monkeypatch):
    gpu_memory._texts.cache_clear()

    def fail(*args: Any) -> Any:
        raise RuntimeError("needs a value")

    monkeypatch.setattr(gpu_memory, "text_pipeline", fail)
    found = by_name(tiny.config("sd15", made["sd15"]))
    gpu_memory._texts.cache_clear()
    file = next((made["sd15"] / "text_encoder").glob("*.safetensors"))
    assert found["texts"].weights == file.stat().st_size and "was not computed" in found["texts"].note


def test_other_families_have_no_estimate():
    config = parse({"model": {"family": "memoriser"}})
    with pytest.raises(ConfigError, match=r"--gpu estimates text-to-image runs; model\.family=memoriser"):
        stages(config)
