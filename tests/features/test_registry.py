"""Unknown specs are refused with the nearest known one."""

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.features import registry
from difflab.features.registry import open_extractor


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (
            "timm:vit_tiny_patch16_225",
            "unknown timm model 'vit_tiny_patch16_225'; did you mean 'vit_tiny_patch16_224'",
        ),
        ("python:corners", "names no function; write python:FILE.py:NAME"),
        ("python:absent.py:corners", "absent.py does not exist"),
        ("python:no_such_module:corners", "ModuleNotFoundError"),
        ("inceptoin", r"unknown extractor 'inceptoin'; did you mean 'inception'\?"),
        ("pixels:8", "unknown extractor 'pixels:8'; did you mean 'pixels'"),
        ("open_clip:ViT-B-33/openai", "unknown open_clip model 'ViT-B-33'; did you mean 'ViT-B-32'"),
        ("open_clip:ViT-B-32", "names no weights"),
        ("open_clip:ViT-B-32/opena", "no weights 'opena'.*did you mean 'openai'"),
        ("open_clip:local-dir:/nowhere", "no open_clip folder"),
    ],
)
def test_unknown_specs_name_the_nearest(spec, match):
    with pytest.raises(MeasureError, match=match):
        open_extractor(spec)


def opened(spec, **options):
    extractor = open_extractor(spec, **options)
    images = torch.randint(
        0, 256, (5, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return extractor, extractor(images)


def test_bf16_rounds_features_and_has_a_recipe_of_its_own():
    (exact, features), (half, rounded) = (
        opened("open_clip:tiny-clip", precision=p) for p in ("float32", "bf16")
    )
    assert exact.recipe["dtype"] == "float32" and half.recipe["dtype"] == "bfloat16" and exact.key != half.key
    error = (features - rounded).norm() / features.norm()
    assert rounded.dtype == torch.float32 and 1e-5 < error < 0.2


@pytest.mark.parametrize("native", [False, True])
def test_auto_takes_bf16_where_the_cpu_has_it_and_only_for_large_networks(native, monkeypatch):
    monkeypatch.setattr(registry, "bf16_is_native", lambda device: native)
    network, _ = opened("efficientnet-lite0", precision="auto")
    assert network.recipe["dtype"] == ("bfloat16" if native else "float32")
    pixels, values = opened("pixels", precision="auto")
    assert pixels.recipe["dtype"] == "float32" and torch.equal(values, opened("pixels", precision="bf16")[1])
    assert opened("open_clip:tiny-clip", precision="auto")[0].recipe["dtype"] == "float32"


def test_an_unknown_precision_names_the_nearest():
    with pytest.raises(MeasureError, match=r"unknown precision 'float23'; did you mean 'float32'\?"):
        open_extractor("pixels", precision="float23")
