"""Each family of a config is found under its name."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub.constants as hub
import pytest

from difflab.config import Flow, PixelMLP, StableDiffusion
from difflab.core.files import write_json
from difflab.models.registry import FAMILIES, family_of, unguided_scale


def test_every_family_of_the_config_is_found_under_its_name():
    from difflab.config import Model

    specs = {s.model_fields["family"].annotation.__args__[0]: s for s in Model.__origin__.__args__}
    assert specs.keys() == FAMILIES.keys()
    for name, spec in specs.items():
        needed = {"base": "tiny-sd"} if spec.model_fields.get("base") else {}
        assert family_of(spec(family=name, **needed)).__name__ == spec.__name__


def test_an_unknown_family_is_an_error():
    with pytest.raises(KeyError, match="no-such-family"):
        family_of(SimpleNamespace(family="no-such-family"))


def test_an_exact_family_does_not_import_diffusers():
    code = (
        "import sys; from types import SimpleNamespace; from difflab.models.registry import family_of;"
        "family_of(SimpleNamespace(family='gaussian')); sys.exit('diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "pipeline, scale", [("ZImagePipeline", 0), ("Krea2Pipeline", 0), ("FluxPipeline", 1), ("Nobodys", 1)]
)
def test_the_scale_without_guidance_is_that_of_the_base(pipeline, scale, tmp_path, monkeypatch):
    write_json(tmp_path / "model_index.json", {"_class_name": pipeline})
    assert unguided_scale(Flow(family="flow", base=str(tmp_path))) == scale
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "models--org--name"
    for folder in (cached / "snapshots" / "abc", cached / "refs"):
        folder.mkdir(parents=True)
    write_json(cached / "snapshots" / "abc" / "model_index.json", {"_class_name": pipeline})
    base = Flow(family="flow", base="org/name")
    assert unguided_scale(base) == 1, "main is not downloaded"
    (cached / "refs" / "main").write_text("abc")
    assert unguided_scale(base) == scale


def test_without_a_base_on_this_machine_the_scale_without_guidance_is_one(tmp_path):
    assert unguided_scale(PixelMLP(family="pixel-mlp")) == 1
    assert unguided_scale(StableDiffusion(family="stable-diffusion", base="tiny-sd")) == 1
    assert unguided_scale(Flow(family="flow", base="nobody/nothing")) == 1
    assert unguided_scale(Flow(family="flow", base=str(tmp_path / "model.safetensors"))) == 1
