#!/usr/bin/env bash
# diffusers 0.42.1: DPMSolverMultistep, UniPC, DEIS and SASolver give NaN if they sample with as many steps as there are
# training timesteps.
#
# Expected: 1,000 steps of a model with 1,000 timesteps is the slowest and safest setting, no worse than 999. Observed: with
# default settings the samples are NaN at 1,000 steps and finite at 999. The timesteps are 1,001 rounded numbers from 999 to
# 0, so one of them occurs twice. The step between the two has length zero, and the solver divides by it. With "leading"
# spacing, the setting in Stable Diffusion's own config, all 1,000 timesteps are equal and the last step raises IndexError
# or AssertionError. "trailing" works. DDIM and Euler work with 1,000 steps. The same holds for 100 steps of 100.
#
# Why it matters: sampling with all steps is the reference for sampling with few steps, and small research models often have
# 100 timesteps in training and in sampling.
#
# Output seen:
#   diffusers 0.42.1 - standard deviation of the samples, truth .5
#   DDIMScheduler                999 of 1000 steps: 0.473   1000 of 1000: 0.473
#   EulerDiscreteScheduler       999 of 1000 steps: 0.495   1000 of 1000: 0.495
#   DPMSolverMultistepScheduler  999 of 1000 steps: 0.497   1000 of 1000: nan   99 of 100: 0.582   100 of 100: nan
#                                1000 of 1000, trailing: 0.497, leading: IndexError
#   UniPCMultistepScheduler      999 of 1000 steps: 0.496   1000 of 1000: nan   99 of 100: 0.582   100 of 100: nan
#                                1000 of 1000, trailing: 0.497, leading: AssertionError
#   DEISMultistepScheduler       999 of 1000 steps: 0.497   1000 of 1000: nan   99 of 100: 0.583   100 of 100: nan
#                                1000 of 1000, trailing: 0.497, leading: IndexError
#   SASolverScheduler            999 of 1000 steps: 0.494   1000 of 1000: nan   99 of 100: 0.583   100 of 100: nan
#                                1000 of 1000, trailing: 0.494, leading: AssertionError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 diffusers==0.42.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import diffusers
import torch

def sampled(name, steps, trained, **settings):
    # The exact network for data that is normal with mean 0 and standard deviation .5.
    scheduler = getattr(diffusers, name)(num_train_timesteps=trained, **settings)
    scheduler.set_timesteps(steps)
    torch.manual_seed(0)  # SASolver draws noise
    x = torch.randn(4096, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        signal = scheduler.alphas_cumprod[int(t)]
        seen = scheduler.scale_model_input(x, t)
        noise = seen * (1 - signal).sqrt() / (signal * 0.25 + 1 - signal)
        x = scheduler.step(noise, t, x).prev_sample
    return x.std().item()

print("diffusers", diffusers.__version__, "- standard deviation of the samples, truth .5")
for name in ("DDIMScheduler", "EulerDiscreteScheduler"):
    values = [sampled(name, steps, 1000) for steps in (999, 1000)]
    print(f"{name:<28} 999 of 1000 steps: {values[0]:.3f}   1000 of 1000: {values[1]:.3f}")
    assert all(abs(value - 0.5) < 0.03 for value in values)
for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler"):
    values = [sampled(name, steps, trained) for steps, trained in ((999, 1000), (1000, 1000), (99, 100), (100, 100))]
    trailing = sampled(name, 1000, 1000, timestep_spacing="trailing")
    try:
        leading = sampled(name, 1000, 1000, timestep_spacing="leading")
    except (IndexError, AssertionError) as error:
        leading = type(error).__name__
    print(f"{name:<28} 999 of 1000 steps: {values[0]:.3f}   1000 of 1000: {values[1]}   99 of 100: {values[2]:.3f}   100 of 100: {values[3]}")
    print(f"{'':<28} 1000 of 1000, trailing: {trailing:.3f}, leading: {leading}")
    assert abs(values[0] - 0.5) < 0.03 and abs(trailing - 0.5) < 0.03
    assert values[1] != values[1] and values[3] != values[3], "no longer NaN"
    assert leading in ("IndexError", "AssertionError"), "leading spacing no longer fails"
EOF
