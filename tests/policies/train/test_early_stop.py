from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from chains import NUMBERS, checked, config, content, ran, weights

from difflab.core.errors import ConfigError
from difflab.core.files import read_json
from difflab.core.progress import Reporter
from difflab.loop import held_out
from difflab.loop import training_loop as training
from difflab.models import family_of
from difflab.policies import At
from difflab.policies.train.early_stop import EarlyStop, Stopper

STOP = {"policy": "early_stop", "every": 128, "patience": 2, "count": 20}


# ------------------------------------------------------------------------------------------------ the rule
def course(losses: list[float], every: int = 1, patience: int = 2, images: int = 1000, average: bool = True):
    """Steps taken with these losses, one image a step, weights = the number of the step: (steps, weights at the end, looks)."""
    w, mean = torch.nn.Parameter(torch.zeros(1)), torch.zeros(1)
    looked: list[float] = []

    def loss(now):
        looked.append(float(now.weights["w"].detach()))
        return losses[len(looked) - 1]

    def copy_to(weights):
        if average:
            weights["w"].data.copy_(mean)

    watch = Stopper(loss, every, patience, {})
    steps = 0
    for steps in range(1, images + 1):
        w.data.fill_(float(steps))
        mean.fill_(-float(steps))
        now = SimpleNamespace(
            weights={"w": w},
            average=SimpleNamespace(weights={"w": mean} if average else {}, copy_to=copy_to),
            net=torch.nn.Identity(),
            accelerator=Accelerator(),
            images_seen=steps,
            train=SimpleNamespace(batch_size=1, images_seen=images),
        )
        stopped = watch.step(now)
        assert float(w.detach()) == steps  # the weights that are trained are back in their place
        if stopped:
            break
    watch.end({"w": w})
    return steps, float(w.detach()), looked, watch


def test_it_stops_after_patience_looks_without_a_new_best_and_leaves_the_best_average():
    assert course([5, 4, 3, 3.5, 3, 1])[:2] == (5, -3.0)  # equal is not better
    assert course([5, 4, 3, 3.5, 2, 3, 3])[:2] == (7, -5.0)
    assert course([1, 2, 3], patience=1)[:2] == (2, -1.0)


def test_it_looks_at_the_averaged_weights_or_without_an_average_at_the_trained_ones():
    assert course([3, 2, 1, 2, 2])[2] == [-1, -2, -3, -4, -5]
    assert course([3, 2, 1, 2, 2], average=False)[1:3] == (3.0, [1, 2, 3, 4, 5])


def test_it_looks_every_so_many_images_and_at_the_end():
    steps, end, looked, watch = course([3, 2, 1], every=4, patience=9, images=10)
    assert (steps, end, looked) == (10, -10.0, [-4, -8, -10])
    assert watch.record() == {"early_stop": {"losses": [(4, 3), (8, 2), (10, 1)], "best_images_seen": 10}}


def test_a_loss_that_is_no_number_is_never_the_best():
    assert course([2, float("nan"), float("nan")])[:2] == (3, -1.0)


def test_its_state_brings_it_back():
    _, _, _, watch = course([5, 4, 3, 3.5, 3])
    other = Stopper(watch.loss, 1, 2, {})
    other.restore(watch.state())
    assert (other.looks, other.best, other.weights) == (watch.looks, watch.best, watch.weights)
    fresh = Stopper(watch.loss, 1, 2, {})
    fresh.restore(Stopper(watch.loss, 1, 2, {}).state())
    assert (fresh.looks, fresh.best, fresh.weights) == ([], 0, {})


# ------------------------------------------------------------------------------------------------ in a chain
LONG = {"images_seen": 64 * 60, "learning_rate": 2e-2, "decay": "none", "ema_decay": 0.8}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Of 60 steps: generation 1 trains on 80 bad samples and must stop."""
    return ran(config(STOP, train=LONG), tmp_path_factory.mktemp("early") / "run")


def error_of(run, generation: int, images: np.ndarray) -> float:
    """The error of the saved weights on these images of the real set, by the function that measures held-out loss."""
    c = run.config
    model = family_of(c.model).load(c.model, run.shape, run.gen(generation) / "model")
    labels = run.real.labels()
    return float(
        held_out.errors(
            model, run.real.gather(images), labels[images], range(len(images)), ("early_stop", c.seed)
        ).mean()
    )


def test_it_ends_a_training_and_saves_the_weights_with_the_least_error_on_the_reserve(stopped):
    n_train = stopped.about["n_train"]
    ended = []
    for t in range(3):
        record = stopped.training(t)
        own = record["early_stop"]
        losses = [loss for _, loss in own["losses"]]
        assert own["images"] == "reserve" and own["count"] == 20
        assert [seen for seen, _ in own["losses"]] == [128 * (k + 1) for k in range(len(losses))]
        assert (
            own["best_images_seen"] == 128 * (int(np.argmin(losses)) + 1)
            and record["images_seen"] == own["losses"][-1][0]
        )
        assert error_of(stopped, t, np.arange(n_train - 20, n_train)) == pytest.approx(min(losses), rel=1e-5)
        ended.append(record["images_seen"] < LONG["images_seen"])
        assert not ended[-1] or len(losses) - 1 - int(np.argmin(losses)) == 2
    assert any(ended)


def test_looking_does_not_disturb(tmp_path):
    """With patience without end the trainings are those of no policy, but for the weights that are kept in the end."""
    short = {**LONG, "images_seen": 64 * 20}
    looked = ran(config({**STOP, "patience": 1000}, generations=0, train=short), tmp_path / "a")
    plain = ran(config(generations=0, train=short), tmp_path / "b")
    assert (
        looked.training(0)["loss"] == plain.training(0)["loss"]
        and looked.training(0)["means"] == plain.training(0)["means"]
    )
    if looked.training(0)["early_stop"]["best_images_seen"] == short["images_seen"]:
        assert all(torch.equal(w, weights(plain, 0)[name]) for name, w in weights(looked, 0).items())


@pytest.mark.parametrize("stop", [2, 5, 9])
def test_a_stopped_chain_goes_on_to_the_same_bytes(stopped, tmp_path, monkeypatch, stop):
    keep, calls = training.write_checkpoint, []

    def cut(*args):
        keep(*args)
        calls.append(args)
        if len(calls) == stop:
            raise KeyboardInterrupt

    made = config(STOP, train={**LONG, "checkpoint_every": 192})
    monkeypatch.setattr(training, "write_checkpoint", cut)
    with pytest.raises(KeyboardInterrupt):
        ran(made, tmp_path / "run")
    monkeypatch.setattr(training, "write_checkpoint", keep)
    assert content(ran(made, tmp_path / "run").path) == content(stopped.path)


def test_a_chain_stopped_between_training_and_saving_goes_on_to_the_same_bytes(
    stopped, tmp_path, monkeypatch
):
    from difflab.loop import train

    save = train.save
    monkeypatch.setattr(train, "save", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ran(config(STOP, train=LONG), tmp_path / "run")
    monkeypatch.setattr(train, "save", save)
    assert content(ran(config(STOP, train=LONG), tmp_path / "run").path) == content(stopped.path)


def test_without_a_reserve_it_says_that_it_looks_at_trained_images(tmp_path):
    said: list[str] = []
    report = Reporter(quiet=True)
    report.say = said.append  # type: ignore[method-assign]
    made = config(STOP, generations=0, data={"train_size": None, "limit": 100}, train={"images_seen": 256})
    run = ran(made, tmp_path / "run", report)
    own = run.training(0)["early_stop"]
    assert own["images"] == "training set 0" and len([line for line in said if "no reserve" in line]) == 1
    n = run.about["n_train"]
    assert error_of(run, 0, np.arange(n - 20, n)) == pytest.approx(
        min(loss for _, loss in own["losses"]), rel=1e-5
    )


@pytest.mark.filterwarnings("ignore")
def test_a_latent_model_reads_latents_again_that_were_deleted(tmp_path):
    base = tiny.make("sd15", tmp_path / "base")
    made = tiny.config(
        "sd15",
        base,
        generations=0,
        policies=[{"policy": "early_stop", "every": 16, "count": 5}],
        data={"train_size": 10},
    )
    run = ran(made, tmp_path / "run")
    assert len(read_json(run.gen(0) / "training.json")["early_stop"]["losses"]) == 3
    for file in run.real.encoded.glob("latents-*.npy"):
        file.unlink()
    model = family_of(made.model)(made.model, run.shape)
    model.initialise(0)
    model.prepare_training(made.train, "cpu")
    made.policies[0].trainer(At(generation=0, position=0, config=made, run=run), model)
    assert not run.real.lacks(model.encoder_key)


# ------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("entry", "sections", "message"),
    [
        ({"every": 0}, {}, r"'every'.*greater than or equal to 1"),
        ({"patience": 0}, {}, r"'patience'.*greater than or equal to 1"),
        ({"count": 1}, {}, r"'count'.*greater than or equal to 2"),
        ({"every": 1000}, {}, r"every 1000 images, but a training sees only 640 \(train\.images_seen\)"),
        ({}, {"base": NUMBERS}, "the family gaussian is fitted by a formula"),
    ],
)
def test_bad_input(entry, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({**STOP, **entry}, **sections)


def places(n_train: int, count: int = 20, **sections):
    made = config({**STOP, "count": count}, **sections)
    own: EarlyStop = made.policies[0]
    return own.images(made, n_train)


def test_where_the_validation_set_lies():
    assert places(120)[0].tolist() == list(range(100, 120)) and places(120)[1]
    assert places(80)[0].tolist() == list(range(60, 80)) and not places(80)[1]
    with pytest.raises(
        ConfigError, match=r"needs 20 real images, but the reserve has 15, and training uses 0"
    ):
        places(95)
    fresh = {"name": "fresh_real", "real_fraction": 0.125}  # 10 in each of 2 generations
    assert places(120, regime=fresh)[0].tolist() == list(range(100, 120))  # behind those that train
    with pytest.raises(ConfigError, match=r"the reserve has 39, and training uses 20"):
        places(119, regime=fresh)
    with pytest.raises(ConfigError, match=r"needs 50 real images, which is more than half of the 80"):
        places(80, count=50)
