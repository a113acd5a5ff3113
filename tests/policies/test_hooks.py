from __future__ import annotations

import pytest

from difflab import config as configs
from difflab import policies
from difflab.core.errors import ConfigError

BASE = {"model": {"family": "memoriser"}, "generations": 3}


def config(*entries):
    return configs.parse({**BASE, "policies": list(entries)})


@pytest.mark.parametrize(
    ("span", "message"),
    [({"first": 2, "last": 1}, "last must not be below first"), ({"first": 4}, "ends with generation 3")],
)
def test_a_policy_that_never_acts_is_an_error(span, message):
    with pytest.raises(ConfigError, match=message):
        policies.check(config({"policy": "unflagged", **span}))


PAIRS = [  # of a kind, or not, that cannot both have their way
    ({"policy": "condition_drop", "share": 0.2}, {"policy": "condition_drop", "share": 0.4}, "train.condition_dropout"),
    ({"policy": "retraining", "images_seen": 500}, {"policy": "retraining", "images_seen": 900}, "train.images_seen"),
    ({"policy": "early_stop", "every": 100}, {"policy": "early_stop", "every": 200}, "when a training ends"),
    ({"policy": "stochasticity", "eta": 0}, {"policy": "stochasticity", "eta": 1}, "eta of the scheduler"),
    ({"policy": "sims"}, {"policy": "sims", "reference": "base"}, "the negative guidance of the prediction"),
    ({"policy": "temperature", "scale": 0.8}, {"policy": "temperature", "scale": 1.2}, "the scale of the noise"),
    ("base_guidance", "base_guidance", "the prediction without condition"),
    ("cads", {"policy": "cads", "scale": 0.5}, "the noise on conditions"),
    ({"policy": "guidance_by_generation", "factor": 0.5}, {"policy": "guidance_by_generation", "scales": [2]}, "the guidance scale"),
    ({"policy": "guidance_schedule"}, {"policy": "guidance_schedule", "kind": "linear"}, "the guidance schedule"),
    ({"policy": "guidance_by_generation", "factor": 0.5}, {"policy": "guidance_schedule", "start": 4.0}, "the guidance scale"),
    ({"policy": "real_weight", "weight": 0.2}, {"policy": "real_weight", "weight": 0.8}, "the weight of real images"),
    ({"policy": "neon", "strength": 0.5}, {"policy": "neon", "strength": 1.0}, "the extrapolation of weights"),
    ({"policy": "average", "share": 0.5, "to": "base"}, {"policy": "average", "share": 0.1, "to": "base"}, "the average with base"),
    ({"policy": "anchor", "strength": 0.5}, {"policy": "anchor"}, "the pull to start"),
    ({"policy": "reward_weight", "reward": "chance"}, {"policy": "reward_weight", "reward": "chance", "temperature": 2}, "the weight of samples by chance"),
]  # fmt: skip
GUIDED = {
    "generations": 5,
    "model": {"family": "pixel-mlp"},
    "sample": {"guidance_scale": 3.0},
    "train": {"start_from": "previous", "images_seen": 1000},
    "regime": {"name": "accumulate"},
}


@pytest.mark.parametrize(("one", "other", "what"), PAIRS, ids=[str(pair[0]) for pair in PAIRS])
def test_two_that_settle_the_same_thing_in_one_generation_are_refused(one, other, what):
    one, other = ({"policy": own} if isinstance(own, str) else own for own in (one, other))

    def checked(*entries):
        policies.check(configs.parse({**GUIDED, "policies": list(entries)}))

    checked(one)
    checked(other)
    checked({**one, "last": 2}, {**other, "first": 3})
    with pytest.raises(ConfigError) as found:
        checked({**one, "last": 3}, "unflagged", {**other, "first": 3})
    assert str(found.value) == (
        f"policies: {one['policy']} (entry 1) and {other['policy']} (entry 3) both set {what} in generation 3; "
        "remove one of them, or give them different generations with first and last"
    )


@pytest.mark.parametrize(
    "entries",
    [
        [{"policy": "retraining", "images_seen": 500}, {"policy": "retraining", "learning_rate": 1e-4}],
        [{"policy": "anchor"}, {"policy": "anchor", "to": "base"}],
        [{"policy": "guidance_by_generation", "factor": 0.5}, "guidance_schedule"],
        [
            {"policy": "top_share", "reward": "brightness", "share": 0.9},
            {"policy": "top_share", "reward": "brightness", "share": 0.9, "lowest": True},
        ],
        [
            {"policy": "best_of", "k": 2, "reward": "brightness"},
            {"policy": "best_of", "k": 2, "reward": "saturation"},
        ],
    ],
)
def test_those_that_stack_are_not(entries):
    policies.check(configs.parse({**GUIDED, "policies": entries}))


def test_opposite_choices_of_one_of_k_are_refused():
    best = {"policy": "best_of", "k": 2, "reward": "brightness"}

    def checked(**other):
        policies.check(configs.parse({**GUIDED, "policies": [best, {**best, "lowest": True, **other}]}))

    for other in ({}, {"policy": "luce"}, {"k": 4, "first": 2}):
        with pytest.raises(
            ConfigError,
            match="prefer the highest and the lowest brightness of the same samples; remove one of them",
        ):
            checked(**other)
    checked(k=1)
    checked(lowest=False)
    best["last"] = 1
    checked(first=2, last=3)


def test_a_policy_acts_where_it_overrides_a_hook_and_in_its_generations_alone():
    read = config("unflagged", {"policy": "unflagged", "first": 1, "last": 2})
    assert [[at.position for _, at in policies.acting("select", read, t)] for t in range(4)] == [
        [0],
        [0, 1],
        [0, 1],
        [0],
    ]
    assert list(policies.acting("pools", read, 1)) == []
