"""Unknown specs are refused with the nearest known one."""

import pytest

from difflab.core.errors import MeasureError
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
