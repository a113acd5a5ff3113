"""Checks before anything is fitted: unknown names, impossible numbers, a base that cannot be opened."""

from __future__ import annotations

import torch

from difflab import policies
from difflab.config import Config
from difflab.core.errors import ConfigError, reading
from difflab.core.precision import emulates_bf16, refuse_without_tf32
from difflab.core.progress import Reporter
from difflab.core.suggest import closest
from difflab.loop import ecosystem, trackers
from difflab.loop.bucket_checks import check_buckets
from difflab.loop.conditions import sample_conditions
from difflab.loop.passes import device_type
from difflab.loop.run_extractors import check_measure_settings
from difflab.loop.unmeasurable import unmeasurable
from difflab.loop.work import Work
from difflab.metrics.evaluate import left_out
from difflab.models import family_of
from difflab.models.pixel import noise_of
from difflab.models.prompt_length import too_long
from difflab.models.quantised import check_package
from difflab.models.schedulers import check_scheduler, late_start, scheduler_of
from difflab.runs.run import Run
from difflab.runs.sizes import measured_count

LEFT_OUT = "a measure that has no value even between real images will be left out"
"""The start of a message that names a measure and the reason."""


def check(config: Config) -> None:
    """Raise ConfigError for unknown names and for settings that do not go together, before anything runs."""
    if config.ecosystem is not None and config.ecosystem.lab is not None:
        raise ConfigError(
            f"this is the config of lab {config.lab} of an ecosystem, which cannot run without the other "
            "labs: run the ecosystem's config"
        )
    check_lab(config)


def check_lab(config: Config) -> None:
    """The checks of one chain, of an ecosystem, or of one of its labs."""
    labs = config.labs()
    if len(labs) > 1:
        ecosystem.check(labs)
        for lab in labs:
            check_lab(lab)
        return
    policies.check(config)
    trackers.check(config)
    if "fp16" in (config.train.precision, config.sample.precision) and not torch.accelerator.is_available():
        raise ConfigError("train.precision and sample.precision fp16 need a GPU; use bf16 or no")
    for precision in (config.train.precision, config.sample.precision):
        refuse_without_tf32(precision, device_type())
    check_package(config.model.quantized)
    check_measure_settings(config)
    check_buckets(config)
    if config.denoises and not config.text:
        noise = noise_of(config.model)
        check_scheduler(lambda sampling: scheduler_of(sampling, noise), config.sample, noise)


def warn_of_slow_precision(config: Config, report: Reporter) -> None:
    """Report that bf16 is slow here, if the config uses it and the CPU emulates it."""
    if "bf16" in (config.train.precision, config.sample.precision) and emulates_bf16():
        report.say(
            "this CPU has no instructions for bf16, so bf16 is many times slower here than precision=no"
        )


def report_account(works: list[Work]) -> None:
    """Report which images of the real sets were left out or altered.

    A set that was read without changes gets no line.
    """
    lines = []
    for work in works:
        account = work.run.came_in
        if len(account) > 1:
            lines += account
    for line in dict.fromkeys(lines):
        works[0].report.say(line)


def check_shapes(run: Run) -> None:
    """Raise ConfigError if a policy does not fit the size of the images."""
    if not run.config.exact:
        for policy in run.config.policies:
            policy.check_shape(run.shape)


def check_counts(run: Run) -> None:
    """Raise MeasureError or ConfigError for numbers of images that do not go together."""
    config = run.config
    if not config.exact and config.measure.metrics:
        measured_count(run)
    if config.conditional:
        for count in config.sample.count if isinstance(config.sample.count, list) else [config.sample.count]:
            sample_conditions(run, 0, count)


def check_model(run: Run, report: Reporter) -> None:
    """Build a network for pixels without its weights, or open the base of a text-to-image family, before
    anything is fitted, and report how many captions the base will cut off.

    Raises ConfigError if the network does not take images of this size, if the base cannot be opened, if it
    cannot be sampled with the settings or the policies, or if probe.prompts has an unknown caption.
    """
    if not run.config.text:
        if run.config.denoises:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                family_of(run.config.model)(run.config.model, run.shape).build()
        return
    with reading(f"model.base {getattr(run.config.model, 'base', '')}", ConfigError):
        model = family_of(run.config.model)(run.config.model, run.shape)
    model.check_sampling(run.config.sample)
    for policy in run.config.policies:
        policy.check_model(model)
    if late := late_start(model.scheduler(run.config.sample), model.noise):
        report.say(late)
    unknown = [p for p in run.config.probe.prompts or [] if p not in run.prompts]
    if unknown:
        near = closest(unknown[0], run.prompts, cutoff=0.0)
        raise ConfigError(
            f"probe.prompts: no image of the real set has the caption '{unknown[0]}'; the nearest is "
            f"'{near[0]}'"
        )
    cut = too_long(model.base, run.prompts)
    if cut:
        report.say(
            f"{cut} of {len(run.prompts)} captions are longer than the limit of the text encoders: the model "
            "reads only their beginning"
        )


def check_measures(work: Work) -> None:
    """Report which measures will have no value, and why, before any stage runs."""
    run = work.run
    if all((t, "measure") in work.done for t in range(run.config.generations + 1)):
        return
    lab = f"lab {run.config.lab}: " if run.config.ecosystem else ""
    for line in left_out(unmeasurable(run, work.extractors, work.accelerator)):
        work.report.say(f"{lab}{LEFT_OUT}: {line}")
