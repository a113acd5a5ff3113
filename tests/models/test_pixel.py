"""What the pixel families share: fresh weights from the seed, files, whole weights in the place of sharded ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from difflab.config import parse
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.models import family_of
from difflab.models.pixel import noise_of

SETTINGS: dict[str, dict[str, Any]] = {
    "pixel-mlp": {"width": 16, "depth": 1},
    "pixel-unet": {"channels": [8, 8], "norm_groups": 4},
}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def fresh(family: str, seed: int = 0, classes: int = 3, **changes: Any) -> Any:
    spec = parse({"model": {"family": family, **SETTINGS[family], **changes}}).model
    model = family_of(spec)(spec, Shape((8, 8, 1), classes))
    model.initialise(seed)
    return model


def equal(a: Any, b: Any) -> bool:
    other = b.net.state_dict()
    return a.net.state_dict().keys() == other.keys() and all(
        torch.equal(t, other[n]) for n, t in a.net.state_dict().items()
    )


@pytest.fixture(params=list(SETTINGS))
def family(request) -> str:
    return request.param


def test_weights_are_a_pure_function_of_the_seed(family):
    torch.manual_seed(9)
    before = torch.get_rng_state()
    a, b, c = fresh(family, 1), fresh(family, 1), fresh(family, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(a, b) and not equal(a, c)
    a.initialise(2, scratch=False)  # there is no base to start from
    assert equal(a, c)


def test_what_is_saved_is_loaded(family, tmp_path):
    model = fresh(family, 4)
    model.save(tmp_path / "model")
    loaded = type(model).load(model.spec, model.shape, tmp_path / "model")
    assert equal(loaded, model) and not loaded.net.training
    assert {p.suffix for p in (tmp_path / "model").rglob("*") if p.is_file()} == {".safetensors", ".json"}


def test_whole_weights_take_the_place_of_sharded_ones(family):
    model, other = fresh(family, 1), fresh(family, 2)
    gone = model.net
    model.unshard(other.net.state_dict())
    assert equal(model, other) and model.net is not gone
    for p, q in zip(model.net.parameters(), other.net.parameters(), strict=True):
        assert p.data_ptr() != q.data_ptr()
    with pytest.raises(RuntimeError, match="Missing key"):
        model.unshard({})


@pytest.mark.parametrize("damage", ["gone", "cut", "a tensor less", "another shape", "config", "no config"])
def test_a_damaged_model_is_named_and_never_filled_up(family, damage, tmp_path):
    model = fresh(family)
    folder = tmp_path / "model"
    model.save(folder)
    file, config = folder / WEIGHTS, folder / "unet" / "config.json"
    content = load_file(file)
    name = sorted(content)[0]
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "a tensor less":
        del content[name]
        save_file(content, file, {"format": "pt"})
    elif damage == "another shape":
        content[name] = torch.zeros([n + 1 for n in content[name].shape])
        save_file(content, file, {"format": "pt"})
    elif damage == "config":
        config.write_text("{")
    else:
        config.unlink()
    with pytest.raises(
        StoreError,
        match=rf"{Path(folder)} holds no readable model .*; delete it and run the same command again",
    ):
        type(model).load(model.spec, model.shape, folder)


def test_a_conditional_family_wants_classes(family):
    with pytest.raises(
        ConfigError,
        match=rf"model\.conditional=true needs a labelled set; use model\.conditional=false \(family {family}\)",
    ):
        fresh(family, classes=0)
    assert fresh(family, classes=0, conditional=False).noise is not None


def test_the_noise_is_what_the_config_says():
    spec = parse(
        {
            "model": {
                "family": "pixel-mlp",
                "train_timesteps": 17,
                "beta_schedule": "linear",
                "prediction_type": "epsilon",
            }
        }
    ).model
    noise = noise_of(spec)
    betas = torch.linspace(1e-4, 0.02, 17, dtype=torch.float64)
    torch.testing.assert_close(noise.alphas_cumprod.double(), (1 - betas).cumprod(0), rtol=1e-5, atol=0)
    assert noise.config.prediction_type == "epsilon"
