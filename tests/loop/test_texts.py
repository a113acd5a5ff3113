"""The captions of a run are encoded before a network is loaded, and never beside one."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import tiny

from difflab.core.files import cache_home
from difflab.core.progress import Reporter
from difflab.loop import chain, texts
from difflab.models import latent, pretrained

pytestmark = tiny.LIBRARIES
NETWORKS = ("unet", "transformer")


@pytest.fixture
def loads(monkeypatch) -> list[tuple[str, set[str]]]:
    """(component, components that are alive when it has been loaded) for every component that a run loads."""
    alive: dict[int, str] = {}
    order: list[tuple[str, set[str]]] = []
    load = pretrained.load_model

    def noted(kind: Any, folder: Path, *args: Any, **kwargs: Any) -> Any:
        model = load(kind, folder, *args, **kwargs)
        gc.collect()
        key = id(model)
        alive[key] = folder.name
        weakref.finalize(model, alive.pop, key, None)
        order.append((folder.name, set(alive.values())))
        return model

    monkeypatch.setattr(pretrained, "load_model", noted)
    monkeypatch.setattr(latent, "load_model", noted)
    return order


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_text_encoders_and_network_are_never_in_memory_together(kind, tmp_path, monkeypatch, loads):
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    base = tiny.make(kind, tmp_path / kind)
    chain.run_chain(tiny.config(kind, base, generations=1), tmp_path / "run", plots=False)
    names = [name for name, _ in loads]
    encoders = [i for i, name in enumerate(names) if name.startswith("text_encoder")]
    networks = [i for i, name in enumerate(names) if name in NETWORKS]
    assert encoders and networks and max(encoders) < min(networks)
    for _, alive in loads:
        assert not (any(n.startswith("text_encoder") for n in alive) and alive & set(NETWORKS))


def test_without_the_early_encoding_they_would_be(tmp_path, monkeypatch, loads):
    """The test above can fail: a model that is prepared without `encode_texts` loads the encoders beside its network."""
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(chain, "encode_texts", lambda work: None)
    base = tiny.make("sdxl", tmp_path / "sdxl")
    chain.run_chain(tiny.config("sdxl", base, generations=0), tmp_path / "run", plots=False)
    assert any({"unet", "text_encoder_2"} <= alive for _, alive in loads)


def test_a_finished_run_encodes_nothing(tmp_path, monkeypatch, loads):
    base = tiny.make("sd15", tmp_path / "sd15")
    config = tiny.config("sd15", base, generations=0)
    chain.run_chain(config, tmp_path / "run", plots=False)
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "another-cache"))
    loads.clear()
    monkeypatch.setattr(texts, "family_of", None)  # would be called
    chain.run_chain(config, tmp_path / "run", plots=False)
    assert "unet" not in [name for name, _ in loads]


def test_embeddings_on_disk_give_the_same_weights_and_samples_as_in_memory(tmp_path, monkeypatch):
    base = tiny.make("sd3", tmp_path / "sd3")
    config = tiny.config("sd3", base, generations=1)
    runs = []
    for name, limit in (("memory", 2**29), ("disk", 0)):
        monkeypatch.setattr(latent, "KEPT", limit)
        runs.append(chain.run_chain(config, tmp_path / name, plots=False))
    for t in (0, 1):
        assert runs[0].samples(t).hash() == runs[1].samples(t).hash()
        assert runs[0].training(t) == runs[1].training(t)


def test_many_captions_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "SILENT", 2)
    said: list[str] = []
    report = Reporter(quiet=True)
    monkeypatch.setattr(report, "say", said.append)
    base = tiny.make("sd15", tmp_path / "sd15")
    chain.run_chain(tiny.config("sd15", base, generations=0), tmp_path / "run", report, plots=False)
    assert any("captions are encoded once" in line for line in said)
    assert list((cache_home() / "texts").glob("*.safetensors"))
