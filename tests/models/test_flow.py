"""Stable Diffusion 3: the loss of flow matching is re-derived, training times have the density of the paper, pictures are plain diffusers'."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch
from scipy import stats

from difflab.config import Sample, Train
from difflab.core.errors import ConfigError
from difflab.core.seeds import generator
from difflab.loop.training_loop import order
from difflab.models.pretrained import Base

pytestmark = tiny.LIBRARIES
PROMPTS = list(tiny.CAPTIONS)
N = len(PROMPTS)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    Base.hash.cache_clear()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny.make("sd3", tmp_path_factory.mktemp("base") / "sd3")


# -------------------------------------------------------------------------------------------------- loss
def shifted(k: torch.Tensor) -> torch.Tensor:
    """Noise level of training time k: evenly spaced from 1 down to 1/1000, then shifted by 3 (Esser et al. 2403.03206, eq. 23)."""
    s = 1 - k.double() / 1000
    return 3 * s / (1 + 2 * s)


def rederived(pipe: Any, drawn: dict[str, torch.Tensor], precondition: bool) -> torch.Tensor:
    """Of the velocity, or of the denoised image that the velocity stands for: [b]."""
    x, e = drawn["x"].double(), drawn["noise"].double()
    s = shifted(drawn["t"]).view(-1, 1, 1, 1)
    prompts = [[*PROMPTS, ""][c] for c in drawn["conditions"].tolist()]
    with torch.no_grad():
        states, _, pooled, _ = pipe.encode_prompt(
            prompts, prompts, prompts, do_classifier_free_guidance=False
        )
    noisy = (1 - s) * x + s * e
    guess = pipe.transformer(noisy.float(), states, pooled, (1000 * s.flatten()).float()).sample.double()
    if precondition:
        return (noisy - s * guess - x).square().mean(dim=(1, 2, 3))
    return (guess - (e - x)).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("precondition", [True, False])
def test_loss_and_gradients_are_those_of_the_formula(base, precondition):
    train = Train(condition_dropout=0.3)
    model = tiny.model("sd3", base, precondition_outputs=precondition)
    latents = model.encoder("cpu")(torch.from_numpy(tiny.images(8)))
    drawn = model.draws(latents, torch.arange(8) % N, slice(0, 8), 8, train, torch.Generator().manual_seed(3))
    drawn["t"] = torch.tensor([0, 1, 40, 250, 500, 750, 901, 999])
    assert 0 < (drawn["conditions"] == N).sum() < 8
    model.prepare_training(train, "cpu")
    model.net.train()
    ours = model.loss(model.net, **drawn, train=train)
    ours.mean().backward()
    pipe = tiny.pipeline("sd3", base)
    theirs = rederived(pipe, drawn, precondition)
    theirs.mean().backward()
    print(precondition, ours.tolist())
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-4, atol=1e-7)
    for (name, a), b in zip(model.net.named_parameters(), pipe.transformer.parameters(), strict=True):
        if a.grad is not None:  # the last block has no text left to pass on
            torch.testing.assert_close(a.grad, b.grad, rtol=2e-3, atol=2e-5, msg=name)


def test_the_noise_levels_are_those_of_the_scheduler_of_the_base(base):
    model = tiny.model("sd3", base)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(base / "scheduler")
    assert torch.equal(model.noise.sigmas, scheduler.sigmas) and scheduler.config.shift == 3.0
    torch.testing.assert_close(
        model.noise.sigmas[:1000].double(), shifted(torch.arange(1000)), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        model.noise.timesteps[:1000].double(), 1000 * shifted(torch.arange(1000)), rtol=1e-5, atol=1e-3
    )


def test_the_first_point_of_a_training_is_that_loss(base, tmp_path):
    tiny.train(tiny.model("sd3", base), tmp_path, images_seen=8)
    seen, loss = json.loads((tmp_path / "training.json").read_text())["loss"][0]
    model, train = tiny.model("sd3", base), Train()
    at = order(8, 8, 0, ("tiny", 0))
    latents = model.encoder("cpu")(torch.from_numpy(tiny.images(8)))[at]
    drawn = model.draws(
        latents, torch.from_numpy(at % N), slice(0, 8), 8, train, generator("noise", "tiny", 0, 0)
    )
    assert seen == 8 and loss == pytest.approx(
        float(rederived(tiny.pipeline("sd3", base), drawn, True).detach().mean()), rel=1e-4
    )


@pytest.mark.parametrize("density", ["logit_normal", "uniform"])
def test_training_times_have_their_density(base, density):
    """Kolmogorov-Smirnov over 20,000 draws; the list runs from noise to image, and its places are what is drawn."""
    model = tiny.model("sd3", base, timestep_sampling=density)
    k = model.timesteps(20_000, torch.Generator().manual_seed(0))
    assert k.dtype == torch.int64 and k.min() >= 0 and k.max() <= 999
    u = (k.double().numpy() + np.random.default_rng(0).random(20_000)) / 1000
    law = (lambda p: stats.norm.cdf(np.log(p / (1 - p)))) if density == "logit_normal" else (lambda p: p)
    assert stats.kstest(u, law).pvalue > 1e-3
    other = (lambda p: p) if density == "logit_normal" else (lambda p: stats.norm.cdf(np.log(p / (1 - p))))
    assert stats.kstest(u, other).pvalue < 1e-9


def test_the_last_time_is_in_the_list(base, monkeypatch):
    model = tiny.model("sd3", base)
    monkeypatch.setattr(
        torch, "randn", lambda *shape, **how: torch.tensor([-60.0, 60.0])
    )  # their sigmoids round to 0 and 1
    assert model.timesteps(2, torch.Generator()).tolist() == [0, 999]


# ---------------------------------------------------------------------------------------------- sampling
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("scheduler", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_pictures_are_those_of_the_plain_pipeline(base, scheduler, guidance):
    """At most one level of 255 off."""
    how, seeds, asked = Sample(scheduler=scheduler, steps=4, guidance_scale=guidance), [20, 21, 22], [4, 0, 2]
    model = tiny.model("sd3", base)
    model.prepare_sampling(how, "cpu")
    ours = model.sample(np.array(asked), seeds, how).astype(int)
    pipe = tiny.pipeline("sd3", base)
    if (
        scheduler != "FlowMatchEulerDiscreteScheduler"
    ):  # SD 3's pipeline hands sigmas on, which the other one does not take
        theirs = by_hand(pipe, asked, seeds, guidance, how)
    else:
        theirs = tiny.pictures(pipe, [PROMPTS[c] for c in asked], seeds, how).astype(int)
    print(scheduler, guidance, "levels", np.abs(ours - theirs).max(), "spread", theirs.std())
    assert theirs.std() > 10 and np.abs(ours - theirs).max() <= 1


@torch.no_grad()
def test_all_three_text_encoders_are_read(tmp_path):
    """As published. The sequence is that of CLIP and, behind it, T5's 256 tokens."""
    folder = tiny.make("sd3-t5", tmp_path / "sd3")
    model, pipe = tiny.model("sd3-t5", folder), tiny.pipeline("sd3-t5", folder)
    assert model.base.text_encoders() == ["text_encoder", "text_encoder_2", "text_encoder_3"]
    texts = model.base.texts([*PROMPTS, None], "cpu")
    states, _, pooled, _ = pipe.encode_prompt([*PROMPTS, ""], None, None, do_classifier_free_guidance=False)
    assert (
        states.shape == (N + 1, tiny.LENGTH + 256, 2 * tiny.WIDTH + 4) and states[0, tiny.LENGTH :].std() > 0
    )
    torch.testing.assert_close(texts["states"], states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(texts["pooled"], pooled, rtol=1e-4, atol=1e-5)
    how = Sample(**tiny.sampler("sd3-t5"), guidance_scale=3.0)
    model.prepare_sampling(how, "cpu")
    ours = model.sample(np.array([4, 0]), [20, 21], how).astype(int)
    assert np.abs(ours - tiny.pictures(pipe, [PROMPTS[4], PROMPTS[0]], [20, 21], how)).max() <= 1
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    assert (
        np.abs(
            ours
            - tiny.pictures(
                tiny.pipeline("sd3-t5", tmp_path / "model"), [PROMPTS[4], PROMPTS[0]], [20, 21], how
            )
        ).max()
        <= 1
    )


@torch.no_grad()
def by_hand(pipe: Any, conditions: list[int], seeds: list[int], g: float, how: Sample) -> np.ndarray:
    scheduler = getattr(diffusers, how.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(how.steps)
    x = torch.cat([torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(s)) for s in seeds])
    told = []
    for prompts in ([PROMPTS[c] for c in conditions], [""] * len(seeds)):
        states, _, pooled, _ = pipe.encode_prompt(
            prompts, prompts, prompts, do_classifier_free_guidance=False
        )
        told.append((states, pooled))
    for t in scheduler.timesteps:
        with_, without = (pipe.transformer(x, *own, t.expand(len(x))).sample for own in told)
        x = scheduler.step((1 - g) * without + g * with_ if g > 1 else with_, t, x).prev_sample
    out = pipe.vae.decode(x / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor).sample
    return ((out.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy().astype(int)


@pytest.mark.parametrize("g", [0.0, 0.5, 4.0])
def test_guidance_is_the_formula_of_the_paper(base, g):
    how = Sample(scheduler="FlowMatchEulerDiscreteScheduler", steps=3, guidance_scale=g)
    model = tiny.model("sd3", base)
    model.prepare_sampling(how, "cpu")
    ours = model.sample(np.array([1, 5]), [3, 4], how).astype(int)
    assert np.abs(ours - by_hand(tiny.pipeline("sd3", base), [1, 5], [3, 4], g, how)).max() <= 1


def test_a_perfect_velocity_leads_from_noise_to_the_image(base):
    """The straight path: with the true velocity e - x any number of steps arrives at x."""
    how = Sample(scheduler="FlowMatchEulerDiscreteScheduler", steps=2)
    model = tiny.model("sd3", base)
    model.prepare_sampling(how, "cpu")
    latents = model.encoder("cpu")(torch.from_numpy(tiny.images(2)))
    x = model.clean(
        latents * torch.tensor([1.0] * 4 + [0.0] * 4).view(1, 8, 1, 1), slice(0, 2), 2, torch.Generator()
    )
    e = torch.stack([torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(s)) for s in (3, 4)])
    model.predict = lambda net, noisy, t, conditions: e - x  # type: ignore[method-assign]
    ours = model.sample(np.array([0, 1]), [3, 4], how).astype(int)
    with torch.no_grad():
        image = tiny.pipeline("sd3", base).vae.decode(latents.chunk(2, 1)[0]).sample
    theirs = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            "'DDIMScheduler' does not denoise what this family is trained on; for example FlowMatchEulerDiscreteScheduler does",
        ),
        ({"scheduler": "EulerDiscreteScheduler"}, "'EulerDiscreteScheduler' does not denoise"),
        ({"scheduler": "FlowMatchEulerDiscretScheduler"}, "did you mean 'FlowMatchEulerDiscreteScheduler'"),
        (
            {"scheduler": "FlowMatchEulerDiscreteScheduler", "scheduler_options": {"shfit": 1.0}},
            "has no option 'shfit'; did you mean 'shift'",
        ),
        (
            {
                "scheduler": "FlowMatchEulerDiscreteScheduler",
                "scheduler_options": {"num_train_timesteps": 10},
            },
            "must be the same as in training",
        ),
    ],
)
def test_what_cannot_sample_is_refused(base, settings, message):
    with pytest.raises(ConfigError, match=message):
        tiny.model("sd3", base).check_sampling(Sample(**settings))


def test_the_shift_of_sampling_may_be_changed(base):
    model = tiny.model("sd3", base)
    how = Sample(scheduler="FlowMatchEulerDiscreteScheduler", steps=4, scheduler_options={"shift": 1.0})
    times = [model.scheduler(s).timesteps.tolist() for s in (how, Sample(scheduler=how.scheduler, steps=4))]
    assert times[0] != times[1] and math.isclose(times[0][0], 1000.0)
