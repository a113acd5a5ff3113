"""The laws through the engine: every law holds, and a wrong law fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from difflab.core.errors import ConfigError
from difflab.core.hashing import digest
from difflab.studies import theory
from difflab.studies.closed_forms import fresh, polya
from difflab.studies.laws import LAWS
from difflab.studies.theory import APART, check


def of_chain() -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, law in LAWS.items():
        groups.setdefault(digest(law.chain), []).append(name)
    return groups


@pytest.fixture(scope="module")
def remembered() -> Iterator[None]:
    """What the engine made of a chain is asked twice: by its law and by a wrong one."""
    with pytest.MonkeyPatch.context() as patch:
        made, run = {}, theory._through_the_engine

        def once(chain, generation, chains, seed):
            key = digest(chain), generation, chains, seed
            if key not in made:
                made[key] = run(chain, generation, chains, seed)
            return made[key]

        patch.setattr(theory, "_through_the_engine", once)
        yield


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("names", of_chain().values(), ids=lambda names: names[0])
def test_the_engine_obeys_every_law(names):
    for row in check(names, chains=400, seed=1):
        assert row["chains"] == (400 if LAWS[row["law"]].spread is None else APART)
        assert abs(row["z"]) < 4, row


WRONG = {
    "E4-diversity": ("the law of replace", (1 - 1 / 30) * (1 - 1 / 30) ** 15),
    "A4-variance": ("without the bias", 1.0),
    "P1-drift": ("constant size", 8 / 10),
    "A1-trace": ("the law of accumulate", polya(30, 12)),
    "B1-variance": ("the law of replace", (1 - 1 / 5) ** 30),
    "B3-variance": ("the law of replace", (1 - 1 / 8) ** 30),
    "M-modes": ("no mode is ever lost", 8.0),
    "K1-distance": ("labs by themselves", LAWS["K2-distance"].theory),
    "K4-distance": ("one pool", LAWS["K1-distance"].theory),
    "K4-diversity": ("nothing is lost without own images", LAWS["K4-diversity"].theory / (1 - 1 / 30) ** 10),
    "K3-distance": ("all samples are the same ones for both labs", 0.0),
    "I1-variance": ("the variance of the tilted density", 1 / (3 - 2 / 5)),
    "I2-push": ("means stay", 4.0),
    "D1-little-drift": ("all rows alike", 1 - fresh(50, 0.4)),
    "W1-drift": ("the law of replace", 1 - (1 - 1 / 20) ** 10),
    "N1-variance": ("the law of replace", 0.8**7 * (1 - 1 / 50) ** 8),
    "J1-best": ("one selection", 1 - 0.9**3),
    "J2-atom": ("no atom", 0.0),
    "J3-luce": ("no selection", 0.5),
}


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_law_fails(name, monkeypatch):
    _, value = WRONG[name]
    monkeypatch.setitem(LAWS, name, dataclasses.replace(LAWS[name], theory=value))
    assert abs(check([name], chains=400, seed=1)[0]["z"]) > 4


def test_a_law_fails_when_the_engine_runs_another_regime(monkeypatch):
    law = LAWS["E4-diversity"]
    monkeypatch.setitem(
        LAWS, "E4-diversity", dataclasses.replace(law, chain={**law.chain, "regime": {"name": "replace"}})
    )
    assert abs(check(["E4-diversity"], chains=400)[0]["z"]) > 4


def test_laws_about_one_chain_share_one_run(monkeypatch):
    ran = []

    def fake(chain: dict, generation: int, chains: int, seed: int) -> dict[str, np.ndarray]:
        ran.append((generation, chains, seed))
        return {"variance": np.array([1.0, 2.0]), "squared_drift": np.array([0.0, 1.0])}

    monkeypatch.setattr(theory, "_through_the_engine", fake)
    rows = check(["A1-drift", "A1-variance"], chains=2, seed=5)
    assert ran == [(19, 2, 5)]
    assert [row["law"] for row in rows] == ["A1-drift", "A1-variance"]
    assert rows[1]["measured"] == 1.5 and rows[1]["z"] == pytest.approx(
        (1.5 - LAWS["A1-variance"].theory) / 0.5
    )


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    assert check(["A4-ml"], chains=20, seed=3) == check(["A4-ml"], chains=20, seed=3)
    assert check(["A4-ml"], chains=20, seed=3) != check(["A4-ml"], chains=20, seed=4)


def test_an_unknown_law_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(theory, "_through_the_engine", lambda *_: pytest.fail("ran"))
    with pytest.raises(ConfigError, match="unknown law 'A1-varianc'; did you mean 'A1-variance'"):
        check(["A1-drift", "A1-varianc"])
    with pytest.raises(ConfigError, match=r"unknown law '\?\?\?'; known: A1-variance, "):
        check(["???"])
    with pytest.raises(ConfigError, match="at least 2 chains"):
        check(["A1-drift"], chains=1)
    assert check([]) == []
