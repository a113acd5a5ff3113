"""Architectures are found by their files, and their names agree with diffusers."""

from __future__ import annotations

import diffusers
import pytest

from difflab.models.text_to_image.registry import architectures, pipelines_of


def test_every_file_of_an_architecture_is_found():
    assert {
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
        "StableDiffusion3Pipeline",
    } <= architectures().keys()
    assert architectures()["StableDiffusionXLPipeline"].title == "Stable Diffusion XL"


@pytest.mark.parametrize(("pipeline", "kind"), architectures().items())
def test_names_are_those_of_diffusers(pipeline, kind):
    assert issubclass(getattr(diffusers, pipeline), diffusers.DiffusionPipeline)
    for name in (kind.backbone, kind.autoencoder):
        assert issubclass(getattr(diffusers, name), diffusers.ModelMixin)
    assert kind.title and kind.statistics is not None


def test_every_pipeline_belongs_to_one_family():
    families = {kind.family for kind in architectures().values()}
    assert families == {"stable-diffusion", "flow"}
    assert sorted(pipelines_of("stable-diffusion") + pipelines_of("flow")) == sorted(architectures())
    assert pipelines_of("gaussian") == ()
