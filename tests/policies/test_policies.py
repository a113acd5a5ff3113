from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from difflab import config as configs
from difflab import policies
from difflab.cli import main
from difflab.errors import ConfigError
from difflab.policies.base import KNOWN, Policy, policy

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


@pytest.mark.parametrize(("span", "message"), [({"first": 2, "last": 1}, "which is never"), ({"first": 4}, "ends with generation 3")])
def test_a_policy_that_never_acts_is_an_error(span, message):
    with pytest.raises(ConfigError, match=message):
        policies.check(config({"policy": "unflagged", **span}))


def test_a_policy_acts_where_it_overrides_a_hook_and_in_its_generations_alone():
    read = config("unflagged", {"policy": "unflagged", "first": 1, "last": 2})
    assert [[at.position for _, at in policies.acting("select", read, t)] for t in range(4)] == [[0], [0, 1], [0, 1], [0]]
    assert list(policies.acting("pools", read, 1)) == []


def test_two_of_a_kind_draw_different_numbers_and_every_generation_its_own():
    read = config("unflagged", "unflagged")
    drawn = [at.rng("x").random() for t in (0, 1) for _, at in policies.acting("select", read, t)]
    assert len(set(drawn)) == 4
    assert [at.rng("x").random() for t in (0, 1) for _, at in policies.acting("select", read, t)] == drawn


def test_a_new_policy_is_one_class_and_its_recipe_is_in_the_run(monkeypatch):
    monkeypatch.setattr("difflab.policies.base.KNOWN", KNOWN)

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
    from difflab.data import ledger
    from difflab.policies.unflagged import Unflagged

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
