"""The hooks of sampling policies."""

from __future__ import annotations

import torch

from difflab.models.steer import Steer, Step, overrides


def test_the_base_changes_nothing() -> None:
    steer, x, arguments = Steer(), torch.randn(2, 1, 2, 2), {"eta": 0.0}
    step = Step(x, torch.tensor([1, 1]), 0.5, None, 1.0, [1, 2])
    assert steer.start(x) is x and steer.noise(x) is x
    assert steer.embedding(x, step) is x and steer.prediction(x, step) is x and steer.without(step) is None
    assert steer.guidance(1.5, 0.5) == 1.5 and steer.arguments(arguments, ["eta"]) is arguments


def test_overridden_methods_are_seen_in_any_of_several_and_through_inheritance() -> None:
    class Quiet(Steer):
        def noise(self, z: torch.Tensor) -> torch.Tensor:
            return 0 * z

    class Quieter(Quiet):
        pass

    assert overrides([Steer(), Quieter()], "noise") and not overrides([Steer(), Quieter()], "start")
    assert not overrides([], "noise") and not overrides([Steer()], "noise")
