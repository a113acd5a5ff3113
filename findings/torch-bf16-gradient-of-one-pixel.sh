#!/usr/bin/env bash
# torch 2.14.1: on a CPU with bfloat16 instructions, the weight gradient of a convolution with stride 2 that reads images of a
# single pixel depends on what freed memory held.
#
# Conv2d with a 3 x 3 kernel, padding 1 and stride 2 on images of 1 x 1 pixel, in bfloat16 autocast: the output, the gradient of the
# input and that of the bias are right. Only the middle of each kernel meets the pixel, so the gradient of all other weights is 0.
# Expected: the same gradient as in float32. Observed: its other entries contain what was in memory before. After blocks of
# zeros were freed it is right; after NaN it is NaN; after other numbers it is too large or NaN. In float32, with stride 1, and
# with images of 2 x 2 pixels it is right.
#
# Why it matters: the last downsampling of a small UNet reads such images if latents are small. In training the loss looks right
# while the weights take random steps, or become NaN for no reason that the data or the learning rate explain.
#
# Output seen:
#   torch 2.14.1
#   bfloat16, 1 x 1 pixel, stride 2: gradient / that in float32 = 0.998 after zeros, nan after NaN
#   bfloat16, 1 x 1 pixel, stride 1: gradient / that in float32 = 0.998 after zeros, 0.998 after NaN
#   bfloat16, 2 x 2 pixel, stride 2: gradient / that in float32 = 1.000 after zeros, 1.000 after NaN
#   float32, 1 x 1 pixel, stride 2: gradient / that in float32 = 1.000 after zeros, 1.000 after NaN
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check numpy==2.4.6 torch==2.14.1
cd "$folder"
cat > gradient.py <<'EOP'
import copy
import math

import torch


def leave_behind(value):
    """Fill blocks of many sizes and free them, so that what is not written later holds the value."""
    blocks = [torch.full((4**k,), value) for k in range(2, 8)]
    del blocks


def size(gradient):
    return float(gradient.abs().sum())


def ratios(kind, side, stride):
    torch.manual_seed(0)
    layer, images = torch.nn.Conv2d(32, 32, 3, stride, padding=1), torch.randn(8, 32, side, side)
    truth = copy.deepcopy(layer)
    truth(images).sum().backward()
    found = []
    for value in (0.0, math.nan):
        layer.zero_grad()
        leave_behind(value)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
            output = layer(images)
        leave_behind(value)
        output.float().sum().backward()
        found.append(size(layer.weight.grad) / size(truth.weight.grad))
    zeros, nan = found
    print(
        f"{kind}, {side} x {side} pixel, stride {stride}: gradient / that in float32 = "
        f"{zeros:.3f} after zeros, {nan:.3f} after NaN"
    )
    return found


print("torch", torch.__version__.partition("+")[0])
if not torch.cpu._is_avx512_bf16_supported():
    raise SystemExit("this CPU has no bfloat16 instructions: nothing to see")
torch.set_num_threads(1)
zeros, nan = ratios("bfloat16", 1, 2)
assert abs(zeros - 1) < 0.02, "the gradient is wrong in another way"
assert math.isnan(nan), "no longer so: the gradient does not depend on freed memory"
for kind, side, stride in (("bfloat16", 1, 1), ("bfloat16", 2, 2), ("float32", 1, 2)):
    assert all(abs(ratio - 1) < 0.02 for ratio in ratios(kind, side, stride)), "other layers are wrong too"
EOP
./venv/bin/python gradient.py
