"""Samplers are accepted for what they compute: levels, timesteps, noise, and where an exact prediction leads them."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.models import schedulers
from difflab.models.schedulers import denoise, exact_prediction, fault_of, scheduler_class, scheduler_of

pytestmark = [
    *tiny.LIBRARIES,
    pytest.mark.filterwarnings(
        "ignore:__array_wrap__ must accept context:DeprecationWarning"
    ),  # numpy, of KDPM2's timesteps
]

LEVELS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SETTINGS = LEVELS | {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
ZERO_SNR = SETTINGS | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
# The samplers of diffusers that know no terminal SNR of zero, and one more that shifts all levels.
WITHOUT_ZERO = [
    "HeunDiscreteScheduler",
    "DEISMultistepScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "SASolverScheduler",
    "DPMSolverSinglestepScheduler",
]


def fault(
    name: str, settings: dict | None = None, steps: int = 6, noise: object = None, **options: object
) -> str | None:
    own = settings if settings is not None else SETTINGS
    noise = noise or DDPMScheduler.from_config(own)
    return fault_of(
        lambda how: scheduler_of(how, noise, "cpu", own),
        Sample(scheduler=name, steps=steps, scheduler_options=options),
        noise,
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_exact_prediction_is_that_of_the_definitions(prediction):
    """x = a image + s e: epsilon is e, v is a e - s image (Salimans & Ho 2022, app. D)."""
    noise = DDPMScheduler.from_config(SETTINGS | {"prediction_type": prediction})
    image, e, t = torch.rand(2, 3, 3), torch.randn(1, 2, 3, 3), torch.tensor([400])
    x = noise.add_noise(image[None], e, t)
    wanted = noise.get_velocity(image[None], e, t) if prediction == "v_prediction" else e
    torch.testing.assert_close(exact_prediction(noise, image, x, t[0]), wanted, atol=2e-4, rtol=1e-4)


def test_the_exact_velocity_of_a_flow():
    noise = FlowMatchEulerDiscreteScheduler(shift=3.0)
    image, e = torch.rand(2, 3, 3), torch.randn(1, 2, 3, 3)
    t = noise.timesteps[300]
    s = noise.sigmas[300]
    torch.testing.assert_close(
        exact_prediction(noise, image, (1 - s) * image + s * e, t), e - image, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"]
)
@pytest.mark.parametrize("steps", [3, 6, 20])
def test_a_sampler_of_the_same_process_is_accepted_at_any_number_of_steps(name, steps):
    assert fault(name, steps=steps) is None
    assert fault(name, SETTINGS | {"prediction_type": "v_prediction"}, steps) is None


@pytest.mark.parametrize("name", WITHOUT_ZERO)
def test_a_sampler_without_zero_terminal_snr_is_refused_for_a_base_that_has_it(name):
    assert "has other noise levels than training" in (
        fault(name, ZERO_SNR | {"prediction_type": "v_prediction"}) or ""
    )


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "TCDScheduler",
    ],
)
def test_a_sampler_that_knows_zero_terminal_snr_is_accepted_for_it(name):
    assert fault(name, ZERO_SNR | {"prediction_type": "v_prediction"}) is None


def test_zero_terminal_snr_and_epsilon_do_not_go_together_where_the_last_timestep_is_sampled():
    assert "not finite" in (fault("DDIMScheduler", ZERO_SNR) or "")


@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
def test_shifted_levels_are_refused_with_the_place_where_they_differ(name):
    assert "alphas_cumprod[274] is 0.3661, in training 0.6341" in (fault(name) or "")


def test_levels_that_are_right_by_an_option_are_accepted():
    """Not the class is refused, but what it computes."""
    assert fault("CogVideoXDDIMScheduler", snr_shift_scale=1.0) is None


def test_a_signature_of_its_own_is_refused_with_the_reason_of_diffusers():
    assert "cannot be run as a plain sampler (TypeError" in (
        fault("CogVideoXDPMScheduler", snr_shift_scale=1.0) or ""
    )


@pytest.mark.parametrize("name", ["DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"])
def test_a_sampler_that_leads_the_other_way_is_refused(name):
    assert "does not denoise what this family is trained on; for example DDIMScheduler does" in (
        fault(name) or ""
    )


@pytest.mark.parametrize("steps", [6, 50])
@pytest.mark.parametrize(
    "name",
    ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "DDIMScheduler"],
)
def test_samplers_of_another_process_are_refused_for_flows_also_with_many_steps(name, steps):
    assert "does not denoise" in (
        fault(name, {"shift": 3.0}, steps, FlowMatchEulerDiscreteScheduler(shift=3.0)) or ""
    )


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_they_are_accepted_for_flows_with_the_options_that_make_them_one(name):
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    assert fault(name, {"shift": 3.0}, 6, FlowMatchEulerDiscreteScheduler(shift=3.0), **options) is None


def test_as_many_steps_as_timesteps_are_refused_where_two_of_them_coincide():
    """Multistep solvers divide by the distance of two steps: with 100 of 100 it is 0 somewhere."""
    few = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "linspace"}
    said = fault("DPMSolverMultistepScheduler", few, 100)
    assert "as many sample.steps (100) as training has timesteps" in (said or "")
    assert fault("DPMSolverMultistepScheduler", few, 20) is None


def test_timesteps_that_are_no_numbers_are_refused():
    cosine = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    assert "has timesteps that are not finite with sample.steps 6 (999.0, nan" in (
        fault("KDPM2AncestralDiscreteScheduler", cosine) or ""
    )
    assert fault("KDPM2AncestralDiscreteScheduler", cosine, 50) is None


def test_noise_that_no_seed_determines_is_refused(monkeypatch):
    """As a sampler with a source of its own has it, which takes no generators."""

    class Unseeded(diffusers.EulerDiscreteScheduler):
        def step(self, model_output, timestep, sample, return_dict=True):
            out = super().step(model_output, timestep, sample)
            out.prev_sample = out.prev_sample + 1e-3 * torch.randn_like(sample)
            return out

    class Shared(Unseeded):
        def step(self, model_output, timestep, sample, return_dict=True):
            out = diffusers.EulerDiscreteScheduler.step(self, model_output, timestep, sample)
            out.prev_sample = out.prev_sample + 1e-2 * torch.randn(
                sample.shape, generator=torch.Generator().manual_seed(len(sample))
            )
            return out

    monkeypatch.setattr(diffusers, "Unseeded", Unseeded, raising=False)
    monkeypatch.setattr(diffusers, "Shared", Shared, raising=False)
    assert "draws noise that no seed determines" in (fault("Unseeded") or "")
    assert "draws noise that depends on the other images of a batch" in (fault("Shared") or "")


@pytest.mark.filterwarnings("ignore:Should have ta>=t0:UserWarning")  # torchsde, of rounding
def test_a_noise_sampler_gets_the_seeds_of_the_images():
    """DPMSolverSDEScheduler draws from a Brownian tree by `noise_sampler_seed`: one for all images, a list of them, or by default none."""
    assert fault("DPMSolverSDEScheduler") is None
    noise, x = DDPMScheduler.from_config(SETTINGS), torch.randn(2, 4, 4, 4)

    def made(seeds: list[int]) -> torch.Tensor:
        own = scheduler_of(Sample(scheduler="DPMSolverSDEScheduler", steps=4), noise, "cpu", SETTINGS)
        return denoise(
            own, x[: len(seeds)], [torch.Generator().manual_seed(s) for s in seeds], lambda x, t: 0.1 * x
        )

    assert torch.equal(made([1, 2]), made([1, 2])) and not torch.equal(made([1, 2]), made([1, 3]))
    torch.testing.assert_close(made([1, 2])[:1], made([1]))


@pytest.mark.parametrize(
    ("option", "value"), [("prediction_type", "v_prediction"), ("beta_end", 0.1), ("trained_betas", [0.1])]
)
def test_what_training_settled_is_changed_where_the_family_has_it(option, value):
    """A pretrained base has it in its folder, a pixel family in its config."""
    how, noise = Sample(scheduler_options={option: value}), DDPMScheduler.from_config(SETTINGS)
    with pytest.raises(
        ConfigError,
        match=rf"'{option}' must be the same as in training; .*scheduler/scheduler_config.json in a copy of the base's folder",
    ):
        scheduler_of(how, noise, "cpu", SETTINGS)
    with pytest.raises(
        ConfigError,
        match=rf"'{option}' must be the same as in training; .*model.train_timesteps, beta_schedule or prediction_type",
    ):
        scheduler_of(how, noise)


def test_a_missing_package_is_named(monkeypatch):
    """Diffusers puts a stand-in in the place of a class whose package is not installed; it says which one when it is called."""

    def called(self):
        raise ImportError("RareScheduler requires the rare library but it was not found in your environment.")

    stand_in = type(
        "RareScheduler",
        (),
        {"__init__": called, "__module__": "diffusers.utils.dummy_torch_and_rare_objects"},
    )
    monkeypatch.setattr(diffusers, "RareScheduler", stand_in, raising=False)
    with pytest.raises(
        ConfigError, match="'RareScheduler' needs another package: RareScheduler requires the rare library"
    ):
        scheduler_class("RareScheduler")


def test_a_late_start_is_said_and_runs():
    noise = DDPMScheduler.from_config(SETTINGS)
    assert "starts from pure noise at timestep 1 of 1000" in (
        schedulers.late_start(scheduler_of(Sample(steps=1), noise, "cpu", SETTINGS), noise) or ""
    )
    assert fault("DDIMScheduler", steps=1) is None
    assert schedulers.late_start(scheduler_of(Sample(steps=6), noise, "cpu", SETTINGS), noise) is None


# ------------------------------------------------------------------------------- the pipeline of the folder as the judge
@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """The four tiny bases; sd21 with zero terminal SNR, sdxl with statistics of its latents."""
    root = tmp_path_factory.mktemp("bases")
    made = {kind: tiny.make(kind, root / kind) for kind in tiny.KINDS}
    tiny.amend(
        made["sd21"] / "scheduler" / "scheduler_config.json",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    tiny.amend(
        made["sdxl"] / "vae" / "config.json",
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.8, 1.2, 1.0, 0.9],
        scaling_factor=0.5,
    )
    return made


CASES = [
    ("sd15", "EulerAncestralDiscreteScheduler", 0.0),
    ("sd15", "DEISMultistepScheduler", 0.5),
    ("sd15", "TCDScheduler", 1.0),
    ("sd15", "SASolverScheduler", 4.0),
    ("sd21", "DDIMScheduler", 0.5),
    ("sd21", "EulerDiscreteScheduler", 4.0),
    ("sdxl", "EulerDiscreteScheduler", 0.0),
    ("sdxl", "HeunDiscreteScheduler", 4.0),
    ("sd3", "FlowMatchEulerDiscreteScheduler", 0.5),
    ("sd3", "FlowMatchHeunDiscreteScheduler", 4.0),
]


@pytest.mark.parametrize(("kind", "name", "guidance"), CASES)
def test_pictures_are_those_of_the_folders_own_pipeline(kind, name, guidance, bases):
    how = Sample(scheduler=name, steps=4, guidance_scale=guidance, batch_size=2)
    model = tiny.model(kind, bases[kind])
    model.check_sampling(how)
    model.prepare_sampling(how, "cpu")
    conditions, seeds = np.array([1, 4]), [5, 6]
    ours = model.sample(conditions, seeds, how).astype(int)
    theirs = tiny.pictures(
        tiny.pipeline(kind, bases[kind]), [tiny.CAPTIONS[c] for c in conditions], seeds, how
    ).astype(int)
    assert np.abs(ours - theirs).max() <= 1 and ours.std() > 5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_exact_prediction_of_normal_pixels_is_the_best_linear_one(prediction):
    """The regression of what is predicted on x, over draws of images and noise."""
    noise = DDPMScheduler.from_config(SETTINGS | {"prediction_type": prediction})
    rng, t, mean, sd = torch.Generator().manual_seed(0), torch.tensor([300]), 0.2, 0.5
    images = mean + sd * torch.randn(200_000, 1, 1, 1, generator=rng)
    e = torch.randn(images.shape, generator=rng)
    x = noise.add_noise(images, e, t)
    target = noise.get_velocity(images, e, t) if prediction == "v_prediction" else e
    slope, intercept = np.polyfit(x.flatten(), target.flatten(), 1)
    at = torch.tensor([-1.0, 0.0, 1.5]).reshape(3, 1, 1, 1)
    found = exact_prediction(noise, torch.full((1, 1, 1), mean), at, t[0], sd)
    torch.testing.assert_close(found.double(), slope * at.double() + intercept, atol=0.01, rtol=0.01)


COSINE = {"beta_schedule": "squaredcos_cap_v2"}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [5, 10, 50])
def test_heun_is_refused_for_the_cosine_schedule_and_told_how_it_works(prediction, steps):
    """Its first step goes from the noise level 20291 to that of the second timestep."""
    cosine = COSINE | {"prediction_type": prediction}
    words = fault("HeunDiscreteScheduler", cosine, steps) or ""
    assert "amplifies errors of the network" in words and "timestep_spacing: leading" in words
    assert fault("HeunDiscreteScheduler", cosine, steps, timestep_spacing="leading") is None
    assert fault("HeunDiscreteScheduler", LEVELS | {"prediction_type": prediction}, steps) is None


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "EulerDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_other_samplers_of_the_cosine_schedule_are_accepted(name):
    assert fault(name, COSINE, 10, timestep_spacing="trailing") is None
