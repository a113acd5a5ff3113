"""The loss on held-out images: networks with a known answer, levels, noise, and the summary by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from difflab.config import PixelMLP as Spec
from difflab.core.shape import Shape
from difflab.metrics.held_out_loss import LEVELS, errors, mean, rare, summary
from difflab.models.pixel_mlp import PixelMLP

pytestmark = tiny.LIBRARIES
SIDE = 8
LOSSES = ["held_out_loss", *(f"held_out_loss_{i}" for i in (1, 2, 3, 4)), "held_out_loss_rare", "loss_gap"]


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


def test_who_predicts_no_noise_has_loss_one():
    """E noise^2 = 1 at every level.

    The mean of d squared normals has variance 2 / d: an exact Monte-Carlo error.
    """
    n = 100
    found = errors(
        stubbed(zero, prediction_type="epsilon"), grey(n), np.zeros(n, dtype=np.int64), range(n), (0,)
    )
    assert found.shape == (n, LEVELS) and found.dtype == np.float64
    error = math.sqrt(2 / SIDE**2)
    assert abs(found.mean() - 1) < 4 * error / math.sqrt(n * LEVELS)
    assert (np.abs(found.mean(0) - 1) < 4 * error / math.sqrt(n)).all()
    # Images have noise of their own.
    assert found.mean(1).std() == pytest.approx(error / math.sqrt(LEVELS), rel=0.3)


def test_levels_run_from_little_noise_to_much_and_are_spread_evenly():
    """The velocity of a grey image is sqrt(abar) noise, so that who predicts 0 has the error abar(t), which
    falls with t.
    """
    n, model = 400, stubbed(zero)
    found = errors(model, grey(n), np.zeros(n, dtype=np.int64), range(n), (0,))
    # Of a stratum: 125 of 1000 timesteps.
    expected = model.noise.alphas_cumprod.numpy().reshape(LEVELS, -1).mean(1)
    np.testing.assert_allclose(found.mean(0), expected, atol=4 * math.sqrt(2 / SIDE**2 / n + 0.11**2 / n))
    assert (np.diff(found.mean(0)) < 0).all()
    # Unbiased for the mean over all timesteps.
    assert abs(found.mean() - model.noise.alphas_cumprod.mean()) < 0.01


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
    # No caption is dropped: 3 would be "none".
    assert (seen[0][:, -1].reshape(6, LEVELS) == torch.from_numpy(labels)[:, None]).all()
    assert not (errors(model, grey(6), labels, range(6), (8,)) == whole).any()


def test_an_unconditional_model_is_asked_for_no_label():
    def answer(x: torch.Tensor, t: torch.Tensor, labels: Any) -> torch.Tensor:
        assert labels is None
        return x

    assert errors(stubbed(answer, conditional=False), grey(3), None, range(3), (0,)).shape == (3, LEVELS)


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
