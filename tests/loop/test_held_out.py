"""The error on held-out real images: against theory, by hand, in pairs, and as rows of a run."""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator

from difflab.config import Config, parse
from difflab.config import PixelMLP as Spec
from difflab.core.errors import ConfigError, StoreError
from difflab.core.rows import KEYS
from difflab.core.shape import Shape
from difflab.loop import held_out
from difflab.loop.chain import run_chain
from difflab.loop.held_out import LEVELS, errors, mean, positions, rare, summary
from difflab.loop.measure import measure_training
from difflab.models.pixel_mlp import PixelMLP
from difflab.runs.run import Run

run_chain = partial(run_chain, plots=False)  # curves take seconds

pytestmark = tiny.LIBRARIES
SIDE = 8
BASE: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "train_size": 80},
    "model": {"family": "pixel-mlp", "width": 32, "depth": 1},
    "train": {"images_seen": 1280, "batch_size": 64, "learning_rate": 3e-3},
    "sample": {"count": 60, "steps": 3, "shard_size": 30, "batch_size": 30},
    "probe": {"per_condition": 0},
    "measure": {"metrics": [], "held_out_loss": 50},
}
LOSSES = ["held_out_loss", *(f"held_out_loss_{i}" for i in (1, 2, 3, 4)), "held_out_loss_rare", "loss_gap"]


def digits(**changes: Any) -> Config:
    return parse({**BASE, **changes})


class Stub(torch.nn.Module):
    """A network whose answer is ours."""

    def __init__(self, answer: Any):
        super().__init__()
        self.parameter, self.answer = torch.nn.Parameter(torch.zeros(())), answer

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.answer(x, t, labels)


def stubbed(answer: Any, **changes: Any) -> PixelMLP:
    model = PixelMLP(
        Spec(**{"family": "pixel-mlp", "width": 16, "depth": 1, **changes}), Shape((SIDE, SIDE, 1), 3)
    )
    model.net = Stub(answer)
    return model


def grey(n: int, level: int = 128) -> np.ndarray:
    return np.full((n, SIDE, SIDE, 1), level, dtype=np.uint8)


def zero(x: torch.Tensor, t: torch.Tensor, labels: Any) -> torch.Tensor:
    return torch.zeros_like(x)


# ----------------------------------------------------------------------------------------------- against theory
def test_who_predicts_no_noise_has_loss_one():
    """E noise^2 = 1 at every level. The mean of d squared normals has variance 2 / d: an exact Monte-Carlo error."""
    n = 100
    found = errors(
        stubbed(zero, prediction_type="epsilon"), grey(n), np.zeros(n, dtype=np.int64), range(n), (0,)
    )
    assert found.shape == (n, LEVELS) and found.dtype == np.float64
    error = math.sqrt(2 / SIDE**2)
    assert abs(found.mean() - 1) < 4 * error / math.sqrt(n * LEVELS)
    assert (np.abs(found.mean(0) - 1) < 4 * error / math.sqrt(n)).all()
    assert found.mean(1).std() == pytest.approx(
        error / math.sqrt(LEVELS), rel=0.3
    )  # images have noise of their own


def test_levels_run_from_little_noise_to_much_and_are_spread_evenly():
    """The velocity of a grey image is sqrt(abar) noise, so that who predicts 0 has the error abar(t), which falls with t."""
    n, model = 400, stubbed(zero)
    found = errors(model, grey(n), np.zeros(n, dtype=np.int64), range(n), (0,))
    expected = (
        model.noise.alphas_cumprod.numpy().reshape(LEVELS, -1).mean(1)
    )  # of a stratum: 125 of 1000 timesteps
    np.testing.assert_allclose(found.mean(0), expected, atol=4 * math.sqrt(2 / SIDE**2 / n + 0.11**2 / n))
    assert (np.diff(found.mean(0)) < 0).all()
    assert (
        abs(found.mean() - model.noise.alphas_cumprod.mean()) < 0.01
    )  # unbiased for the mean over all timesteps


def test_every_stratum_of_timesteps_is_asked_once_per_image():
    asked: list[torch.Tensor] = []

    def answer(x: torch.Tensor, t: torch.Tensor, labels: Any) -> torch.Tensor:
        asked.append(t.clone())
        return x

    for steps in (1000, 10, 3):
        asked.clear()
        errors(
            stubbed(answer, train_timesteps=steps, beta_schedule="linear"),
            grey(30),
            np.zeros(30, dtype=np.int64),
            range(30),
            (0,),
        )
        t = torch.cat(asked).reshape(30, LEVELS)
        if steps == 1000:
            assert (t // 125 == torch.arange(LEVELS)).all() and len(t.unique()) > 150
        assert t.min() >= 0 and t.max() < steps and (t.diff(dim=1) >= 0).all()
        assert len(t.unique()) == min(steps, len(t.unique())) and (steps == 1000 or len(t.unique()) == steps)


def test_a_flow_is_asked_from_little_noise_to_much_and_without_its_weight(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    model = tiny.model("sd3", tiny.make("sd3", tmp_path / "sd3"), precondition_outputs=True)
    levels = torch.linspace(0, 0.9999, 50)
    assert (model.noise.sigmas[model.noisy(levels)].diff() > 0).all()
    x, noise = torch.full((2, 4, 4, 4), 2.0), torch.full((2, 4, 4, 4), 5.0)
    monkeypatch.setattr(model, "predict", lambda net, x, t, conditions: torch.zeros_like(x))
    t = model.noisy(torch.tensor([0.1, 0.9]))
    assert model.error(None, x, noise, t, None).tolist() == [9.0, 9.0]  # (noise - x)^2 at any level
    sigma = model.noise.sigmas[t]
    torch.testing.assert_close(model.loss(None, x, noise, t, None, None), 9 * sigma.square())


# ------------------------------------------------------------------------------------------------------- pairing
def test_noise_belongs_to_the_image_and_to_the_run():
    seen: list[torch.Tensor] = []

    def answer(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(torch.cat([x.flatten(1), t[:, None], labels[:, None]], 1))
        return torch.zeros_like(x)

    model, labels = stubbed(answer), np.array([0, 1, 2, 0, 1, 2])
    whole = errors(model, grey(6), labels, range(6), (7,))
    parts = [errors(model, grey(len(at)), labels[at], at, (7,)) for at in ([4, 5], [0, 1, 2, 3])]
    np.testing.assert_array_equal(np.concatenate([parts[1], parts[0]]), whole)
    assert torch.equal(torch.cat([seen[2], seen[1]]), seen[0])
    assert len(seen[0].unique(dim=0)) == 6 * LEVELS
    assert (
        seen[0][:, -1].reshape(6, LEVELS) == torch.from_numpy(labels)[:, None]
    ).all()  # no caption is dropped: 3 would be "none"
    assert not (errors(model, grey(6), labels, range(6), (8,)) == whole).any()


def test_an_unconditional_model_is_asked_for_no_label():
    def answer(x: torch.Tensor, t: torch.Tensor, labels: Any) -> torch.Tensor:
        assert labels is None
        return x

    assert errors(stubbed(answer, conditional=False), grey(3), None, range(3), (0,)).shape == (3, LEVELS)


# ------------------------------------------------------------------------------------------------------- summary
def test_summary_by_hand():
    held = np.arange(4)[:, None] + np.arange(8)[None, :] / 10.0  # image means 0.35 to 3.35
    trained = np.full((2, 8), 0.25)
    out = summary(held, trained, (["a", "b", "c"], np.array([0, 2, 0, 1]), np.array([0, 0, 0, 1, 2, 2])))
    m = out["measures"]
    assert list(m) == LOSSES
    assert m["held_out_loss"]["value"] == pytest.approx(1.85) and m["held_out_loss"]["n"] == 4
    half = 1.96 * math.sqrt(5 / 3) / 2
    assert (m["held_out_loss"]["low"], m["held_out_loss"]["high"]) == pytest.approx(
        (1.85 - half, 1.85 + half)
    )
    assert [m[f"held_out_loss_{i}"]["value"] for i in (1, 2, 3, 4)] == pytest.approx([1.55, 1.75, 1.95, 2.15])
    assert (
        m["held_out_loss_rare"]["value"] == pytest.approx(3.35)
        and m["held_out_loss_rare"]["n"] == 1
        and m["held_out_loss_rare"]["low"] is None
    )
    assert m["loss_gap"]["value"] == pytest.approx(0.85 - 0.25) and m["loss_gap"]["n"] == 2
    assert m["loss_gap"]["high"] - m["loss_gap"]["value"] == pytest.approx(1.96 * math.sqrt(0.5 / 2))
    assert out["classes"] == {
        name: {"value": pytest.approx(v), "n": n}
        for name, v, n in (("a", 1.35, 2), ("b", 3.35, 1), ("c", 1.35, 1))
    }


def test_the_normal_interval_covers():
    rng = np.random.default_rng(0)
    drawn = [mean(rng.gamma(4, 0.25, 64)) for _ in range(1000)]
    assert 0.92 < np.mean([d["low"] <= 1 <= d["high"] for d in drawn]) < 0.97


def test_what_has_no_value_says_why():
    nothing = mean(np.array([]))
    assert (
        nothing["value"] is None
        and nothing["n"] == 0
        and nothing["reason"] == "no held-out image is of such a class"
    )
    broken = summary(np.full((2, 8), np.nan), np.ones((2, 8)))["measures"]
    assert all(m["value"] is None and m["reason"] == "the loss is not finite" for m in broken.values())
    assert "held_out_loss_rare" not in broken  # there are no classes
    json.dumps(broken, allow_nan=False)


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ([5, 5, 2], [2]),
        ([1, 1, 0, 0], [0]),
        ([0] * 9 + [1] * 8 + [2] * 3 + [3] * 4 + [4] * 5 + [5] * 6 + [6] * 7 + [7] * 2, [7, 2]),
        ([3], [3]),
    ],
)
def test_the_rarest_quarter(labels, wanted):
    assert rare(np.array(labels)).tolist() == wanted


# ---------------------------------------------------------------------------------------------------------- a run
@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("held") / "run")


def training(run: Run, generation: int) -> dict[str, dict[str, Any]]:
    return {
        r["metric"]: r for r in run.rows() if r["generation"] == generation and r["extractor"] == "training"
    }


def test_rows_of_a_run(run):
    for t in (0, 1):
        rows = training(run, t)
        drifts = ["drift_from_base", *(["drift_from_previous"] if t else [])]
        assert list(rows) == ["clipped_share", "gradient_norm", "train_loss", *drifts, *LOSSES]
        for name, r in rows.items():
            assert (
                tuple(r) == KEYS
                and r["floor"] is None
                and r["reason"] is None
                and math.isfinite(r["value"])
                and len(r["recipe"]) == 12
            )
            assert (r["ci_low"] is None) == (name not in LOSSES)
        assert (
            rows["train_loss"]["n"] == 20
            and rows["held_out_loss"]["n"] == 50
            and 0 < rows["held_out_loss_rare"]["n"] < 50
        )
        written = json.loads((run.gen(t) / "held_out_loss.json").read_text())
        assert rows["held_out_loss"]["value"] == written["measures"]["held_out_loss"]["value"]
        assert sum(c["n"] for c in written["classes"].values()) == 50
        by_class = np.average(
            [c["value"] for c in written["classes"].values()],
            weights=[c["n"] for c in written["classes"].values()],
        )
        assert by_class == pytest.approx(rows["held_out_loss"]["value"])
        assert np.mean([rows[f"held_out_loss_{i}"]["value"] for i in (1, 2, 3, 4)]) == pytest.approx(
            rows["held_out_loss"]["value"]
        )
    assert training(run, 0)["drift_from_base"]["value"] == 0 < training(run, 1)["drift_from_base"]["value"]
    assert training(run, 1)["drift_from_base"]["value"] == training(run, 1)["drift_from_previous"]["value"]
    recipes = [{r["metric"]: r["recipe"] for r in training(run, t).values()} for t in (0, 1)]
    assert recipes[0].items() <= recipes[1].items() and len(set(recipes[1].values())) == len(recipes[1])


def test_the_rows_are_the_errors_of_the_saved_model(run):
    held, trained = positions(run)
    split = np.array(run.real.column("split"))
    assert (
        (split[held] == "held_out").all()
        and (split[trained] == "train").all()
        and len(held) == len(trained) == 50
    )
    model = PixelMLP.load(run.config.model, run.shape, run.gen(1) / "model")
    model.net.eval()
    labels = run.real.labels()
    by_hand = [
        errors(model, run.real.gather(at), labels[at], range(50), (0,)).mean(1) for at in (held, trained)
    ]
    rows = training(run, 1)
    assert rows["held_out_loss"]["value"] == pytest.approx(by_hand[0].mean(), rel=1e-5)
    assert rows["loss_gap"]["value"] == pytest.approx((by_hand[0] - by_hand[1]).mean(), rel=1e-3, abs=1e-6)
    known = labels[:80]  # training set 0
    chosen = np.isin(labels[held], rare(known))
    assert rows["held_out_loss_rare"]["value"] == pytest.approx(by_hand[0][chosen].mean(), rel=1e-5)


def test_the_gap_rises_when_the_model_memorises(tmp_path):
    few = {
        "generations": 0,
        "data": {"source": "digits", "train_size": 24},
        "sample": {"count": 20, "steps": 1},
    }
    wide = {"family": "pixel-mlp", "width": 128, "depth": 2}
    gaps = []
    for seen in (640, 32_000):
        changed = digits(
            **few, model=wide, train={"images_seen": seen, "batch_size": 32, "learning_rate": 2e-3}
        )
        gaps.append(training(run_chain(changed, tmp_path / str(seen)), 0)["loss_gap"])
    assert gaps[0]["n"] == 24  # as many as there are in the training set
    assert gaps[1]["ci_low"] > 0 and gaps[1]["value"] > 3 * abs(gaps[0]["value"])


def test_it_can_be_off_and_changes_nothing_else(run, tmp_path):
    off = run_chain(digits(measure={"metrics": [], "held_out_loss": 0}), tmp_path / "run")
    assert not list(off.path.rglob("held_out_loss.json"))
    assert not set(training(off, 1)) & set(LOSSES)
    assert all(off.samples(t).hash() == run.samples(t).hash() for t in (0, 1))
    with pytest.raises(ConfigError, match="held_out_loss"):
        digits(measure={"held_out_loss": -1})


def test_more_images_than_there_are_held_out(tmp_path):
    data = {"source": "digits", "train_size": 30, "limit": 90, "held_out": 0.5}
    run = run_chain(
        digits(generations=0, data=data, sample={"count": 20, "steps": 1}, measure={"metrics": []}),
        tmp_path / "run",
    )
    rows = training(run, 0)
    assert rows["held_out_loss"]["n"] == run.about["n_held_out"] == 45 and rows["loss_gap"]["n"] == 30


def test_taken_again_the_file_is_the_same(run, tmp_path):
    """Killed between the loss and the model's last file, a training is repeated."""
    model = PixelMLP.load(run.config.model, run.shape, run.gen(1) / "model")
    held_out.take(run, model, tmp_path, Accelerator(), lambda wanted: None)
    assert (tmp_path / "held_out_loss.json").read_bytes() == (run.gen(1) / "held_out_loss.json").read_bytes()


def test_a_damaged_file_is_named_and_a_missing_one_is_not_missed(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    copy = Run(tmp_path / "run", run.config)
    path = copy.gen(1) / "held_out_loss.json"
    for content in (
        "{",
        "[]",
        '{"measures": {"held_out_loss": 3}}',
        '{"measures": {"held_out_loss": {"value": 1}}}',
    ):
        path.write_text(content)
        with pytest.raises(StoreError, match=r"held_out_loss\.json is (missing or )?damaged"):
            measure_training(copy, 1)
    path.unlink()
    names = [r["metric"] for r in measure_training(copy, 1)]
    assert names == ["clipped_share", "gradient_norm", "train_loss", "drift_from_base", "drift_from_previous"]
    record = json.loads((copy.gen(1) / "training.json").read_text())
    (copy.gen(1) / "training.json").write_text(
        json.dumps({key: value for key, value in record.items() if key not in ("means", "steps")})
    )
    assert [r["metric"] for r in measure_training(copy, 1)] == names[3:]  # what an earlier version left


def test_families_fitted_by_a_formula_have_no_training_rows(tmp_path):
    for name, changes in (
        ("memoriser", {"data": {"source": "digits", "train_size": 20}, "sample": {"count": 20}}),
        ("gaussian", {"data": {"source": "exact", "train_size": 20}, "sample": {"count": 20}}),
    ):
        config = parse(
            {
                "generations": 0,
                "model": {"family": name},
                "probe": {"per_condition": 0},
                "measure": {"metrics": []},
                **changes,
            }
        )
        assert training(run_chain(config, tmp_path / name), 0) == {}


# ------------------------------------------------------------------------------------------------- latent families
@pytest.mark.parametrize(
    ("kind", "model"), [("sd15", {"lora_rank": 2}), ("sd15", {"generation_0": "base"}), ("sd3", {})]
)
def test_latent_families_have_the_rows_too(kind, model, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    config = tiny.config(
        kind,
        tiny.make(kind, tmp_path / kind),
        model=model,
        data={"held_out": 0.3},
        measure={"held_out_loss": 8},
    )
    run = run_chain(config, tmp_path / "run")
    for t in (0, 1):
        rows = training(run, t)
        assert rows["held_out_loss"]["n"] == rows["loss_gap"]["n"] == 8 and rows["held_out_loss"]["value"] > 0
        if t or model.get("generation_0") != "base":
            assert {"train_loss", "gradient_norm"} <= set(rows)
        else:
            assert (
                "train_loss" not in rows
                and rows["drift_from_base"]["value"] == 0
                and rows["drift_from_base"]["n"] == 0
            )
    own = training(run, 0)["drift_from_base"]["value"]
    assert (own == 0) == bool(
        model
    )  # LoRA layers are compared with generation 0's, whole weights with the base's
    assert training(run, 1)["drift_from_base"]["value"] > 0 < training(run, 1)["drift_from_previous"]["value"]
    cached = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "latents").rglob("*.npy")}
    assert cached
    before = (run.path / "metrics.jsonl").read_bytes()
    shutil.rmtree(run.gen(1) / "model")
    run_chain(config, tmp_path / "run")
    assert (run.path / "metrics.jsonl").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in cached} == cached  # encoded once
