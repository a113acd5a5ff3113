"""An extractor takes bytes, and pixels are read as they are."""

import copy

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.core.hashing import sha256_of
from difflab.features.extractor import BATCH, ON_CPU, Extractor, ready
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


def test_the_layout_changes_features_by_rounding_and_the_hash_of_the_weights_not_at_all():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 8, 3, groups=8),
        torch.nn.Conv2d(8, 8, 1),
    )
    placed = ready(copy.deepcopy(plain), "cpu")
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert sha256_of(placed.state_dict()) == sha256_of(plain.state_dict())
    assert not any(weight.requires_grad for weight in placed.parameters()) and not placed.training
    x = images(4, channels=3).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(placed(x), plain(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("network", "size"), [(torch.nn.Identity(), ON_CPU), (None, BATCH)])
def test_all_batches_have_one_size_and_features_keep_their_order(network, size):
    sizes = []

    def encode(images_NCHW):
        sizes.append(len(images_NCHW))
        return images_NCHW.float().mean((1, 2, 3)).unsqueeze(1)

    x = images(2 * BATCH + 5)
    features = Extractor("mean", 1, {}, encode, "cpu", network)(x)
    torch.testing.assert_close(features[:, 0], x.float().mean((1, 2, 3)))
    assert set(sizes) == {size} and sum(sizes) == -(-len(x) // size) * size
