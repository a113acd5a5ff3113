from __future__ import annotations

import pytest
import tiny
import torch
from chains import COPIES, LORA, NUMBERS, TEXT, checked, config, numbers, ran, weights
from safetensors.torch import load_file

from difflab.core.errors import ConfigError

NEON = {"policy": "neon", "strength": 0.5}


@pytest.mark.parametrize("start", ["previous", "base"])
def test_a_gaussian_goes_the_other_way(tmp_path, start):
    run = ran(config(NEON, base=NUMBERS, train={"start_from": start}), tmp_path / "run")
    own = [load_file(run.gen(t) / "model" / "gaussian.safetensors") for t in range(4)]
    for t in range(1, 4):
        before = own[t - 1 if start == "previous" else 0]
        for name, fitted in zip(("mean", "cov"), numbers(run, t), strict=True):
            torch.testing.assert_close(own[t][name], 1.5 * before[name] - 0.5 * torch.from_numpy(fitted))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A chain without policies."""
    return ran(config(generations=1), tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize(("start", "strength"), [("previous", 0.0), ("previous", 0.5), ("base", 2.0)])
def test_weights_of_a_denoiser(plain, tmp_path, start, strength):
    """Generation 1, which both settings of start_from lead on from generation 0."""
    moved = ran(
        config({**NEON, "strength": strength}, generations=1, train={"start_from": start}), tmp_path / "moved"
    )
    real, samples = weights(plain, 0), weights(plain, 1)
    for name, w in weights(moved, 1).items():
        torch.testing.assert_close(
            w, (1 + strength) * real[name] - strength * samples[name], rtol=1e-5, atol=1e-6
        )


@pytest.mark.filterwarnings("ignore")
def test_of_lora_layers_it_is_the_product_that_moves(tmp_path):
    """From the base, where the product is 0, Neon leads to -strength B A."""
    base = tiny.make("sd15", tmp_path / "base")
    lora = {"lora_rank": 2}
    plain = ran(tiny.config("sd15", base, model=lora), tmp_path / "plain")
    moved = ran(tiny.config("sd15", base, model=lora, policies=[NEON]), tmp_path / "moved")
    before, after = (
        load_file(run.gen(1) / "model" / "pytorch_lora_weights.safetensors") for run in (plain, moved)
    )
    layers = [name.removesuffix(".lora.down.weight") for name in before if name.endswith(".lora.down.weight")]
    assert layers
    for layer in layers:
        product = [w[f"{layer}.lora.up.weight"] @ w[f"{layer}.lora.down.weight"] for w in (before, after)]
        assert product[0].any()
        torch.testing.assert_close(product[1], -0.5 * product[0])


@pytest.mark.parametrize(
    ("entry", "sections", "message"),
    [
        ({"strength": -0.5}, {}, r"'strength'.*greater than or equal to 0"),
        ({"first": 0}, {}, r"'first'.*greater than or equal to 1"),
        (
            {},
            {"train": {"start_from": "scratch"}},
            r"starts from random weights; set train\.start_from to base or previous",
        ),
        ({}, {"base": NUMBERS}, "starts from random weights"),
        (
            {},
            {"base": {**NUMBERS, "model": {"family": "categorical"}}, "train": {"start_from": "previous"}},
            "move the probabilities of the family categorical",
        ),
        (
            {},
            {"base": COPIES, "train": {"start_from": "previous"}},
            "the family memoriser has no weights that can be interpolated",
        ),
        (
            {},
            {"base": TEXT, "train": {"start_from": "previous"}},
            "cannot interpolate LoRA layers of two generations",
        ),
    ],
)
def test_bad_input(entry, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({**NEON, **entry}, **sections)
    checked(NEON, base={**TEXT, "model": LORA})
