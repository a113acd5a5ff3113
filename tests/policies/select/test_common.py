from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made import candidates

from difflab.core.errors import ConfigError
from difflab.policies.select import common


def test_a_share_is_rounded_up_but_not_by_rounding_errors() -> None:
    assert [common.part(0.1, 30), common.part(0.25, 5), common.part(1.0, 7)] == [3, 2, 7]


def test_groups_hold_every_candidate_of_a_class_or_prompt_once() -> None:
    _, everything = candidates(labels=[2, 0, 2, 1])
    groups = {name: places.tolist() for name, places in common.groups(everything, "class")}
    assert groups == {"class 'ant'": [1], "class 'bee'": [3], "class 'cat'": [0, 2]}
    assert [places.tolist() for _, places in common.groups(everything, "all")] == [[0, 1, 2, 3]]
    with pytest.raises(ConfigError, match="within: all"):
        list(common.groups(everything, "prompt"))


def test_the_spacing_of_real_images_is_the_distance_to_the_nearest_other_one() -> None:
    real = torch.from_numpy(np.random.default_rng(0).normal(size=(23, 3))).float()
    real[7] = real[2]  # a copy is a neighbour at distance 0
    distances = torch.cdist(real.double(), real.double())
    distances.fill_diagonal_(math.inf)
    torch.testing.assert_close(
        common.real_spacing(real, block=5).double(), distances.amin(1), atol=2e-3, rtol=1e-4
    )
    with pytest.raises(ConfigError, match="at least 2"):
        common.real_spacing(real[:1])


def test_nearest_holds_squared_distances_to_what_was_added_and_0_for_copies() -> None:
    points = torch.from_numpy(np.random.default_rng(1).normal(size=(9, 4)) + 1e3)
    points[5] = points[0]
    nearest = common.Nearest(points)
    assert torch.isinf(nearest.squared).all()
    nearest.add(0)
    nearest.add(3)
    expected = torch.cdist(points, points[[0, 3]]).square().amin(1)
    torch.testing.assert_close(nearest.squared, expected, atol=1e-8, rtol=1e-6)
    assert nearest.squared[[0, 3, 5]].tolist() == [0, 0, 0]
