from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from chains import COPIES, checked
from steered import QUIET, floats, shown, small

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.models.steer import Step
from difflab.policies import parse
from difflab.policies.sample.cads import Cads

pytestmark = [*QUIET, *tiny.LIBRARIES]


def cads(**fields) -> Cads:
    return parse({"policy": "cads", **fields})


def step(share: float, seeds: list[int]) -> Step:
    return Step(torch.zeros(len(seeds), 1, 4, 4), torch.zeros(len(seeds)), share, None, 1.0, seeds)


def test_gamma_is_linear_between_its_limits():
    own = cads(tau1=0.4, tau2=0.9)
    assert [own.gamma(s) for s in (0.0, 0.4, 0.65, 0.9, 1.0)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert [cads(tau1=0.5, tau2=0.5).gamma(s) for s in (0.5, 0.51)] == [1, 0]
    assert cads(tau1=1.0, tau2=1.0).gamma(1.0) == 1  # off


def test_the_embedding_is_the_formula_and_keeps_mean_and_spread():
    y, n = torch.randn(3, 5, 7) * 2 + 1, torch.randn(3, 5, 7)
    told = math.sqrt(0.3) * y + 0.25 * math.sqrt(0.7) * n
    torch.testing.assert_close(cads(mixing=0.0).noisy(y, n, 0.3), told)
    whole = cads(mixing=1.0).noisy(y, n, 0.3)
    for i in range(3):  # of each image alone
        torch.testing.assert_close(whole[i].mean(), y[i].mean(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(whole[i].std(), y[i].std(), rtol=1e-4, atol=1e-5)
        assert torch.corrcoef(torch.stack([whole[i].flatten(), told[i].flatten()]))[0, 1] > 0.9999
    torch.testing.assert_close(cads(mixing=0.4).noisy(y, n, 0.3), 0.4 * whole + 0.6 * told)
    assert cads(scale=0.0).noisy(y, n, 0.0).isfinite().all()  # nothing is left to be stretched


def test_noise_is_normal_and_depends_on_image_and_step_alone():
    steer, e = cads(tau1=0.0, tau2=0.5, scale=1.0, mixing=0.0).steer(None, None), torch.zeros(400, 16)
    together = steer.embedding(e, step(0.9, list(range(400))))
    assert abs(float(together.mean())) * 80 < 4 and abs(float(together.std()) - 1) * math.sqrt(2 * 6400) < 4
    assert torch.equal(steer.embedding(e[:1], step(0.9, [7])), together[7:8])
    assert not torch.equal(steer.embedding(e[:1], step(0.8, [7])), together[7:8])
    half = steer.embedding(e[:1].to(torch.bfloat16), step(0.9, [7]))
    assert half.dtype == torch.bfloat16
    assert torch.equal(steer.embedding(e, step(0.0, list(range(400)))), e)


def test_samples_do_not_depend_on_the_batch_and_an_annealing_that_is_off_changes_nothing():
    labels, seeds, how = np.array([0, 1, 2, 1]), [5, 6, 7, 8], Sample(steps=6, guidance_scale=2.0)
    model = small()
    plain = model.sample(labels, seeds, how)
    model.steers = [cads(tau1=1.0, tau2=1.0).steer(None, model)]
    assert (
        np.abs(model.sample(labels, seeds, how).astype(int) - plain).max() <= 1
    )  # two passes instead of one
    model.steers = [cads(scale=1.0).steer(None, model)]
    noisy = model.sample(labels, seeds, how)
    alone = np.concatenate([model.sample(labels[i : i + 1], seeds[i : i + 1], how) for i in range(4)])
    assert (noisy != plain).any() and np.abs(noisy.astype(int) - alone).max() <= 1
    assert (model.sample(labels, seeds, how) == noisy).all()
    assert (
        model.sample(labels, seeds, Sample(steps=6)) != small().sample(labels, seeds, Sample(steps=6))
    ).any()  # without guidance too


def test_none_is_told_as_it_is():
    model, told = small(), []
    model.net.label.register_forward_hook(
        lambda module, given, e: told.append((given[0].tolist(), e.clone()))
    )
    model.steers = [cads(tau1=0.0, tau2=0.1, scale=1.0).steer(None, model)]
    model.sample(np.array([0, 2]), [1, 2], Sample(steps=2, guidance_scale=2.0))
    table = model.net.label.weight
    for labels, e in told:
        assert torch.equal(e, table[labels]) == (labels == [3, 3])


def test_images_of_one_class_become_more_various_and_lie_around_the_same():
    labels, seeds = np.ones(150, dtype=np.int64), list(range(150))
    model = shown(0.2 * torch.tensor([[1.0, -1.0] * 32, [-1.0, 1.0] * 32, [0.0] * 64]), 0.05)
    how = {"scheduler": "DPMSolverMultistepScheduler", "steps": 25}
    plain = floats(model, labels, seeds, **how).flatten(1)
    model.steers = [cads(tau1=0.0, tau2=0.2, scale=0.4).steer(None, model)]
    noisy = floats(model, labels, seeds, **how).flatten(1)
    assert noisy.var(0).mean() > 1.5 * plain.var(0).mean()
    assert torch.corrcoef(torch.stack([noisy.mean(0), plain.mean(0)]))[0, 1] > 0.95


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_text_families_tell_all_their_embeddings_under_noise(kind, tmp_path):
    model, how = (
        tiny.model(kind, tiny.make(kind, tmp_path / kind)),
        Sample(**tiny.sampler(kind), guidance_scale=2.0),
    )
    model.prepare_sampling(how, "cpu")
    labels, seeds, seen = np.array([0, 3, 1]), [1, 2, 3], set()
    plain = model.sample(labels, seeds, how)
    steer = cads(scale=1.0).steer(None, model)
    asked = steer.embedding
    steer.embedding = lambda e, now: (seen.add(tuple(e.shape[1:])), asked(e, now))[1]
    model.steers = [steer]
    noisy = model.sample(labels, seeds, how)
    alone = np.concatenate([model.sample(labels[i : i + 1], seeds[i : i + 1], how) for i in range(3)])
    assert len(seen) == len(model.tables) and (noisy != plain).any()
    assert np.abs(noisy.astype(int) - alone).max() <= 1


@pytest.mark.parametrize(
    ("fields", "sections", "message"),
    [
        ({"tau1": 0.9, "tau2": 0.5}, {}, "tau1 0.9 is above tau2 0.5"),
        ({"scale": -1.0}, {}, "'scale'.*greater than or equal to 0"),
        ({}, {"model": {"conditional": False}}, "cads needs a conditional model"),
        ({}, {"base": COPIES}, "the family memoriser does not sample by denoising"),
    ],
)
def test_what_does_not_fit_is_refused(fields, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({"policy": "cads", **fields}, **sections)
    checked("cads", train={"condition_dropout": 0.0})  # it needs no guidance
