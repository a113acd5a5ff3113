#!/usr/bin/env bash
# diffusers 0.42.1: StableDiffusionPipeline samples TCDScheduler without the noise that this scheduler adds by default.
#
# `TCDScheduler.step` has the default eta = 0.3, which trades determinism for quality (Zheng et al. 2402.19159). The
# pipeline has its own argument `eta` with the default 0.0, and passes it to every scheduler that takes one. Expected:
# without `eta` the pipeline keeps the scheduler's default. Observed: without `eta` the pictures are those of eta = 0. A
# loop over `scheduler.step` gives different pictures.
#
# Why it matters: two programs that both use "TCD with default settings" draw from different distributions.
#
# Output seen:
#   diffusers 0.42.1; default eta of TCDScheduler.step: 0.3
#   left out against eta=0: 0; left out against eta=0.3: 0.2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 diffusers==0.42.1 transformers==5.24.0 accelerate==1.15.0
cat > "$folder/show.py" <<'PY'
import inspect
import logging
import warnings

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, TCDScheduler, UNet2DConditionModel

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
torch.manual_seed(0)
vae = AutoencoderKL(
    block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    latent_channels=4, layers_per_block=1, norm_num_groups=4, sample_size=16,
)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(8,), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=8, attention_head_dim=2, norm_num_groups=2,
)
scheduler = TCDScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
pipe = StableDiffusionPipeline(vae, None, None, unet, scheduler, None, None, requires_safety_checker=False)
pipe.set_progress_bar_config(disable=True)
states = torch.randn(1, 7, 8)


def picture(**more):
    asked = {"prompt_embeds": states, "height": 16, "width": 16, "guidance_scale": 1.0, "num_inference_steps": 4, "output_type": "np"}
    return pipe(**asked, generator=torch.Generator().manual_seed(7), **more).images


left_out, none, default = picture(), picture(eta=0.0), picture(eta=0.3)
print(f"diffusers {diffusers.__version__}; default eta of TCDScheduler.step: {inspect.signature(TCDScheduler.step).parameters['eta'].default}")
same, other = float(abs(left_out - none).max()), float(abs(left_out - default).max())
print(f"left out against eta=0: {same:g}; left out against eta=0.3: {other:.1f}")
assert inspect.signature(TCDScheduler.step).parameters["eta"].default == 0.3, "the default has changed"
assert same == 0 and other > 0.02, "the behaviour has changed"
PY
"$folder/venv/bin/python" "$folder/show.py"
