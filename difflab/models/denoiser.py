"""What all diffusion families share, in pixels or latents: noise, loss, guidance, sampling.

A denoiser is a diffusers model that maps (noisy images, timesteps, class labels) to a prediction. Class `classes` is
the null label that classifier-free guidance needs (Ho & Salimans 2207.12598).
"""

from __future__ import annotations

import difflib
import inspect
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import compute_snr

from difflab.config import Sample, Train
from difflab.errors import ConfigError, StoreError
from difflab.models.base import Family
from difflab.models.overflow import named, watched

FORWARD = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")  # settings of the forward process


@dataclass(frozen=True)
class Step:
    """One step of the denoising of n images.

    Attributes:
        x: the noisy images [n, C, H, W], as the network sees them.
        t: the timestep, [n].
        share: how much noise is left, the timestep over the number of timesteps: 1 = nothing else, 0 = none.
        conditions: int64 [n]; None = the model has none.
        scale: the guidance scale.
        seeds: one per image; what a policy draws depends on them and on the step alone.
    """

    x: torch.Tensor
    t: torch.Tensor
    share: float
    conditions: torch.Tensor | None
    scale: float
    seeds: list[int]


class Steer:
    """What a sampling policy changes of the denoising loop; each method returns what it was given. Several are asked in order."""

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """The noise [n, C, H, W] that images start from."""
        return x

    def guidance(self, scale: float, share: float) -> float:
        """The guidance scale of a step in which `share` of the noise is left."""
        return scale

    def embedding(self, e: torch.Tensor, step: Step) -> torch.Tensor:
        """What the network is told of the conditions, [n, ...]; it is not asked about "none"."""
        return e

    def without(self, step: Step) -> torch.Tensor | None:
        """The prediction without condition that guidance leads away from; None = the model's own. The first that has one is taken."""
        return None

    def prediction(self, prediction: torch.Tensor, step: Step) -> torch.Tensor:
        """The guided prediction of a step."""
        return prediction

    def arguments(self, given: dict[str, Any], accepted: Sequence[str]) -> dict[str, Any]:
        """Arguments of the scheduler's step, which knows those `accepted`."""
        return given

    def noise(self, z: torch.Tensor) -> torch.Tensor:
        """The noise [n, C, H, W] that a scheduler adds in a step, if it adds any."""
        return z


class Denoiser(Family):
    """Base of the diffusion families. `net` is what is trained, a torch module."""

    net: Any

    noise: Any  # a diffusers scheduler: the forward process of training
    steers: Sequence[Steer] = ()  # of the policies that act while sampling
    telling: Step | None = None  # while set, each family sends the embedding of its conditions through `tell`

    @abstractmethod
    def initialise(self, seed: int, scratch: bool = True) -> None:
        """Fresh weights as a pure function of `seed`; without `scratch` those of the pretrained base, where there is one."""

    def prepare_training(self, train: Train, device: Any) -> None:
        """Whatever must happen before train.fit: the network is on the device and what is trained requires a gradient."""
        if train.gradient_checkpointing:
            self.net.enable_gradient_checkpointing()
        self.net.to(device)
        if train.compile:
            compile_blocks(self.net)

    def prepare_sampling(self, how: Sample, device: Any) -> None:
        """Whatever must happen before `sample`."""
        self.net.to(device).eval()
        if how.compile:
            compile_blocks(self.net)

    @property
    def encoder_key(self) -> str | None:
        """Name under which the encoder's results lie; None = there is no encoder."""
        return None

    def encoder(self, device: Any) -> Any:
        """What turns images into what is trained on and has a ``key``; None = the images themselves."""
        return None

    def inputs(self, shards: Any, indices: np.ndarray) -> np.ndarray:
        """What training reads of images `indices` of a set."""
        return shards.gather(indices)

    def draws(
        self, inputs: torch.Tensor, conditions: torch.Tensor | None, rows: slice, total: int, train: Train, rng: torch.Generator
    ) -> dict[str, torch.Tensor | None]:
        """All that is random in one step: clean images, noise, timesteps and conditions of this process's part of the batch.

        Args:
            inputs: what the data set holds for this process's part of a batch of `total` images, see `clean`.
            conditions: int64 [b], or None.
            rows: which part of the batch this is. Everything is drawn for the whole batch from `rng` and cut, so that it
                does not depend on the number of processes.
        """
        x = self.clean(inputs, rows, total, rng)
        noise = torch.randn((total, *x.shape[1:]), generator=rng)[rows].to(x.device)
        t = self.timesteps(total, rng)[rows].to(x.device)
        dropped = torch.rand(total, generator=rng)[rows].to(x.device) < train.condition_dropout
        if conditions is not None:
            conditions = torch.where(dropped, self.null, conditions)
        return {"x": x, "noise": noise, "t": t, "conditions": conditions}

    def clean(self, inputs: torch.Tensor, rows: slice, total: int, rng: torch.Generator) -> torch.Tensor:
        """What is to be generated, [b, C, H, W], from uint8 images [b, H, W, C]: pixels in [-1, 1]."""
        return inputs.permute(0, 3, 1, 2).float() / 127.5 - 1

    def timesteps(self, total: int, rng: torch.Generator) -> torch.Tensor:
        """Timesteps of a batch, int64 [total], uniform."""
        return torch.randint(self.noise.config.num_train_timesteps, (total,), generator=rng)

    def noisy(self, levels: torch.Tensor) -> torch.Tensor:
        """Timesteps at quantiles `levels` of the uniform ones, in [0, 1) from least noise to most: int64 of the same shape."""
        steps = self.noise.config.num_train_timesteps
        return (levels * steps).long().clamp(max=steps - 1)

    def error(self, net: Any, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None) -> torch.Tensor:
        """Per-image mean squared error of the prediction: [b] (Ho et al. 2020, eq. 14; v: Salimans & Ho 2022, app. D).

        `net` may be wrapped for several processes.
        """
        v = self.noise.config.prediction_type == "v_prediction"
        target = self.noise.get_velocity(x, noise, t) if v else noise
        return (self.predict(net, self.noise.add_noise(x, noise, t), t, conditions).float() - target.float()).square().flatten(1).mean(1)

    def loss(self, net: Any, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None, train: Train) -> torch.Tensor:
        """What is trained on, [b]: the error, with train.min_snr_gamma weighted by min(SNR, gamma) / SNR, for v-prediction by
        min(SNR, gamma) / (SNR + 1) (Hang et al. 2303.09556, sec. 3.4)."""
        error = self.error(net, x, noise, t, conditions)
        if not train.min_snr_gamma:
            return error
        snr = compute_snr(self.noise, t)
        return error * snr.clamp(max=train.min_snr_gamma) / (snr + 1 if self.noise.config.prediction_type == "v_prediction" else snr)

    @property
    def null(self) -> int:
        """The condition that means "none"."""
        return self.shape.classes

    @abstractmethod
    def trained_files(self, folder: Path) -> list[Path]:
        """The safetensors files of what is trained, in a folder that `save` wrote."""

    def base_files(self) -> list[Path]:
        """The same of the pretrained base; [] where there is none or it lacks what is trained."""
        return []

    # ------------------------------------------------------------------------------------------- sampling
    @torch.inference_mode()
    def sample(self, conditions: np.ndarray | None, seeds: list[int], how: Sample) -> np.ndarray:
        out = []
        for i in range(0, len(seeds), how.batch_size):
            own, part = seeds[i : i + how.batch_size], None if conditions is None else conditions[i : i + how.batch_size]
            n, full = len(own), how.batch_size
            if how.compile and n < full:  # another shape would be compiled anew; what fills it up is dropped
                own, part = list(np.resize(own, full)), None if part is None else np.resize(part, full)
            out.append(self._batch(part, [int(seed) for seed in own], how)[:n])
        return np.concatenate(out)

    def _batch(self, conditions: np.ndarray | None, seeds: list[int], how: Sample) -> np.ndarray:
        x = self._denoised(conditions, seeds, how)
        if not torch.isfinite(x).all():
            with watched(*(net for net in (self.net, getattr(self, "vae", None)) if net is not None)) as found:
                self._denoised(conditions, seeds, how)
            raise StoreError(
                f"sampling produced non-finite pixels{named(found)}; the weights or the scheduler's settings are broken, or sample.precision={how.precision} is too coarse, so nothing was written"
            )
        return (x.clamp(-1, 1).add(1).mul(127.5)).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def _denoised(self, conditions: np.ndarray | None, seeds: list[int], how: Sample) -> torch.Tensor:
        device = next(self.net.parameters()).device
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = torch.stack([torch.randn(self.drawn, generator=g) for g in generators]).to(device)
        condition = torch.from_numpy(conditions).to(device) if conditions is not None and self.spec.conditional else None

        scheduler = self.scheduler(how, device)
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)
        for steer in self.steers:
            x = steer.start(x)
        extra = _step_arguments(scheduler, generators, self.steers)
        with drawing(scheduler, self.steers) if self.overrides("noise") else nullcontext():
            for t in scheduler.timesteps:
                share, scale = float(t) / self.noise.config.num_train_timesteps, how.guidance_scale
                for steer in self.steers:
                    scale = steer.guidance(scale, share)
                scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
                step = Step(scaled, t.expand(len(x)), share, condition, scale, seeds)
                prediction = self.guided(step)
                for steer in self.steers:
                    prediction = steer.prediction(prediction, step)
                x = scheduler.step(prediction.float(), t, x, **extra).prev_sample
        return self.finish(x)

    def guided(self, step: Step) -> torch.Tensor:
        """Classifier-free guidance: eps = eps_u + g (eps_c - eps_u), g = 1 + w of the paper."""
        x, t, condition, scale = step.x, step.t, step.conditions, step.scale
        told, elsewhere = self.overrides("embedding"), self.overrides("without")
        if condition is None or (scale == 1 and not told):
            return self.predict(self.net, x, t, condition)
        null = torch.full_like(condition, self.null)
        if not told and not elsewhere:
            if scale == 0:
                return self.predict(self.net, x, t, null)
            # One pass over [unconditional, conditional].
            without, with_ = self.predict(self.net, torch.cat([x, x]), t.repeat(2), torch.cat([null, condition])).chunk(2)
            return without + scale * (with_ - without)
        self.telling = step if told else None
        with_ = self.predict(self.net, x, t, condition)
        self.telling = None
        if scale == 1:
            return with_
        other = next((found for steer in self.steers if (found := steer.without(step)) is not None), None)
        without = self.predict(self.net, x, t, null) if other is None else other
        return without + scale * (with_ - without)

    @torch.compiler.disable
    def tell(self, e: torch.Tensor) -> torch.Tensor:
        """The embedding of conditions as the policies change it."""
        assert self.telling is not None
        for steer in self.steers:
            e = steer.embedding(e, self.telling)
        return e

    def overrides(self, method: str) -> bool:
        """Whether any policy that acts while sampling has its own `method` of Steer."""
        return any(getattr(type(steer), method) is not getattr(Steer, method) for steer in self.steers)

    @property
    def drawn(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the noise that an image starts from."""
        h, w, c = self.shape.record
        return c, h, w

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels in [-1, 1] from what was denoised."""
        return x

    def scheduler(self, how: Sample, device: Any = "cpu") -> Any:
        """The sampling scheduler with its timesteps set. Raises ConfigError where `how` does not fit this family."""
        return scheduler_of(how, self.noise, device)

    def predict(self, net: Any, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """What `net` (perhaps wrapped for several processes) predicts for noisy images [n, C, H, W] at timesteps [n]."""
        return net(x, t, labels)


def scheduler_of(how: Sample, noise: Any, device: Any = "cpu", settings: dict[str, Any] | None = None) -> Any:
    """The sampling scheduler by its diffusers name, with the noise schedule of training and its timesteps set.

    Args:
        settings: a pretrained base's own scheduler config, which is kept as far as the scheduler knows it; None = only the
            forward process is handed on, since the other settings of a DDPMScheduler are not this scheduler's defaults.

    Raises ConfigError for an unknown name, an unknown option or one that does not fit this family.
    """
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    name, options = how.scheduler, how.scheduler_options
    kind = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        known = [known for known in dir(diffusers) if known.endswith("Scheduler") and not known.startswith("Flax")]
        raise ConfigError(f"sample.scheduler '{name}' is no scheduler of diffusers; {_near(name, known, 'for example DDIMScheduler')}")
    accepted = inspect.signature(kind.__init__).parameters
    forward = [key for key in FORWARD if key in noise.config]
    if not set(forward) <= accepted.keys() or "Inverse" in name or ("FlowMatch" in name) != ("FlowMatch" in type(noise).__name__):
        instead = "FlowMatchEulerDiscreteScheduler" if "FlowMatch" in type(noise).__name__ else "DDIMScheduler"
        raise ConfigError(f"sample.scheduler '{name}' does not denoise what this family is trained on; for example {instead} does")
    given = {key: noise.config[key] for key in forward}
    if settings is not None:
        given = {key: value for key, value in settings.items() if key in accepted} | given
    spacing = accepted.get("timestep_spacing")
    if settings is None and spacing is not None and spacing.default == "leading":
        given["timestep_spacing"] = "trailing"  # the first step must start from pure noise (Lin et al. 2305.08891)
    for key in options:
        if key not in accepted or key == "self":
            raise ConfigError(f"sample.scheduler_options: {name} knows no '{key}'; {_near(key, accepted, 'see its page in the diffusers docs')}")
        if key == "trained_betas" or key in FORWARD:
            raise ConfigError(
                f"sample.scheduler_options: '{key}' is settled by training; set model.train_timesteps, beta_schedule or prediction_type"
            )
    try:
        scheduler: Any = kind(**{**given, **options})
        scheduler.set_timesteps(how.steps, device=device)
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise ConfigError(f"sample.scheduler '{name}' refuses {options} with sample.steps {how.steps}: {' '.join(str(error).split())}") from error
    return scheduler


def _near(word: str, known: Any, otherwise: str) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean '{near[0]}'?" if near else otherwise


def _step_arguments(scheduler: Any, generators: list[torch.Generator], steers: Sequence[Steer] = ()) -> dict[str, Any]:
    """Per-image generators for the schedulers that add noise, and clipping that is consistent.

    DDIM clips the predicted image but by default keeps the noise that belonged to the unclipped one. Images with many
    pixels at black or white (digits: half of them) then keep a residue of noise that guidance amplifies; deriving the
    noise from the clipped image removes it.
    """
    names = scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]
    arguments: dict[str, Any] = {"generator": generators} if "generator" in names else {}
    if "use_clipped_model_output" in names and scheduler.config.get("clip_sample"):
        arguments["use_clipped_model_output"] = True
    for steer in steers:
        arguments = steer.arguments(arguments, names)
    return arguments


@contextmanager
def drawing(scheduler: Any, steers: Sequence[Steer]) -> Iterator[None]:
    """While the block runs, the noise that `scheduler` adds goes through `steers`. All of diffusers' schedulers draw it by one function."""
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


def compile_blocks(net: Any) -> None:
    """torch.compile the blocks that repeat: a few seconds instead of minutes, and most of the gain."""
    if getattr(net, "_repeated_blocks", None):
        net.compile_repeated_blocks()
    else:
        net.compile()
