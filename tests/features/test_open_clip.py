"""CLIP features from a folder are those of open_clip."""

import json

import pytest
import torch
from safetensors.torch import save_file

from difflab.core.errors import MeasureError
from difflab.features.registry import open_extractor


def images(n, size=8, channels=1, seed=0):
    return torch.randint(
        0, 256, (n, size, size, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_open_clip_from_a_local_folder(tmp_path):
    import open_clip

    model_cfg = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.CLIP(**model_cfg).eval()
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    )
    with pytest.raises(MeasureError, match="cannot open open_clip"):
        open_extractor(f"open_clip:{tmp_path}")  # no weights: never random ones
    save_file(
        {k: v.contiguous() for k, v in clip.state_dict().items()}, tmp_path / "open_clip_model.safetensors"
    )
    extractor = open_extractor(f"open_clip:{tmp_path}")
    x = images(4, 32, 3)
    with torch.no_grad():
        wanted = clip.encode_image((x.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    torch.testing.assert_close(extractor(x), wanted, rtol=1e-4, atol=1e-5)
    assert extractor.key.startswith("open_clip-") and "/" not in extractor.key
    assert (
        extractor.dim == 12
        and extractor.recipe["input"] == "32x32"
        and str(tmp_path.parent) not in extractor.name
    )
    assert open_extractor(f"open_clip:local-dir:{tmp_path}").recipe == extractor.recipe
    assert extractor(images(1, 20)).shape == (1, 12)
