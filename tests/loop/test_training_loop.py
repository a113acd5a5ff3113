"""The training loop: its data order, rates, average, exact resuming and the errors that stop it."""

from __future__ import annotations

import gc
import json
import math
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from trainings import IMAGES, LABELS, Data, Stop, config, curve, fresh, record, same, train

from difflab.config import Config, Train, parse
from difflab.core.errors import ConfigError, TrainingError
from difflab.loop.training_loop import Training, fit, learning_rate, mean_loss, order
from difflab.models.pixel_mlp import PixelMLP
from difflab.policies.watch import Watch


# --------------------------------------------------------------------------------------- order and rates
@pytest.mark.parametrize("batch", [1, 5, 10, 23, 64])
def test_every_epoch_is_a_permutation_of_its_own(batch):
    size, epochs = 10, 6
    stream = np.concatenate(
        [order(size, batch, seen, ("k", 0)) for seen in range(0, size * epochs + batch, batch)]
    )
    parts = stream[: size * epochs].reshape(epochs, size)
    assert (np.sort(parts, axis=1) == np.arange(size)).all()
    assert len({tuple(p) for p in parts}) == epochs


def test_the_order_is_a_pure_function_of_key_and_images_seen():
    stream = order(50, 300, 0, ("k", 0))
    for seen in (120, 0, 290, 7):  # in any order of calls, and whatever the batch
        assert (order(50, 10, seen, ("k", 0)) == stream[seen : seen + 10]).all()
    assert (order(50, 300, 0, ("k", 1)) != stream).any() and (order(50, 300, 0, ("l", 0)) != stream).any()


def test_every_image_comes_first_equally_often():
    first = np.bincount([order(5, 1, 0, ("k", g))[0] for g in range(1000)], minlength=5)
    assert ((first - 200) ** 2 / 200).sum() < 25  # chi-square of 4 degrees, p = 5e-5


def test_learning_rates_by_hand():
    cosine = Train(learning_rate=2.0, images_seen=100, warmup_images=0, decay="cosine")
    assert [learning_rate(cosine, s) for s in (0, 25, 50, 100, 130)] == pytest.approx(
        [2.0, 1 + math.sqrt(0.5), 1.0, 0.0, 0.0]
    )
    constant = Train(learning_rate=2.0, images_seen=100, warmup_images=40, decay="none")
    assert [learning_rate(constant, s) for s in (0, 10, 40, 99)] == pytest.approx([0.0, 0.5, 2.0, 2.0])
    both = Train(learning_rate=2.0, images_seen=100, warmup_images=50, decay="cosine")
    assert learning_rate(both, 25) == pytest.approx(0.5 * (1 + math.sqrt(0.5)))


def test_the_optimiser_really_gets_those_rates(monkeypatch, tmp_path):
    used, step = [], torch.optim.AdamW.step

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        used.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    c = config(images_seen=160, warmup_images=48)
    train(tmp_path, c)
    assert used == [learning_rate(c.train, s) for s in range(0, 160, 16)]


# ---------------------------------------------------------------------------------------------- learning
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_the_loss_is_that_of_diffusers_own_scheduler(prediction, schedule):
    c = parse(
        {
            "model": {
                "family": "pixel-mlp",
                "width": 16,
                "depth": 1,
                "prediction_type": prediction,
                "beta_schedule": schedule,
            }
        }
    )
    model, how = fresh(c), Train(condition_dropout=0.3)
    images, labels = torch.from_numpy(IMAGES[:8]), torch.from_numpy(LABELS[:8])
    ours = model.loss(
        model.net,
        **model.draws(images, labels, slice(0, 8), 8, how, torch.Generator().manual_seed(5)),
        train=how,
    )

    rng = torch.Generator().manual_seed(5)
    clean = images.permute(0, 3, 1, 2) / 255 * 2 - 1
    noise, t = torch.randn(clean.shape, generator=rng), torch.randint(1000, (8,), generator=rng)
    dropped = torch.rand(8, generator=rng) < 0.3
    assert 0 < dropped.sum() < 8
    scheduler = DDPMScheduler(beta_schedule=schedule, prediction_type=prediction)
    guess = model.net(scheduler.add_noise(clean, noise, t), t, labels.masked_fill(dropped, 3))
    target = noise if prediction == "epsilon" else scheduler.get_velocity(clean, noise, t)
    theirs = torch.stack([torch.nn.functional.mse_loss(g, y) for g, y in zip(guess, target, strict=True)])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_parts_of_a_batch_have_the_losses_of_the_whole():
    model, how = fresh(config()), Train(condition_dropout=0.3)
    images, labels = torch.from_numpy(IMAGES[:8]), torch.from_numpy(LABELS[:8])

    def losses(rows: slice) -> torch.Tensor:
        return model.loss(
            model.net,
            **model.draws(images[rows], labels[rows], rows, 8, how, torch.Generator().manual_seed(5)),
            train=how,
        )

    torch.testing.assert_close(torch.cat([losses(slice(0, 3)), losses(slice(3, 8))]), losses(slice(0, 8)))


def test_the_loss_falls_on_a_toy_set(tmp_path):
    two = np.stack([np.zeros((4, 4, 1), np.uint8), np.full((4, 4, 1), 255, np.uint8)])
    train(tmp_path, config(images_seen=8000, learning_rate=1e-2), data=Data(two, np.array([0, 1])))
    losses = [loss for _, loss in curve(tmp_path)]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_the_curve_is_the_mean_loss_per_image_seen(tmp_path, monkeypatch):
    """Replayed by hand: with a learning rate of nearly 0 the weights stay, and every batch's loss can be computed apart."""
    c = config(images_seen=16 * 120, learning_rate=1e-30, ema_decay=0)
    train(tmp_path, c)
    points, model = curve(tmp_path), fresh(c)
    assert [seen for seen, _ in points] == list(
        range(32, 16 * 120 + 1, 32)
    )  # 50 or a few more points, the last at the end
    from difflab.core.seeds import generator

    for seen, loss in points[:3]:
        by_hand = []
        for start in (seen - 32, seen - 16):
            at = order(37, 16, start, (c.seed, 0))
            rng = generator("noise", c.seed, 0, start)
            batch = torch.from_numpy(IMAGES[at]), torch.from_numpy(LABELS[at])
            by_hand.append(
                float(
                    model.loss(
                        model.net, **model.draws(*batch, slice(0, 16), 16, c.train, rng), train=c.train
                    )
                    .mean()
                    .detach()
                )
            )
        assert loss == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_the_mean_loss_weighs_each_point_by_its_images():
    assert mean_loss([(20, 1.0), (40, 3.0), (50, 10.0)]) == pytest.approx((20 * 1 + 20 * 3 + 10 * 10) / 50)


def test_the_averaged_weights_are_what_training_leaves(tmp_path):
    raw, averaged = train(tmp_path / "a", config(ema_decay=0)), train(tmp_path / "b", config(ema_decay=0.9))
    assert not same(raw, averaged)
    assert curve(tmp_path / "a") == curve(tmp_path / "b")  # the average looks on and does not steer


# ---------------------------------------------------------------------------------------------- resuming
def test_generations_see_other_noise_and_order(tmp_path):
    c, models = config(), []
    for generation in (0, 1):
        model = fresh(c)
        fit(model, Data(), c.train, (c.seed, generation), tmp_path, Accelerator(), lambda n: None)  # type: ignore[arg-type]
        models.append(model)
    assert not same(*models)


# ------------------------------------------------------------------------------------------------ errors
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    c = config(
        checkpoint_every=16,
        images_seen=64_000,
        learning_rate=1e10,
        gradient_clip=0,
        decay="none",
        warmup_images=160,
    )
    with pytest.raises(
        TrainingError,
        match=r"after [\d,]+ images, first in layer [\w.]+; the checkpoint at [\d,]+ images is kept",
    ) as error:
        train(tmp_path, c)
    assert "train.learning_rate" in str(error.value)
    kept = load_file(tmp_path / "checkpoint.safetensors")
    assert all(t.isfinite().all() for name, t in kept.items() if name.startswith("net."))
    assert not (tmp_path / "training.json").exists()
    with pytest.raises(TrainingError):  # the checkpoint loads, and the same recipe fails the same way
        train(tmp_path, c)


def test_an_infinite_gradient_behind_a_finite_loss_never_reaches_the_disk(tmp_path, monkeypatch):
    """The loss is taken before the step: the last one's weights must be looked at themselves."""
    step = torch.optim.AdamW.step
    count = 0

    def spoiled(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        out = step(self, *args, **kwargs)
        if count == 10:
            self.param_groups[0]["params"][0].data.fill_(math.nan)
        return out

    monkeypatch.setattr(torch.optim.AdamW, "step", spoiled)
    with pytest.raises(
        TrainingError,
        match=r"there are non-finite weights in .* after 160 images, first in layer time.0; nothing was written",
    ):
        train(tmp_path, config(images_seen=160))
    count = 0
    with pytest.raises(
        TrainingError, match=r"after 160 images, first in layer time.0; the checkpoint at 144 images is kept"
    ):
        train(tmp_path, config(images_seen=640, checkpoint_every=16))
    assert all(t.isfinite().all() for t in load_file(tmp_path / "checkpoint.safetensors").values())


def test_a_batch_smaller_than_the_number_of_processes_is_refused(tmp_path):
    three = SimpleNamespace(process_index=0, num_processes=3, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"train\.batch_size 2 is smaller than the number of processes 3"):
        train(tmp_path, config(batch_size=2), accelerator=three)


def test_a_batch_larger_than_the_set_sees_images_again(tmp_path):
    train(tmp_path, config(batch_size=100, images_seen=250))
    assert json.loads((tmp_path / "training.json").read_text())["images_seen"] == 300  # whole batches


def test_weights_optimiser_average_gradients_and_loss_are_float32_in_bf16_too(tmp_path):
    c = config(precision="bf16", images_seen=48)
    model, kinds = fresh(c), {"products": set(), "losses": set(), "gradients": set(), "state": set()}
    model.prepare_training(c.train, "cpu")
    AcceleratorState._reset_state(True)
    linear = next(m for m in model.net.modules() if isinstance(m, torch.nn.Linear))
    linear.register_forward_hook(lambda module, inputs, output: kinds["products"].add(output.dtype))
    loss = model.loss

    def watched(*args, **given):
        out = loss(*args, **given)
        kinds["losses"].add(out.dtype)
        return out

    model.loss = watched
    try:
        training = Training(
            model, Data(), c.train, (0, 0), tmp_path, Accelerator(mixed_precision="bf16"), None, ()
        )
        for p in training.trained.values():
            p.register_post_accumulate_grad_hook(lambda p: kinds["gradients"].add(p.grad.dtype))
        while training.step < training.steps:
            training.take_step()
        for values in training.optimizer.state.values():
            kinds["state"] |= {v.dtype for v in values.values() if v.is_floating_point()}
        single = {torch.float32}
        assert kinds == {"products": {torch.bfloat16}, "losses": single, "gradients": single, "state": single}
        assert {p.dtype for p in training.trained.values()} == {torch.float32}
        assert {p.dtype for p in training.ema.weights.values()} == {torch.float32}
        assert training.running.dtype == torch.float32 and training.steps == 3
    finally:
        AcceleratorState._reset_state(True)


def test_a_trained_model_is_let_go(tmp_path):
    accelerator = (
        Accelerator()
    )  # lives as long as the whole chain, and must not keep every generation's model
    model = train(tmp_path, config(), accelerator=accelerator)
    net = weakref.ref(model.net)
    del model
    gc.collect()
    assert net() is None


# ----------------------------------------------------------------------------------------------- watches
class Doubt(Watch):
    """Adds 1 to a weight after every fifth step, counts its steps, ends after `most` of them and doubles the weight in the end."""

    def __init__(self, name: str, most: int = 10**9):
        self.name, self.most, self.count, self.seen = name, most, 0, []

    def adjust(self, now: Any) -> None:
        if now.steps % 5 == 0:
            now.weights[self.name].data += 1

    def step(self, now: Any) -> bool:
        self.count += 1
        self.seen.append((now.steps, now.images_seen, now.learning_rate, now.train.batch_size))
        return self.count >= self.most

    def state(self) -> dict[str, Any]:
        return {"count": torch.tensor(self.count)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.count = int(state["count"])

    def end(self, weights: dict[str, Any]) -> None:
        weights[self.name].data *= 2

    def record(self) -> dict[str, Any]:
        return {self.name: self.count}


NAME = "out.1.bias"


def doubted(folder: Path, c: Config, *watches: Watch, advance: Any = lambda n: None) -> PixelMLP:
    model = fresh(c)
    model.prepare_training(c.train, "cpu")
    fit(model, Data(), c.train, (c.seed, 0), folder, Accelerator(), advance, watches=watches)  # type: ignore[arg-type]
    return model


def test_a_watch_is_asked_after_every_step_and_leaves_a_record(tmp_path):
    c, watch = config(), Doubt(NAME)
    doubted(tmp_path, c, watch)
    assert watch.seen == [(k + 1, 16 * (k + 1), learning_rate(c.train, 16 * k), 16) for k in range(40)]
    assert record(tmp_path)[NAME] == 40 and record(tmp_path)["steps"] == 40


def test_a_watch_changes_weights_before_they_are_averaged_and_again_in_the_end(tmp_path):
    c = config(learning_rate=1e-30, images_seen=16 * 12, ema_decay=0.8)
    start, end = fresh(c).net.state_dict()[NAME], doubted(tmp_path, c, Doubt(NAME)).net.state_dict()[NAME]
    added = average = 0.0
    for k in range(12):
        added += (k + 1) % 5 == 0
        d = min(0.8, (1 + k) / (10 + k))
        average = d * average + (1 - d) * added
    torch.testing.assert_close(end, 2 * (start + average))


def test_any_watch_can_end_a_training_and_all_are_asked(tmp_path):
    c, first, second = config(), Doubt(NAME, 7), Doubt("into.bias", 9)
    model = doubted(tmp_path, c, first, second)
    assert (first.count, second.count) == (7, 7)
    assert (
        record(tmp_path)["images_seen"] == 7 * 16 == curve(tmp_path)[-1][0] and record(tmp_path)["steps"] == 7
    )
    assert not same(model, doubted(tmp_path / "b", c, Doubt(NAME, 8), Doubt("into.bias")))


@pytest.mark.parametrize(("every", "stop"), [(48, 304), (16, 160), (0, 304)])
def test_what_watches_know_goes_on_with_a_stopped_training(tmp_path, every, stop):
    pair = lambda: (Doubt(NAME, 33), Doubt("into.bias", 90))  # noqa: E731
    whole = doubted(tmp_path / "whole", config(), *pair())
    c, seen = config(checkpoint_every=every), 0

    def advance(n: int) -> None:
        nonlocal seen
        seen += n
        if seen >= stop:
            raise Stop

    with pytest.raises(Stop):
        doubted(tmp_path / "cut", c, *pair(), advance=advance)
    assert same(whole, doubted(tmp_path / "cut", c, *pair())) and record(tmp_path / "cut") == record(
        tmp_path / "whole"
    )
    assert record(tmp_path / "cut")[NAME] == 33


def test_no_watch_is_no_change(tmp_path):
    assert same(train(tmp_path / "a", config()), doubted(tmp_path / "b", config(), Watch()))
