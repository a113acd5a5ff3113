#!/usr/bin/env bash
# diffusers 0.42.1: new DPMSolverMultistepScheduler, UniPC, DEIS and DPMSolverSinglestep objects add noise in reverse.
#
# Training code calls scheduler.add_noise(images, noise, timesteps) on a new scheduler. Expected: timestep t gives the noise
# sqrt(1 - alphas_cumprod[t]), as with DDPMScheduler. Observed: these four schedulers count the timesteps from the other end
# until set_timesteps is called. t = 10 is almost pure noise, and t = 990 is almost a clean image. After set_timesteps(20),
# as for a preview during training, every timestep that is not one of the 20 gets the noise of the last step. There is no
# warning.
#
# Why it matters: the network gets one noise level as input and an image of another noise level. The loss falls and the
# pictures are bad. A test that only checks that the loss falls does not detect this. Add noise with DDPMScheduler, and use
# the others for sampling only.
#
# Output seen:
#   diffusers 0.42.1
#   share of noise at t = 10 300 700 990
#   expected                      [0.0468, 0.7785, 0.9966, 1.0]
#   DDPMScheduler                 [0.0468, 0.7785, 0.9966, 1.0] after set_timesteps(20) [0.0468, 0.7785, 0.9966, 1.0]
#   DPMSolverMultistepScheduler   [1.0, 0.9965, 0.7769, 0.0435] after set_timesteps(20) [0.1733, 0.7785, 0.1733, 0.1733]
#   DPMSolverSinglestepScheduler  [1.0, 0.9965, 0.7769, 0.0435] after set_timesteps(20) [0.1733, 0.7785, 0.1733, 0.1733]
#   UniPCMultistepScheduler       [1.0, 0.9965, 0.7769, 0.0435] after set_timesteps(20) [0.1733, 0.7785, 0.1733, 0.1733]
#   DEISMultistepScheduler        [1.0, 0.9965, 0.7769, 0.0435] after set_timesteps(20) [0.1733, 0.7785, 0.1733, 0.1733]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 diffusers==0.42.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import diffusers
import torch

print("diffusers", diffusers.__version__)
timesteps = torch.tensor([10, 300, 700, 990])
image, noise = torch.zeros(4, 1, 1, 1), torch.ones(4, 1, 1, 1)
expected = (1 - diffusers.DDPMScheduler().alphas_cumprod[timesteps]).sqrt()
print("share of noise at t =", *timesteps.tolist())
print("expected                     ", [round(x, 4) for x in expected.tolist()])
for name in ("DDPMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"):
    scheduler = getattr(diffusers, name)()
    assert torch.allclose(scheduler.alphas_cumprod, diffusers.DDPMScheduler().alphas_cumprod)
    fresh = scheduler.add_noise(image, noise, timesteps).flatten()
    scheduler.set_timesteps(20)
    later = scheduler.add_noise(image, noise, timesteps).flatten()
    print(f"{name:<29}", [round(x, 4) for x in fresh.tolist()], "after set_timesteps(20)", [round(x, 4) for x in later.tolist()])
    if name == "DDPMScheduler":
        assert torch.allclose(fresh, expected, atol=1e-4) and torch.allclose(later, expected, atol=1e-4)
    else:
        mirrored = (1 - scheduler.alphas_cumprod[999 - timesteps]).sqrt()
        assert torch.allclose(fresh, mirrored, atol=1e-3), "no longer reversed"
        assert later[0] == later[2] == later[3], "unknown timesteps no longer share one noise level"
EOF
