"""Every setting in a base's configs is supported, or is an error that names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDPMScheduler

from difflab.config import Sample, Train
from difflab.core.errors import ConfigError
from difflab.models.base_settings import training_process
from difflab.models.pretrained import open_base

pytestmark = tiny.LIBRARIES
FILES = {"scheduler": "scheduler_config.json"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    return {kind: tiny.make(kind, root / kind) for kind in tiny.KINDS}


def amended(made: dict[str, Path], kind: str, to: Path, component: str, **changes: object) -> Path:
    """A copy of a base whose component's config says something else; component "" is model_index.json."""
    shutil.copytree(made[kind], to)
    file = to / component / FILES.get(component, "config.json") if component else to / "model_index.json"
    tiny.amend(file, **changes)
    return to


@pytest.mark.parametrize(
    ("kind", "component", "changes", "message"),
    [
        (
            "sd15",
            "unet",
            {"in_channels": 9},
            "in_channels is 9 and the autoencoder's latents have 4 channels: this is an inpainting base",
        ),
        ("sd21", "unet", {"in_channels": 8}, "this is an InstructPix2Pix base"),
        ("sd3", "transformer", {"in_channels": 33}, "this is a base with inputs besides noisy latents"),
        (
            "sd15",
            "unet",
            {"time_cond_proj_dim": 256},
            "time_cond_proj_dim is 256: this network needs an embedded guidance scale",
        ),
        ("sd21", "unet", {"num_class_embeds": 1000}, "num_class_embeds is 1000"),
        (
            "sdxl",
            "unet",
            {"addition_embed_type": "text"},
            "addition_embed_type is 'text', but StableDiffusionXLPipeline needs 'text_time'",
        ),
        (
            "sd15",
            "unet",
            {"dropuot": 0.1},
            "UNet2DConditionModel of the installed diffusers ignores 'dropuot'.*did you mean 'dropout'",
        ),
        ("sd3", "transformer", {"guidance_embeds": True}, "ignores 'guidance_embeds'"),
        ("sdxl", "vae", {"latent_mean": [0.0] * 4}, "ignores 'latent_mean'.*did you mean 'latents_mean'"),
        (
            "sd15",
            "vae",
            {"_class_name": "AutoencoderTiny"},
            "is the config of a AutoencoderTiny; difflab supports only AutoencoderKL",
        ),
        (
            "sd15",
            "vae",
            {"latents_mean": [0.1] * 4, "latents_std": [1.0] * 4},
            "'latents_mean' is set, but StableDiffusionPipeline does not apply it",
        ),
        (
            "sdxl",
            "vae",
            {"shift_factor": 0.1},
            "'shift_factor' is set, but StableDiffusionXLPipeline does not apply it",
        ),
        (
            "sd3",
            "vae",
            {"latents_std": [1.0] * 4},
            "'latents_std' is set, but StableDiffusion3Pipeline does not apply it",
        ),
        (
            "sdxl",
            "vae",
            {"latents_mean": [0.1] * 4},
            "latents_mean and latents_std must both be set, with 4 numbers each; 'latents_std' is None",
        ),
        (
            "sdxl",
            "vae",
            {"latents_mean": [0.1] * 4, "latents_std": [1.0] * 3},
            r"'latents_std' is \[1.0, 1.0, 1.0\]",
        ),
        (
            "sdxl",
            "",
            {"requires_aesthetics_score": True},
            "'requires_aesthetics_score' is true, which difflab does not support",
        ),
        (
            "sd15",
            "scheduler",
            {"snr_shift": 2.0},
            "no scheduler of the installed diffusers accepts 'snr_shift'.*did you mean 'snr_shift_scale'",
        ),
        (
            "sd15",
            "scheduler",
            {"rescale_betas_zero_snr": True},
            r"PNDMScheduler computes other noise levels.*rescale_betas_zero_snr: True",
        ),
        (
            "sd21",
            "scheduler",
            {"_class_name": "CogVideoXDDIMScheduler"},
            "CogVideoXDDIMScheduler computes other noise levels",
        ),
        (
            "sdxl",
            "scheduler",
            {"_class_name": "EDMEulerScheduler"},
            "EDMEulerScheduler (has no alphas_cumprod|cannot be created from its own config)",
        ),
        ("sd15", "scheduler", {"_class_name": "MyScheduler"}, "'MyScheduler' is no scheduler of diffusers"),
        (
            "sd3",
            "scheduler",
            {"_class_name": "DDIMScheduler"},
            "DDIMScheduler is not a flow-matching scheduler",
        ),
        (
            "sd15",
            "scheduler",
            {"prediction_type": "sample"},
            "the base predicts 'sample'.*set prediction_type in a copy of the folder",
        ),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(kind, component, changes, message, made, tmp_path):
    with pytest.raises(ConfigError, match=message):
        tiny.model(kind, amended(made, kind, tmp_path / "base", component, **changes))


@pytest.mark.parametrize(
    ("kind", "component", "changes"),
    [
        ("sd15", "vae", {"latents_mean": None, "_note": "own"}),
        ("sd21", "scheduler", {"snr_shift_scale": None, "rescale_betas_zero_snr": True}),
        ("sdxl", "scheduler", {"trained_betas": None, "thresholding": False}),
        ("sd3", "vae", {"force_upcast": True}),
    ],
)
def test_what_changes_nothing_or_is_honoured_is_accepted(kind, component, changes, made, tmp_path):
    assert tiny.model(kind, amended(made, kind, tmp_path / "base", component, **changes)).noise is not None


def test_the_statistics_of_latents_are_taken_off_and_put_back(made, tmp_path):
    """(z - mean) scale / std, as diffusers' SDXL scripts train; z = x std / scale + mean, as its pipeline decodes."""
    mean, std = [0.1, -0.2, 0.3, 0.0], [0.8, 1.2, 1.0, 0.9]
    folder = amended(
        made, "sdxl", tmp_path / "base", "vae", latents_mean=mean, latents_std=std, scaling_factor=0.5
    )
    scale = open_base(str(folder), ("StableDiffusionXLPipeline",), "stable-diffusion").architecture.scale
    z = torch.randn(3, 4, 2, 2)
    wanted = (z - torch.tensor(mean)[None, :, None, None]) * 0.5 / torch.tensor(std)[None, :, None, None]
    torch.testing.assert_close(scale.normalise(z), wanted)
    torch.testing.assert_close(scale.denormalise(scale.normalise(z)), z)
    model = tiny.model("sdxl", folder)
    drawn = model.draws(
        torch.cat([z, torch.zeros_like(z)], 1),
        None,
        slice(0, 3),
        3,
        Train(),
        torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(drawn["x"], wanted)  # training sees them too


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_a_pipelines_own_mends_of_old_folders_are_made(made, tmp_path):
    """StableDiffusionPipeline sets steps_offset to 1 and clip_sample to false, whatever an old folder says."""
    folder = amended(made, "sd21", tmp_path / "base", "scheduler", steps_offset=0, clip_sample=True)
    how = Sample(steps=4, batch_size=2)
    model = tiny.model("sd21", folder)
    model.prepare_sampling(how, "cpu")
    ours = model.sample(np.array([1, 4]), [5, 6], how).astype(int)
    pipe = tiny.pipeline("sd21", folder)
    assert model.scheduler(how).config.steps_offset == 1 and not model.scheduler(how).config.clip_sample
    assert (
        np.abs(
            ours - tiny.pictures(pipe, [tiny.CAPTIONS[1], tiny.CAPTIONS[4]], [5, 6], how).astype(int)
        ).max()
        <= 1
    )


def test_training_noise_is_that_of_the_bases_own_scheduler(made):
    base = open_base(str(made["sd15"]), ("StableDiffusionPipeline",), "stable-diffusion")
    own = json.loads((made["sd15"] / "scheduler" / "scheduler_config.json").read_text())
    noise = training_process(base, DDPMScheduler)
    betas = torch.linspace(own["beta_start"] ** 0.5, own["beta_end"] ** 0.5, 1000) ** 2
    torch.testing.assert_close(noise.alphas_cumprod, (1 - betas).cumprod(0))


def test_min_snr_weights_are_finite_where_there_is_no_signal(made, tmp_path):
    """Epsilon with zero terminal SNR: min(SNR, gamma) / SNR is 1 at SNR 0 (Hang et al. 2303.09556, sec. 3.4), and 0 / 0 is not it."""
    folder = amended(
        made,
        "sd21",
        tmp_path / "base",
        "scheduler",
        prediction_type="epsilon",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    model = tiny.model("sd21", folder)
    model.prepare_training(Train(), "cpu")
    x, noise, t, conditions = (
        torch.randn(2, 4, 8, 8),
        torch.randn(2, 4, 8, 8),
        torch.tensor([999, 10]),
        torch.tensor([0, 1]),
    )
    plain = model.loss(model.net, x, noise, t, conditions, Train())
    weighted = model.loss(model.net, x, noise, t, conditions, Train(min_snr_gamma=5.0))
    assert torch.isfinite(weighted).all() and weighted[0] == plain[0] and weighted[1] < plain[1]
    v = tiny.model("sd21", amended(made, "sd21", tmp_path / "v", "scheduler", rescale_betas_zero_snr=True))
    v.prepare_training(Train(), "cpu")
    assert v.loss(v.net, x, noise, t, conditions, Train(min_snr_gamma=5.0))[0] == 0  # min(0, gamma) / (0 + 1)


def test_networks_that_do_not_go_together_are_found_before_their_weights_are_used(made, tmp_path):
    """Each config is sound, and no key is unknown; together they do not compute."""
    vae = amended(made, "sd21", tmp_path / "vae", "vae", up_block_types=["UpDecoderBlock2D"])
    with pytest.raises(ConfigError, match=r"the networks of model.base .*cannot be read"):
        tiny.model("sd21", vae).check_sampling(Sample(steps=2))
