#!/usr/bin/env bash
# torch 2.14.1 (AveragedModel) and diffusers 0.42.1 (EMAModel): the moving average of bf16 weights never changes.
#
# Both keep the average in the dtype of the weights. With decay .999 one update adds a thousandth of the difference. bf16
# has 8 bits, so the sum is rounded to its old value. Expected: a noisy average, or an average in float32. Observed: after
# 3,000 updates towards weights that went from 1 to 2, float32 is at 1.95 and bf16 is still at exactly 1. fp16 stops half
# way. decay, step count and dtype all look right, and there is no warning.
#
# Why it matters: the "EMA weights" of a model that is trained in pure bf16 are the weights of the first steps. Samples and
# measures of them show a model that stopped learning. Keep the average in float32.
#
# Output seen:
#   torch 2.14.1 diffusers 0.42.1
#   after 3000 updates with decay .999; exact: 1.9503
#   torch.float32   AveragedModel 1.9503   EMAModel 1.9503
#   torch.float16   AveragedModel 1.5117   EMAModel 1.5117
#   torch.bfloat16  AveragedModel 1.0000   EMAModel 1.0000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 diffusers==0.42.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import diffusers
import torch
from diffusers.training_utils import EMAModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

print("torch", torch.__version__.split("+")[0], "diffusers", diffusers.__version__)

def averages(dtype, decay=0.999, updates=3000):
    # Weights of 1 that become 2 at once.
    net = torch.nn.Linear(4, 4, bias=False).to(dtype)
    net.weight.data.fill_(1)
    of_torch = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))
    of_diffusers = EMAModel(net.parameters(), decay=decay)
    of_diffusers.optimization_step = 100_000  # long past its warm-up
    of_torch.update_parameters(net)
    net.weight.data.fill_(2)
    for _ in range(updates):
        of_torch.update_parameters(net)
        of_diffusers.step(net.parameters())
    return of_torch.module.weight[0, 0].item(), of_diffusers.shadow_params[0][0, 0].item()

print(f"after 3000 updates with decay .999; exact: {2 - 0.999 ** 3000:.4f}")
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    values = averages(dtype)
    print(f"{str(dtype):<15} AveragedModel {values[0]:.4f}   EMAModel {values[1]:.4f}")
    for value in values:
        if dtype == torch.float32:
            assert abs(value - 1.9503) < 1e-3
        elif dtype == torch.bfloat16:
            assert value == 1, "the average of bf16 weights moves now"
        else:
            assert value < 1.9
EOF
