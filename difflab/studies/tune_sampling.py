"""Find the cheapest sampler whose images cannot be told apart from those of many steps.

    result = tune_sampling(config, difflab.open_run("runs/digits"))
    result.recommended, result.overrides

How images are told apart is defined in `difflab.studies.sampler_trial`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from difflab.config import Config, Sample
from difflab.core.errors import ConfigError, StoreError
from difflab.core.progress import Reporter
from difflab.evaluation.readings import LEAST
from difflab.loop.auto import settled
from difflab.loop.conditions import sample_conditions
from difflab.loop.ingest import ingest
from difflab.loop.judges import judge_of
from difflab.loop.run_extractors import extractors_of
from difflab.loop.work import Work
from difflab.models import family_of
from difflab.models.schedulers import check_scheduler, instead
from difflab.runs.run import Run
from difflab.studies.sampler_trial import MEASURES, Bench, Trial

REFERENCE = 200
"""Steps of the reference. It has more if the config has more, and at most as many as training has."""
STEPS = (5, 10, 15, 25, 50)
DIFFUSION = ("DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Tuning:
    """The result of `tune_sampling`.

    Attributes:
        n: images of each set.
        extractor: feature space of the measures.
        current: the settings of the config.
        reference: the second reference set against the first, the floor.
        trials: the samplers that were tried.
    """

    n: int
    extractor: str
    current: Sample
    reference: Trial
    trials: list[Trial]

    @property
    def recommended(self) -> Trial | None:
        """The trial with the fewest passes that is not told apart; of several, the one with the smallest
        distance. None = all are told apart.
        """
        same = [trial for trial in self.trials if not trial.apart]
        return min(same, key=lambda trial: (trial.passes, trial.distance), default=None)

    @property
    def overrides(self) -> dict[str, Any]:
        """The recommended settings as dotted keys of a config; {} = none is recommended."""
        if self.recommended is None:
            return {}
        sampling = self.recommended.sampling
        chosen = {"sample.scheduler": sampling.scheduler, "sample.steps": sampling.steps}
        if sampling.scheduler_options != self.current.scheduler_options:
            chosen["sample.scheduler_options"] = sampling.scheduler_options
        return chosen

    def rows(self) -> list[dict[str, Any]]:
        """One row per sampler, the reference first."""
        rows = []
        for trial in [self.reference, *self.trials]:
            role = "reference" if trial is self.reference else "trial"
            row = {"role": role, "n": self.n, "extractor": self.extractor, **trial.row()}
            rows.append(row | {"recommended": trial is self.recommended})
        return rows


def tune_sampling(
    config: Config,
    run: Run | None = None,
    *,
    count: int = 500,
    steps: Sequence[int] = STEPS,
    schedulers: Sequence[str] | None = None,
    seed: int = 0,
    reference_steps: int = REFERENCE,
    say: Say = lambda text: None,
) -> Tuning:
    """Try schedulers and numbers of steps against a reference of many steps.

    Args:
        config: the section `sample` to start from, and what is measured. Its sampling policies act as in
            generation 0.
        run: the run whose model of generation 0 is sampled; it is not changed. None = the pretrained base of
            the config.
        count: images of each set.
        steps: numbers of steps.
        schedulers: scheduler classes of diffusers; None = that of the config and common ones that fit.
        seed: of the images and of the half-samples.
        reference_steps: steps of the reference, see REFERENCE.
        say: gets a line per trial.

    Raises ConfigError for a family without steps, a config without a base, one of `schedulers` that does not
    fit, and numbers out of range; StoreError for a run without a model of generation 0.
    """
    _check(config, run, count, steps, reference_steps)
    config = settled(config, run.path if run else None, say)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    with _real_set(config, run, accelerator, say) as real:
        model, current = _model(real, run, Work(run or real, accelerator, Reporter(quiet=True)))
        most = min(max(reference_steps, current.steps), model.noise.config.num_train_timesteps)
        reference = current.model_copy(update={"steps": most})
        model.check_sampling(reference)
        tried = list(_fitting(model, current, steps, schedulers, say))
        [extractor] = extractors_of(real, accelerator)
        judge, reason = judge_of(real, extractor, [extractor], accelerator)
        asked = sample_conditions(real, 0, count) if config.conditional else None
        conditions, labels = (asked.conditions, asked.labels) if asked else (None, None)
        bench = Bench(
            model, reference, count, seed, extractor, conditions, labels, judge, config.measure.neighbours
        )
        say(f"reference: {reference.scheduler}, {reference.steps} steps, two sets of {count} images")
        for name in MEASURES:
            if name not in bench.floor.measures:
                say(f"left out: {name}: {reason or bench.reasons[name]}")
        trials = []
        for number, sampling in enumerate(tried, 1):
            say(f"{number} of {len(tried)}: {sampling.scheduler}, {sampling.steps} steps")
            try:
                trials.append(bench.trial(sampling))
            except StoreError as error:
                say(f"left out: {error}")
        return Tuning(count, extractor.name, current, bench.floor, trials)


def _check(config: Config, run: Run | None, count: int, steps: Sequence[int], most: int) -> None:
    """Raise ConfigError or StoreError for what cannot be tuned."""
    family = config.model.family
    if config.ecosystem is not None and config.ecosystem.lab is None:
        raise ConfigError("an ecosystem has several models: give the run of one lab, such as RUN/lab-0")
    if not config.denoises:
        raise ConfigError(f"model.family {family} draws its samples without denoising steps")
    if run is None and not config.text:
        raise ConfigError(
            f"model.family {family} has no pretrained base to sample; train one: difflab run CONFIG "
            "generations=0, then difflab tune-sampling RUN"
        )
    if run is not None and not run.done(0, "train"):
        raise StoreError(
            f"{run.path} has no model of generation 0 yet; go on with: difflab run {run.path / 'run.yaml'} "
            f"--out {run.path}"
        )
    if run is not None and config.model_copy(update={"sample": run.config.sample}) != run.config:
        raise ConfigError(f"the model of {run.path} is trained: only keys of sample.* can be overridden")
    if count < LEAST:
        raise ConfigError(f"--count is {count}: give at least {LEAST} images")
    if not steps or min(steps) < 1 or max(steps) > most:
        raise ConfigError(f"--steps are 1 to {most}, the steps of the reference; got {[*steps]}")


@contextmanager
def _real_set(config: Config, run: Run | None, accelerator: Accelerator, say: Say) -> Iterator[Run]:
    """A run in a temporary folder with the real set of `run`, or of the config, and the measures of this
    study. What they need beyond the files of `run` is written there.
    """
    settings = {"extractors": [config.measure.judge_extractor or "pixels"], "metrics": list(MEASURES)}
    settings |= dict.fromkeys(("judge", "concepts", "aesthetic")) | {"judge_drift": False}  # type: ignore
    measure = config.measure.model_copy(update=settings)
    with tempfile.TemporaryDirectory(prefix="difflab-") as folder:
        real = Run(Path(folder) / "run", config.model_copy(update={"measure": measure}))
        if run is None:
            ingest(real, accelerator, say)
        else:
            shutil.copytree(run.path.resolve() / "real", real.path / "real", copy_function=os.symlink)
        yield real


def _model(real: Run, run: Run | None, work: Work) -> tuple[Any, Sample]:
    """The model of generation 0 of `run`, or the base, ready to sample, and the settings of generation 0."""
    spec, settings = real.config.model, real.config.sample
    if run is None:
        model = family_of(spec)(spec, real.shape)
        model.initialise(0, scratch=False)
    else:
        model = family_of(spec).load(spec, real.shape, run.gen(0) / "model")
    for policy, at in work.acting("sampling", 0):
        settings = policy.sampling(at, settings)
    model.prepare_sampling(settings, work.accelerator.device)
    model.steers = [policy.steer(at, model) for policy, at in work.acting("steer", 0)]
    return model, settings


def _fitting(
    model: Any, current: Sample, steps: Sequence[int], schedulers: Sequence[str] | None, say: Say
) -> Iterator[Sample]:
    """The settings to try. Raises ConfigError for one of `schedulers` that does not fit."""
    common = FLOW if instead(model.noise) in FLOW else DIFFUSION
    for name in dict.fromkeys(schedulers or (current.scheduler, *common)):
        own = name == current.scheduler
        options = current.scheduler_options if own else {}
        for number in sorted({*steps, current.steps} if own else {*steps}):
            changes = {"scheduler": name, "steps": number, "scheduler_options": options}
            sampling = current.model_copy(update=changes)
            try:
                check_scheduler(model.scheduler, sampling, model.noise)
            except ConfigError as error:
                if schedulers:
                    raise
                say(f"left out: {error}")
                continue
            yield sampling
