from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from chains import COPIES, checked
from diffusers import DDIMScheduler
from steered import QUIET, exact, floats, small

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.policies.sample.stochasticity import Eta, Stochasticity

pytestmark = QUIET


def steered(model, eta):
    model.steers = [Stochasticity(policy="stochasticity", eta=eta).steer(None, model)]
    return model


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_a_step_is_the_formula_of_the_paper(eta):
    """Song et al. 2010.02502, eq. 12 and 16, image by image."""
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(5)
    bars, model, out = scheduler.alphas_cumprod, exact([0.1, 0.0], [0.12, 0.2]), []
    for seed in (3, 4):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn((1, 1, 8, 8), generator=g)
        for i, t in enumerate(scheduler.timesteps):
            ab = bars[t]
            before = (
                bars[scheduler.timesteps[i + 1]] if i + 1 < len(scheduler.timesteps) else torch.tensor(1.0)
            )
            v = model.net(x, t.view(1), torch.tensor([0]))
            clean, noise = ab.sqrt() * x - (1 - ab).sqrt() * v, ab.sqrt() * v + (1 - ab).sqrt() * x
            sigma = eta * ((1 - before) / (1 - ab)).sqrt() * (1 - ab / before).sqrt()
            x = (
                before.sqrt() * clean
                + (1 - before - sigma**2).clamp(min=0).sqrt() * noise
                + sigma * torch.randn(x.shape, generator=g)
            )
        out.append(x)
    torch.testing.assert_close(
        floats(steered(model, eta), np.zeros(2, dtype=np.int64), [3, 4], steps=5),
        torch.cat(out),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_samples_of_the_true_score_keep_their_spread(eta):
    n = 60
    x = floats(
        steered(exact([0.1, 0.0], [0.12, 0.2]), eta), np.zeros(n, dtype=np.int64), list(range(n)), steps=1000
    )
    assert abs(float(x.std()) / 0.12 - 1) * math.sqrt(2 * x.numel()) < 4


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_ancestral_sampling_is_finite(steps):
    assert floats(steered(small(), 1.0), np.zeros(2, dtype=np.int64), [3, 4], steps=steps).isfinite().all()


def test_zero_is_off_and_an_image_has_its_own_noise():
    labels, how = np.array([0, 1, 2, 1]), Sample(steps=5)
    plain = small().sample(labels, [5, 6, 7, 8], how)
    assert (steered(small(), 0.0).sample(labels, [5, 6, 7, 8], how) == plain).all()
    noisy = steered(small(), 1.0)
    together = noisy.sample(labels, [5, 6, 7, 8], how)
    alone = np.concatenate([noisy.sample(labels[i : i + 1], [5 + i], how) for i in range(4)])
    assert (together != plain).any() and np.abs(together.astype(int) - alone).max() <= 1


def test_only_schedulers_that_take_eta():
    checked({"policy": "stochasticity", "eta": 0.5})
    with pytest.raises(
        ConfigError,
        match=r"eta, but DPMSolverMultistepScheduler has no argument eta; use sample\.scheduler=DDIMScheduler",
    ):
        checked({"policy": "stochasticity", "eta": 0.5}, sample={"scheduler": "DPMSolverMultistepScheduler"})
    with pytest.raises(ConfigError, match="but DDIMSheduler has no argument eta"):
        checked({"policy": "stochasticity", "eta": 0.5}, sample={"scheduler": "DDIMSheduler"})
    with pytest.raises(ConfigError, match="the family memoriser does not sample by denoising"):
        checked({"policy": "stochasticity", "eta": 0.5}, base=COPIES)
    assert Eta(0.5).arguments({"generator": []}, ["eta"]) == {"generator": [], "eta": 0.5}
