"""Networks that do not fit together are named before weights are loaded; those that fit are checked once."""

from __future__ import annotations

import pytest
import tiny

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.core.shape import Shape
from difflab.models import network_check
from difflab.models.network_check import check_networks
from difflab.models.registry import family_of

pytestmark = tiny.LIBRARIES


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(network_check, "FITTING", set())
    return tiny.make("sd15", tmp_path / "sd15")


def checked(base) -> None:
    spec = tiny.spec("sd15", base)
    model = family_of(spec)(spec, Shape((tiny.SIDE, tiny.SIDE, 3), 0, tiny.CAPTIONS))
    check_networks(model, Sample(**tiny.sampler("sd15")))


def test_the_same_configs_are_checked_once(base, monkeypatch):
    passes = []
    inner = network_check.copy.copy
    monkeypatch.setattr(network_check.copy, "copy", lambda value: passes.append(value) or inner(value))
    checked(base)
    checked(base)
    assert len(passes) == 1 == len(network_check.FITTING)
    tiny.amend(base / "unet" / "config.json", layers_per_block=2)
    checked(base)
    assert len(passes) == 2 == len(network_check.FITTING), "another network"


def test_what_does_not_fit_is_refused_again_and_again(base):
    checked(base)
    tiny.amend(base / "unet" / "config.json", cross_attention_dim=tiny.WIDTH + 1)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"the networks of model.base .*, with images of "):
            checked(base)


def test_a_prediction_of_another_shape_is_refused(base):
    tiny.amend(base / "unet" / "config.json", out_channels=3)
    with pytest.raises(
        ConfigError, match=r"do not fit together for images of .*prediction \(3, .*another base"
    ):
        checked(base)
