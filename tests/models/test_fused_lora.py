"""A LoRA in the weights of a base: W + scale (alpha / r) B A in every layout, as diffusers fuses it, and no layer is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lora_files
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny_bases import bases

from difflab.core.errors import ConfigError
from difflab.models.fused_lora import fuse, read
from difflab.models.pretrained import Base, open_base
from difflab.models.single_file import quiet
from difflab.models.text_to_image.registry import pipelines_of

pytestmark = tiny.LIBRARIES
ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
MORE = (*ATTENTION, "ff.net.2", "proj_in", "conv1", "conv_shortcut", "time_emb_proj")
METADATA = "lora_adapter_metadata"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    return {kind: tiny.make(kind, root / kind) for kind in ("sd15", "sdxl", "sd3")}


def opened(kind: str, folder: Path) -> Base:
    return open_base(str(folder), pipelines_of(tiny.family(kind)), tiny.family(kind))


def close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    assert ours.keys() == theirs.keys()
    return all(torch.allclose(t, theirs[name], rtol=1e-5, atol=1e-6) for name, t in ours.items())


def fused_by_diffusers(kind: str, folder: Path, file: Path, scale: float) -> Any:
    pipe = tiny.pipeline(kind, folder)
    with quiet():
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        pipe.fuse_lora(lora_scale=scale)
        pipe.unload_lora_weights()
    return pipe


# -------------------------------------------------------------------------------------------------- layouts
def written(layout: str, made: dict[str, Path], file: Path) -> tuple[Path, Any, float]:
    """A file for SD 1.5, its layers, and alpha / r."""
    found = lora_files.layers(made["sd15"], "unet", ATTENTION if layout == "diffusers" else MORE)
    if layout == "kohya":
        return lora_files.write(lora_files.kohya(found, "lora_unet", 2.0), file), found, 0.5
    if layout == "kohya without alpha":
        return lora_files.write(lora_files.kohya(found, "lora_unet", None), file), found, 1.0
    if layout == "diffusers":
        return lora_files.write(lora_files.diffusers(found, "unet"), file), found, 1.0
    if layout == "metadata":
        settings = {"unet.r": lora_files.RANK, "unet.lora_alpha": 6, "unet.target_modules": list(MORE)}
        return lora_files.write(lora_files.peft(found, "unet"), file, **{METADATA: settings}), found, 1.5
    if layout == "bare":
        state = {k.removeprefix("unet."): t for k, t in lora_files.peft(found, "unet").items()}
        return lora_files.write(state, file), found, 1.0
    file = lora_files.write(lora_files.peft(found, "base_model.model"), file)
    file.with_name("adapter_config.json").write_text(json.dumps({"r": lora_files.RANK, "lora_alpha": 8}))
    return file, found, 2.0


@pytest.mark.parametrize("layout", ["kohya", "kohya without alpha", "diffusers", "metadata", "bare", "peft"])
def test_every_layout_gives_the_weights_of_the_formula(layout, made, tmp_path):
    file, found, factor = written(layout, made, tmp_path / "lora.safetensors")
    fuse(opened("sd15", made["sd15"]), file, 0.7, tmp_path / "out")
    ours = tiny.tensors(tmp_path / "out")
    assert close(ours, lora_files.added(made["sd15"], "unet", found, 0.7 * factor))
    changed = {key for key, t in ours.items() if not torch.equal(t, tiny.tensors(made["sd15"])[key])}
    assert changed == {f"{name}.weight" for name in found}
    for name in ("vae", "text_encoder"):
        assert tiny.equal(tiny.tensors(tmp_path / "out", name), tiny.tensors(made["sd15"], name))
    assert opened("sd15", tmp_path / "out").components == opened("sd15", made["sd15"]).components


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "metadata"])
def test_diffusers_fuses_the_same_weights_and_paints_the_same_pictures(layout, made, tmp_path):
    file, _, _ = written(layout, made, tmp_path / "lora.safetensors")
    fuse(opened("sd15", made["sd15"]), file, 3.0, tmp_path / "out")
    theirs = fused_by_diffusers("sd15", made["sd15"], file, 3.0)
    assert close(tiny.tensors(tmp_path / "out"), dict(theirs.unet.state_dict()))
    sampling = tiny.config("sd15", made["sd15"]).sample
    pictures = [
        tiny.pictures(pipe, ["noto seal", "noto fire"], [1, 2], sampling).astype(int)
        for pipe in (tiny.pipeline("sd15", tmp_path / "out"), theirs, tiny.pipeline("sd15", made["sd15"]))
    ]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1 and np.abs(pictures[0] - pictures[2]).mean() > 1


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_text_encoders_are_changed_too(kind, made, tmp_path):
    """kohya's text encoder layers have a prefix that newer versions of transformers have dropped from CLIPTextModel."""
    parts = (
        {"text_encoder": "lora_te"}
        if kind == "sd15"
        else {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    )
    state, all_layers = {}, {}
    for i, (component, prefix) in enumerate(parts.items()):
        found = lora_files.layers(made[kind], component, ("q_proj", "out_proj", "fc1", "fc2"), seed=i)
        all_layers[component] = found
        with_prefix = {f"text_model.{name.removeprefix('text_model.')}": pair for name, pair in found.items()}
        state |= lora_files.kohya(with_prefix, prefix, 2.0)
    file = lora_files.write(state, tmp_path / "lora.safetensors")
    fuse(opened(kind, made[kind]), file, 1.0, tmp_path / "out")
    theirs = fused_by_diffusers(kind, made[kind], file, 1.0)
    for component, found in all_layers.items():
        ours = tiny.tensors(tmp_path / "out", component)
        assert close(ours, lora_files.added(made[kind], component, found, 0.5))
        assert close(ours, dict(getattr(theirs, component).state_dict()))


def test_the_names_of_sdxl_in_the_original_code(made, tmp_path):
    """The layout of sd-scripts for SDXL: input_blocks instead of down_blocks."""
    found = lora_files.layers(made["sdxl"], "unet", ATTENTION)
    names = {"down_blocks.0.attentions.0": "input_blocks.1.1", "mid_block.attentions.0": "middle_block.1",
             "up_blocks.1.attentions.0": "output_blocks.2.1", "up_blocks.1.attentions.1": "output_blocks.3.1"}  # fmt: skip
    original = {}
    for name, pair in found.items():
        ours = next(start for start in names if name.startswith(start))
        original[names[ours] + name.removeprefix(ours)] = pair
    file = lora_files.write(lora_files.kohya(original, "lora_unet", 4.0), tmp_path / "lora.safetensors")
    fuse(opened("sdxl", made["sdxl"]), file, 1.0, tmp_path / "out")
    assert close(tiny.tensors(tmp_path / "out"), lora_files.added(made["sdxl"], "unet", found, 1.0))


def test_a_transformer(made, tmp_path):
    found = lora_files.layers(made["sd3"], "transformer", ("to_k", "to_q", "to_out.0", "add_k_proj"))
    file = lora_files.write(lora_files.peft(found, "transformer"), tmp_path / "lora.safetensors")
    fuse(opened("sd3", made["sd3"]), file, 0.3, tmp_path / "out")
    ours = tiny.tensors(tmp_path / "out", "transformer")
    assert close(ours, lora_files.added(made["sd3"], "transformer", found, 0.3))
    assert close(ours, dict(fused_by_diffusers("sd3", made["sd3"], file, 0.3).transformer.state_dict()))


def test_flux_in_the_layout_of_sd_scripts(tmp_path):
    """sd-scripts has one layer for queries, keys and values, as the original code; diffusers has three."""
    folder = next(base for base in bases() if base.name == "flux-dev").write(tmp_path / "flux")
    block, rng, state = "transformer_blocks.0", torch.Generator().manual_seed(0), {}
    ours = tiny.tensors(folder, "transformer")
    stacked = torch.cat([ours[f"{block}.attn.to_{part}.weight"] for part in "qkv"])
    for name, weight in (
        ("img_attn_qkv", stacked),
        ("txt_mlp_0", ours[f"{block}.ff_context.net.0.proj.weight"]),
    ):
        down, up = (torch.randn(shape, generator=rng) for shape in ((3, weight.shape[1]), (len(weight), 3)))
        key = f"lora_unet_double_blocks_0_{name}"
        state |= {
            f"{key}.lora_down.weight": down,
            f"{key}.lora_up.weight": up,
            f"{key}.alpha": torch.tensor(6.0),
        }
        change = 0.1 * 6 / 3 * up @ down
        if name == "txt_mlp_0":
            ours[f"{block}.ff_context.net.0.proj.weight"] = weight + change
            continue
        for part, of_part in zip("qkv", change.chunk(3), strict=True):
            ours[f"{block}.attn.to_{part}.weight"] = ours[f"{block}.attn.to_{part}.weight"] + of_part
    file = lora_files.write(state, tmp_path / "lora.safetensors")
    fuse(open_base(str(folder), pipelines_of("flow"), "flow"), file, 0.1, tmp_path / "out")
    assert close(tiny.tensors(tmp_path / "out", "transformer"), ours)


def test_alphas_by_pattern(made, tmp_path):
    """peft's alpha_pattern gives single layers another alpha."""
    found = lora_files.layers(made["sd15"], "unet", ("to_k", "to_q"))
    settings = {"unet.r": 4, "unet.lora_alpha": 4, "unet.alpha_pattern": {"to_q": 12}}
    state = lora_files.peft(found, "unet")
    file = lora_files.write(state, tmp_path / "lora.safetensors", **{METADATA: settings})
    factors = {
        layer.name.rpartition(".")[2]: layer.factor for layer in read(opened("sd15", made["sd15"]), file)
    }
    assert factors == {"to_k": 1.0, "to_q": 3.0}


# ------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("kind", "other"), [("sd15", "sdxl"), ("sdxl", "sd15"), ("sd3", "sd15"), ("sd15", "sd3")]
)
def test_a_lora_of_another_base_is_refused(kind, other, made, tmp_path):
    found = lora_files.layers(made[other], tiny.BACKBONE[other], ("to_k", "to_q"))
    file = lora_files.write(lora_files.peft(found, tiny.BACKBONE[other]), tmp_path / "lora.safetensors")
    with pytest.raises(ConfigError, match=r"model\.base_lora .*it was made for another base$"):
        fuse(opened(kind, made[kind]), file, 1.0, tmp_path / "out")


def test_one_layer_that_matches_nothing_is_refused(made, tmp_path):
    found = lora_files.layers(made["sd15"], "unet", ATTENTION)
    found["down_blocks.7.attentions.0.transformer_blocks.0.attn1.to_k"] = next(iter(found.values()))
    file = lora_files.write(lora_files.kohya(found, "lora_unet", 4.0), tmp_path / "lora.safetensors")
    with pytest.raises(
        ConfigError,
        match=rf"1 of its {len(found)} layers match no layer of .*the first is unet\.down_blocks\.7",
    ):
        fuse(opened("sd15", made["sd15"]), file, 1.0, tmp_path / "out")


@pytest.mark.parametrize(("scale", "zero"), [(0.0, False), (1.0, True)])
def test_a_lora_that_changes_nothing_is_refused(scale, zero, made, tmp_path):
    found = lora_files.layers(made["sd15"], "unet", ATTENTION)
    if zero:
        found = {name: (down, up * 0) for name, (down, up) in found.items()}
    file = lora_files.write(lora_files.peft(found, "unet"), tmp_path / "lora.safetensors")
    with pytest.raises(
        ConfigError, match=r"changes no weights: its layers are 0, or model\.base_lora_scale is"
    ):
        fuse(opened("sd15", made["sd15"]), file, scale, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "holds DoRA, which difflab does not add"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "holds LoHa, which difflab does not add"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "holds LoKr, which difflab does not add"),
        ("lora_unet_mid_block_attentions_0_proj_in.diff_b", "holds weights that are added directly"),
        ("something.else.weight", "which is of no LoRA layer|diffusers cannot read its keys|match no layer"),
    ],
)
def test_other_adapters_are_refused(key, message, made, tmp_path):
    state = lora_files.kohya(lora_files.layers(made["sd15"], "unet", ATTENTION), "lora_unet", 4.0)
    file = lora_files.write(state | {key: torch.zeros(4, 4)}, tmp_path / "lora.safetensors")
    with pytest.raises(ConfigError, match=message):
        fuse(opened("sd15", made["sd15"]), file, 1.0, tmp_path / "out")


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "metadata"])
def test_half_of_a_layer(layout, made, tmp_path):
    file, _, _ = written(layout, made, tmp_path / "lora.safetensors")
    state = load_file(file)
    del state[next(key for key in state if "lora_up" in key or "lora.up" in key or "lora_B" in key)]
    save_file(state, file)
    with pytest.raises(
        ConfigError, match=r"only one of the two tensors of its layer|diffusers cannot read its keys"
    ):
        fuse(opened("sd15", made["sd15"]), file, 1.0, tmp_path / "out")


def test_files_that_are_no_lora(made, tmp_path):
    base = opened("sd15", made["sd15"])
    with pytest.raises(ConfigError, match=r"nowhere\.safetensors does not exist"):
        read(base, tmp_path / "nowhere.safetensors")
    with pytest.raises(ConfigError, match="holds pickled weights"):
        read(base, tmp_path / "lora.pt")
    with pytest.raises(ConfigError, match=r"is no LoRA \(its first key is 'conv_in.bias'\)"):
        read(base, made["sd15"] / "unet" / tiny.WEIGHTS)
    (tmp_path / "half.safetensors").write_bytes((made["sd15"] / "unet" / tiny.WEIGHTS).read_bytes()[:900])
    with pytest.raises(ConfigError, match="damaged or half-downloaded"):
        read(base, tmp_path / "half.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        None,
        {"r": 4, "lora_alpha": 4, "use_rslora": True},
        {"r": 4, "lora_alpha": 4, "rank_pattern": {"a": 1}},
    ],
)
def test_settings_of_peft_that_are_not_read(settings, made, tmp_path):
    file, _, _ = written("peft", made, tmp_path / "lora.safetensors")
    file.with_name("adapter_config.json").unlink()
    message = r"was written by peft; put its adapter_config\.json \(with alpha\) beside it"
    if settings is not None:
        file.with_name("adapter_config.json").write_text(json.dumps(settings))
        message = r"difflab does not read (use_rslora|rank_pattern) of adapter_config\.json"
    with pytest.raises(ConfigError, match=message):
        read(opened("sd15", made["sd15"]), file)
