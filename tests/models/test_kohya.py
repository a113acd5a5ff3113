"""The LoRA of a run in kohya's layout: the names of sd-scripts, and diffusers reads back the same pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from commands import difflab
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file

import difflab as package
from difflab.core.errors import ConfigError, DataError, StoreError
from difflab.loop.chain import run_chain
from difflab.models import kohya, lora
from difflab.models.kohya import export_lora, original_name
from difflab.models.single_file import quiet

pytestmark = tiny.LIBRARIES
ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
MORE = [
    "to_k",
    "ff.net.2",
    "proj_in",
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
    "conv_in",
    "conv_out",
    "conv",
    "linear_1",
]


def ran(kind: str, folder: Path, path: Path, targets: list[str], **model: Any) -> Any:
    config = tiny.config(
        kind,
        folder,
        generations=0,
        model={"lora_rank": 4, "lora_alpha": 2, "lora_targets": targets, **model},
        train={"images_seen": 48, "checkpoint_every": 0, "learning_rate": 0.3},
        sample={"count": 4, "shard_size": 4, "batch_size": 4},
    )
    return run_chain(config, path, plots=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    return {kind: tiny.make(kind, root / kind) for kind in ("sd15", "sdxl", "sd3")}


@pytest.fixture(scope="module")
def runs(made, tmp_path_factory) -> dict[tuple[str, str], Any]:
    root = tmp_path_factory.mktemp("runs")
    wanted = [
        ("sd15", "attention"),
        ("sd15", "more"),
        ("sdxl", "attention"),
        ("sdxl", "more"),
        ("sd3", "attention"),
    ]
    targets = {"attention": ATTENTION, "more": MORE}
    done = {}
    for kind, name in wanted:
        its = targets[name] if kind != "sd15" else [t for t in targets[name] if t != "conv"]
        done[kind, name] = ran(kind, made[kind], root / f"{kind}-{name}", its)
    return done


def loaded(kind: str, folder: Path, file: Path) -> Any:
    pipe = tiny.pipeline(kind, folder)
    with quiet():
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return pipe


@pytest.mark.parametrize("name", ["attention", "more"])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_diffusers_reads_the_same_lora_and_paints_the_same_pictures(kind, name, made, runs, tmp_path):
    run = runs[kind, name]
    count = export_lora(run, 0, tmp_path / "lora.safetensors")
    theirs = loaded(kind, made[kind], tmp_path / "lora.safetensors")
    ours = loaded(kind, made[kind], run.gen(0) / "model" / lora.FILE)
    layers = [get_peft_model_state_dict(pipe.unet, adapter_name="default_0") for pipe in (ours, theirs)]
    assert tiny.equal(*layers) and count == len(layers[0]) // 2
    sampling = run.config.sample
    pictures = []
    for pipe in (ours, theirs, tiny.pipeline(kind, made[kind])):
        pictures.append(tiny.pictures(pipe, ["noto seal", "noto fire"], [1, 2], sampling).astype(int))
    assert np.array_equal(pictures[0], pictures[1]) and np.abs(pictures[0] - pictures[2]).max() > 2


def test_the_names_are_those_of_sd_scripts(runs, tmp_path):
    """SD 1.5 in the names of diffusers, SDXL in those of the original code, alpha beside each layer."""
    expected = {
        "sd15": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k",
        "sdxl": "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_k",
    }
    for kind, name in expected.items():
        file = tmp_path / f"{kind}.safetensors"
        export_lora(runs[kind, "attention"], 0, file)
        state = load_file(file)
        assert {key.partition(".")[2] for key in state} == {"lora_down.weight", "lora_up.weight", "alpha"}
        assert all(key.startswith("lora_unet_") and key.count(".") <= 2 for key in state)
        assert state[f"{name}.lora_down.weight"].shape[0] == state[f"{name}.lora_up.weight"].shape[1] == 4
        assert all(float(t) == 2.0 for key, t in state.items() if key.endswith(".alpha"))
        with safe_open(file, "pt") as content:
            metadata = content.metadata()
        assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "2.0")
        assert metadata["ss_base_model_version"] == {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0"}[kind]


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # two residual layers per block, as in SDXL; from the key tables of ComfyUI and sd-scripts
        ("down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0", "input_blocks.4.1.transformer_blocks.1.attn2.to_out.0"),
        ("down_blocks.2.attentions.1.proj_in", "input_blocks.8.1.proj_in"),
        ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj", "middle_block.1.transformer_blocks.9.ff.net.0.proj"),
        ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
        ("up_blocks.0.attentions.2.transformer_blocks.0.attn1.to_q", "output_blocks.2.1.transformer_blocks.0.attn1.to_q"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("up_blocks.1.resnets.0.conv_shortcut", "output_blocks.3.0.skip_connection"),
        ("up_blocks.2.resnets.2.time_emb_proj", "output_blocks.8.0.emb_layers.1"),
        ("conv_in", "input_blocks.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
    ],
)  # fmt: skip
def test_names_of_sdxl_in_the_original_code(name, expected):
    assert original_name(name, 2) == expected


def test_a_name_that_the_original_code_does_not_have():
    with pytest.raises(ConfigError, match=r"the layer class_embedding has no name in the original code"):
        original_name("class_embedding", 2)


def test_a_tensor_that_diffusers_would_not_read_back_is_found(runs, tmp_path, monkeypatch):
    names = kohya.original_name
    monkeypatch.setattr(
        kohya, "original_name", lambda name, n: names(name, n).replace("input_blocks.1", "input_blocks.2")
    )
    with pytest.raises(
        StoreError, match=r"diffusers does not read back \d+ of \d+ LoRA tensors from kohya's layout"
    ):
        export_lora(runs["sdxl", "attention"], 0, tmp_path / "lora.safetensors")
    assert not (tmp_path / "lora.safetensors").exists()


def test_what_cannot_be_exported(made, runs, tmp_path):
    run = runs["sd15", "attention"]
    with pytest.raises(ConfigError, match=r"has no model of generation 3; it has \[0\]"):
        export_lora(run, 3, tmp_path / "lora.safetensors")
    for name in ("lora", "lora.ckpt"):
        with pytest.raises(DataError, match=r"exists or does not end in \.safetensors; give --to a new file"):
            export_lora(run, 0, tmp_path / name)
    (tmp_path / "there.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="give --to a new file"):
        export_lora(run, 0, tmp_path / "there.safetensors")
    with pytest.raises(
        ConfigError,
        match=r"kohya's layout is not defined for a StableDiffusion3Pipeline; .*layout of diffusers",
    ):
        export_lora(runs["sd3", "attention"], 0, tmp_path / "lora.safetensors")
    full = ran("sd15", made["sd15"], tmp_path / "full", ATTENTION, lora_rank=0, lora_alpha=None)
    with pytest.raises(
        ConfigError, match=r"trains no LoRA \(model\.lora_rank is 0\); its models are diffusers folders"
    ):
        export_lora(full, 0, tmp_path / "lora.safetensors")


def test_the_command(runs, tmp_path):
    run, file = runs["sd15", "attention"], tmp_path / "lora.safetensors"
    done = difflab("export", run.path, "--generation", "0", "--lora", "kohya", "--to", file)
    assert done.returncode == 0 and done.stdout == f"32 LoRA layers in {file}\n"
    again = difflab("export", run.path, "--generation", "0", "--lora", "kohya", "--to", file)
    assert again.returncode == 2 and "give --to a new file" in again.stderr
    wrong = difflab(
        "export", run.path, "--generation", "0", "--lora", "lycoris", "--to", tmp_path / "b.safetensors"
    )
    assert wrong.returncode == 2
    as_rows = difflab(
        "export",
        run.path,
        "--generation",
        "0",
        "--lora",
        "kohya",
        "--to",
        tmp_path / "c.safetensors",
        "--json",
    )
    assert '"layers": 32' in as_rows.stdout


def test_what_comes_out_goes_in_again(made, runs, tmp_path):
    """The exported LoRA as model.base_lora gives the weights that the run's own file gives."""
    run, file = runs["sd15", "attention"], tmp_path / "lora.safetensors"
    export_lora(run, 0, file)
    weights = []
    for path in (file, run.gen(0) / "model" / lora.FILE):
        model = tiny.model("sd15", made["sd15"], base_lora=str(path))
        weights.append(dict(model.backbone.state_dict()))
    assert all(torch.allclose(t, weights[1][name], rtol=1e-6, atol=1e-7) for name, t in weights[0].items())
    plain = dict(tiny.model("sd15", made["sd15"]).backbone.state_dict())
    assert any(not torch.equal(t, plain[name]) for name, t in weights[0].items())


def test_a_damaged_lora(runs, tmp_path):
    """A copy of the run whose file has lost its end."""
    folder = Path(shutil.copytree(runs["sd15", "attention"].path, tmp_path / "run"))
    file = folder / "gen-000" / "model" / lora.FILE
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(StoreError, match="contains no readable LoRA"):
        export_lora(package.open_run(folder), 0, tmp_path / "lora.safetensors")
