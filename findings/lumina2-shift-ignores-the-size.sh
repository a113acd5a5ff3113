#!/usr/bin/env bash
# diffusers 0.42.1: Lumina2Pipeline computes the shift of its noise levels from the number of latent channels.
#
# With `use_dynamic_shifting` the shift should grow with the number of image tokens. The pipeline passes `latents.shape[1]` to
# `calculate_shift`; in Flux, from which the function is copied, that is the number of tokens, but the latents of Lumina 2 are not
# packed, so it is the number of channels. Expected: noise levels that depend on the size of the image. Observed: the same ones for
# all sizes.
#
# Why it matters: large images are drawn with the shift of the smallest ones. A sampler or a training script that computes the shift
# from the tokens disagrees with the pipeline.
#
# Output seen:
#   diffusers 0.42.1
#   64 px: 16 tokens; noise levels [1.0, 0.826, 0.612, 0.345, 0.0], for that number of tokens [1.0, 0.826, 0.613, 0.345, 0.0]
#   1024 px: 4096 tokens; noise levels [1.0, 0.826, 0.612, 0.345, 0.0], for that number of tokens [1.0, 0.905, 0.76, 0.513, 0.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 diffusers==0.42.1 transformers==5.24.0 accelerate==1.15.0
cat > "$folder/show.py" <<'PY'
import logging
import warnings

import diffusers
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from diffusers.pipelines.lumina2.pipeline_lumina2 import calculate_shift

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
torch.manual_seed(0)
network = Lumina2Transformer2DModel(
    sample_size=4, patch_size=2, in_channels=4, hidden_size=24, num_layers=1, num_refiner_layers=1, num_attention_heads=1, num_kv_heads=1,
    multiple_of=8, axes_dim_rope=(8, 8, 8), axes_lens=(300, 64, 64), cap_feat_dim=8,
).eval()
vae = AutoencoderKL(
    block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
    norm_num_groups=2, scaling_factor=1.0, shift_factor=0.0,
)
pipe = Lumina2Pipeline(network, FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae, None, None)
pipe.set_progress_bar_config(disable=True)
states, mask = torch.randn(1, 5, 8), torch.ones(1, 5, dtype=torch.long)
print(f"diffusers {diffusers.__version__}")
seen, expected = [], []
for side in (64, 1024):
    pipe(
        prompt_embeds=states, prompt_attention_mask=mask, guidance_scale=1.0, height=side, width=side, num_inference_steps=4,
        generator=torch.Generator().manual_seed(0), output_type="latent",
    )
    seen.append([round(float(s), 3) for s in pipe.scheduler.sigmas])
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=calculate_shift((side // 16) ** 2))
    expected.append([round(float(s), 3) for s in scheduler.sigmas])
    print(f"{side} px: {(side // 16) ** 2} tokens; noise levels {seen[-1]}, for that number of tokens {expected[-1]}")
assert seen[0] == seen[1], "the shift depends on the size now"
assert expected[0] != expected[1], "the control has changed"
PY
"$folder/venv/bin/python" "$folder/show.py"
