"""Oracles: PIL in mode F (what clean-fid 0.1.35 calls), torchmetrics' Inception, TensorFlow 1's rule in numpy
and torch-fidelity's Inception.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from difflab.core.errors import MeasureError
from difflab.features import extractor as extractor_module
from difflab.features.resize import RESIZES
from difflab.metrics import open_extractor, resized


def noisy(height, width, channels=3, n=2, seed=0):
    """Noise, where resizes differ most, and full contrast, where bicubic overshoots."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8, generator=draw)
    images[:, : height // 2] = (images[:, : height // 2] > 127) * 255
    return images


def by_pil(image_HWC, size, filter):
    planes = [
        Image.fromarray(image_HWC[..., c].numpy().astype(np.float32)).resize((size, size), resample=filter)
        for c in range(image_HWC.shape[2])
    ]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).clamp(0, 255)


SIZES = [
    (32, 32, 299),
    (28, 28, 299),
    (512, 512, 299),
    (200, 333, 224),
    (300, 150, 299),
    (64, 64, 96),
    (299, 40, 299),
    (1024, 1000, 224),
]


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_clean_is_pil_s_float_bicubic(height, width, size):
    images = noisy(height, width, n=1)
    ours, theirs = resized(images, size, "clean")[0], by_pil(images[0], size, Image.Resampling.BICUBIC)
    assert (ours - theirs).abs().max() < 0.0001
    # Cut to the range, not rounded.
    assert ours.min() >= 0 and ours.max() <= 255 and (ours != ours.round()).any()


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_torchmetrics_is_an_antialiased_triangle(height, width, size):
    images = noisy(height, width, n=1)
    # In float32, as there.
    assert (
        resized(images, size, "torchmetrics")[0] - by_pil(images[0], size, Image.Resampling.BILINEAR)
    ).abs().max() < 0.01


def by_tensorflow_1(image_HWC, size):
    """ResizeBilinear without align_corners or half_pixel_centers: output i samples at i * in/out, between
    floor and the next pixel.
    """

    def weights(length):
        at = np.arange(size) * (length / size)
        low = np.minimum(np.floor(at).astype(int), length - 1)
        matrix = np.zeros((size, length))
        np.add.at(matrix, (np.arange(size), low), 1 - (at - low))
        np.add.at(matrix, (np.arange(size), np.minimum(low + 1, length - 1)), at - low)
        return matrix

    image = image_HWC.double().numpy()
    return torch.from_numpy(weights(image.shape[0]) @ image.transpose(2, 0, 1) @ weights(image.shape[1]).T)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_tf1_is_tensorflow_s_rule(height, width, size):
    images = noisy(height, width, n=1)
    # Float32 positions up to 1024.
    assert (resized(images, size, "tf1")[0].double() - by_tensorflow_1(images[0], size)).abs().max() < 0.05


def by_pytorch(image_HWC, size):
    """Output i samples at (i + 1/2) in/out - 1/2, cut to the image, between floor and the next pixel."""

    def weights(length):
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, None)
        low = np.minimum(np.floor(at).astype(int), length - 1)
        matrix = np.zeros((size, length))
        np.add.at(matrix, (np.arange(size), low), 1 - (at - low))
        np.add.at(matrix, (np.arange(size), np.minimum(low + 1, length - 1)), at - low)
        return matrix

    image = image_HWC.double().numpy()
    return torch.from_numpy(weights(image.shape[0]) @ image.transpose(2, 0, 1) @ weights(image.shape[1]).T)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_pytorch_fid_samples_at_pixel_centres(height, width, size):
    images = noisy(height, width, n=1)
    assert (resized(images, size, "pytorch-fid")[0].double() - by_pytorch(images[0], size)).abs().max() < 0.05


def test_they_differ():
    images = noisy(256, 256)
    results = {how: resized(images, 128, how) for how in RESIZES}
    for one, other in (("clean", "torchmetrics"), ("clean", "tf1"), ("torchmetrics", "tf1")):
        assert (results[one] - results[other]).abs().mean() > 1


@pytest.mark.parametrize("how", RESIZES)
def test_layouts_types_and_own_size(how):
    images = noisy(20, 30)
    out = resized(images, 16, how)
    assert out.shape == (2, 3, 16, 16) and out.dtype == torch.float32 and out.min() >= 0 and out.max() <= 255
    torch.testing.assert_close(resized(images.permute(0, 3, 1, 2), 16, how), out)
    torch.testing.assert_close(resized(images[..., :1], 16, how), out[:, :1])
    same = noisy(16, 16)
    torch.testing.assert_close(resized(same, 16, how), same.permute(0, 3, 1, 2).float())
    assert resized(images[:0], 16, how).shape == (0, 3, 16, 16)
    flat = torch.full((1, 9, 7, 3), 200, dtype=torch.uint8)
    torch.testing.assert_close(resized(flat, 33, how), torch.full((1, 3, 33, 33), 200.0))
    assert resized(torch.zeros(1, 5, 3, 3, dtype=torch.uint8), 4, how).shape == (1, 3, 4, 4)


def test_bad_input():
    images = noisy(8, 8)
    for bad, match in (
        (
            lambda: resized(images, 4, "cleen"),
            r"unknown resize 'cleen'; did you mean 'clean'\? known: clean, torchmetrics, tf1, pytorch-fid",
        ),
        (lambda: resized(images.float(), 4, "clean"), "uint8 images"),
        (lambda: resized(images[0], 4, "clean"), "uint8 images"),
        (lambda: resized(images[:, :, :, :2], 4, "clean"), "uint8 images"),
        (lambda: resized(images[:, :0], 4, "clean"), "uint8 images"),
        (lambda: resized(images, 0, "clean"), "at least 1 pixel"),
        (lambda: open_extractor("pixels", resize="clean"), "only inception takes a choice of resize"),
        (
            lambda: open_extractor("inception:/nowhere", resize="tf2"),
            "unknown resize 'tf2'; did you mean 'tf1'",
        ),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()


def test_inception_takes_the_choice_and_says_so(tmp_path, monkeypatch):
    """Random weights, the same in torchmetrics' Inception and in ours."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity
    from torchmetrics.image.fid import NoTrainInceptionV3

    class Blank(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *a, **k: {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = Blank("blank", ["2048"])
        for layer in blank.modules():  # its own initial weights fade to nothing over the layers
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
    path = tmp_path / "weights.pth"
    torch.save(blank.state_dict(), path)
    monkeypatch.setattr(extractor_module, "BATCH", 1)
    images = noisy(600, 400, n=1)
    by_resize = {
        how: open_extractor(f"inception:{path}", resize=None if how == "tf1" else how) for how in RESIZES
    }

    assert (
        "torch-fidelity" in by_resize["tf1"].recipe["resize"]
        and by_resize["clean"].recipe["resize"] == "bicubic antialias (clean-fid)"
    )
    assert len({extractor.key for extractor in by_resize.values()}) == 4
    tf1, clean, antialiased = (by_resize[how](images) for how in ("tf1", "clean", "torchmetrics"))
    assert all(
        (one - other).abs().mean() > 1e-2 * tf1.abs().mean()
        for one, other in ((tf1, clean), (tf1, antialiased), (clean, antialiased))
    )
    theirs = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path)).eval()
    torch.testing.assert_close(antialiased, theirs(images.permute(0, 3, 1, 2)), rtol=1e-4, atol=1e-5)
    # Going round torch-fidelity's own resize changes nothing else: its resize handed in by hand gives its own
    # features.
    monkeypatch.setitem(RESIZES, "clean", RESIZES["tf1"])
    torch.testing.assert_close(by_resize["clean"](images), tf1, rtol=1e-4, atol=1e-5)
