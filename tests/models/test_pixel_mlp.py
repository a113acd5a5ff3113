from __future__ import annotations

import math

import pytest
import torch

from difflab.config import PixelMLP as Spec
from difflab.core.shape import Shape
from difflab.models.pixel_mlp import DenoisingMLP, PixelMLP, waves


@pytest.mark.parametrize(("side", "channels", "classes"), [(8, 1, 10), (5, 3, 0)])
def test_a_prediction_has_the_shape_of_the_images(side, channels, classes):
    net = DenoisingMLP(side, channels, 9, 2, classes)  # an odd width works too
    labels = torch.tensor([0, classes]) if classes else None  # `classes` is the null label
    assert net(torch.zeros(2, channels, side, side), torch.tensor([0, 999]), labels).shape == (
        2,
        channels,
        side,
        side,
    )


def test_time_and_class_matter():
    net = DenoisingMLP(4, 1, 16, 1, 3)
    x = torch.randn(1, 1, 4, 4)

    def at(t: int, label: int) -> torch.Tensor:
        return net(x, torch.tensor([t]), torch.tensor([label]))

    assert not torch.allclose(at(3, 0), at(4, 0)) and not torch.allclose(at(3, 0), at(3, 3))


@pytest.mark.parametrize("classes", [0, 10, 40])
def test_a_step_of_sampling_embeds_its_time_and_each_class_once(classes):
    net = DenoisingMLP(8, 1, 64, 2, classes)
    x, step = torch.randn(37, 1, 8, 8), torch.tensor(7)
    labels = torch.randint(classes + 1, (37,)) if classes else None
    seen: list[int] = []
    net.blocks[0].modulate.register_forward_hook(lambda module, inputs, out: seen.append(len(out)))
    with torch.inference_mode():
        once, alone = net(x, step.expand(37), labels), net(x, step.repeat(37), labels)
    torch.testing.assert_close(once, alone)
    assert seen == [{0: 16, 10: 16, 40: 37}[classes], 37]  # 40 classes are more than there are images


def test_embeddings_that_a_policy_changed_are_those_of_their_images():
    net = DenoisingMLP(8, 1, 64, 2, 10)
    x, step, labels = torch.randn(37, 1, 8, 8), torch.tensor(7), torch.randint(11, (37,))
    change = torch.randn(37, 64)
    assert net.label is not None
    net.label.register_forward_hook(lambda module, inputs, embedding: embedding + change)
    with torch.inference_mode():
        torch.testing.assert_close(net(x, step.expand(37), labels), net(x, step.repeat(37), labels))


def test_a_conditional_network_wants_labels():
    with pytest.raises(ValueError, match="needs class_labels"):
        DenoisingMLP(4, 1, 16, 1, 3)(torch.zeros(1, 1, 4, 4), torch.tensor([0]))


def test_images_of_a_batch_do_not_see_each_other():
    net = DenoisingMLP(4, 1, 16, 2, 3)
    x, t, y = torch.randn(5, 1, 4, 4), torch.arange(5), torch.tensor([0, 1, 2, 3, 0])
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, net(x, t, y))


def test_waves_are_the_sinusoids_of_the_transformer():
    embedding = waves(torch.tensor([0.0, 7.0]), 6)
    by_hand = [[f(t * 10_000 ** (-k / 3)) for f in (math.cos, math.sin) for k in range(3)] for t in (0, 7)]
    torch.testing.assert_close(embedding, torch.tensor(by_hand))
    assert waves(torch.tensor([1]), 5).shape == (1, 5)


def test_the_family_builds_what_its_config_says():
    family = PixelMLP(Spec(family="pixel-mlp", width=24, depth=3), Shape((8, 8, 3), 5))
    family.initialise(0)
    config = family.net.config
    assert (config.sample_size, config.channels, config.width, config.depth, config.classes) == (
        8,
        3,
        24,
        3,
        5,
    )
    assert len(family.net.blocks) == 3 and family.net.label.num_embeddings == 6
    family = PixelMLP(Spec(family="pixel-mlp", conditional=False), Shape((8, 8, 1), 5))
    family.initialise(0)
    assert family.net.label is None
