from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from chains import COPIES, NUMBERS, checked, config, ran
from made import candidates

from difflab.core.errors import ConfigError
from difflab.core.files import read_tensors
from difflab.policies import parse
from difflab.policies.train.reward_weight import tilt

BRIGHT = {"policy": "reward_weight", "reward": "brightness", "temperature": 0.5}


def rows(generation: list[int], index: list[int]) -> pa.Table:
    return pa.table(
        {
            "lab": [0] * len(index),
            "generation": pa.array(generation, pa.int32()),
            "index": pa.array(index, pa.int64()),
        }
    )


def test_samples_count_by_their_reward_and_real_images_1():
    grey = np.array([0, 51, 255, 102], dtype=np.uint8)
    at, _ = candidates(images=np.broadcast_to(grey[:, None, None, None], (4, 2, 2, 1)))
    found = parse(BRIGHT).row_weights(at, rows([-1, 1, 1, -1, 1], [0, 2, 0, 2, 1]))
    raised = np.exp(np.array([1.0, 0.0, 0.2]) / 0.5)
    assert found[[0, 3]].tolist() == [1, 1]
    assert found[[1, 2, 4]] == pytest.approx(raised / raised.mean())


def test_what_samples_weigh_together_stays():
    at, _ = candidates(images=np.random.default_rng(0).integers(0, 256, (9, 2, 2, 1)).astype(np.uint8))
    for temperature in (1e-3, 0.1, 10.0):
        found = parse({**BRIGHT, "temperature": temperature}).row_weights(
            at, rows([-1] * 3 + [1] * 9, [0, 1, 2, *range(9)])
        )
        assert found[:3].sum() / found.sum() == pytest.approx(3 / 12)
    assert parse({**BRIGHT, "temperature": 1e9}).row_weights(
        at, rows([1] * 9, list(range(9)))
    ) == pytest.approx(np.ones(9))


def test_tilting_does_not_overflow():
    assert tilt(np.array([5000.0, 0.0]), 1.0).tolist() == [2.0, 0.0]
    assert tilt(np.array([-5000.0, -5000.0]), 1e-3).tolist() == [1.0, 1.0]


def test_a_set_without_samples_is_left_alone():
    at, _ = candidates(images=np.zeros((2, 2, 2, 1), np.uint8))
    assert parse(BRIGHT).row_weights(at, rows([-1, -1], [0, 1])).tolist() == [1, 1]


def test_the_mean_of_a_gaussian_moves_by_its_variance_over_the_temperature(tmp_path):
    """The tilt of N(m, v) by exp(x / T) is N(m + v / T, v)."""
    made = config(
        {"policy": "reward_weight", "reward": "value", "temperature": 4.0},
        base=NUMBERS,
        data={"train_size": 5000},
        sample={"count": 5000, "shard_size": 5000},
        generations=2,
    )
    run = ran(made, tmp_path / "run")
    mean, cov = (
        np.array([float(read_tensors(run.gen(t) / "model" / "gaussian.safetensors")[name]) for t in range(3)])
        for name in ("mean", "cov")
    )
    assert np.diff(mean) == pytest.approx(cov[:-1] / 4, abs=4 / np.sqrt(5000))
    assert cov == pytest.approx(np.ones(3), abs=0.12)


def test_training_on_samples_is_drawn_to_the_reward(tmp_path):
    """The memoriser draws images by their weight, so that each generation is brighter than without."""
    base = {**COPIES, "generations": 2}
    bright, plain = (
        ran(config(*entries, base=base), tmp_path / name)
        for name, entries in (("a", [{**BRIGHT, "temperature": 0.05}]), ("b", []))
    )
    light = [[run.samples(t).gather(np.arange(40)).mean() for t in range(3)] for run in (bright, plain)]
    assert light[0][0] == light[1][0]  # nothing is preferred yet
    assert light[0][1] > light[1][1] and light[0][2] > light[0][1]


@pytest.mark.parametrize(
    ("entry", "sections", "message"),
    [
        ({"temperature": 0.0}, {}, r"'temperature'.*greater than 0"),
        ({"temperature": -1.0}, {}, r"'temperature'.*greater than 0"),
        ({"first": 0}, {}, r"'first'.*greater than or equal to 1"),
        ({"reward": "brigthness"}, {}, "unknown reward 'brigthness'; did you mean 'brightness'"),
        (
            {"reward": "brightness"},
            {"base": NUMBERS},
            "reward_weight: reward brightness is computed from images",
        ),
        ({"reward": "likeness:inception"}, {}, "reward_weight"),
        (
            {"reward": "value"},
            {"base": {**NUMBERS, "model": {"family": "gaussian", "replicates": 5}}},
            r"set model\.replicates=1",
        ),
    ],
)
def test_bad_input(entry, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({**BRIGHT, **entry}, **sections)
