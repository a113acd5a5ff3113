from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from chains import NUMBERS, config
from steered import small

from difflab.core.errors import ConfigError
from difflab.policies.train import interpolation


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0, 1.5])
def test_weights_move_along_the_line_to_the_other_model(share: float) -> None:
    model, other = small(0), small(1)
    before = {name: w.detach().clone() for name, w in model.net.named_parameters()}
    there = dict(other.net.named_parameters())
    at = SimpleNamespace(config=config(), model=lambda which: {"previous": other}[which])
    interpolation.towards(at, model, "previous", share)
    for name, w in model.net.named_parameters():
        expected = before[name] + share * (there[name] - before[name])
        torch.testing.assert_close(w.detach(), expected.detach())


def test_mean_and_covariance_of_a_gaussian_move_too() -> None:
    model = SimpleNamespace(mean=torch.zeros(2), cov=torch.eye(2))
    other = SimpleNamespace(mean=torch.ones(2), cov=3 * torch.eye(2))
    at = SimpleNamespace(config=config(base=NUMBERS), model=lambda which: other)
    interpolation.towards(at, model, "base", 0.25)
    assert model.mean.tolist() == [0.25, 0.25]
    assert model.cov.tolist() == [[1.5, 0.0], [0.0, 1.5]]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"model": {"family": "memoriser"}}, "average .* memoriser"),
        ({"model": {"family": "pixel-mlp"}, "train": {"start_from": "scratch"}}, "train.start_from"),
    ],
    ids=["no weights", "no common start"],
)
def test_where_there_is_no_line_between_the_weights_it_is_refused(base: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        interpolation.check_line(config(base=base), "average", "previous")


def test_weights_of_a_loaded_model_are_read_by_name() -> None:
    model = small()
    name = next(name for name, _ in model.net.named_parameters())
    read = interpolation.weights_of(model, [name])
    assert list(read) == [name]
    assert torch.equal(read[name], dict(model.net.named_parameters())[name]) and not read[name].requires_grad
