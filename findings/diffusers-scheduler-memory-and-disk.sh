#!/usr/bin/env bash
# diffusers 0.42.1: Scheduler.from_config(other.config) gives another scheduler than the same call after saving and loading.
#
# HeunDiscreteScheduler.from_config(ddim.config) is the usual way to exchange a sampler. Expected: it keeps the noise
# schedule of the model. Observed: values that the first scheduler left at its defaults are not passed on while it is in
# memory. The new class uses its own defaults instead. Heun, KDPM2 and their relatives have default betas of .00085 to .012,
# all others .0001 to .02. So Heun samples with another noise schedule than the one that the model was trained with. After
# save_pretrained and from_pretrained the same two lines keep the betas, but they also use "leading" timesteps instead of
# "linspace". There is no warning in either case.
#
# Why it matters: previews during training (in memory) and the published model (from disk) use different samplers. Heun
# samples a model trained with DDPMScheduler() on a noise schedule that was not used in training. State every beta
# explicitly.
#
# Output seen:
#   diffusers 0.42.1
#   trained with DDPMScheduler(): betas 0.0001 to 0.02, noise left at t=500: 0.9222
#   HeunDiscreteScheduler        in memory: betas 0.00085 to 0.012, linspace, first timestep 999;  over disk: betas 0.0001 to 0.02, leading, first timestep 900
#   KDPM2DiscreteScheduler       in memory: betas 0.00085 to 0.012, linspace, first timestep 999;  over disk: betas 0.0001 to 0.02, leading, first timestep 900
#   EulerDiscreteScheduler       in memory: betas 0.0001 to 0.02, linspace, first timestep 999;  over disk: betas 0.0001 to 0.02, leading, first timestep 900
#   DPMSolverMultistepScheduler  in memory: betas 0.0001 to 0.02, linspace, first timestep 999;  over disk: betas 0.0001 to 0.02, leading, first timestep 900
#   UniPCMultistepScheduler      in memory: betas 0.0001 to 0.02, linspace, first timestep 999;  over disk: betas 0.0001 to 0.02, leading, first timestep 900
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 diffusers==0.42.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import diffusers

print("diffusers", diffusers.__version__)
trained = diffusers.DDPMScheduler()
trained.save_pretrained("scheduler")
print(f"trained with DDPMScheduler(): betas {trained.config.beta_start} to {trained.config.beta_end}, noise left at t=500: {1 - float(trained.alphas_cumprod[500]):.4f}")
for name in ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
    kind = getattr(diffusers, name)
    memory = kind.from_config(trained.config)
    disk = kind.from_config(diffusers.DDPMScheduler.from_pretrained("scheduler").config)
    descriptions = []
    for scheduler in (memory, disk):
        scheduler.set_timesteps(10)
        descriptions.append(f"betas {scheduler.config.beta_start} to {scheduler.config.beta_end}, {scheduler.config.timestep_spacing}, first timestep {float(scheduler.timesteps[0]):.0f}")
    print(f"{name:<28} in memory: {descriptions[0]};  over disk: {descriptions[1]}")
    assert memory.config.timestep_spacing == "linspace" and disk.config.timestep_spacing == "leading"
    assert disk.config.beta_start == trained.config.beta_start
    if name in ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler"):
        assert (memory.config.beta_start, memory.config.beta_end) == (0.00085, 0.012), "betas are handed on now"
    else:
        assert memory.config.beta_start == trained.config.beta_start
EOF
