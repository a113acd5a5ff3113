"""Creates the sampling schedulers of diffusers by name, tests them, and runs them on batches.

Whether a scheduler is accepted depends on what it computes, not on its name. Before anything is trained, the
scheduler denoises a data set of one image, for which the exact prediction is known (`exact_prediction`).
Every sampler of the same forward process ends at that image, with any order and any number of steps.
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

# Settings of the forward process.
FORWARD = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
# Shape (C, H, W) of the image of the trial. It is small, because schedulers treat all pixels alike.
TRIED = (4, 4, 4)
# Largest difference of alphas_cumprod between noise schedules that count as equal. Some schedulers of
# diffusers clip the last value to 2^-24.
SAME_LEVELS = 1e-4
# Largest root mean square error of a trial. Samplers that end at the lowest noise level of training have an
# error of about 0.03.
NEAR = 0.1
FEW = 6  # steps of the short trials
# The trial with normal pixels: shape and standard deviation of the images, and how many times as large that
# of denoised images may be. Of samplers that work it is 0.6 to 1.3 times as large in FEW steps.
NORMAL, SPREAD = (4, 16, 16), 0.5
WIDEST = 2.0


def scheduler_of(
    sampling: Sample,
    noise: Any,
    device: Any = "cpu",
    settings: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
) -> Any:
    """Create the diffusers scheduler `sampling.scheduler` and set its timesteps.

    Its noise schedule is that of training.

    Args:
        sampling: the section `sample` of a config.
        noise: the forward process of training, a diffusers scheduler.
        device: the torch device of the timesteps.
        settings: a pretrained base's own scheduler config. The settings that the scheduler accepts are used.
            None = only the settings of the forward process are used.
        schedule: the keyword arguments that the base's pipeline passes to ``set_timesteps``. Those that the
            scheduler accepts are used.

    Raises ConfigError for an unknown name, an unknown option, a missing package, or a scheduler that does not
    accept the settings of the forward process.
    """
    name, options = sampling.scheduler, sampling.scheduler_options
    kind = scheduler_class(name)
    accepted = inspect.signature(kind.__init__).parameters
    forward = [key for key in FORWARD if key in noise.config]
    if not set(forward) <= accepted.keys():
        lacking = next(key for key in forward if key not in accepted)
        raise ConfigError(f"sample.scheduler '{name}' {foreign(noise)} (it takes no {lacking})")
    arguments = {key: noise.config[key] for key in forward}
    if settings is not None:
        arguments = {key: value for key, value in settings.items() if key in accepted} | arguments
    spacing = accepted.get("timestep_spacing")
    if settings is None and spacing is not None and spacing.default == "leading":
        # The first step must start from pure noise (Lin et al. 2305.08891).
        arguments["timestep_spacing"] = "trailing"
    _check_options(sampling, accepted, forward, settings is not None)
    try:
        scheduler: Any = kind(**{**arguments, **options})
        known = inspect.signature(scheduler.set_timesteps).parameters
        passed = {key: value for key, value in (schedule or {}).items() if key in known}
        scheduler.set_timesteps(sampling.steps, device=device, **passed)
    except Exception as error:  # each scheduler raises other types of errors
        raise ConfigError(
            f"sample.scheduler '{name}' refuses {options} with sample.steps {sampling.steps}: "
            f"{_one_line(error)}"
        ) from error
    return scheduler


def _check_options(sampling: Sample, accepted: Any, forward: list[str], pretrained: bool) -> None:
    """Raise ConfigError for an option that the scheduler does not have, or that training determines."""
    for key in sampling.scheduler_options:
        if key not in accepted or key == "self":
            raise ConfigError(
                f"sample.scheduler_options: {sampling.scheduler} has no option '{key}'; "
                f"{_near(key, accepted, 'see its page in the diffusers docs')}"
            )
        if key == "trained_betas" or key in forward:
            where = (
                SCHEDULER_FILE if pretrained else "model.train_timesteps, beta_schedule or prediction_type"
            )
            raise ConfigError(
                f"sample.scheduler_options: '{key}' must be the same as in training; remove it here and "
                f"change {where}"
            )


SCHEDULER_FILE = "scheduler/scheduler_config.json in a copy of the base's folder"


def scheduler_class(name: str) -> Any:
    """A scheduler class of diffusers by its name.

    Raises ConfigError for an unknown name, or a class that needs a package that is not installed.
    """
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    kind = getattr(diffusers, name, None) if name.isidentifier() else None
    if isinstance(kind, type) and issubclass(kind, SchedulerMixin):
        return kind
    # diffusers has a dummy class for each class that needs a package that is not installed.
    if isinstance(kind, type) and "dummy" in kind.__module__:
        raise ConfigError(f"sample.scheduler '{name}' needs another package: {_one_line(_refusal(kind))}")
    raise ConfigError(
        f"sample.scheduler '{name}' is no scheduler of diffusers; "
        f"{_near(name, scheduler_names(), 'for example DDIMScheduler')}"
    )


def _refusal(kind: Any) -> ImportError:
    """The error that a dummy class of diffusers raises, which names the missing package."""
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
    """The name of a scheduler that can sample models trained with the forward process `noise`."""
    return "FlowMatchEulerDiscreteScheduler" if "FlowMatch" in type(noise).__name__ else "DDIMScheduler"


def foreign(noise: Any) -> str:
    """The end of an error message about a scheduler whose process differs from that of training."""
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
    """Denoise images, or latents, from pure noise: [n, C, H, W].

    Args:
        scheduler: a diffusers scheduler with its timesteps set.
        x: standard normal noise [n, C, H, W].
        generators: one per image. They determine the noise that the scheduler adds.
        predict: (scaled input of the network [n, C, H, W], timestep) -> prediction [n, C, H, W].
        steers: the hooks of the active sampling policies.
    """
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    for steer in steers:
        x = steer.start(x)
    arguments = _step_arguments(scheduler, generators, steers)
    # DPMSolverSDEScheduler accepts no generators. Its noise is reproducible only if it gets seeds.
    if hasattr(scheduler, "noise_sampler_seed"):
        scheduler.noise_sampler_seed = [generator.initial_seed() for generator in generators]
    with drawing(scheduler, steers) if overrides(steers, "noise") else nullcontext():
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(predict(scaled, t).float(), t, x, **arguments).prev_sample
    return x


def _step_arguments(
    scheduler: Any, generators: Sequence[torch.Generator], steers: Sequence[Steer]
) -> dict[str, Any]:
    """The keyword arguments of the scheduler's `step`.

    They are the generators of the images, where the scheduler adds noise, and use_clipped_model_output. DDIM
    clips the predicted image, but by default computes the next step with the noise of the unclipped image.
    Images with many black or white pixels (for example digits) then keep some noise, which guidance
    amplifies. With use_clipped_model_output the noise is computed from the clipped image.
    """
    names = list(inspect.signature(scheduler.step).parameters)
    arguments: dict[str, Any] = {"generator": list(generators)} if "generator" in names else {}
    if "eta" in names:
        arguments["eta"] = 0.0  # the default of the pipelines; that of TCDScheduler is 0.3
    if "use_clipped_model_output" in names and scheduler.config.get("clip_sample"):
        arguments["use_clipped_model_output"] = True
    for steer in steers:
        arguments = steer.arguments(arguments, names)
    return arguments


@contextmanager
def drawing(scheduler: Any, steers: Sequence[Steer]) -> Iterator[None]:
    """Let `steers` change the noise that `scheduler` adds while the block runs.

    All schedulers of diffusers draw noise with the function `randn_tensor`, which is replaced in the module
    of the scheduler.
    """
    module: Any = sys.modules[type(scheduler).__module__]
    drawn = getattr(module, "randn_tensor", None)

    def steered(*args: Any, **kwargs: Any) -> torch.Tensor:
        z = drawn(*args, **kwargs)  # type: ignore[misc]
        for steer in steers:
            z = steer.noise(z)
        return z

    if drawn is None:  # the scheduler adds no noise
        yield
        return
    module.randn_tensor = steered
    try:
        yield
    finally:
        module.randn_tensor = drawn


# ---------------------------------------------------------------------------------------------- the trial
def check_scheduler(make: Callable[[Sample], Any], sampling: Sample, noise: Any) -> None:
    """Raise ConfigError if `fault_of` finds that the scheduler cannot sample models of this family."""
    fault = fault_of(make, sampling, noise)
    if fault:
        raise ConfigError(f"sample.scheduler '{sampling.scheduler}' {fault}")


def fault_of(make: Callable[[Sample], Any], sampling: Sample, noise: Any) -> str | None:
    """The reason why a scheduler cannot sample models of the forward process `noise`; None = it can.

    The scheduler denoises twice, with the exact prediction instead of a network. The first pass has
    `sampling.steps` steps, the second at most FEW. With many steps a sampler of a different process can
    correct its earlier errors, because the exact prediction always points to the image.

    Args:
        make: returns a new scheduler with its timesteps set.
        sampling: the section `sample` of a config.
        noise: the forward process of training, a diffusers scheduler.

    Returns the end of an error message that begins with the name of the scheduler.
    """
    scheduler = make(sampling)
    if fault := _nonfinite_timesteps(scheduler, sampling):
        return fault
    if fault := other_levels(scheduler, noise):
        return f"{fault}; use for example {instead(noise)}"
    image = torch.rand(TRIED, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8

    def trial(settings: Sample, seeds: Sequence[int], global_seed: int) -> torch.Tensor:
        return _denoised_trial(lambda: make(settings), noise, image, seeds, global_seed)

    try:
        denoised = trial(sampling, [1, 2], 0)
        repeated = trial(sampling, [1, 2], 1)
        second_alone = trial(sampling, [2], 2)
    except Exception as reason:  # each scheduler raises other types of errors
        return (
            f"cannot be run as a plain sampler ({type(reason).__name__}: {_one_line(reason)[:120]}); "
            f"use for example {instead(noise)}"
        )
    if not torch.isfinite(denoised).all() and sampling.steps >= noise.config.num_train_timesteps:
        return (
            f"gives numbers that are not finite with as many sample.steps ({sampling.steps}) as training has "
            "timesteps; use fewer steps"
        )
    if not torch.isfinite(denoised).all():
        return (
            "gives numbers that are not finite, since its noise schedule and prediction_type do not go "
            f"together; use for example {instead(noise)}"
        )
    if not torch.equal(denoised, repeated):
        return f"draws noise that no seed determines; use for example {instead(noise)}"
    if not torch.allclose(denoised[1], second_alone[0], atol=1e-4):
        return f"draws noise that depends on the other images of a batch; use for example {instead(noise)}"
    if hasattr(scheduler, "alphas_cumprod") and late_start(scheduler, noise):
        return None  # a start at too low a noise level is a warning, not an error
    with suppress(Exception):  # some schedulers do not support few steps
        short = trial(sampling.model_copy(update={"steps": min(FEW, sampling.steps)}), [1], 0)
        if torch.isfinite(short).all():
            denoised = torch.cat([denoised, short])
    distance = float((denoised - image).square().mean().sqrt())
    if distance > NEAR:
        return (
            f"{foreign(noise)} (led by the exact prediction of one image, it ends {distance:.2g} away "
            "from it)"
        )
    return _amplifies(make, sampling, noise)


def _amplifies(make: Callable[[Sample], Any], sampling: Sample, noise: Any) -> str | None:
    """The end of an error message about a sampler that amplifies changes of the prediction; None = it does
    not.

    With the exact prediction of a single image the predicted clean image never changes, so that trial does
    not see this. HeunDiscreteScheduler averages the predictions before and after its first step. In the
    cosine schedule this step goes from the noise level 20291 to about 15 (at 25 steps), and a change of the
    predicted image is multiplied by their ratio.
    """
    short = sampling.model_copy(update={"steps": min(FEW, sampling.steps)})
    with suppress(Exception):  # some schedulers do not support few steps
        images = _denoised_trial(lambda: make(short), noise, torch.zeros(NORMAL), [1], 0, SPREAD)
        ratio = float(images.std()) / SPREAD
        if ratio > WIDEST:
            return (
                "amplifies errors of the network between noise levels that are far apart (led by the exact "
                f"prediction of normally distributed pixels, it spreads them {ratio:.2g} times as far); use "
                f"sample.scheduler_options={{timestep_spacing: leading}}, or for example {instead(noise)}"
            )
    return None


def _nonfinite_timesteps(scheduler: Any, sampling: Sample) -> str | None:
    """The end of an error message about timesteps that are not finite; None = all are finite."""
    steps = scheduler.timesteps
    if torch.isfinite(steps.float()).all():
        return None
    shown = ", ".join(f"{float(t):.1f}" for t in steps[:6])
    return (
        f"has timesteps that are not finite with sample.steps {sampling.steps} ({shown}, ...); "
        "use other sample.steps or another scheduler"
    )


def _denoised_trial(
    make: Callable[[], Any],
    noise: Any,
    image: torch.Tensor,
    seeds: Sequence[int],
    global_seed: int,
    spread: float = 0.0,
) -> torch.Tensor:
    """Images [n, C, H, W] that a scheduler denoises with the exact prediction, one per seed.

    Args:
        make: returns a new scheduler.
        noise: the forward process of training.
        image: the only image of the data set, or their mean, [C, H, W].
        seeds: one per image.
        global_seed: the seed of torch's global generator, on which the result should not depend.
        spread: standard deviation of the pixels of the data set.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = torch.stack([torch.randn(image.shape, generator=generator) for generator in generators])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(global_seed)
        return denoise(make(), x, generators, lambda x, t: exact_prediction(noise, image, x, t, spread))


def late_start(scheduler: Any, noise: Any) -> str | None:
    """A warning if the sampler's first timestep is in the lower half of those of training; None = it is not.

    Such a sampler starts from pure noise at a timestep where training had little noise. Its images stay
    noisy, as those of the diffusers pipeline do.
    """
    first, steps = float(scheduler.timesteps[0]), noise.config.num_train_timesteps
    rising = first < float(scheduler.timesteps.max())  # as those of an inverse scheduler
    if first >= steps / 2 or rising:
        return None
    return (
        f"the scheduler starts from pure noise at timestep {first:g} of {steps}, so that images stay "
        "noisy: use more sample.steps, or sample.scheduler_options={timestep_spacing: trailing}"
    )


def other_levels(scheduler: Any, noise: Any) -> str | None:
    """The end of an error message about a sampler whose noise levels differ from those of training.

    None = they are equal, or the sampler has no list of noise levels by timestep.
    """
    sampled = getattr(scheduler, "alphas_cumprod", None)
    trained = getattr(noise, "alphas_cumprod", None)
    if sampled is None or trained is None:
        return None
    if sampled.shape != trained.shape:
        return f"has {len(sampled)} noise levels and training has {len(trained)}"
    worst = int((sampled.cpu() - trained).abs().argmax())
    if abs(float(sampled[worst]) - float(trained[worst])) <= SAME_LEVELS:
        return None
    return (
        f"has other noise levels than training: alphas_cumprod[{worst}] is {float(sampled[worst]):.4g}, "
        f"in training {float(trained[worst]):.4g}"
    )


def exact_prediction(
    noise: Any, image: torch.Tensor, x: torch.Tensor, t: torch.Tensor, spread: float = 0.0
) -> torch.Tensor:
    """The prediction of a perfect network for `x` [n, ...] at timestep `t`, if `image` is the whole data set.

    With `spread` the pixels of the data set are independent and normal around `image`, with this standard
    deviation. `t` may lie between two timesteps of training. Then the log of the noise-to-signal ratio is
    interpolated, as in samplers with continuous noise levels (Karras et al. 2206.00364).
    """
    steps = noise.config.num_train_timesteps
    if not hasattr(noise, "alphas_cumprod"):
        # Flow matching: x = (1 - s) image + s e, and the velocity is e - image = (x - image) / s.
        sigma = (t.double() / steps).clamp(min=1e-6).to(x.dtype)
        return (x - _clean(image, x, 1 - sigma, sigma, spread)) / sigma
    alphas = noise.alphas_cumprod.double()
    log_ratio = ((1 - alphas) / alphas.clamp(min=1e-12)).log()  # of the variances of noise and signal
    timestep = float(t)
    low = min(max(int(timestep), 0), steps - 1)
    high = min(low + 1, steps - 1)
    alpha = torch.sigmoid(-(log_ratio[low] + (timestep - low) * (log_ratio[high] - log_ratio[low])))
    signal, sigma = alpha.sqrt().to(x.dtype), (1 - alpha).sqrt().to(x.dtype)
    clean = _clean(image, x, signal, sigma, spread)
    epsilon = (x - signal * clean) / sigma
    if noise.config.prediction_type == "v_prediction":
        return signal * epsilon - sigma * clean
    return epsilon


def _clean(
    mean: torch.Tensor, x: torch.Tensor, signal: torch.Tensor, sigma: torch.Tensor, spread: float
) -> torch.Tensor:
    """The expected image behind x = signal * image + sigma * noise, if images are normal with `mean`."""
    gain = signal * spread**2 / (signal**2 * spread**2 + sigma**2)
    return mean + gain * (x - signal * mean)
