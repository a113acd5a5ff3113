from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from chains import COPIES, NUMBERS, TEXT, checked, config, numbers, ran, weights
from safetensors.torch import load_file

from difflab.core.errors import ConfigError

AVERAGE = {"policy": "average", "share": 0.3}


def test_mean_and_covariance_of_a_gaussian_move_over_generations(tmp_path):
    run = ran(config(AVERAGE, base=NUMBERS), tmp_path / "run")
    own = [load_file(run.gen(t) / "model" / "gaussian.safetensors") for t in range(4)]
    for t in range(1, 4):
        mean, cov = numbers(run, t)
        np.testing.assert_allclose(own[t]["mean"], 0.7 * mean + 0.3 * own[t - 1]["mean"].numpy(), rtol=1e-12)
        np.testing.assert_allclose(own[t]["cov"], 0.7 * cov + 0.3 * own[t - 1]["cov"].numpy(), rtol=1e-12)


def test_towards_generation_0(tmp_path):
    run = ran(config({**AVERAGE, "to": "base"}, base=NUMBERS), tmp_path / "run")
    first, third = (load_file(run.gen(t) / "model" / "gaussian.safetensors")["mean"].numpy() for t in (0, 3))
    np.testing.assert_allclose(third, 0.7 * numbers(run, 3)[0] + 0.3 * first, rtol=1e-12)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A chain without policies."""
    return ran(config(generations=1), tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("to", ["previous", "base"])
def test_weights_of_a_denoiser(plain, tmp_path, to):
    """Generation 1 is trained as without the policy, so its weights are those of that chain, moved."""
    moved = ran(config({**AVERAGE, "to": to}, generations=1), tmp_path / "moved")
    before, after = weights(plain, 0), weights(plain, 1)
    for name, w in weights(moved, 1).items():
        torch.testing.assert_close(w, 0.7 * after[name] + 0.3 * before[name], rtol=1e-5, atol=1e-7)
    assert all(torch.equal(w, before[name]) for name, w in weights(moved, 0).items())


def test_a_share_of_1_stands_still_and_of_0_is_off(plain, tmp_path):
    still = ran(config({**AVERAGE, "share": 1.0}, generations=1), tmp_path / "still")
    off = ran(config({**AVERAGE, "share": 0.0}, generations=1), tmp_path / "off")
    assert all(torch.equal(w, weights(plain, 0)[name]) for name, w in weights(still, 1).items())
    assert all(torch.equal(w, weights(plain, 1)[name]) for name, w in weights(off, 1).items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoder", [False, True])
def test_towards_a_pretrained_base(tmp_path, encoder):
    base = tiny.make("sd15", tmp_path / "base")
    model = {"train_text_encoder": encoder}
    plain = ran(tiny.config("sd15", base, model=model), tmp_path / "plain")
    moved = ran(
        tiny.config("sd15", base, model=model, policies=[{**AVERAGE, "to": "base"}]), tmp_path / "moved"
    )
    for part in ("unet", *["text_encoder"] * encoder):
        start, after, found = (
            tiny.tensors(folder, part) for folder in (base, plain.gen(1) / "model", moved.gen(1) / "model")
        )
        assert any(not torch.equal(after[name], start[name]) for name in found)
        for name, w in found.items():
            torch.testing.assert_close(w, 0.7 * after[name] + 0.3 * start[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("entry", "sections", "message"),
    [
        ({"share": 1.5}, {}, r"'share'.*less than or equal to 1"),
        ({"share": -0.5}, {}, r"'share'.*greater than or equal to 0"),
        ({"first": 0}, {}, r"'first'.*greater than or equal to 1"),
        ({"to": "start"}, {}, r"'to'.*'base' or 'previous'"),
        (
            {},
            {"train": {"start_from": "scratch"}},
            r"must start from the same weights; set train\.start_from to base or previous",
        ),
        ({"to": "base"}, {"train": {"start_from": "scratch"}}, "must start from the same weights"),
        ({}, {"base": COPIES}, "the family memoriser has no weights that can be interpolated"),
        (
            {},
            {"base": {**NUMBERS, "model": {"family": "mixture"}}},
            "the family mixture has no weights that can be interpolated",
        ),
        ({}, {"base": TEXT}, "cannot interpolate LoRA layers of two generations"),
        ({"to": "base"}, {"base": TEXT, "train": {"start_from": "previous"}}, r"set model\.lora_rank=0"),
    ],
)
def test_bad_input(entry, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({**AVERAGE, **entry}, **sections)
    checked({**AVERAGE, "to": "base"}, base=TEXT)
