from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from chains import NUMBERS, checked, config, content, ran, weights

from difflab.config import parse
from difflab.core.errors import ConfigError
from difflab.core.shape import Shape
from difflab.loop import training_loop as training
from difflab.loop.training_loop import fit, learning_rate
from difflab.models.pixel_mlp import PixelMLP
from difflab.models.weights import trainable
from difflab.policies.train.anchor import Pull

ANCHOR = {"policy": "anchor"}


class Data:
    conditions = np.zeros(8, dtype=np.int64)

    def __len__(self):
        return 8

    def inputs(self, at):
        return np.zeros((len(at), 4, 4, 1), np.uint8)


def pulled(folder, strength: float, weigh: np.ndarray | None, ema: float = 0.0):
    """A training of 20 steps of one weight matrix towards 0, and what it started from."""
    c = parse(
        {
            "model": {"family": "pixel-mlp", "width": 16, "depth": 1},
            "train": {"images_seen": 80, "batch_size": 4, "ema_decay": ema},
        }
    )
    model = PixelMLP(c.model, Shape((4, 4, 1), 2))
    model.initialise(0)
    start = {name: w.detach().clone() for name, w in trainable(model.net).items()}
    watch = Pull(strength, {name: torch.zeros_like(w) for name, w in start.items()})
    fit(
        model,
        Data(),
        c.train,
        ("k", 0),
        folder,
        Accelerator(),
        lambda n: None,
        weights=weigh,
        watches=[watch],
    )
    return start, {name: w.detach() for name, w in trainable(model.net).items()}, c.train


def test_without_gradient_the_distance_falls_by_the_product_of_the_rates(tmp_path):
    start, end, how = pulled(tmp_path, 100.0, np.zeros(8))
    left = math.prod(1 - learning_rate(how, seen) * 100 for seen in range(0, 80, 4))
    assert 0.1 < left < 0.9
    for name, w in start.items():
        torch.testing.assert_close(end[name], w * left, rtol=1e-4, atol=1e-7)


def test_the_average_sees_the_pull_of_its_own_step(tmp_path):
    start, end, how = pulled(tmp_path, 100.0, np.zeros(8), ema=0.7)
    left = average = 1.0
    for k, seen in enumerate(range(0, 80, 4)):
        left *= 1 - learning_rate(how, seen) * 100
        d = min(0.7, (1 + k) / (10 + k))
        average = d * average + (1 - d) * left
    for name, w in start.items():
        torch.testing.assert_close(end[name], w * average, rtol=1e-4, atol=1e-7)


def test_strength_0_is_off_and_a_gradient_is_pulled_against(tmp_path):
    start, free, _ = pulled(tmp_path / "a", 0.0, None)
    _, also, _ = pulled(tmp_path / "b", 50.0, None)
    assert sum(float(w.square().sum()) for w in also.values()) < sum(
        float(w.square().sum()) for w in free.values()
    )
    plain = pulled(tmp_path / "c", 0.0, None)[1]
    assert all(torch.equal(free[name], plain[name]) for name in start)


def test_the_pull_by_hand():
    w, anchor = torch.nn.Parameter(torch.tensor([1.0, 3.0])), torch.tensor([0.0, 4.0])
    Pull(2.0, {"w": anchor}).adjust(SimpleNamespace(weights={"w": w}, learning_rate=0.1))
    assert w.tolist() == pytest.approx([1 - 0.2 * 1, 3 - 0.2 * (3 - 4)])


@pytest.mark.parametrize(("to", "which"), [("start", 1), ("generation_0", 0), ("base", 0)])
def test_a_strong_anchor_holds_the_weights_at_what_it_names(tmp_path, to, which):
    """Rates times strength just below 1: after each step the weights are all but back."""
    run = ran(
        config({**ANCHOR, "to": to, "strength": 330, "first": 2}, train={"decay": "none", "ema_decay": 0.0}),
        tmp_path / "run",
    )
    held, free = (
        math.sqrt(
            sum(float((w - weights(run, t)[name]).square().sum()) for name, w in weights(run, 2).items())
        )
        for t in (which, 1 - which)
    )
    assert held < 0.05 * free


def test_a_stopped_training_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    made = config({**ANCHOR, "strength": 20.0, "to": "generation_0"})
    whole = ran(made, tmp_path / "whole")
    keep, calls = training.write_checkpoint, []

    def stop(*args):
        keep(*args)
        calls.append(args)
        if len(calls) == 7:  # in generation 1
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        ran(made, tmp_path / "cut")
    assert (tmp_path / "cut" / "gen-001" / "checkpoint.safetensors").exists()
    monkeypatch.setattr(training, "write_checkpoint", keep)
    assert content(ran(made, tmp_path / "cut").path) == content(whole.path)


LORA = {"family": "stable-diffusion", "base": "tiny-sd", "lora_rank": 2}
TEXT = {"generations": 2, "data": {"source": "emoji"}, "model": LORA, "train": {"start_from": "base"}}


@pytest.mark.parametrize(
    ("entry", "sections", "message"),
    [
        ({"strength": -1.0}, {}, r"'strength'.*greater than or equal to 0"),
        ({"to": "previous"}, {}, r"'to'.*'start', 'base' or 'generation_0'"),
        (
            {"strength": 400.0},
            {},
            r"strength 400 at train\.learning_rate 0\.003 would overshoot the anchor in each step; set strength below 333",
        ),
        (
            {"first": 0, "to": "generation_0"},
            {},
            "anchor generation_0 does not exist yet in generation 0",
        ),
        ({"first": 0, "to": "base"}, {}, "anchor base does not exist yet in generation 0"),
        ({}, {"base": NUMBERS}, "the family gaussian is fitted by a formula"),
        (
            {"to": "base"},
            {"base": TEXT},
            "LoRA layers of train.start_from=base have other factors than the anchor",
        ),
        ({"to": "generation_0"}, {"base": TEXT}, "set to: start"),
    ],
)
def test_bad_input(entry, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({**ANCHOR, **entry}, **sections)


def test_what_is_allowed():
    checked({**ANCHOR, "first": 0})
    checked({**ANCHOR}, base=TEXT)
    checked({**ANCHOR, "to": "generation_0"}, base=TEXT, train={"start_from": "previous"})
    checked({**ANCHOR, "to": "base", "first": 0}, base=TEXT, model={"lora_rank": 0})


@pytest.mark.filterwarnings("ignore")
def test_a_base_with_text_anchors_generation_0_too(tmp_path):
    base = tiny.make("sd15", tmp_path / "base")
    made = tiny.config(
        "sd15",
        base,
        generations=0,
        policies=[{"policy": "anchor", "to": "base", "first": 0, "strength": 330}],
    )
    made = made.model_copy(update={"train": made.train.model_copy(update={"decay": "none"})})
    free = ran(made.model_copy(update={"policies": []}), tmp_path / "free")
    held = ran(made, tmp_path / "held")
    start = tiny.tensors(base)

    def moved(run):
        return math.sqrt(
            sum(
                float((w - start[name]).square().sum())
                for name, w in tiny.tensors(run.gen(0) / "model").items()
            )
        )

    assert moved(held) < 0.1 * moved(free)
