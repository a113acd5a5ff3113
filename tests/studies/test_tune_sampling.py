"""Samplers of real small models against many steps: a trained digit model, tiny Stable Diffusion bases, bad input."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from cli_runs import DIGITS, MLP, files

from difflab.cli.main import main
from difflab.config import Sample, load, parse
from difflab.core.errors import ConfigError, StoreError
from difflab.runs.run import open_run
from difflab.studies.sampler_trial import Trial
from difflab.studies.tune_sampling import DIFFUSION, FLOW, Tuning, tune_sampling

pytestmark = tiny.LIBRARIES


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tune") / "digits"
    overrides = [*MLP, "generations=0", "train.images_seen=20000", "sample.scheduler=DDIMScheduler"]
    assert main(["run", str(DIGITS), *overrides, "--out", str(path)]) == 0
    return path


def trial(scheduler: str, passes: int, distance: float, apart: bool, **options: object) -> Trial:
    sampling = Sample(scheduler=scheduler, steps=passes, scheduler_options=options)
    return Trial(sampling, passes, 0.1, distance, {}, {"fd": (3.0 if apart else 1.0, 1.0)})


def test_too_few_steps_are_told_apart_and_the_run_is_not_changed(digits):
    before, said = files(digits), []
    run = open_run(digits)
    result = tune_sampling(
        run.config, run, count=100, steps=[1, 40], schedulers=["DDIMScheduler"], say=said.append
    )
    by_steps = {t.sampling.steps: t for t in result.trials}
    assert set(by_steps) == {1, 2, 40}, "those asked for, and that of the config"
    assert by_steps[1].apart and by_steps[40].apart == []
    assert by_steps[40].distance < by_steps[1].distance < result.reference.distance
    assert result.recommended in (by_steps[2], by_steps[40])
    assert result.reference.sampling.steps == 200 and result.reference.measures.keys() >= {"class_accuracy"}
    assert [row["role"] for row in result.rows()] == ["reference", "trial", "trial", "trial"]
    assert len(said) == 4 and files(digits) == before


def test_a_run_is_sampled_in_the_precision_that_it_began_with(digits):
    run, said = open_run(digits), []
    asks = run.config.model_copy(
        update={"sample": run.config.sample.model_copy(update={"precision": "auto"})}
    )
    options = {"count": 30, "steps": [2], "schedulers": ["DDIMScheduler"], "reference_steps": 10}
    result = tune_sampling(asks, run, **options, say=said.append)
    assert result.current.precision == "no"
    assert said[0] == "sample.precision=auto: no (float32), as when the run began"


def test_the_images_of_a_run_are_those_of_its_model(digits):
    """With the same seed the numbers repeat; with another they do not."""
    run = open_run(digits)
    options = {"count": 30, "steps": [2], "schedulers": ["DDIMScheduler"], "reference_steps": 10}
    first, again, other = (
        tune_sampling(run.config, run, **options, seed=seed).reference.distance for seed in (0, 0, 1)
    )
    assert first == again != other


def test_common_schedulers_that_fit_are_tried_by_default(tmp_path):
    for kind, common in (("sd15", DIFFUSION), ("sd3", FLOW)):
        config = tiny.config(kind, tiny.make(kind, tmp_path / kind))
        result = tune_sampling(config, count=30, steps=[2], reference_steps=4)
        assert {t.sampling.scheduler for t in result.trials} == set(common)
        assert all(t.passes >= 2 * t.sampling.steps for t in result.trials), "guidance doubles the passes"


def test_a_base_is_sampled_as_it_is_also_if_generation_0_would_train(tmp_path):
    base = tiny.make("sd15", tmp_path / "base")
    distances = set()
    for train in ({"start_from": "base"}, {"start_from": "scratch"}):
        config = tiny.config("sd15", base, train=train)
        options = {"count": 30, "steps": [2], "schedulers": ["DDIMScheduler"], "reference_steps": 4}
        distances.add(tune_sampling(config, **options).reference.distance)
    assert len(distances) == 1


def test_the_cheapest_that_is_not_told_apart_is_recommended():
    current = Sample(scheduler="DDIMScheduler", steps=50, scheduler_options={"clip_sample": False})
    reference = trial("DDIMScheduler", 200, 9.0, False)

    def of(*trials: Trial) -> Tuning:
        return Tuning(100, "pixels", current, reference, list(trials))

    cheap, near, far = trial("A", 5, 1, True), trial("B", 10, 2, False), trial("C", 10, 3, False)
    result = of(cheap, far, near, trial("D", 20, 1, False))
    assert result.recommended is near
    chosen = {"sample.scheduler": "B", "sample.steps": 10, "sample.scheduler_options": {}}
    assert result.overrides == chosen, "the options are those of another scheduler"
    own = of(trial("DDIMScheduler", 10, 2, False, clip_sample=False))
    assert own.overrides == {"sample.scheduler": "DDIMScheduler", "sample.steps": 10}
    assert of(cheap).recommended is None and of(cheap).overrides == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 5}, "--count is 5: give at least 30 images"),
        ({"steps": [0]}, "--steps are 1 to 200"),
        ({"steps": [300]}, "--steps are 1 to 200"),
        ({"steps": []}, "--steps are 1 to 200"),
        ({"schedulers": ["DDIMSchedular"]}, "is no scheduler of diffusers"),
        ({"schedulers": ["FlowMatchEulerDiscreteScheduler"]}, "does not denoise what this family"),
    ],
)
def test_a_bad_option_is_named(digits, options, message):
    run = open_run(digits)
    with pytest.raises(ConfigError) as error:
        tune_sampling(run.config, run, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_tuned_is_refused(digits, tmp_path):
    exact = parse({
        "data": {"source": "exact", "train_size": 20},
        "model": {"family": "gaussian"},
        "sample": {"count": 20},
    })  # fmt: skip
    with pytest.raises(ConfigError, match="gaussian draws its samples without denoising steps"):
        tune_sampling(exact)
    with pytest.raises(ConfigError, match="pixel-mlp has no pretrained base to sample; train one"):
        tune_sampling(load(DIGITS))
    run = open_run(digits)
    with pytest.raises(ConfigError, match=r"only keys of sample\.\* can be overridden"):
        tune_sampling(run.config.model_copy(update={"seed": 5}), run)
    untrained = shutil.copytree(digits, tmp_path / "untrained")
    shutil.rmtree(untrained / "gen-000" / "model")
    with pytest.raises(StoreError, match="has no model of generation 0 yet; go on with"):
        tune_sampling(run.config, open_run(untrained))
    labs = load(DIGITS, ["ecosystem={labs: 2}"])
    with pytest.raises(ConfigError, match="give the run of one lab"):
        tune_sampling(labs)
