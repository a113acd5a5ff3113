from __future__ import annotations

import json

import pytest
import yaml
from PIL import Image

from difflab.cli.main import main
from difflab.core.errors import ConfigError
from difflab.runs.folder import STAGES
from difflab.runs.run import open_run
from difflab.studies.sweep import Sweep, arms_in, base_file, jobs, read, run_sweep, runs_of

BASE = {
    "generations": 1,
    "data": {"source": "exact", "train_size": 20},
    "model": {"family": "gaussian", "replicates": 4},
    "sample": {"count": 20},
}
ARMS = {
    "replace": {},
    "accumulate": {"regime.name": "accumulate"},
    "all so far": {"regime.name": "accumulate_subsample"},
}


def sweep(**changes):
    return Sweep(**{"base": BASE, "seeds": 2, "arms": ARMS, **changes})


def test_every_arm_and_seed_is_an_ordinary_run_and_generation_0_is_computed_once_per_seed(tmp_path):
    three = {f"real {k}": {"regime.name": "fixed_real", "regime.real_fraction": k / 4} for k in range(3)}
    records = run_sweep(sweep(arms=three), tmp_path, tmp_path / "s")
    assert len(records) == 6 and not any(r["error"] for r in records)
    computed = [(t["generation"], t["stage"]) for _, _, run in runs_of(tmp_path / "s") for t in run.timings()]
    assert {stage: computed.count((0, stage)) for stage in STAGES} == dict.fromkeys(STAGES, 2)
    assert {stage: computed.count((1, stage)) for stage in STAGES} == dict.fromkeys(STAGES, 6)
    first = {seed: open_run(tmp_path / "s" / "real-0" / f"seed-{seed}").rows()[0]["value"] for seed in (0, 1)}
    for _, seed, run in runs_of(tmp_path / "s"):
        assert run.rows()[0]["value"] == first[seed]
    assert first[0] != first[1]


def test_arms_that_ask_for_auto_share_one_decision_and_their_stages(tmp_path, monkeypatch):
    from difflab.loop import auto
    from difflab.loop.choice import Choice

    measured, said = [], []

    def choices(config, runs, compile_now):
        measured.append(config.name)
        value = "bf16" if len(measured) == 1 else "no"
        return [Choice("train.precision", value, "measured")]

    monkeypatch.setattr(auto, "choices", choices)
    asks = sweep(overrides={"train.precision": "auto"}, seeds=2)
    records = run_sweep(asks, tmp_path, tmp_path / "s", say=said.append)
    assert len(measured) == 1 and said == ["train.precision=auto: bf16, measured"]
    assert {run.config.train.precision for *_, run in runs_of(tmp_path / "s")} == {"bf16"}
    assert sum(len(record["shared"]) for record in records) == sum(
        len(record["shared"]) for record in run_sweep(sweep(), tmp_path, tmp_path / "plain")
    )
    run_sweep(sweep(overrides={"train.precision": "auto"}, seeds=3), tmp_path, tmp_path / "s")
    assert len(measured) == 1  # a further seed computes as the others did


def test_a_second_call_computes_nothing(tmp_path):
    run_sweep(sweep(seeds=1), tmp_path, tmp_path / "s")
    before = [len(run.timings()) for *_, run in runs_of(tmp_path / "s")]
    run_sweep(sweep(seeds=1), tmp_path, tmp_path / "s")
    assert [len(run.timings()) for *_, run in runs_of(tmp_path / "s")] == before


def test_an_arm_that_fails_leaves_a_gap_and_the_others_go_on(tmp_path):
    said = []
    arms = {
        "good": {},
        "broken": {"policies": [{"policy": "missing_judge"}]},
        "also good": {"regime.name": "accumulate"},
    }
    from difflab.config.policy_registry import KNOWN, policy
    from difflab.policies.interface import Policy

    @policy("missing_judge")
    class Broken(Policy):
        """Fails as a bug would."""

        def select(self, at, candidates):
            raise RuntimeError("no such luck")

    try:
        records = run_sweep(sweep(arms=arms, seeds=1), tmp_path, tmp_path / "s", say=said.append)
    finally:
        del KNOWN["missing_judge"]
    assert [r["error"] for r in records] == [None, "RuntimeError: no such luck", None]
    assert said == ["broken, seed 0 FAILED: RuntimeError: no such luck"]
    assert "no such luck" in (tmp_path / "s" / "broken" / "seed-0.traceback.txt").read_text()
    assert [arm for arm, *_ in runs_of(tmp_path / "s")] == ["good", "also good"]
    assert [(arm.name, list(arm.runs)) for arm in arms_in(tmp_path / "s")] == [
        ("good", [0]),
        ("broken", []),
        ("also good", [0]),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": {"regime.nam": "replace"}}}, "arm 'a': unknown key 'regime.nam'"),
        ({"arms": {"a b": {}, "a-b": {}}}, "would share the folder"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "each once"),
        ({"base": "nothing.yaml"}, "cannot read"),
        ({"overrides": {"seed.x": 1}}, "is not a section|seed"),
    ],
)
def test_bad_sweeps_are_refused_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        jobs(sweep(**({"base": {**BASE, "seed": 0}} | changes)), tmp_path, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_folder_without_a_sweep_says_so(tmp_path):
    with pytest.raises(ConfigError, match="holds no sweep"):
        runs_of(tmp_path)


def test_the_sweeps_of_the_repository_are_well_formed(tmp_path):
    from pathlib import Path

    for path in Path("configs/sweeps").glob("*.yaml"):
        found, folder = read(path)
        assert jobs(found, folder, tmp_path)


def test_the_command_runs_in_several_processes_compares_and_draws(tmp_path, capsys):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    arms = {name: ARMS[name] for name in ("replace", "accumulate")}
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump({"name": "s", "base": "base.yaml", "seeds": 2, "arms": arms}, sort_keys=False)
    )
    assert main(["sweep", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out"), "--workers", "2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "4 of 4 runs are complete; 10 stages were taken over" in shown
        and "generation 1" in shown
        and "accumulate" in shown
    )
    assert (tmp_path / "out" / "arms.png").stat().st_size > 5000
    assert (
        "arms-strip.png" not in shown and not (tmp_path / "out" / "arms-strip.png").exists()
    )  # numbers have no pictures
    assert main(["compare-runs", str(tmp_path / "out"), "--json", "--metrics", "variance"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["arm"], r["seeds"], r["pairs"]) for r in rows] == [("replace", 2, None), ("accumulate", 2, 2)]


TOO_MANY = {"regime.name": "fixed_real", "regime.set_size": 100}  # images that the set does not have


def swept(tmp_path, capsys, arms):
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump({"name": "s", "base": BASE, "seeds": 2, "arms": arms}, sort_keys=False)
    )
    assert main(["sweep", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out")]) == 1
    return " ".join(capsys.readouterr().out.split())  # sentences are wrapped


def test_a_failed_arm_stays_in_the_table_and_where_it_is_the_first_nothing_is_compared(
    tmp_path, capsys, monkeypatch
):
    drawn = []
    monkeypatch.setattr(
        "difflab.report.arms.arm_strip",
        lambda arms, t=None: drawn.append([arm.name for arm in arms]) or Image.new("L", (1, 1)),
    )
    shown = swept(
        tmp_path, capsys, {"broken": TOO_MANY, "good": {}, "also good": {"regime.name": "accumulate"}}
    )
    assert "4 of 6 runs are complete" in shown and "arms.png" in shown
    assert main(["compare-runs", str(tmp_path / "out")]) == 0
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if line.split()[:1] == ["broken"])
    assert row.split()[1:3] == ["0", "-"]
    assert "not distinguishable" not in shown and "not distinguishable" not in table
    assert (
        "broken has no finished run: it is the arm to compare with, so no differences are computed" in shown
    )
    assert "budgets match" in shown and drawn == [["good", "also good"]]
    assert main(["compare-runs", str(tmp_path / "out"), "--json", "--metrics", "variance"]) == 0
    out, said = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(r["arm"], r["seeds"], r["difference"], r["verdict"]) for r in rows] == [
        ("broken", 0, None, "baseline"),
        ("good", 2, None, "cannot tell"),
        ("also good", 2, None, "cannot tell"),
    ]
    assert "broken has no finished run" in said
    assert main(["report", str(tmp_path / "out"), "--no-diagnosis"]) == 0
    assert (
        "left out, since they have no finished run: broken; others are compared with good"
        in capsys.readouterr().err
    )


def test_arms_are_in_the_order_of_the_file_also_those_that_were_not_begun(tmp_path):
    run_sweep(sweep(arms={"b": {}, "a": {"regime.name": "accumulate"}}, seeds=1), tmp_path, tmp_path / "s")
    record = tmp_path / "s" / "sweep.json"
    known = json.loads(record.read_text())
    record.write_text(json.dumps({**known, "jobs": known["jobs"][1:]}))
    assert [(arm.name, len(arm.runs)) for arm in arms_in(tmp_path / "s")] == [("b", 0), ("a", 1)]
    del known["arms"]  # as written by an older version
    record.write_text(json.dumps(known))
    assert [arm.name for arm in arms_in(tmp_path / "s")] == ["b", "a"]


def test_a_sweep_without_a_finished_run_has_no_report(tmp_path, capsys):
    assert "0 of 2 runs are complete" in swept(tmp_path, capsys, {"broken": TOO_MANY})
    assert main(["report", str(tmp_path / "out")]) == 2
    assert "is finished; go on with: difflab sweep" in capsys.readouterr().err
    assert main(["compare-runs", str(tmp_path / "out")]) == 2
    assert "there is no run to compare" in capsys.readouterr().err


def test_arms_that_are_ecosystems_are_compared(tmp_path, capsys):
    base = {**BASE, "ecosystem": {"labs": 2, "exchange": "pooled"}}
    arms = {"pooled": {}, "isolated": {"ecosystem.exchange": "isolated"}}
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump({"base": base, "seeds": 1, "arms": arms}, sort_keys=False)
    )
    assert main(["sweep", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out")]) == 0
    assert "budgets match" in capsys.readouterr().out


def test_a_base_beside_the_sweep_comes_before_a_preset_of_its_name(tmp_path):
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(BASE))
    assert base_file(tmp_path, "digits.yaml") == tmp_path / "digits.yaml"
    assert (
        base_file(tmp_path / "copied", "../emoji.yaml").read_text().startswith("#")
    )  # only the preset is there
    assert base_file(tmp_path, "gone.yaml") == tmp_path / "gone.yaml"
