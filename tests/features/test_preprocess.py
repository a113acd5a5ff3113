"""Images become the input of a network: grey repeated, resized, normalised by channel."""

import torch

from difflab.features.preprocess import as_rgb, normalised


def test_grey_images_get_three_equal_channels_and_colour_ones_stay():
    grey = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)
    assert torch.equal(as_rgb(grey), grey.repeat(1, 3, 1, 1)) and as_rgb(grey).is_contiguous()
    colour = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    assert as_rgb(colour) is colour


def test_values_are_normalised_channel_by_channel_and_the_recipe_says_how():
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)
    prepare, recipe = normalised(4, mean, std, {"weight": torch.ones(2)})
    x = prepare(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8))
    assert x.shape == (1, 3, 4, 4)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([1.0, 3.0, 1.0]))
    assert recipe["input"] == "4x4" and recipe["values"] == "mean [0.5, 0.25, 0.0], std [0.5, 0.25, 1.0]"
    other = normalised(4, mean, std, {"weight": torch.zeros(2)})[1]
    assert other["sha256"] != recipe["sha256"]
    assert prepare(torch.zeros(2, 1, 9, 9, dtype=torch.uint8)).shape == (2, 3, 4, 4)
