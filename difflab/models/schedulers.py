"""The sampling schedulers of diffusers: created by name, tried on a case with a known result, run on batches.

A scheduler is accepted for what it computes, not for its name. Before anything is trained it denoises a data
set of one image with that data set's exact prediction (`exact_prediction`), which every sampler of the same
forward process turns into that image, whatever its order and its number of steps.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.core.suggest import did_you_mean
from difflab.models.steer import Steer, overrides

FORWARD = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "prediction_type",
)  # settings of the forward process
TRIED = (4, 4, 4)  # shape of the image that a scheduler is tried on; no scheduler looks at positions
# Largest difference of alphas_cumprod in equal noise schedules. Diffusers itself clips the last value to
# 2^-24.
SAME_LEVELS = 1e-4
# Largest root mean square error of the trial. Samplers that keep the last noise of training have errors of
# .03.
NEAR = 0.1
FEW = 6  # steps of the short trial


def scheduler_of(how: Sample, noise: Any, device: Any = "cpu", settings: dict[str, Any] | None = None) -> Any:
    """The diffusers scheduler of that name, with the noise schedule of training and its timesteps set.

    Args:
        settings: a pretrained base's own scheduler config, which is kept as far as the scheduler knows it;
            None = only the forward process is handed on, since the other settings of a DDPMScheduler are not
            this scheduler's defaults.

    Raises ConfigError for an unknown name, an unknown option, a missing package, or a forward process of
    another kind.
    """
    name, options = how.scheduler, how.scheduler_options
    kind = scheduler_class(name)
    accepted = inspect.signature(kind.__init__).parameters
    forward = [key for key in FORWARD if key in noise.config]
    if not set(forward) <= accepted.keys():
        lacking = next(key for key in forward if key not in accepted)
        raise ConfigError(f"sample.scheduler '{name}' {foreign(noise)} (it takes no {lacking})")
    given = {key: noise.config[key] for key in forward}
    if settings is not None:
        given = {key: value for key, value in settings.items() if key in accepted} | given
    spacing = accepted.get("timestep_spacing")
    if settings is None and spacing is not None and spacing.default == "leading":
        given["timestep_spacing"] = (
            "trailing"  # the first step must start from pure noise (Lin et al. 2305.08891)
        )
    for key in options:
        if key not in accepted or key == "self":
            raise ConfigError(
                f"sample.scheduler_options: {name} knows no '{key}'; "
                f"{_near(key, accepted, 'see its page in the diffusers docs')}"
            )
        if key == "trained_betas" or key in forward:
            where = (
                "model.train_timesteps, beta_schedule or prediction_type"
                if settings is None
                else SCHEDULER_FILE
            )
            raise ConfigError(
                f"sample.scheduler_options: '{key}' is settled by training; remove it here and change {where}"
            )
    try:
        scheduler: Any = kind(**{**given, **options})
        scheduler.set_timesteps(how.steps, device=device)
    except Exception as error:  # each scheduler refuses in its own way
        raise ConfigError(
            f"sample.scheduler '{name}' refuses {options} with sample.steps {how.steps}: {_one_line(error)}"
        ) from error
    return scheduler


SCHEDULER_FILE = "scheduler/scheduler_config.json in a copy of the base's folder"


def scheduler_class(name: str) -> Any:
    """A scheduler class of diffusers by its name.

    Raises ConfigError for an unknown one, or one whose package is missing.
    """
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    kind = getattr(diffusers, name, None) if name.isidentifier() else None
    if isinstance(kind, type) and issubclass(kind, SchedulerMixin):
        return kind
    if (
        isinstance(kind, type) and "dummy" in kind.__module__
    ):  # stands in for a class of a package that is not installed
        raise ConfigError(f"sample.scheduler '{name}' needs another package: {_one_line(_refusal(kind))}")
    raise ConfigError(
        f"sample.scheduler '{name}' is no scheduler of diffusers; "
        f"{_near(name, scheduler_names(), 'for example DDIMScheduler')}"
    )


def _refusal(kind: Any) -> ImportError:
    try:
        kind()
    except ImportError as error:
        return error
    return ImportError("its package is not installed")


def scheduler_names() -> list[str]:
    """The names of all scheduler classes of the installed diffusers."""
    import diffusers

    return [
        name for name in sorted(dir(diffusers)) if name.endswith("Scheduler") and not name.startswith("Flax")
    ]


def instead(noise: Any) -> str:
    """A scheduler that samples what `noise` trains."""
    return "FlowMatchEulerDiscreteScheduler" if "FlowMatch" in type(noise).__name__ else "DDIMScheduler"


def foreign(noise: Any) -> str:
    """The end of the sentence for a scheduler of another process than that of training."""
    return f"does not denoise what this family is trained on; for example {instead(noise)} does"


def _near(word: str, known: Any, otherwise: str) -> str:
    return did_you_mean(word, known) or otherwise


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# ----------------------------------------------------------------------------------------------- the loop
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def denoise(
    scheduler: Any,
    x: torch.Tensor,
    generators: Sequence[torch.Generator],
    predict: Predict,
    steers: Sequence[Steer] = (),
) -> torch.Tensor:
    """From pure noise to what the network was trained on: [n, C, H, W].

    Args:
        x: unit normal noise [n, C, H, W].
        generators: one per image; the noise that the scheduler adds depends on them alone.
        predict: (noisy images as the network sees them, timestep) -> prediction [n, C, H, W].
        steers: of the policies that act while sampling.
    """
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    for steer in steers:
        x = steer.start(x)
    arguments = _step_arguments(scheduler, generators, steers)
    if hasattr(
        scheduler, "noise_sampler_seed"
    ):  # DPMSolverSDEScheduler takes no generators: without seeds its noise would be another one each time
        scheduler.noise_sampler_seed = [generator.initial_seed() for generator in generators]
    with drawing(scheduler, steers) if overrides(steers, "noise") else nullcontext():
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(predict(seen, t).float(), t, x, **arguments).prev_sample
    return x


def _step_arguments(
    scheduler: Any, generators: Sequence[torch.Generator], steers: Sequence[Steer]
) -> dict[str, Any]:
    """Per-image generators for the schedulers that add noise, and clipping that is consistent.

    DDIM clips the predicted image but by default keeps the noise that belonged to the unclipped one. Images
    with many pixels at black or white (digits: half of them) then keep a residue of noise that guidance
    amplifies; deriving the noise from the clipped image removes it.
    """
    names = list(inspect.signature(scheduler.step).parameters)
    arguments: dict[str, Any] = {"generator": list(generators)} if "generator" in names else {}
    if (
        "eta" in names
    ):  # the default of the pipelines, which is not that of every scheduler (TCDScheduler: 0.3)
        arguments["eta"] = 0.0
    if "use_clipped_model_output" in names and scheduler.config.get("clip_sample"):
        arguments["use_clipped_model_output"] = True
    for steer in steers:
        arguments = steer.arguments(arguments, names)
    return arguments


@contextmanager
def drawing(scheduler: Any, steers: Sequence[Steer]) -> Iterator[None]:
    """While the block runs, the noise that `scheduler` adds goes through `steers`.

    All of diffusers' schedulers draw it by one function.
    """
    module: Any = sys.modules[type(scheduler).__module__]
    drawn = getattr(module, "randn_tensor", None)

    def steered(*given: Any, **named: Any) -> torch.Tensor:
        z = drawn(*given, **named)  # type: ignore[misc]
        for steer in steers:
            z = steer.noise(z)
        return z

    if drawn is None:  # it adds none
        yield
        return
    module.randn_tensor = steered
    try:
        yield
    finally:
        module.randn_tensor = drawn


# ---------------------------------------------------------------------------------------------- the trial
def check_scheduler(make: Callable[[Sample], Any], how: Sample, noise: Any) -> None:
    """Raise ConfigError unless the scheduler of `make` can sample what `noise` trains, see `fault_of`."""
    fault = fault_of(make, how, noise)
    if fault:
        raise ConfigError(f"sample.scheduler '{how.scheduler}' {fault}")


def fault_of(make: Callable[[Sample], Any], how: Sample, noise: Any) -> str | None:
    """Why a scheduler cannot sample what `noise` trains, as the end of a sentence; None = it can.

    It denoises twice with the exact prediction in place of a network. The first pass has the steps of `how`,
    the second
    few: with many steps a sampler of another process corrects in its last steps its earlier errors, because
    the exact prediction always leads back to the image.

    Args:
        make: gives a new scheduler with its timesteps set.
        noise: the forward process of training, a diffusers scheduler.
    """
    scheduler = make(how)
    if fault := _nonfinite_timesteps(scheduler, how):
        return fault
    fault = other_levels(scheduler, noise)
    if fault:
        return f"{fault}; use for example {instead(noise)}"
    image = torch.rand(TRIED, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8

    def tried(how: Sample, seeds: Sequence[int], global_seed: int) -> torch.Tensor:
        return _denoised_trial(lambda: make(how), noise, image, seeds, global_seed)

    try:
        found, again, alone = tried(how, [1, 2], 0), tried(how, [1, 2], 1), tried(how, [2], 2)
    except Exception as reason:  # each scheduler refuses in its own way
        return (
            f"cannot be run as a plain sampler ({type(reason).__name__}: {_one_line(reason)[:120]}); "
            f"use for example {instead(noise)}"
        )
    if not torch.isfinite(found).all() and how.steps >= noise.config.num_train_timesteps:
        return (
            f"gives numbers that are not finite with as many sample.steps ({how.steps}) as training has "
            "timesteps; use fewer steps"
        )
    if not torch.isfinite(found).all():
        return (
            "gives numbers that are not finite, since its noise schedule and prediction_type do not go "
            "together; "
            f"use for example {instead(noise)}"
        )
    if not torch.equal(found, again):
        return f"draws noise that no seed determines; use for example {instead(noise)}"
    if not torch.allclose(found[1], alone[0], atol=1e-4):
        return f"draws noise that depends on the other images of a batch; use for example {instead(noise)}"
    if hasattr(scheduler, "alphas_cumprod") and late_start(scheduler, noise):
        return None  # its levels are those of training; that it begins too low is said and not refused
    with suppress(Exception):  # some know no few steps
        short = tried(how.model_copy(update={"steps": min(FEW, how.steps)}), [1], 0)
        found = torch.cat([found, short]) if torch.isfinite(short).all() else found
    distance = float((found - image).square().mean().sqrt())
    if distance > NEAR:
        return (
            f"{foreign(noise)} (led by the exact prediction of one image, it ends {distance:.2g} away "
            "from it)"
        )
    return None


def _nonfinite_timesteps(scheduler: Any, how: Sample) -> str | None:
    """What is wrong with the timesteps, as the end of a sentence; None = all of them are finite."""
    steps = scheduler.timesteps
    if torch.isfinite(steps.float()).all():
        return None
    shown = ", ".join(f"{float(t):.1f}" for t in steps[:6])
    return (
        f"has timesteps that are not finite with sample.steps {how.steps} ({shown}, ...); "
        "use other sample.steps or another scheduler"
    )


def _denoised_trial(
    make: Callable[[], Any], noise: Any, image: torch.Tensor, seeds: Sequence[int], global_seed: int
) -> torch.Tensor:
    """Images [n, *TRIED] that the scheduler of `make` denoises with the exact prediction, one per seed.

    `global_seed` seeds torch's global generator, which no scheduler should use.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = torch.stack([torch.randn(TRIED, generator=generator) for generator in generators])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(global_seed)
        return denoise(make(), x, generators, lambda x, t: exact_prediction(noise, image, x, t))


def late_start(scheduler: Any, noise: Any) -> str | None:
    """A warning for a sampler that starts from pure noise where training has little; None = no warning.

    Its pictures stay noisy, and so do those of the diffusers pipeline.
    """
    first, steps = float(scheduler.timesteps[0]), noise.config.num_train_timesteps
    if first >= steps / 2 or first < float(
        scheduler.timesteps.max()
    ):  # the timesteps of an inverse scheduler rise
        return None
    return (
        f"the scheduler starts from pure noise at timestep {first:g} of {steps}, so that pictures stay "
        "noisy: use more sample.steps, or sample.scheduler_options={timestep_spacing: trailing}"
    )


def other_levels(scheduler: Any, noise: Any) -> str | None:
    """The difference between the noise levels of a sampler and of training, as the end of a sentence.

    None = they are equal, or the sampler has no noise levels by timestep.
    """
    own, trained = getattr(scheduler, "alphas_cumprod", None), getattr(noise, "alphas_cumprod", None)
    if own is None or trained is None:
        return None
    if own.shape != trained.shape:
        return f"has {len(own)} noise levels and training has {len(trained)}"
    at = int((own.cpu() - trained).abs().argmax())
    if abs(float(own[at]) - float(trained[at])) <= SAME_LEVELS:
        return None
    return (
        f"has other noise levels than training: alphas_cumprod[{at}] is {float(own[at]):.4g}, "
        f"in training {float(trained[at]):.4g}"
    )


def exact_prediction(noise: Any, image: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The prediction of a perfect network for `x` [n, ...] at timestep `t`, for a data set of one `image`.

    The timestep may lie between two of training: the log of the noise-to-signal ratio is then interpolated,
    as samplers with continuous noise levels do (Karras et al. 2206.00364).
    """
    steps = noise.config.num_train_timesteps
    if not hasattr(
        noise, "alphas_cumprod"
    ):  # flow matching: x = (1 - s) image + s e, the velocity is e - image
        return (x - image) / (t.double() / steps).clamp(min=1e-6).to(x.dtype)
    ratio = (
        (1 - noise.alphas_cumprod.double()) / noise.alphas_cumprod.double().clamp(min=1e-12)
    ).log()  # of variances
    at = float(t)
    low = min(max(int(at), 0), steps - 1)
    high = min(low + 1, steps - 1)
    alpha = torch.sigmoid(-(ratio[low] + (at - low) * (ratio[high] - ratio[low])))
    signal, spread = alpha.sqrt().to(x.dtype), (1 - alpha).sqrt().to(x.dtype)
    epsilon = (x - signal * image) / spread
    return signal * epsilon - spread * image if noise.config.prediction_type == "v_prediction" else epsilon
