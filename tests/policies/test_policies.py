from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from difflab import config as configs
from difflab import policies
from difflab.cli.main import main
from difflab.config.policy_registry import KNOWN, policy
from difflab.core.errors import ConfigError
from difflab.policies.policy import Policy

BASE = {"model": {"family": "memoriser"}, "generations": 3}


def config(*entries):
    return configs.parse({**BASE, "policies": list(entries)})


def test_entries_are_mappings_or_names_and_come_back_with_every_field():
    read = config("unflagged", {"policy": "unflagged", "first": 2})
    assert [own.first for own in read.policies] == [0, 2]
    assert configs.flat(read)["policies"] == [
        {"policy": "unflagged", "first": 0, "last": None},
        {"policy": "unflagged", "first": 2, "last": None},
    ]
    assert configs.parse(read.model_dump(mode="json")) == read


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("unflaged", "'unflaged' is unknown; did you mean 'unflagged'"),
        ("zzz", "known: .*unflagged"),
        ({"policy": "unflagged", "frist": 1}, "unknown key 'frist'; did you mean 'first'"),
        ({"policy": "unflagged", "first": -1}, "'first'.*greater than or equal to 0"),
        ({"policy": 3}, "every entry is a mapping"),
        (7, "every entry is a mapping"),
    ],
)
def test_a_wrong_entry_is_named(entry, message):
    with pytest.raises(ConfigError, match=message):
        config(entry)


@pytest.mark.parametrize(
    ("span", "message"),
    [({"first": 2, "last": 1}, "which is never"), ({"first": 4}, "ends with generation 3")],
)
def test_a_policy_that_never_acts_is_an_error(span, message):
    with pytest.raises(ConfigError, match=message):
        policies.check(config({"policy": "unflagged", **span}))


PAIRS = [  # of a kind, or not, that cannot both have their way
    ({"policy": "condition_drop", "share": 0.2}, {"policy": "condition_drop", "share": 0.4}, "train.condition_dropout"),
    ({"policy": "retraining", "images_seen": 500}, {"policy": "retraining", "images_seen": 900}, "train.images_seen"),
    ({"policy": "early_stop", "every": 100}, {"policy": "early_stop", "every": 200}, "when a training ends"),
    ({"policy": "stochasticity", "eta": 0}, {"policy": "stochasticity", "eta": 1}, "eta of the scheduler"),
    ({"policy": "sims"}, {"policy": "sims", "reference": "base"}, "what the prediction is led away from"),
    ({"policy": "temperature", "scale": 0.8}, {"policy": "temperature", "scale": 1.2}, "the scale of the noise"),
    ("base_guidance", "base_guidance", "the prediction without condition"),
    ("cads", {"policy": "cads", "scale": 0.5}, "the noise on conditions"),
    ({"policy": "guidance_by_generation", "factor": 0.5}, {"policy": "guidance_by_generation", "scales": [2]}, "the guidance scale"),
    ({"policy": "guidance_schedule"}, {"policy": "guidance_schedule", "kind": "linear"}, "the guidance schedule"),
    ({"policy": "guidance_by_generation", "factor": 0.5}, {"policy": "guidance_schedule", "start": 4.0}, "the guidance scale"),
    ({"policy": "real_weight", "weight": 0.2}, {"policy": "real_weight", "weight": 0.8}, "the weight of real images"),
    ({"policy": "neon", "strength": 0.5}, {"policy": "neon", "strength": 1.0}, "how far weights go beyond the start"),
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
        f"policies: {one['policy']} (entry 1) and {other['policy']} (entry 3) both settle {what} in generation 3; "
        "leave one out, or part their generations with first and last"
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
            match="prefer the highest and the lowest brightness of the same samples; leave one out",
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


def test_two_of_a_kind_draw_different_numbers_and_every_generation_its_own():
    read = config("unflagged", "unflagged")
    drawn = [at.rng("x").random() for t in (0, 1) for _, at in policies.acting("select", read, t)]
    assert len(set(drawn)) == 4
    assert [at.rng("x").random() for t in (0, 1) for _, at in policies.acting("select", read, t)] == drawn


def test_a_new_policy_is_one_class_and_its_recipe_is_in_the_run(monkeypatch):
    monkeypatch.setattr("difflab.config.policy_registry.KNOWN", KNOWN)

    @policy("first_half")
    class FirstHalf(Policy):
        """The first half is kept."""

        def select(self, at, candidates):
            return [None if i < len(candidates) // 2 else "second half" for i in range(len(candidates))]

    try:
        plain, halved = config(), config("first_half")
        assert configs.recipe_of(plain) != configs.recipe_of(halved)
        assert halved.policies[0].acts("select", 0) and not halved.policies[0].acts("weights", 0)
        with pytest.raises(ValueError, match="defined twice"):
            policy("first_half")(type("Other", (Policy,), {"__annotations__": {}}))
    finally:
        del KNOWN["first_half"]


def test_every_policy_says_what_it_is_and_every_field_what_it_does():
    for name, kind in policies.known().items():
        assert len((kind.__doc__ or "").strip()) > 20, name
        for field, about in kind.model_fields.items():
            assert len(about.description or "") > 10, f"{name}.{field}"


def test_unflagged_drops_images_of_one_colour(tmp_path):
    from difflab.policies.select.unflagged import Unflagged
    from difflab.runs import ledger

    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    pixels[1], pixels[3] = 0, 200

    class Candidates:
        rows = ledger.table({"index": list(range(4))}, pixels, images=True)

    assert Unflagged(policy="unflagged").select(None, Candidates()) == [None, "constant", None, "constant"]


def test_the_page_and_the_command_name_every_policy(capsys):
    page = Path("docs/POLICIES.md").read_text()
    assert main(["policies"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == sorted(policies.known())
    assert [name for name in policies.known() if f"`{name}`" not in page] == []


def test_the_command_explains_one_policy_and_names_the_nearest(capsys):
    assert main(["policies", "unflagged"]) == 0
    one = capsys.readouterr().out
    assert one.startswith("unflagged (select): Images of one colour") and "first (0): First generation" in one
    assert main(["policies", "unflaged"]) == 2
    assert "did you mean 'unflagged'" in capsys.readouterr().err
