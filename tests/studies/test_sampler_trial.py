"""Trials of a sampler whose images follow a known law: what is told apart, with which error, at which cost."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from difflab.config import Sample
from difflab.metrics import Judge, open_extractor
from difflab.studies.sampler_trial import Bench, Trial

N = 200
MANY = Sample(steps=100)


class Drifting:
    """Grey noise of standard deviation 20 around 128, which 1 / steps of `drift` levels brightens."""

    def __init__(self, drift: float = 0.0, shrink: float = 0.0):
        self.drift, self.shrink = drift, shrink

    def sample(self, conditions, seeds, sampling):
        noise = np.stack([np.random.default_rng(seed).normal(0, 20, (2, 2, 1)) for seed in seeds])
        images = 128 + noise * (1 - self.shrink / sampling.steps) + self.drift / sampling.steps
        if conditions is not None:
            images += np.where(conditions, 40, -40)[:, None, None, None]
        return images.clip(0, 255).round().astype(np.uint8)

    def scheduler(self, sampling):
        return SimpleNamespace(timesteps=torch.arange(2 * sampling.steps - 1))

    def passes(self, sampling):
        return 2 if sampling.guidance_scale > 1 else 1


def bench(model, **more):
    return Bench(model, MANY, N, 0, open_extractor("pixels"), **more)


def test_few_steps_that_change_the_images_are_told_apart_and_many_are_not():
    drifting = bench(Drifting(drift=30))
    assert "fd" in drifting.trial(Sample(steps=1)).apart
    assert drifting.trial(Sample(steps=60)).apart == []
    # Samples that lost their spread lie among the others and do not reach them.
    shrinking = bench(Drifting(shrink=0.6)).trial(Sample(steps=1))
    assert "recall" in shrinking.apart
    assert shrinking.differences["recall"][0] < 0 < shrinking.differences["precision"][0]


def test_a_change_that_n_images_cannot_show_is_the_same():
    """A shift of 1 of 20 levels changes fd by (1/255)^2 per pixel, and is a twentieth of a standard deviation."""
    trial = bench(Drifting(drift=1.2)).trial(Sample(steps=1))
    assert trial.apart == [] and 0.9 < trial.distance < 1.4


def test_the_same_sampler_differs_by_nothing_and_has_the_error_of_independent_sets():
    same = bench(Drifting())
    trial = same.trial(MANY.model_copy(update={"steps": 7}))
    assert trial.distance == 0 and trial.apart == []
    for name, (change, error) in trial.differences.items():
        assert change == pytest.approx(0, abs=1e-6), name
        assert error > 0, f"{name}: half-samples of equal seeds would differ by nothing"
    assert same.reasons.keys() == {"class_accuracy"} and "class_accuracy" not in trial.measures


def test_the_error_of_a_share_is_that_of_two_binomials():
    rng = np.random.default_rng(0)
    conditions = rng.integers(0, 2, N)
    labels = np.where(rng.random(N) < 0.2, 1 - conditions, conditions)  # one in five is asked for wrongly
    x = torch.from_numpy(rng.normal(0, 0.02, (80, 4)) + np.repeat([88, 168], 40)[:, None] / 255).float()
    judge = Judge.fit(x, torch.arange(2).repeat_interleave(40), 2)
    labelled = bench(Drifting(), conditions=conditions, labels=labels, judge=judge)
    trial = labelled.trial(Sample(steps=3))
    share = float((labels == conditions).mean())
    assert labelled.floor.measures["class_accuracy"].value == pytest.approx(share, abs=0.02)
    assert trial.differences["class_accuracy"][1] == pytest.approx(
        math.sqrt(2 * share * (1 - share) / N), rel=0.1
    )


def test_the_distance_is_the_root_mean_square_in_levels():
    trial = bench(Drifting(drift=3)).trial(Sample(steps=1))
    assert trial.distance == pytest.approx(3, abs=0.3)
    floor = bench(Drifting()).floor
    assert floor.distance == pytest.approx(20 * math.sqrt(2) * 0.94, rel=0.05), "two draws: sqrt(2) sigma"


def test_the_limits_hold_together_with_95_percent():
    """Bonferroni: four measures at 1.25% each, two-sided, is 2.498 standard errors."""
    limits = {1: 1.960, 4: 2.498}
    for measures, z in limits.items():
        differences = {f"m{i}": (z + 0.01 if i == 0 else 0.0, 1.0) for i in range(measures)}
        made = Trial(MANY, 1, 0.1, 1.0, {}, differences)
        assert made.limits["m0"] == pytest.approx(z, abs=1e-3) and made.apart == ["m0"]


def test_passes_count_timesteps_and_guidance():
    unconditional, guided = bench(Drifting()), bench(Drifting(), conditions=np.zeros(N, np.int64))
    strong = Sample(steps=4, guidance_scale=3.0)
    assert unconditional.trial(strong).passes == 7
    assert guided.trial(strong).passes == 14
    assert guided.trial(Sample(steps=4)).passes == 7


def test_a_row_holds_value_interval_and_difference():
    made = bench(Drifting(drift=30))
    row, floor = made.trial(Sample(steps=1)).row(), made.floor.row()
    assert row["scheduler"] == "DDIMScheduler" and row["steps"] == 1 and "fd" in row["apart"]
    assert row["fd"]["ci_low"] < row["fd"]["value"] < row["fd"]["ci_high"]
    assert row["fd"]["difference"] == pytest.approx(row["fd"]["value"] - floor["fd"]["value"])
    assert floor["apart"] == [] and "difference" not in floor["fd"] and row["seconds_per_image"] > 0
