"""VGG-16 in steps: torch-fidelity's extractor is the oracle."""

from __future__ import annotations

import pytest
import torch
from small_vgg import LOAD, TinyVgg
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

from difflab.core.errors import MeasureError
from difflab.features.vgg import open_vgg_steps


@pytest.mark.parametrize(("height", "width"), [(224, 224), (31, 50), (400, 300)])
def test_the_steps_are_those_of_torch_fidelity(monkeypatch, height, width):
    monkeypatch.setattr(LOAD, lambda **options: TinyVgg())
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (height, width, 3), generator=draw, dtype=torch.uint8)
    steps = open_vgg_steps(None, "cpu")
    ours = steps.features(steps.prepared(image).unsqueeze(0))
    theirs = FeatureExtractorVGG16("vgg16", ["fc2_relu"])(image.permute(2, 0, 1).unsqueeze(0))[0]
    assert ours.shape == (1, 8) and (ours > 0).any()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert len(steps.recipe["sha256"]) == 64 and steps.recipe["layer"] == "fc2_relu"


def test_weights_that_cannot_be_had_are_an_error_that_says_where_they_are(monkeypatch, tmp_path):
    def offline(**options):
        raise OSError("no route to host")

    monkeypatch.setattr(LOAD, offline)
    with pytest.raises(MeasureError, match=r"cannot open VGG-16 \(OSError: no route to host\); fetch https"):
        open_vgg_steps(None, "cpu")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(MeasureError, match=r"cannot open VGG-16 .*vgg16:PATH"):
        open_vgg_steps(str(tmp_path / "other.pth"), "cpu")
