"""Oracle: torchmetrics' KID with one subset of all n."""

import pytest
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from difflab.metrics import KernelDistance, Pair
from difflab.metrics.kernel import polynomial_kernel


class AsTheyAre(nn.Module):
    num_features = 6

    def forward(self, images):
        return images.flatten(1)


def test_equals_torchmetrics_with_one_subset_of_everything():
    real, fake = torch.randn(80, 6), torch.randn(80, 6) * 0.7 + 0.2
    with pytest.warns(UserWarning, match="Kernel Inception Distance"):
        theirs = KernelInceptionDistance(AsTheyAre(), subsets=1, subset_size=80, normalize=True)
    theirs.update(real.view(80, 6, 1, 1), real=True)
    theirs.update(fake.view(80, 6, 1, 1), real=False)
    assert KernelDistance.of(Pair(real, fake)) == pytest.approx(theirs.compute()[0].item(), rel=1e-4)


def test_unbiased_where_the_frechet_distance_is_not():
    draw = torch.Generator().manual_seed(0)
    values = torch.tensor([KernelDistance.of(Pair(torch.randn(30, 8, generator=draw), torch.randn(20, 8, generator=draw))) for _ in range(200)])
    assert abs(values.mean()) < 4 * values.std() / 200**0.5
    assert (values < 0).any()


def test_blocks_do_not_matter():
    x, y = torch.randn(11, 3), torch.randn(5, 3)
    assert torch.equal(polynomial_kernel(x, y, 4), polynomial_kernel(x, y, 100))
