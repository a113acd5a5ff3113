"""HiDream: experts in training, the layers of the Llama, and the loss of diffusers' training script."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from parts import CAPTIONS
from script_loss import losses
from tiny_bases import hidream

from difflab.config import Sample, Train
from difflab.core.errors import ConfigError, StoreError

pytestmark = tiny.LIBRARIES
(BASE,) = hidream.BASES


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return BASE.write(tmp_path_factory.mktemp("base") / "hidream")


def test_the_loss_is_that_of_the_training_script(folder):
    """examples/dreambooth/train_dreambooth_lora_hidream.py, whose network always answers as in sampling."""
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    t5, _, llama, _, pooled, _ = pipe.encode_prompt(list(CAPTIONS), do_classifier_free_guidance=False)

    def clean(pixels: torch.Tensor) -> torch.Tensor:
        z = pipe.vae.encode(pixels).latent_dist.mode()
        return (z - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor

    def velocity(noisy: torch.Tensor, sigmas: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return -pipe.transformer(
            hidden_states=noisy,
            encoder_hidden_states_t5=t5,
            encoder_hidden_states_llama3=llama,
            pooled_embeds=pooled,
            timesteps=times,
            return_dict=False,
        )[0]

    ours, theirs = losses(model, pipe, clean, velocity)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 4, 8)], ids=str)
def test_in_training_the_prediction_is_equal_and_experts_get_gradients(shape, folder):
    model = BASE.model(folder)
    model.prepare_training(Train(), "cpu")
    x, t = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)), torch.tensor([300.0, 700.0])
    with torch.no_grad():
        sampling = model.predict(model.net.eval(), x, t, torch.tensor([0, 1]))
    training = model.predict(model.net.train(), x, t, torch.tensor([0, 1]))
    torch.testing.assert_close(training, sampling, rtol=1e-4, atol=1e-5)
    training.square().sum().backward()
    experts = {name: p for name, p in model.net.named_parameters() if ".experts." in name}
    assert experts and all(p.grad is not None and p.grad.abs().max() > 0 for p in experts.values())


def test_prompts_have_the_states_of_every_layer_of_the_llama(folder):
    texts = BASE.model(folder).architecture.texts(BASE.pipeline(folder), list(CAPTIONS[:3]), "cpu")
    assert texts["llama"].shape == (3, 2, 128, hidream.WIDTH) and texts["states"].shape == (
        3,
        128,
        hidream.WIDTH,
    )


def test_a_folder_without_the_llama_and_one_with_another_are_refused(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    shutil.rmtree(other / "text_encoder_4")
    shutil.copytree(other / "text_encoder_3", other / "text_encoder_4")
    with pytest.raises(StoreError, match="text_encoder_4 holds a model of type t5, but model_index"):
        BASE.model(other).check_sampling(Sample(scheduler=BASE.scheduler))
    tiny.amend(other / "model_index.json", text_encoder_4=[None, None], tokenizer_4=[None, None])
    with pytest.raises(
        ConfigError, match=r"there is no text_encoder_4, which is a Llama 3\.1 .* save it to a"
    ):
        BASE.model(other)
