"""Names of weight files, and what a component of a diffusers folder must hold; test_pretrained.py damages whole folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from difflab.core.errors import ConfigError
from difflab.models.base_files import WEIGHTS, check_component, check_config, variant_of


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("model.safetensors", None),
        ("model.fp16.safetensors", "fp16"),
        ("model-00001-of-00002.safetensors", None),
        ("model.fp16-00001-of-00002.safetensors", "fp16"),
        ("model.safetensors.index.json", None),
        ("model.safetensors.index.fp16.json", "fp16"),
        ("diffusion_pytorch_model.non_ema.safetensors", "non_ema"),
    ],
)
def test_names_of_weights(name, variant):
    assert WEIGHTS.fullmatch(name) and variant_of(Path(name)) == variant


@pytest.mark.parametrize("name", ["config.json", "model.bin", "tokenizer.json", "model.safetensors.txt"])
def test_names_of_other_files(name):
    assert not WEIGHTS.fullmatch(name) and variant_of(Path(name)) is None


def test_a_component_needs_its_config_and_its_weights(tmp_path):
    home = tmp_path / "unet"
    with pytest.raises(ConfigError, match="lacks its component 'unet'"):
        check_component(tmp_path, "unet", None)
    home.mkdir()
    for check in (lambda: check_config(home), lambda: check_component(tmp_path, "unet", None)):
        with pytest.raises(ConfigError, match=r"unet holds no config\.json"):
            check()
    (home / "config.json").write_text("{}")
    check_config(home)
    with pytest.raises(ConfigError, match=r"unet has no safetensors weights$"):
        check_component(tmp_path, "unet", None)
    save_file({"a": torch.zeros(2)}, home / "model.safetensors")
    check_component(tmp_path, "unet", None)
    with pytest.raises(ConfigError, match=r"unet has no safetensors weights|has only weights of variant"):
        check_component(tmp_path, "unet", "fp16")
