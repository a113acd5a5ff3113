"""Checkpoints in one file: every weight arrives where it belongs, and what does not fit is an error, never a random weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import single_files
import tiny
import torch
from diffusers import GGUFQuantizationConfig, SD3Transformer2DModel
from safetensors.torch import save_file

from difflab.core.errors import ConfigError
from difflab.models import single_file
from difflab.models.pretrained import Base, open_base, open_configs
from difflab.models.single_file import components_of, header, read, smallest_type, write_component
from difflab.models.text_to_image.registry import pipelines_of

pytestmark = tiny.LIBRARIES
ENCODERS = {"sd15": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    return {kind: tiny.make(kind, root / kind) for kind in ("sd15", "sdxl", "sd3")}


def opened(kind: str, folder: Path) -> Base:
    return open_base(str(folder), pipelines_of(tiny.family(kind)), tiny.family(kind))


def converted(kind: str, file: Path, configs: Path, folder: Path) -> list[str]:
    """Write all components that the file holds; returns their names."""
    base = opened(kind, configs)
    parts = components_of(read(file), base.components)
    for name, part in parts.items():
        write_component(file, base, name, part, folder)
    return sorted(parts)


# ----------------------------------------------------------------------------------------- what is in a file
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_whole_checkpoint_has_every_weight_of_the_folder(kind, made, tmp_path):
    file = single_files.write(single_files.whole(kind, made[kind]), tmp_path / "model.safetensors")
    names = converted(kind, file, made[kind], tmp_path / "out")
    assert names == sorted(("unet", "vae", *ENCODERS[kind]))
    for name in names:
        assert tiny.equal(tiny.tensors(tmp_path / "out", name), tiny.tensors(made[kind], name)), name
        config = (tmp_path / "out" / name / "config.json").read_bytes()
        assert config == (made[kind] / name / "config.json").read_bytes()


def test_weights_are_read_without_weights_of_the_configs(made, tmp_path):
    """A folder with configs alone is enough for a whole checkpoint."""
    file = single_files.write(single_files.whole("sdxl", made["sdxl"]), tmp_path / "model.safetensors")
    names = ("unet", "vae", *ENCODERS["sdxl"])
    bare = single_files.configs_only(made["sdxl"], tmp_path / "configs", names)
    base = open_configs(bare, pipelines_of("stable-diffusion"), "stable-diffusion", None, names)
    for name, part in components_of(read(file), base.components).items():
        write_component(file, base, name, part, tmp_path / "out")
    assert single_files.same_weights(tmp_path / "out", made["sdxl"], names)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_transformer_alone_has_every_weight_of_the_folder(prefix, made, tmp_path):
    state = {prefix + key: tensor for key, tensor in single_files.mmdit(made["sd3"]).items()}
    file = single_files.write(state, tmp_path / "sd3.safetensors")
    assert converted("sd3", file, made["sd3"], tmp_path / "out") == ["transformer"]
    assert single_files.same_weights(tmp_path / "out", made["sd3"], ("transformer",))


def test_a_unet_alone_with_the_keys_of_either_code(made, tmp_path):
    """Bare keys of the original code, as in the folder unet/ of ComfyUI, and keys of diffusers."""
    for name, state in (
        ("original", single_files.unet(made["sd15"])),
        ("diffusers", tiny.tensors(made["sd15"])),
    ):
        file = single_files.write(state, tmp_path / f"{name}.safetensors")
        assert converted("sd15", file, made["sd15"], tmp_path / name) == ["unet"]
        assert single_files.same_weights(tmp_path / name, made["sd15"], ("unet",))


def test_text_encoders_of_sd3_are_told_apart(made, tmp_path):
    """Both have the same width here; the keys say which is which. SD 3 has no projection after the first one."""
    state = {f"model.diffusion_model.{key}": t for key, t in single_files.mmdit(made["sd3"]).items()}
    for key, component in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")):
        for name, tensor in single_files.clip(made["sd3"], component).items():
            if component == "text_encoder_2" or not name.startswith("text_projection"):
                state[f"text_encoders.{key}.transformer.{name}"] = tensor
    file = single_files.write(state, tmp_path / "sd3.safetensors")
    assert converted("sd3", file, made["sd3"], tmp_path / "out") == [
        "text_encoder",
        "text_encoder_2",
        "transformer",
    ]
    assert single_files.same_weights(tmp_path / "out", made["sd3"], ("text_encoder_2", "transformer"))
    ours, theirs = (tiny.tensors(folder, "text_encoder") for folder in (tmp_path / "out", made["sd3"]))
    assert torch.equal(ours.pop("text_projection.weight"), torch.eye(tiny.WIDTH))
    theirs.pop("text_projection.weight")
    assert tiny.equal(ours, theirs)


# --------------------------------------------------------------------------------------------------- types
def test_the_type_is_the_smallest_that_rounds_nothing():
    def of(*kinds: torch.dtype) -> torch.dtype:
        return smallest_type([torch.zeros(2, dtype=kind) for kind in kinds])

    assert of(torch.float16, torch.int64) == torch.float16
    assert (
        of(torch.bfloat16)
        == of(torch.float8_e4m3fn, torch.bfloat16)
        == of(torch.float8_e5m2)
        == torch.bfloat16
    )
    assert of(torch.float16, torch.bfloat16) == of(torch.float32, torch.float16) == torch.float32
    for kind in (torch.float8_e4m3fn, torch.float8_e5m2):
        values = torch.arange(256, dtype=torch.uint8).view(kind).float()
        known = values[values.isfinite()]
        assert torch.equal(known.bfloat16().float(), known)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_stays(kind, made, tmp_path):
    state = {key: t.to(kind) for key, t in single_files.whole("sd15", made["sd15"]).items()}
    file = single_files.write(state, tmp_path / "half.safetensors")
    converted("sd15", file, made["sd15"], tmp_path / "out")
    for name in ("unet", "vae", "text_encoder"):
        theirs = {key: t.to(kind) for key, t in tiny.tensors(made["sd15"], name).items()}
        assert tiny.equal(tiny.tensors(tmp_path / "out", name), theirs)


# ---------------------------------------------------------------------------------------------------- GGUF
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_a_gguf_file_is_what_diffusers_reads_and_gguf_dequantises(kind, made, tmp_path):
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    state = single_files.mmdit(made["sd3"])
    file = single_files.gguf(state, tmp_path / f"sd3-{kind}.gguf", kind)
    wanted = GGMLQuantizationType[kind]
    ours = read(file)["network"]
    block = {"Q8_0": 32, "Q4_0": 32}.get(kind, 1)
    rounded = 0
    for key, tensor in state.items():
        expected = tensor.numpy()
        if tensor.ndim == 2 and tensor.shape[1] % block == 0:
            expected = dequantize(quantize(expected, wanted), wanted)
            rounded += 1
        assert np.array_equal(ours[key].float().numpy(), expected.astype(np.float32)), key
    assert rounded and {key: t.shape for key, t in header(file)["network"].items()} == {
        key: t.shape for key, t in state.items()
    }
    converted("sd3", file, made["sd3"], tmp_path / "out")
    settings = GGUFQuantizationConfig(compute_dtype=torch.float32)
    with single_file.quiet():
        theirs = SD3Transformer2DModel.from_single_file(
            str(file), quantization_config=settings, config=str(made["sd3"]), subfolder="transformer",
            local_files_only=True, torch_dtype=torch.float32,
        )  # fmt: skip
        theirs.dequantize()
    mine = tiny.tensors(tmp_path / "out", "transformer")
    for key, tensor in theirs.state_dict().items():  # diffusers dequantises in float16
        torch.testing.assert_close(mine[key].float(), tensor.float(), rtol=2e-3, atol=1e-6)


def test_a_gguf_file_without_its_package(made, tmp_path, monkeypatch):
    file = single_files.gguf(single_files.mmdit(made["sd3"]), tmp_path / "sd3.gguf")
    monkeypatch.setattr(single_file, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sd3\.gguf needs the package gguf: pip install 'difflab\[gguf\]'"):
        header(file)


# -------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pth", ".bin", ".CKPT"])
def test_pickles_are_refused_before_they_are_opened(ending, tmp_path):
    with pytest.raises(
        ConfigError, match=r"holds pickled weights, which are not read, since they can run code"
    ):
        header(tmp_path / f"model{ending}")


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_half_a_file_is_damaged(ending, share, made, tmp_path):
    file, state = tmp_path / f"model{ending}", single_files.mmdit(made["sd3"])
    (single_files.write if ending == ".safetensors" else single_files.gguf)(state, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConfigError, match=r"is damaged or half-downloaded \(.*\); fetch it again"):
        header(file)
        read(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(
        ConfigError, match=r"nowhere\.safetensors does not exist; give the path of a checkpoint"
    ):
        header(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["lora_unet_down_blocks_0.lora_down.weight"], r"is a LoRA; set model\.base_lora to it"),
        (["first_stage_model.encoder.conv_in.weight"], r"holds no weights of a denoising network"),
        (
            ["text_model.embeddings.weight"],
            r"first key is 'text_model\.embeddings\.weight'\); give a checkpoint",
        ),
        (["model.diffusion_model.a.weight", "model.diffusion_model.a.scale_weight"], r"scaled 8-bit weights"),
    ],
)
def test_a_file_of_something_else(keys, message, tmp_path):
    save_file({key: torch.zeros(2, 2) for key in keys}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=message):
        header(tmp_path / "other.safetensors")


def damaged(state: dict[str, torch.Tensor], change: str) -> dict[str, torch.Tensor]:
    state = dict(state)
    name = next(key for key in state if key.endswith("attn1.to_q.weight"))
    if change == "a tensor less":
        del state[name]
    elif change == "another shape":
        state[name] = torch.zeros(3, 3)
    else:
        state["model.diffusion_model.label_emb.0.0.weight"] = torch.zeros(4, 4)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "a tensor less",
            r"the weights of 'unet' do not fit the config in .*\(the file lacks weights that the config asks for\); use",
        ),
        (
            "another shape",
            r"the weights of 'unet' do not fit the config in .*expected shape.*got.*base_config that",
        ),
        (
            "a tensor more",
            r"has [\d,]+ weights of 'unet', but the config in .* describes [\d,]+; use the model",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_never_filled_up(change, message, made, tmp_path):
    state = damaged(single_files.whole("sd15", made["sd15"]), change)
    file = single_files.write(state, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=message):
        converted("sd15", file, made["sd15"], tmp_path / "out")


@pytest.mark.parametrize("component", ["vae", "text_encoder"])
def test_no_component_is_filled_up(component, made, tmp_path):
    prefix = {"vae": "first_stage_model.", "text_encoder": "cond_stage_model."}[component]
    state = single_files.whole("sd15", made["sd15"])
    del state[max(key for key in state if key.startswith(prefix) and key.endswith(".bias"))]
    file = single_files.write(state, tmp_path / "model.safetensors")
    with pytest.raises(
        ConfigError, match=rf"lacks 1 weights of '{component}'|'{component}'.*the file lacks weights"
    ):
        converted("sd15", file, made["sd15"], tmp_path / "out")


@pytest.mark.parametrize(("kind", "configs"), [("sdxl", "sd15"), ("sd15", "sdxl")])
def test_the_configs_of_another_architecture(kind, configs, made, tmp_path):
    file = single_files.write(single_files.whole(kind, made[kind]), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"use the model\.base_config that it was made for$"):
        converted(configs, file, made[configs], tmp_path / "out")


def test_a_text_encoder_of_another_kind_is_not_taken_from_the_configs(made, tmp_path):
    """diffusers itself would read the text encoder of the config folder here."""
    state = single_files.whole("sd15", made["sd15"])
    known = [key for key in state if key.startswith("cond_stage_model.")]
    state |= {key.replace("transformer.text_model", "roberta"): state.pop(key) for key in known}
    file = single_files.write(state, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"the weights of 'text_encoder' do not fit the config"):
        converted("sd15", file, made["sd15"], tmp_path / "out")


# --------------------------------------------------------------------------------------------------- configs
@pytest.mark.parametrize(
    ("keys", "repository"),
    [
        ({}, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        (
            {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": 1},
            "stabilityai/stable-diffusion-xl-base-1.0",
        ),
    ],
)
def test_the_repository_is_the_one_that_diffusers_knows(keys, repository):
    parts: dict[str, Any] = {"network": {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4)}}
    parts["text_encoder_2"] = {key: torch.zeros(size) for key, size in keys.items()}
    assert single_file.inferred_config(parts) == repository


def test_libraries_speak_again_afterwards():
    import diffusers
    import transformers

    loggers = (diffusers.utils.logging, transformers.utils.logging)
    before = [logger.get_verbosity() for logger in loggers]
    with pytest.raises(RuntimeError), single_file.quiet():
        assert all(logger.get_verbosity() == logger.ERROR for logger in loggers)
        raise RuntimeError
    assert [logger.get_verbosity() for logger in loggers] == before
