"""The LoRA of Flux.1, Chroma and Flux.2 in kohya's layout: the pipelines read it back and paint the same pictures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import tiny_bases
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from difflab.config import parse
from difflab.core.errors import ConfigError, StoreError
from difflab.loop.chain import run_chain
from difflab.models import kohya, lora
from difflab.models.kohya import export_lora
from difflab.models.single_file import quiet

pytestmark = tiny.LIBRARIES
FLUX_TARGETS = {
    "flux-dev": [
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.to_v",
        "add_k_proj",
        "ff.net.2",
    ],
    "chroma": ["transformer_blocks.0.attn.to_k", "to_add_out", "single_transformer_blocks.0.proj_out"],
    "flux2-klein": ["to_q", "to_k", "to_v", "to_qkv_mlp_proj", "single_transformer_blocks.0.attn.to_out"],
}


@pytest.mark.parametrize("name", FLUX_TARGETS)
def test_the_pipeline_reads_the_lora_of_flux_and_paints_the_same_pictures(name, tmp_path, monkeypatch):
    (base,) = (base for base in tiny_bases.bases() if base.name == name)
    folder = base.write(tmp_path / "base")
    model = {"lora_rank": 4, "lora_alpha": 2, "lora_targets": FLUX_TARGETS[name]}
    train = {"images_seen": 24, "checkpoint_every": 0, "learning_rate": 0.05}
    config = parse(base.config(folder, generations=0, model=model, train=train))
    run = run_chain(config, tmp_path / "run", plots=False)
    file = tmp_path / "lora.safetensors"
    assert export_lora(run, 0, file) == len(load_file(run.gen(0) / "model" / lora.FILE)) // 2
    pictures = []
    for source in (run.gen(0) / "model" / lora.FILE, file, None):
        pipe = DiffusionPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        if source is not None:
            with quiet():
                pipe.load_lora_weights(str(source.parent), weight_name=source.name)
        latents = pipe(prompt="noto seal", height=16, width=16, num_inference_steps=2, output_type="latent",
                       generator=torch.Generator().manual_seed(0)).images  # fmt: skip
        pictures.append(latents)
    torch.testing.assert_close(pictures[0], pictures[1], rtol=1e-4, atol=1e-5)
    assert float((pictures[0] - pictures[2]).abs().max()) > 1e-2


def test_the_first_layer_of_single_blocks_at_the_width_of_flux(tmp_path):
    """Flux.1 has 3,072 features; diffusers splits this layer at that width alone."""
    names = ["attn.to_q", "attn.to_v", "proj_mlp", "proj_out"]
    draw = torch.Generator().manual_seed(0)
    layers = {}
    for name in names:
        wide = (15360, 3072) if name == "proj_out" else (3072, 12288 if name == "proj_mlp" else 3072)
        key = f"single_transformer_blocks.37.{name}"
        layers[f"{key}.lora_A.weight"] = torch.randn(2, wide[0], generator=draw)
        layers[f"{key}.lora_B.weight"] = torch.randn(wide[1], 2, generator=draw)
    base: Any = SimpleNamespace(kind="FluxPipeline")
    state = kohya.to_kohya(layers, base, 1.0)
    one = "lora_unet_single_blocks_37_linear1"
    assert {key.partition(".")[0] for key in state} == {one, "lora_unet_single_blocks_37_linear2"}
    assert state[f"{one}.lora_down.weight"].shape == (8, 3072) and float(state[f"{one}.alpha"]) == 4
    assert state[f"{one}.lora_up.weight"].shape == (3 * 3072 + 12288, 8)
    kohya._check(state, layers, base, 1.0)
    state[f"{one}.lora_up.weight"][5, 0] += 1
    with pytest.raises(StoreError, match=r"does not read back 1 of 8 .*blocks.37.attn.to_q.lora_B"):
        kohya._check(state, layers, base, 1.0)


def test_layers_of_flux_without_a_name_and_networks_that_diffusers_cannot_split():
    base: Any = SimpleNamespace(kind="FluxPipeline")
    odd = {f"time_text_embed.linear.lora_{half}.weight": torch.ones(2, 2) for half in "AB"}
    with pytest.raises(ConfigError, match=r"the layer time_text_embed.linear has no name in kohya's layout"):
        kohya.to_kohya(odd, base, 1.0)
    small = {f"single_transformer_blocks.0.proj_mlp.lora_{half}.weight": torch.ones(2, 2) for half in "AB"}
    small["single_transformer_blocks.0.proj_mlp.lora_B.weight"] = torch.ones(8, 2)
    with pytest.raises(StoreError, match=r"does not read back .*use the file in gen-\*/model"):
        kohya._check(kohya.to_kohya(small, base, 1.0), small, base, 1.0)
