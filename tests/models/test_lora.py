"""LoRA layers: every target matches a layer, and what is saved is what diffusers loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from difflab.core.errors import ConfigError, StoreError
from difflab.loop.chain import run_chain
from difflab.models import lora

pytestmark = tiny.LIBRARIES


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    return {kind: tiny.make(kind, root / kind) for kind in ("sd15", "sd3")}


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        (
            "sd15",
            ["to_k", "to_q", "to_vv", "to_out.0"],
            "no layer of .* has a name that ends in 'to_vv'; the nearest names: to_v",
        ),
        ("sd15", ["to_k", "prjo_in"], "ends in 'prjo_in'; the nearest names: .*proj_in"),
        ("sd3", ["to_kk"], "ends in 'to_kk'; the nearest names: .*to_k"),
        (
            "sd15",
            ["to_out"],
            r"'to_out' is a ModuleList \(.*to_out\), which has no weights of its own; use to_out.0",
        ),
        ("sd15", ["attn1"], r"'attn1' is a Attention .*; use attn1.to_q"),
        ("sd15", ["norm1"], "peft does not support these layers|'norm1'"),
    ],
)
def test_a_target_that_can_have_no_layer_is_named(kind, targets, message, made):
    with pytest.raises(ConfigError, match=message):
        tiny.model(kind, made[kind], lora_rank=2, lora_targets=targets)


@pytest.mark.parametrize(
    ("kind", "targets"), [("sd15", ["conv1"]), ("sd15", ["conv_in", "to_k"]), ("sd3", ["proj", "to_k"])]
)
def test_layers_of_convolutions_are_saved_and_diffusers_loads_them_bit_for_bit(kind, targets, made, tmp_path):
    """Convolutions in channels-last order have LoRA layers that are not contiguous, which safetensors refuses."""
    config = tiny.config(
        kind,
        made[kind],
        generations=0,
        model={"lora_rank": 4, "lora_targets": targets},
        train={"images_seen": 16, "checkpoint_every": 0},
        sample={"count": 4, "shard_size": 4, "batch_size": 4},
    )
    run = run_chain(config, tmp_path / "run")
    pipe = tiny.pipeline(kind, made[kind])
    pipe.load_lora_weights(run.gen(0) / "model")
    theirs = get_peft_model_state_dict(getattr(pipe, tiny.BACKBONE[kind]), adapter_name="default_0")
    model = tiny.model(kind, made[kind], lora_rank=4, lora_targets=targets)
    lora.load(model.backbone, model.component, model.spec, model.base, run.gen(0) / "model")
    ours = get_peft_model_state_dict(model.backbone)
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert any(
        float(t.abs().max()) > 0 for name, t in ours.items() if "lora_B" in name
    )  # something was learnt


def test_a_layer_that_is_lost_in_saving_is_found(made, tmp_path):
    model = tiny.model("sd15", made["sd15"], lora_rank=2)
    model.save(tmp_path)
    model.check_saved(tmp_path)
    content = load_file(tmp_path / lora.FILE)
    name = next(iter(content))
    save_file({key: value for key, value in content.items() if key != name}, tmp_path / lora.FILE)
    with pytest.raises(StoreError, match=r"1 of .* LoRA tensors are lost or changed when they are saved"):
        model.check_saved(tmp_path)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"train_text_encoder": True}], ids=str)
def test_a_model_that_cannot_be_saved_is_not_trained(changes, made, tmp_path, monkeypatch):
    """The untrained weights are saved first, by the same call."""
    from difflab.models.latent import Latent

    def refuses(self, folder):
        raise ValueError("You are trying to save a non contiguous tensor")

    monkeypatch.setattr(Latent, "save", refuses)
    config = tiny.config(
        "sd15",
        made["sd15"],
        generations=0,
        model=changes,
        train={"images_seen": 10**6, "checkpoint_every": 0},
    )
    with pytest.raises(
        StoreError, match=r"this model cannot be saved, so it is not trained: .*non contiguous"
    ):
        run_chain(config, tmp_path / "run")
    assert not (tmp_path / "run" / "gen-000" / "training.json").exists() and not list(
        tmp_path.rglob("*rehearsal*")
    )
