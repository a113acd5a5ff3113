from __future__ import annotations

from pathlib import Path

from difflab import config as configs
from difflab import policies
from difflab.cli.main import main

BASE = {"model": {"family": "memoriser"}, "generations": 3}


def config(*entries):
    return configs.parse({**BASE, "policies": list(entries)})


def test_two_of_a_kind_draw_different_numbers_and_every_generation_its_own():
    read = config("unflagged", "unflagged")
    drawn = [at.rng("x").random() for t in (0, 1) for _, at in policies.acting("select", read, t)]
    assert len(set(drawn)) == 4
    assert [at.rng("x").random() for t in (0, 1) for _, at in policies.acting("select", read, t)] == drawn


def test_the_page_and_the_command_name_every_policy(capsys):
    page = Path("docs/POLICIES.md").read_text()
    assert main(["policies"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == sorted(policies.known())
    assert [name for name in policies.known() if f"`{name}`" not in page] == []


def test_the_command_explains_one_policy_and_names_the_nearest(capsys):
    assert main(["policies", "unflagged"]) == 0
    one = capsys.readouterr().out
    assert (
        one.startswith("unflagged (select): Drops images of a single colour")
        and "first (0): First generation" in one
    )
    assert main(["policies", "unflaged"]) == 2
    assert "did you mean 'unflagged'" in capsys.readouterr().err
