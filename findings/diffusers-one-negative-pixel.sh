#!/usr/bin/env bash
# diffusers 0.42.1: one pixel just below 0 in one picture turns off normalisation for the whole batch (VaeImageProcessor).
#
# preprocess takes tensors in [0, 1] and returns [-1, 1] for the autoencoder. It looks at the smallest value of the whole
# batch. If this value is below 0, it assumes that the batch is in [-1, 1] already and does not change it. Bicubic and
# Lanczos resizing overshoot by a hundredth, so a resized valid picture can contain such a pixel. The outputs of models can
# too. All pictures of the batch then lose half their contrast and become brighter: black becomes mid grey. The only message
# is a FutureWarning.
#
# Why it matters: image-to-image loops and autoencoder round trips measure a brightness drift that no model caused. The
# drift depends on the other images of the batch. Clamp to [0, 1] first.
#
# Output seen:
#   diffusers 0.42.1
#   a valid picture after a bicubic resize: -0.0117 to 1.0117
#   dark grey of level 64: alone 64, in a batch with that picture 159, with that picture clamped 64
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 diffusers==0.42.1 pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import diffusers
import torch
from diffusers.image_processor import VaeImageProcessor
from torchvision.transforms.v2.functional import resize

print("diffusers", diffusers.__version__)
processor = VaeImageProcessor(vae_scale_factor=1)
dark = torch.full((1, 3, 32, 32), 0.25)
edge = torch.zeros(1, 3, 64, 64)
edge[..., 32:] = 1
edge = resize(edge, [32, 32], interpolation=3, antialias=True)  # bicubic
print(f"a valid picture after a bicubic resize: {edge.min():.4f} to {edge.max():.4f}")
level = lambda batch: ((processor.preprocess(batch)[0].mean() + 1) * 127.5).item()  # what the autoencoder takes it for, 0 to 255
alone, together, clamped = level(dark), level(torch.cat([dark, edge])), level(torch.cat([dark, edge.clamp(0, 1)]))
print(f"dark grey of level 64: alone {alone:.0f}, in a batch with that picture {together:.0f}, with that picture clamped {clamped:.0f}")
assert edge.min() < 0
assert abs(alone - 63.75) < 0.1 and abs(clamped - 63.75) < 0.1
assert abs(together - 159.375) < 0.1, "the batch is normalised now"
EOF
