"""Measures that are added to a run: the same numbers as if it had been asked for them from the start, and nothing is made again."""

from __future__ import annotations

import fcntl
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from commands import difflab
from forks import pair
from pictures import folder

from difflab import measure_run
from difflab.config import Config, parse
from difflab.core.errors import ConfigError, DifflabError, MeasureError, StoreError
from difflab.loop import chain
from difflab.runs.run import open_run
from difflab.studies.job import Job, work

run_chain = partial(chain.run_chain, plots=False)

BASE: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "train_size": 100},
    "model": {"family": "pixel-mlp", "width": 32, "depth": 1},
    "train": {"images_seen": 640, "batch_size": 64},
    "sample": {"count": 60, "steps": 3, "shard_size": 30, "batch_size": 30},
    "probe": {"per_condition": 0},
    "measure": {"metrics": ["fd", "recall"], "resamples": 20, "count": 50},
}


def digits(ecosystem: Any = None, **changes: Any) -> Config:
    out = json.loads(json.dumps(BASE))
    for section, values in changes.items():
        out[section] = {**out[section], **values} if isinstance(values, dict) and section in out else values
    return parse(out)


def memoriser(**changes: Any) -> Config:
    return parse(
        {
            **digits(**changes).model_dump(mode="json"),
            "model": {"family": "memoriser"},
            "ecosystem": changes.get("ecosystem"),
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("measured") / "run"
    run_chain(digits(), path)
    return path


@pytest.fixture
def run(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def rows(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    listed = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    out = {(r["generation"], r["lab"], r["metric"], r["extractor"]): r for r in listed}
    assert len(out) == len(listed)  # no number twice
    return out


def anew(path: Path, **changes: Any) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of a run that was asked for everything from the start."""
    run_chain(digits(**changes), path)
    return rows(path)


def untouched(path: Path) -> dict[str, bytes]:
    """What adding measures must leave as it is."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.suffix in (".parquet", ".safetensors") and "features" not in p.parts and "judge" not in p.name and "fitted" not in p.name}  # fmt: skip


SPACE = f"python:{Path(__file__).parents[1] / 'helpers' / 'space.py'}:rows_and_columns"
ADDED: list[tuple[list[str], dict[str, Any], dict[str, Any]]] = [
    (["vendi", "class_accuracy", "generalisation_score_own"], {}, {"metrics": ["fd", "recall", "vendi", "class_accuracy", "generalisation_score_own"]}),
    (["contrast_shift"], {"extractors": ["texture"]}, {"metrics": ["fd", "recall", "contrast_shift"], "extractors": ["pixels", "texture"]}),
    ([], {"extractors": ["fitted"]}, {"extractors": ["pixels", "fitted"]}),
    (["class_accuracy"], {"extractors": ["pixels", SPACE], "judge": SPACE}, {"metrics": ["fd", "recall", "class_accuracy"], "extractors": ["pixels", SPACE], "judge": SPACE}),
    (["coverage"], {"neighbours": 3}, {"metrics": ["coverage"], "neighbours": 3}),
    ([], {"judge_drift": True}, {"judge_drift": True}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("metrics", "options", "asked"),
    ADDED,
    ids=["metrics", "texture", "extractor", "judge", "neighbours", "drift"],
)
def test_numbers_are_those_of_a_run_that_was_asked_from_the_start(
    made, run, tmp_path, metrics, options, asked, monkeypatch
):
    before, stored = rows(run), untouched(run)
    monkeypatch.setitem(chain.RUN_STAGE, "train", None)  # nothing may be trained or drawn
    monkeypatch.setitem(chain.RUN_STAGE, "sample", None)
    result = measure_run(run, metrics, **options)
    monkeypatch.undo()
    after, whole = rows(run), anew(tmp_path / "anew", measure=asked)
    fresh = {key: r for key, r in after.items() if key not in before}
    assert fresh and {key: after[key] for key in before} == before and untouched(run) == stored
    assert fresh == {key: whole[key] for key in fresh}  # values, intervals, floors and recipes, bit for bit
    if "neighbours" not in options:
        asked_for = {key for key in whole if key not in before}
        assert {(m, e) for _, _, m, e in asked_for} - {(m, e) for _, _, m, e in fresh} <= {
            (m, "python:space:rows_and_columns") for m in ("fd", "recall") if "judge" in options
        }
    assert result.recipe == open_run(made).recipe and {key[0] for key in fresh} == {0, 1}
    assert yaml.safe_load((run / "run.yaml").read_text())["config"]["measure"]["metrics"] == ["fd", "recall"]


def test_the_original_config_resumes_and_what_is_extended_is_measured_in_the_same_way(run, tmp_path):
    measure_run(run, ["vendi"], extractors=["pixels"])
    once = rows(run)
    run_chain(digits(), run)
    assert rows(run) == once
    run_chain(digits(generations=2), run)
    whole = anew(tmp_path / "anew", generations=2, measure={"metrics": ["fd", "recall", "vendi"]})
    assert rows(run) == whole and (2, 0, "vendi", "pixels") in whole


def test_generations_that_were_never_measured_are_measured_whole(run, tmp_path, monkeypatch):
    """As after a run whose measuring failed; generation 1 is not even sampled."""
    (run / "gen-000" / "metrics.jsonl").unlink()
    shutil.rmtree(run / "gen-001")
    (run / "metrics.jsonl").unlink()
    measure_run(run, ["kid"])
    assert {key[0] for key in rows(run)} == {0}
    run_chain(digits(), run)  # goes on from there
    assert rows(run) == anew(tmp_path / "anew", measure={"metrics": ["fd", "recall", "kid"]})


def test_stopped_in_the_middle_the_same_call_or_the_run_itself_goes_on(run, monkeypatch):
    import difflab.loop.added_measures

    rows_of, calls = difflab.loop.added_measures.rows_of, []

    def stop(*args: Any) -> Any:
        calls.append(args[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rows_of(*args)

    for again in (lambda: measure_run(run, ["kid"]), lambda: run_chain(digits(), run)):
        shutil.copytree(run, run.with_name("whole"))
        with monkeypatch.context() as patch:
            patch.setattr(difflab.loop.added_measures, "rows_of", stop)
            with pytest.raises(KeyboardInterrupt):
                measure_run(run, ["kid"])
        assert {key[0] for key in rows(run) if key[2] == "kid"} == {0}
        again()
        assert {key[0] for key in rows(run) if key[2] == "kid"} == {0, 1}
        shutil.rmtree(run)
        run.with_name("whole").rename(run)
        calls.clear()


def test_measures_that_are_there_are_not_taken_again_and_not_under_other_settings(run):
    before = (run / "metrics.jsonl").read_bytes()
    measure_run(run, ["fd"])
    assert (run / "metrics.jsonl").read_bytes() == before and not (run / "measures.yaml").exists()
    with pytest.raises(MeasureError, match=r"fd \(pixels\) is in this run with neighbours 5, not 3"):
        measure_run(run, ["fd", "vendi"], neighbours=3)
    measure_run(run, ["vendi"], neighbours=3)
    with pytest.raises(MeasureError, match=r"vendi \(pixels\) is in this run with neighbours 3, not 5"):
        measure_run(run, ["vendi"], neighbours=5)
    assert len(yaml.safe_load((run / "measures.yaml").read_text())) == 1


@pytest.mark.parametrize(
    ("metrics", "options", "said"),
    [
        (["recal"], {}, "unknown measure 'recal'; did you mean 'recall'"),
        (["vendi"], {"extractors": ["pixel"]}, "unknown extractor 'pixel'"),
        (["contrast_shift"], {}, "add: --extractors pixels texture"),
        (["vendi"], {"extractors": ["texture"]}, "vendi is not measured on the extractor texture"),
        (["class_accuracy"], {"judge": "fitted"}, "add: --extractors fitted"),
        (["zero_shot_accuracy"], {}, "needs --concepts"),
        ([], {"concepts": "classes"}, "open_clip:tiny-clip"),
        (["tail_recall"], {}, "none of measure.metrics can be measured here: .* at least 100"),
        (["vendi"], {"neighbours": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_added_is_refused_before_anything_is_noted(run, metrics, options, said):
    with pytest.raises(DifflabError, match=said):
        measure_run(run, metrics, **options)
    assert not (run / "measures.yaml").exists()
    measure_run(run, ["kid"])  # nobody holds the lock


def test_concepts_are_added_on_a_clip_model(run, tmp_path):
    spec = f"open_clip:{tiny.clip(tmp_path / 'clip')}"
    before = rows(run)
    measure_run(run, ["zero_shot_accuracy", "fd"], extractors=[spec], concepts="classes")
    whole = anew(
        tmp_path / "anew",
        measure={
            "metrics": ["zero_shot_accuracy", "fd", "recall"],
            "extractors": [spec],
            "concepts": "classes",
        },
    )
    fresh = {key: r for key, r in rows(run).items() if key not in before}
    assert {key[2] for key in fresh} == {"zero_shot_accuracy", "fd"} and fresh == {
        key: whole[key] for key in fresh
    }


def test_labs_are_measured_together(tmp_path):
    config = memoriser(ecosystem={"labs": 2}, measure={"metrics": ["fd"], "resamples": 0})
    run_chain(config, tmp_path / "eco")
    before = rows(tmp_path / "eco")
    with pytest.raises(
        ConfigError, match=r"is one lab of an ecosystem; measure all of them: difflab measure .*eco"
    ):
        measure_run(tmp_path / "eco" / "lab-0", ["kid"])
    measure_run(tmp_path / "eco", ["kid", "generalisation_score_own"])
    after = rows(tmp_path / "eco")
    assert {key: after[key] for key in before} == before
    assert {key[1:3] for key in after if key not in before} == {
        (lab, name) for lab in (0, 1) for name in ("kid", "generalisation_score_own")
    }
    run_chain(config, tmp_path / "eco")
    assert rows(tmp_path / "eco") == after


def test_an_exact_family_and_a_run_without_samples_are_refused_in_one_line(tmp_path):
    exact = parse(
        {
            "generations": 0,
            "data": {"source": "exact", "train_size": 5},
            "model": {"family": "gaussian"},
            "sample": {"count": 5},
        }
    )
    run_chain(exact, tmp_path / "exact")
    for words in ((), ("vendi",)):
        done = difflab("measure", tmp_path / "exact", *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "makes no images" in done.stderr
    shutil.copytree(tmp_path / "exact", tmp_path / "none", ignore=shutil.ignore_patterns("gen-*", "real"))
    (tmp_path / "none" / "run.yaml").write_text(
        yaml.safe_dump({"config": digits().model_dump(mode="json"), "recipe": "r", "versions": {}})
    )
    with pytest.raises(MeasureError, match="has no samples yet; make them with: difflab run CONFIG --out"):
        measure_run(tmp_path / "none", ["vendi"])


def test_a_run_that_another_process_works_on_is_left_alone(run):
    with open(run / ".lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(StoreError, match="another process is working on"):
            measure_run(run, ["vendi"])
    assert not (run / "measures.yaml").exists()


def test_a_damaged_list_of_added_measures_is_named(run):
    for text in ("- metrics: [vendi", "- {metric: [vendi]}", "3"):
        (run / "measures.yaml").write_text(text)
        with pytest.raises(StoreError, match=r"measures\.yaml is damaged"):
            measure_run(run, ["kid"])


def test_arms_of_a_sweep_do_not_take_over_measures_that_were_added_to_one(tmp_path):
    config = memoriser(generations=0)
    work(Job("a", 0, config, tmp_path / "a" / "seed-0"), tmp_path)
    measure_run(tmp_path / "a" / "seed-0", ["kid"])
    record = work(Job("b", 0, config, tmp_path / "b" / "seed-0"), tmp_path)
    assert [0, "sample"] in record["shared"] and [0, "measure"] not in record["shared"]
    assert "kid" not in (tmp_path / "b" / "seed-0" / "metrics.jsonl").read_text()


# ------------------------------------------------------------------------------------------------------- the command
def test_the_command_lists_adds_and_says_when_there_is_nothing_to_do(run):
    listed = [json.loads(line) for line in difflab("measure", run, "--json").stdout.splitlines()]
    state = {r["metric"]: r["state"] for r in listed}
    assert state["fd"] == "in the run" and state["vendi"] == state["class_accuracy"] == "can be added"
    assert "--extractors texture" in next(r["about"] for r in listed if r["metric"] == "contrast_shift")
    assert "can be added" in difflab("measure", run).stdout
    done = difflab("measure", run, "vendi", "kid")
    assert done.returncode == 0 and "vendi" in done.stdout and "4 numbers were added to" in done.stdout
    assert "nothing to add" in difflab("measure", run, "vendi").stdout
    fresh = [json.loads(line) for line in difflab("measure", run, "coverage", "--json").stdout.splitlines()]
    assert [(r["generation"], r["metric"]) for r in fresh] == [(0, "coverage"), (1, "coverage")]
    assert "vendi" in difflab("run", run / "run.yaml", "--out", run).stdout


def test_a_set_of_one_class_can_be_measured_after_all(tmp_path):
    """What cannot be taken is named; what was forgotten is added without a new run."""
    config = digits(
        generations=0,
        data={
            "source": f"imagefolder:{folder(tmp_path / 'set' / 'cats', 60, 16).parent}",
            "train_size": None,
        },
    )
    (tmp_path / "px.yaml").write_text(json.dumps({**config.model_dump(mode="json"), "model": {"family": "memoriser"}, "sample": {"count": 20, "shard_size": 20, "batch_size": 20}, "measure": {"resamples": 20}}))  # fmt: skip
    done = difflab("run", tmp_path / "px.yaml", "--out", tmp_path / "run")
    assert (
        done.returncode == 0
        and "will be left out" in done.stderr.splitlines()[0]
        and "class_accuracy" in done.stderr.splitlines()[0]
    )
    state = {
        (r["metric"], r["state"]): r["about"]
        for r in map(json.loads, difflab("measure", tmp_path / "run", "--json").stdout.splitlines())
    }
    assert state["class_margin", "cannot be taken"] == "all real images are of one class"
    assert difflab("measure", tmp_path / "run", "vendi", "repeats").returncode == 0
    done = difflab("measure", tmp_path / "run", "class_margin")
    assert done.returncode == 2 and "at least 2 classes, got 1" in done.stderr


MEASURE = """
from difflab import measure_run
import difflab.loop.measure_run, difflab.metrics, sklearn.linear_model

def main(rank, path):
    measure_run(path, ["kid", "class_accuracy"])
"""


def test_two_processes_share_the_work(run, tmp_path):
    shutil.copytree(run, tmp_path / "alone")
    measure_run(tmp_path / "alone", ["kid", "class_accuracy"])
    pair(MEASURE, run)
    assert rows(run) == rows(tmp_path / "alone")
