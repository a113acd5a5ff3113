#!/usr/bin/env bash
# diffusers 0.42.1: a pipeline made from a network in training mode samples with dropout.
#
# Previews during training are drawn with DDIMPipeline(unet=unet, scheduler=scheduler). The call switches gradients off.
# Expected: it also switches the network to evaluation mode. Observed: unet.training stays True, and dropout acts in every
# step. The same seed gives different pictures each time, and the samples are those of a noisier model. from_pretrained
# calls eval, so the published model behaves differently from the previews.
#
# Why it matters: measures during training are not those of the saved model, and seeds do not reproduce.
#
# Output seen:
#   diffusers 0.42.1
#   same seed twice, mean difference in levels: network in training 68.51, after unet.eval() 0.00
#   unet.training after the pipeline was called: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 diffusers==0.42.1 pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import diffusers
import numpy
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

print("diffusers", diffusers.__version__)
torch.manual_seed(0)
unet = UNet2DModel(
    sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(16,), norm_num_groups=4, dropout=0.1,
    down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)).train()
pipeline = DDIMPipeline(unet=unet, scheduler=DDIMScheduler())
pipeline.set_progress_bar_config(disable=True)

def picture():
    return pipeline(num_inference_steps=10, generator=torch.Generator().manual_seed(0), output_type="np").images

training = numpy.abs(picture() - picture()).mean() * 255
still = unet.training
unet.eval()
evaluation = numpy.abs(picture() - picture()).mean() * 255
print(f"same seed twice, mean difference in levels: network in training {training:.2f}, after unet.eval() {evaluation:.2f}")
print("unet.training after the pipeline was called:", still)
assert still and training > 0.5, "the pipeline evaluates now"
assert evaluation == 0
EOF
