from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from difflab.cli.main import main
from difflab.core.errors import ConfigError
from difflab.report.claims_page import page
from difflab.studies.claims import Claim, _placed, judge, read_claims, run_claims
from difflab.studies.statistic import Seed
from difflab.studies.sweep import jobs

CLAIMS = Path("configs/claims")
GAUSSIAN = {
    "generations": 3,
    "data": {"source": "exact", "train_size": 10},
    "model": {"family": "gaussian", "replicates": 200},
    "sample": {"count": 10},
}
TINY = {
    "claim": "Replacing loses more variance than accumulating.",
    "source": "theory",
    "setting": "normal distributions",
    "sweep": {
        "base": GAUSSIAN,
        "seeds": 3,
        "arms": {"replace": {}, "accumulate": {"regime.name": "accumulate"}},
    },
    "statistics": {
        "more is kept": {
            "value": "at('accumulate', 'variance', 3) - at('replace', 'variance', 3)",
            "confirm": "> 0",
            "refute": "< 0",
        },
    },
    "laws": ["I1-variance"],  # the shortest
    "later": "a larger one",
}


class Stub:
    def __init__(self, **curves):
        self.curves = curves

    def rows(self):
        return [
            {"generation": t, "metric": name, "extractor": "pixels", "value": value, "floor": None}
            for name, values in self.curves.items()
            for t, value in enumerate(values)
        ]


BACK = Stub(recall=[0.8, 0.2, 0.5, 0.7], trace_ratio=[1.0, 1.5, 1.3, 1.1], tail_recall=[0.0, 0.0, 0.0, 0.0])


def test_a_claim_is_run_judged_stored_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("difflab.studies.claims.CHAINS", 50)
    found = run_claims({"tiny": Claim(**TINY)}, tmp_path, tmp_path / "store")[0]
    assert found["verdict"] == "reproduced" and found["seeds"] == 3 and not found["errors"]
    effect = found["statistics"]["more is kept"]
    assert 0 < effect["ci_low"] < effect["effect"] < effect["ci_high"] < 0.4
    assert abs(found["laws"][0]["z"]) < 4
    assert json.loads((tmp_path / "store" / "tiny.json").read_text())["verdict"] == "reproduced"
    page([found], tmp_path / "CLAIMS.md", tmp_path / "store")
    text = (tmp_path / "CLAIMS.md").read_text()
    assert (
        TINY["claim"] in text
        and "**reproduced**" in text
        and f"{effect['effect']:.3g}" in text
        and "difflab claims tiny" in text
    )
    assert (tmp_path / "claims" / "tiny.png").stat().st_size > 5000


def test_claims_share_the_runs_that_they_have_in_common_and_longer_ones_extend_them(tmp_path):
    other = {
        **TINY,
        "laws": [],
        "sweep": {
            **TINY["sweep"],
            "overrides": {"generations": 5},
            "arms": {"all": {"regime.name": "accumulate"}},
        },
    }
    other["statistics"] = {"kept": {"value": "at('all', 'variance', 5)", "confirm": "> 0", "refute": "< 0"}}
    claims = {"tiny": Claim(**{**TINY, "laws": []}), "other": Claim(**other)}
    first, second = run_claims(claims, tmp_path, tmp_path / "store")
    assert len(list((tmp_path / "store" / "runs").iterdir())) == 6
    assert second["runs"]["all"] == first["runs"]["accumulate"]
    assert first["verdict"] == second["verdict"] == "reproduced"
    again = run_claims(claims, tmp_path, tmp_path / "store")
    assert [r["statistics"] for r in again] == [first["statistics"], second["statistics"]]


def test_a_chain_that_was_killed_midway_is_no_result_and_goes_on(tmp_path):
    """It has the metrics of some generations, and its record names all of them."""
    claims, store = {"tiny": Claim(**TINY | {"laws": []})}, tmp_path / "store"
    whole = run_claims(claims, tmp_path, store)[0]
    (killed,) = {Path(path) for path in whole["runs"]["replace"][:1]}
    killed = killed if killed.is_absolute() else store / killed
    shutil.rmtree(killed / "gen-003")
    placed = _placed(claims["tiny"], tmp_path, store)
    assert judge("tiny", claims["tiny"], placed, {}, store)["seeds"] == 2
    again = run_claims(claims, tmp_path, store)[0]
    assert again["seeds"] == 3 and again["statistics"] == whole["statistics"]


def test_an_arm_that_fails_is_named_and_the_verdict_is_that_nobody_can_tell(tmp_path):
    broken = {**TINY, "laws": []}
    broken["sweep"] = {
        **TINY["sweep"],
        "arms": {**TINY["sweep"]["arms"], "broken": {"regime.name": "fixed_real", "regime.set_size": 100}},
    }
    said = []
    found = run_claims({"tiny": Claim(**broken)}, tmp_path, tmp_path / "store", say=said.append)[0]
    assert found["verdict"] == "cannot tell" and found["seeds"] == 0
    assert list(found["errors"]) == [f"broken, seed {k}" for k in range(3)] and len(said) == 3
    page([found], tmp_path / "CLAIMS.md", tmp_path / "store")
    assert "Failed runs: broken, seed 0 (training set 1 asks for" in (tmp_path / "CLAIMS.md").read_text()


def test_what_a_setting_cannot_show_keeps_a_claim_from_being_reproduced(tmp_path):
    half = Claim(**{**TINY, "laws": [], "unshown": "the other half"})
    assert run_claims({"tiny": half}, tmp_path, tmp_path / "store")[0]["verdict"] == "cannot tell"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": {}, "laws": []}, "neither statistics nor laws"),
        ({"sweep": None}, "no sweep"),
        ({"statistics": {"x": {"value": "0", "confirm": "much", "refute": "< 0"}}}, "not of the form"),
        ({"clam": 1}, "unknown key 'clam'; did you mean 'claim'"),
    ],
)
def test_bad_claims_are_refused_when_read(tmp_path, changes, message):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(TINY | changes))
    with pytest.raises(ConfigError, match=message):
        read_claims(tmp_path)


def test_an_unknown_claim_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"there is no claim 'nope' .*known: .*tails-before-modes"):
        read_claims(CLAIMS, ["nope"])


def test_every_claim_of_the_repository_is_well_formed_and_names_only_arms_that_it_has(tmp_path):
    from difflab.studies.laws import LAWS

    claims = read_claims(CLAIMS)
    assert len(claims) >= 20 and any(claim.quick for claim in claims.values())
    for name, claim in claims.items():
        assert set(claim.laws) <= set(LAWS), name
        if claim.sweep:
            assert jobs(claim.sweep, CLAIMS, tmp_path), name
        for statistic in claim.statistics.values():
            curve = [1.0 + 0.1 * t for t in range(13)]
            seed = Seed({arm: Stub(recall=curve) for arm in claim.sweep.arms})
            # Measures are whatever the setting takes; what can be wrong without running it are the arms and
            # the form.
            seed.curve = lambda arm, metric, arms=claim.sweep.arms, curve=curve: curve if arm in arms else []
            seed.evaluate(statistic.value)


def test_the_command_runs_the_quick_ones_and_writes_the_page(tmp_path, capsys):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "laws": [], "quick": True}))
    (tmp_path / "claims" / "slow.yaml").write_text(yaml.safe_dump(TINY))
    command = ["claims", "--quick", "--folder", str(tmp_path / "claims"), "--out", str(tmp_path / "store")]
    assert main([*command, "--page", str(tmp_path / "CLAIMS.md")]) == 0
    shown = capsys.readouterr().out
    assert "reproduced" in shown and "slow" not in shown and (tmp_path / "CLAIMS.md").exists()
    assert main([*command, "--json", "nope"]) == 2
    assert "known: slow, tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    sorted(
        {
            "ecosystem-collapses",
            *(name for name, claim in read_claims(CLAIMS, quick=True).items() if claim.laws),
        }
    ),
)
def test_the_laws_of_quick_claims_of_the_repository_and_of_labs_hold(name, tmp_path, monkeypatch):
    """Their files as they are but for the chains on images, which take a minute."""
    monkeypatch.setattr("difflab.studies.claims.CHAINS", 40)
    (claim,) = read_claims(CLAIMS, [name]).values()
    alone = claim.model_copy(update={"sweep": None, "statistics": {}, "unshown": ""})
    (found,) = run_claims({name: alone}, CLAIMS, tmp_path / "store")
    assert found["verdict"] == "reproduced" and not found["errors"]
    assert [law["law"] for law in found["laws"]] == claim.laws and all(
        law["chains"] > 1 and abs(law["z"]) < 4 for law in found["laws"]
    )


def test_the_quick_ones_of_the_repository_are_few():
    quick = read_claims(CLAIMS, quick=True)
    assert list(quick) == ["accumulate-with-bias", "negative-signal"]
    placed = [
        job.config
        for claim in quick.values()
        if claim.sweep
        for job in jobs(claim.sweep, CLAIMS, Path("runs"))
    ]
    assert (
        sum(config.generations + 1 for config in placed if not config.exact) <= 48
    )  # trainings of a network, with generation 0 shared 8 whole ones and 24 of a twentieth
