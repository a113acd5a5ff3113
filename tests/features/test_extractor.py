"""An extractor takes bytes, and pixels are read as they are."""

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.features.registry import open_extractor


def images(n, size=8, channels=1, seed=0):
    return torch.randint(
        0, 256, (n, size, size, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_pixels():
    x = images(5, channels=3)
    extractor = open_extractor("pixels")
    assert (
        torch.equal(extractor(x), x.reshape(5, -1).float() / 255)
        and extractor.dim is None
        and extractor.recipe["name"] == "pixels"
    )


def test_only_bytes_are_images():
    for bad in (images(2).float(), images(2)[..., 0], images(2, channels=2)):
        with pytest.raises(MeasureError, match="uint8"):
            open_extractor("pixels")(bad)
