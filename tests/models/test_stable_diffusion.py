"""Stable Diffusion 1.5, 2.1 and XL: the loss is re-derived from the papers' formulas, pictures are those of the plain pipelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch

from difflab.config import Sample, Train
from difflab.core.errors import ConfigError
from difflab.core.seeds import generator
from difflab.core.shape import Shape
from difflab.loop.training_loop import order
from difflab.models.pretrained import Base

pytestmark = tiny.LIBRARIES
KINDS = ["sd15", "sd21", "sdxl"]
PROMPTS = list(tiny.CAPTIONS)
N = len(PROMPTS)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    Base.hash.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    return {kind: tiny.make(kind, tmp_path_factory.mktemp("base") / kind) for kind in KINDS}


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made["sd15"], tmp_path / "sd15"))


# -------------------------------------------------------------------------------------------------- loss
def alpha_bar(t: torch.Tensor) -> torch.Tensor:
    """Of the schedule that all three were trained with, written out: betas are squares of evenly spaced numbers."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.from_numpy(np.cumprod(1 - betas)[t.numpy()]).view(-1, 1, 1, 1)


def told(kind: str, pipe: Any, conditions: torch.Tensor) -> dict[str, Any]:
    """What the plain network is told about these captions (the last one is the empty prompt)."""
    prompts = [[*PROMPTS, ""][c] for c in conditions.tolist()]
    given = pipe.encode_prompt(
        prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    if kind != "sdxl":
        return {"encoder_hidden_states": given[0]}
    size = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]]).repeat(
        len(prompts), 1
    )  # original size, crop, target size
    return {
        "encoder_hidden_states": given[0],
        "added_cond_kwargs": {"text_embeds": given[2], "time_ids": size},
    }


def rederived(kind: str, pipe: Any, drawn: dict[str, torch.Tensor], gamma: float) -> torch.Tensor:
    """Mean squared error of the prediction per image, weighted as in Hang et al. 2303.09556: [b], in float64 but for the network."""
    x, e, t = drawn["x"].double(), drawn["noise"].double(), drawn["t"]
    ab = alpha_bar(t)
    with torch.no_grad():
        conditioning = told(kind, pipe, drawn["conditions"])
    guess = pipe.unet((ab.sqrt() * x + (1 - ab).sqrt() * e).float(), t, **conditioning).sample
    v = kind == "sd21"
    target = ab.sqrt() * e - (1 - ab).sqrt() * x if v else e
    error = (guess.double() - target).square().mean(dim=(1, 2, 3))
    snr = (ab / (1 - ab)).flatten()
    if gamma:
        error = error * torch.minimum(snr, torch.tensor(gamma)) / (snr + 1 if v else snr)
    return error


@pytest.mark.parametrize("gamma", [0.0, 5.0])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_formula(made, kind, gamma):
    train = Train(condition_dropout=0.3, min_snr_gamma=gamma)
    model = tiny.model(kind, made[kind])
    latents = model.encoder("cpu")(torch.from_numpy(tiny.images(8)))
    drawn = model.draws(latents, torch.arange(8) % N, slice(0, 8), 8, train, torch.Generator().manual_seed(3))
    drawn["t"] = torch.tensor([0, 1, 40, 150, 333, 600, 901, 999])  # on both sides of SNR = 5 (about t = 150)
    assert 0 < (drawn["conditions"] == N).sum() < 8
    model.prepare_training(train, "cpu")
    model.net.train()
    ours = model.loss(model.net, **drawn, train=train)
    ours.mean().backward()
    pipe = tiny.pipeline(kind, made[kind])
    pipe.unet.train()
    theirs = rederived(kind, pipe, drawn, gamma)
    theirs.mean().backward()
    print(kind, gamma, ours.tolist())
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-4, atol=1e-6)
    for (name, a), b in zip(model.net.named_parameters(), pipe.unet.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=2e-3, atol=2e-5, msg=name)


def test_the_first_point_of_a_training_is_that_loss(made, tmp_path):
    """The loop with everything around it: order of the data, draws of the step, mean over the batch."""
    tiny.train(tiny.model("sd21", made["sd21"]), tmp_path, images_seen=8, min_snr_gamma=5.0)
    seen, loss = json.loads((tmp_path / "training.json").read_text())["loss"][0]
    model, train = tiny.model("sd21", made["sd21"]), Train()
    at = order(8, 8, 0, ("tiny", 0))
    latents = model.encoder("cpu")(torch.from_numpy(tiny.images(8)))[at]
    drawn = model.draws(
        latents, torch.from_numpy(at % N), slice(0, 8), 8, train, generator("noise", "tiny", 0, 0)
    )
    assert seen == 8 and loss == pytest.approx(
        float(rederived("sd21", tiny.pipeline("sd21", made["sd21"]), drawn, 5.0).detach().mean()), rel=1e-4
    )


def test_a_trained_text_encoder_gets_the_gradient_of_the_same_loss(made):
    train = Train(condition_dropout=0.3)
    model = tiny.model("sd15", made["sd15"], train_text_encoder=True)
    latents = model.encoder("cpu")(torch.from_numpy(tiny.images(8)))
    drawn = model.draws(latents, torch.arange(8) % N, slice(0, 8), 8, train, torch.Generator().manual_seed(3))
    model.prepare_training(train, "cpu")
    model.net.train()
    ours = model.loss(model.net, **drawn, train=train)
    ours.mean().backward()
    pipe = tiny.pipeline("sd15", made["sd15"])
    prompts = [[*PROMPTS, ""][c] for c in drawn["conditions"].tolist()]
    ids = pipe.tokenizer(
        prompts, padding="max_length", max_length=tiny.LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    ab = alpha_bar(drawn["t"]).float()
    noisy = ab.sqrt() * drawn["x"] + (1 - ab).sqrt() * drawn["noise"]
    theirs = (
        (pipe.unet(noisy, drawn["t"], pipe.text_encoder(ids)[0]).sample - drawn["noise"])
        .square()
        .mean(dim=(1, 2, 3))
    )
    theirs.mean().backward()
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-6)
    checked = 0
    for (name, a), b in zip(
        model.text_encoder.named_parameters(), pipe.text_encoder.parameters(), strict=True
    ):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=2e-3, atol=1e-6, msg=name)
            checked += bool(a.grad.abs().max() > 0)
    assert checked > 20


# ---------------------------------------------------------------------------------------------- sampling
def ours(model: Any, conditions: np.ndarray, seeds: list[int], how: Sample) -> np.ndarray:
    model.prepare_sampling(how, "cpu")
    return model.sample(conditions, seeds, how).astype(int)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    "scheduler",
    ["DDIMScheduler", "PNDMScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_those_of_the_plain_pipeline(made, kind, scheduler, guidance):
    """Same prompts, one generator per image, the base's own scheduler settings: at most one level of 255 off."""
    how, seeds = Sample(scheduler=scheduler, steps=4, guidance_scale=guidance), [20, 21, 22]
    model = tiny.model(kind, made[kind])
    a = ours(model, np.array([4, 0, 2]), seeds, how)
    b = tiny.pictures(tiny.pipeline(kind, made[kind]), [PROMPTS[c] for c in (4, 0, 2)], seeds, how)
    print(kind, scheduler, guidance, "levels", np.abs(a - b).max(), "spread", b.std())
    assert b.std() > 10 and np.abs(a - b).max() <= 1


@pytest.mark.parametrize("zeros", [True, False])
def test_the_null_prompt_of_xl_is_that_of_its_pipeline(made, tmp_path, zeros):
    """With force_zeros_for_empty_prompt, as the published folder has it, the pipeline guides away from zeros, not from an encoded ''."""
    folder = Path(shutil.copytree(made["sdxl"], tmp_path / "sdxl"))
    tiny.amend(folder / "model_index.json", force_zeros_for_empty_prompt=zeros)
    how, seeds = Sample(steps=3, guidance_scale=3.0), [20, 21]
    a = ours(tiny.model("sdxl", folder), np.array([4, 0]), seeds, how)
    b = tiny.pictures(tiny.pipeline("sdxl", folder), [PROMPTS[4], PROMPTS[0]], seeds, how)
    assert np.abs(a - b).max() <= 1


@torch.no_grad()
def by_hand(
    kind: str, folder: Path, conditions: list[int], seeds: list[int], g: float, steps: int
) -> np.ndarray:
    """Guided DDIM over latents, written out: eps = eps_u + g (eps_c - eps_u)."""
    pipe = tiny.pipeline(kind, folder)
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    x = torch.cat([torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(s)) for s in seeds])
    with_, without = (told(kind, pipe, torch.tensor(c)) for c in (conditions, [N] * len(conditions)))
    for t in scheduler.timesteps:
        own = g if g > 1 else 1  # as in diffusers' pipelines
        e = (1 - own) * pipe.unet(x, t, **without).sample + own * pipe.unet(x, t, **with_).sample
        x = scheduler.step(e, t, x).prev_sample
    out = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    return ((out.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy().astype(int)


@pytest.mark.parametrize("g", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_guidance_is_the_formula_of_the_paper(made, kind, g):
    how = Sample(steps=3, guidance_scale=g)
    model = tiny.model(kind, made[kind])
    passes: list[int] = []
    model.prepare_sampling(how, "cpu")
    model.net.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    a = model.sample(np.array([1, 5]), [3, 4], how).astype(int)
    assert passes == [4 if g > 1 else 2] * 3  # nothing is computed that is not used
    assert np.abs(a - by_hand(kind, made[kind], [1, 5], [3, 4], g, 3)).max() <= 1
    others = ours(tiny.model(kind, made[kind]), np.array([2, 6]), [3, 4], how)
    assert np.abs(a - others).max() > 3


# ------------------------------------------------------------------------------------------------ schedulers
NAMES = [
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_scheduler_has_the_settings_that_diffusers_would_give_it(made, kind, name):
    mine = tiny.model(kind, made[kind]).scheduler(Sample(scheduler=name, steps=7))
    theirs = getattr(diffusers, name).from_config(tiny.pipeline(kind, made[kind]).scheduler.config)
    theirs.set_timesteps(7)
    hidden = {"_use_default_values", "_class_name", "_diffusers_version"}
    assert {k: v for k, v in mine.config.items() if k not in hidden} == {
        k: v for k, v in theirs.config.items() if k not in hidden and k in mine.config
    }
    assert mine.timesteps.tolist() == theirs.timesteps.tolist()
    torch.testing.assert_close(mine.alphas_cumprod, theirs.alphas_cumprod)


def test_options_of_the_config_come_before_the_settings_of_the_base(made):
    how = Sample(scheduler_options={"timestep_spacing": "trailing", "clip_sample": True}, steps=4)
    scheduler = tiny.model("sd15", made["sd15"]).scheduler(how)
    assert (
        scheduler.config.timestep_spacing == "trailing"
        and scheduler.config.clip_sample
        and scheduler.timesteps[0] == 999
    )
    assert scheduler.config.steps_offset == 1


def test_latents_are_never_clipped_to_the_range_of_pixels(folder):
    """DDIM's own default clips at 1, and many folders were saved with a scheduler that has no such setting (Euler, say)."""
    file = folder / "scheduler" / "scheduler_config.json"
    content = {
        k: v
        for k, v in json.loads(file.read_text()).items()
        if k not in ("clip_sample", "skip_prk_steps", "set_alpha_to_one")
    }
    file.write_text(json.dumps({**content, "_class_name": "EulerDiscreteScheduler"}))
    assert not tiny.model("sd15", folder).scheduler(Sample()).config.clip_sample


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"scheduler": "DDIMSheduler"},
            "'DDIMSheduler' is no scheduler of diffusers; did you mean 'DDIMScheduler'",
        ),
        (
            {"scheduler": "FlowMatchEulerDiscreteScheduler"},
            "does not denoise what this family is trained on; for example DDIMScheduler does",
        ),
        ({"scheduler": "StableDiffusionPipeline"}, "is no scheduler of diffusers"),
        (
            {"scheduler_options": {"clip_samples": True}},
            "DDIMScheduler has no option 'clip_samples'; did you mean 'clip_sample'",
        ),
        (
            {"scheduler_options": {"prediction_type": "v_prediction"}},
            "'prediction_type' must be the same as in training",
        ),
        ({"scheduler_options": {"beta_end": 0.1}}, "'beta_end' must be the same as in training"),
        ({"steps": 1001}, r"sample\.steps 1001"),
    ],
)
def test_what_cannot_sample_is_refused(made, settings, message):
    with pytest.raises(ConfigError, match=message):
        tiny.model("sd15", made["sd15"]).check_sampling(Sample(**settings))


@pytest.mark.parametrize("kind", ["sample", "nothing"])
def test_other_predictions_are_refused(folder, kind):
    tiny.amend(folder / "scheduler" / "scheduler_config.json", prediction_type=kind)
    with pytest.raises(
        ConfigError, match=rf"predicts '{kind}', but difflab supports only epsilon and v_prediction"
    ):
        tiny.model("sd15", folder)


def test_a_text_encoder_of_xl_is_not_trained(made):
    with pytest.raises(
        ConfigError, match=r"model\.train_text_encoder needs a base with one text encoder.*set it to false"
    ):
        tiny.model("sdxl", made["sdxl"], train_text_encoder=True)


def test_xl_is_told_the_size_of_its_images(made):
    seen: list[torch.Tensor] = []
    model = tiny.model("sdxl", made["sdxl"], Shape((8, 8, 3), 0, tiny.CAPTIONS))
    how = Sample(steps=1)
    model.prepare_sampling(how, "cpu")
    model.net.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    assert model.sample(np.array([0, 1]), [1, 2], how).shape == (2, 8, 8, 3)
    assert seen[0].tolist() == [[8, 8, 0, 0, 8, 8]] * 2
