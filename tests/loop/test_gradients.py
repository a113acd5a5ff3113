from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from trainings import IMAGES, LABELS, config, fresh, record, train

from difflab.config import Config
from difflab.loop.gradients import Gradients
from difflab.loop.training_loop import order


def norms(c: Config, steps: int) -> list[float]:
    """Gradient norms of the first steps by plain autograd, at weights that stay where they are."""
    from difflab.core.seeds import generator

    model, out = fresh(c), []
    for step in range(steps):
        at = order(37, 16, step * 16, (c.seed, 0))
        batch = torch.from_numpy(IMAGES[at]), torch.from_numpy(LABELS[at])
        drawn = model.draws(*batch, slice(0, 16), 16, c.train, generator("noise", c.seed, 0, step * 16))
        gradients = torch.autograd.grad(
            model.loss(model.net, **drawn, train=c.train).mean(), list(model.net.parameters())
        )
        out.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
    return out


@pytest.mark.parametrize("micro", [None, 5])
def test_gradient_norms_and_clipped_steps_by_hand(tmp_path, micro):
    still: dict[str, Any] = {
        "images_seen": 16 * 120,
        "learning_rate": 1e-30,
        "ema_decay": 0,
        "micro_batch_size": micro,
    }
    by_hand = norms(config(**still), 120)
    middle = (sorted(by_hand)[69] + sorted(by_hand)[70]) / 2  # 50 of 120 lie above
    for clip, share in ((middle, 50 / 120), (0.0, 0.0), (1e6, 0.0), (1e-6, 1.0)):
        train(tmp_path, config(**still, gradient_clip=clip))
        means = record(tmp_path)["means"]
        assert set(means) == {
            "train_loss",
            "gradient_norm",
            "clipped_share",
        }  # no loss scaler, so no step is ever left out
        assert means["gradient_norm"] == pytest.approx(np.mean(by_hand), rel=1e-5)
        assert means["clipped_share"] == pytest.approx(share, abs=1e-12) and record(tmp_path)["steps"] == 120
        assert means["train_loss"] == pytest.approx(
            np.mean([loss for _, loss in record(tmp_path)["loss"]]), rel=1e-12
        )


def test_steps_that_a_loss_scaler_leaves_out_are_counted_apart():
    gradients = Gradients(torch.zeros(4), torch.zeros(4, dtype=torch.float64))
    for norm in (1.0, math.inf, 3.0, math.nan):
        gradients.add(torch.tensor(norm), 2.0)
    gradients.read()
    assert gradients.means(scaled=True) == {
        "gradient_norm": 2.0,
        "clipped_share": 0.25,
        "nonfinite_share": 0.5,
    }
    assert gradients.means(scaled=False) == {"gradient_norm": 2.0, "clipped_share": 0.25}
    assert (gradients.sums == 0).all()
    lost = Gradients(torch.zeros(4), torch.zeros(4, dtype=torch.float64))
    lost.add(torch.tensor(math.inf), 0.0)
    lost.read()
    assert lost.means(scaled=True) == {"gradient_norm": None, "clipped_share": 0.0, "nonfinite_share": 1.0}


def test_a_long_training_loses_no_step_to_rounding():
    gradients = Gradients(torch.zeros(4), torch.tensor([2.0**24, 0, 0, 2.0**24], dtype=torch.float64))
    gradients.add(torch.tensor(1.0), 0.0)
    gradients.read()
    assert gradients.totals[3] == 2**24 + 1 and gradients.means(scaled=False)["gradient_norm"] == 1
