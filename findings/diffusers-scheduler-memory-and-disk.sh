#!/usr/bin/env bash
# diffusers 0.42.1: Scheduler.from_config(other.config) differs from the same thing after a trip through a file.
#
# HeunDiscreteScheduler.from_config(ddim.config) is how a sampler is exchanged, and it should keep the noise schedule of the
# model. Seen: values that the first scheduler left at its own defaults are not handed on while it is in memory; the new class
# takes its own defaults instead. Heun, KDPM2 and their relatives default to betas .00085 to .012, all others to .0001 to .02:
# Heun samples with another noise schedule than the model was trained with. After save_pretrained and from_pretrained the
# same two lines keep the betas, and take "leading" timesteps instead of "linspace" as well. Nothing is said in either case.
#
# Why it matters: previews during training (in memory) and the published model (from disk) use different samplers, and a
# model trained with DDPMScheduler() is sampled by Heun on a schedule it has never seen. Write every beta out.
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
    told = []
    for scheduler in (memory, disk):
        scheduler.set_timesteps(10)
        told.append(f"betas {scheduler.config.beta_start} to {scheduler.config.beta_end}, {scheduler.config.timestep_spacing}, first timestep {float(scheduler.timesteps[0]):.0f}")
    print(f"{name:<28} in memory: {told[0]};  over disk: {told[1]}")
    assert memory.config.timestep_spacing == "linspace" and disk.config.timestep_spacing == "leading"
    assert disk.config.beta_start == trained.config.beta_start
    if name in ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler"):
        assert (memory.config.beta_start, memory.config.beta_end) == (0.00085, 0.012), "betas are handed on now"
    else:
        assert memory.config.beta_start == trained.config.beta_start
EOF
