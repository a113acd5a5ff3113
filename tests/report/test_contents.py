from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from difflab.config import parse
from difflab.core.errors import StoreError
from difflab.loop.chain import run_chain
from difflab.report.contents import contents, differing_settings, labs_of, page_title
from difflab.runs.run import Run, open_run
from difflab.studies.compare_runs import Arm, arms_of


def test_several_runs_are_arms_and_several_seeds_one(hostile: Run, other: Run, tmp_path: Path) -> None:
    again = shutil.copytree(hostile.path, tmp_path / "again")
    record = again / "run.yaml"
    record.write_text(record.read_text().replace("seed: 0", "seed: 1", 1))
    found = contents([hostile, open_run(again), other])
    assert found["arms"] == [{"name": "hostile", "seeds": [0, 1]}, {"name": "other", "seeds": [0]}]
    chart = next(c for g in found["groups"] for c in g["charts"] if c["metric"] == "recall")
    seeds, single = chart["lines"]
    assert (
        seeds["over"] == "seeds"
        and seeds["n"] == [2, 2, 2]
        and single["over"] == "images"
        and single["n"][0] == 60
    )
    compared = found["compared"]
    assert compared["generation"] == 2 and {len(row["cells"]) for row in compared["rows"]} == {2}
    recall = next(row for row in compared["rows"] if row["metric"] == "recall")
    assert (recall["title"], recall["better"]) == ("recall", "higher")
    assert [cell["seeds"] for cell in recall["cells"]] == [2, 1] and not compared["paired"]
    assert recall["cells"][1]["difference"] is not None and recall["cells"][1]["effect"] == ""
    assert [run["name"] for run in found["runs"]] == ["hostile", "other"], (
        "pictures of the first seed of each"
    )
    assert found["budget"] == "budgets do NOT match: training set 60 in hostile, 240 in other (generation 2)"


def test_an_effect_is_better_or_worse_by_the_direction_of_the_measure(
    hostile: Run, other: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from difflab.report import contents as module

    compare = module.compare_runs

    def told(arms: list[Arm]) -> list[dict[str, Any]]:
        rows = compare(arms)
        return [row | {"verdict": "higher than hostile"} if row["arm"] == "other" else row for row in rows]

    monkeypatch.setattr(module, "compare_runs", told)
    compared = module.compared_arms(arms_of([hostile, other]))
    tones = {row["metric"]: [cell["tone"] for cell in row["cells"]] for row in compared["rows"]}
    assert tones["recall"] == ["", "better"] and tones["fd"] == ["", "worse"]
    (row,) = (row for row in compared["rows"] if row["metric"] == "sharpness_shift")
    first, second = (abs(cell["value"] - row["floor"]) for cell in row["cells"])
    assert tones["sharpness_shift"] == ["", "better" if second < first else "worse"], "best at the floor"


def test_settings_that_differ_are_listed(hostile: Run, other: Run) -> None:
    settings = differing_settings(arms_of([hostile, other]))
    assert {row["key"]: row["values"] for row in settings} == {"regime.name": ["replace", "accumulate"]}


def test_names_of_arms_as_given(hostile: Run, other: Run) -> None:
    assert [arm["name"] for arm in contents([hostile, other], ["a", "b"])["arms"]] == ["a", "b"]


def test_nothing_measured_is_an_error(hostile: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(hostile.path, tmp_path / "run")
    for t in range(3):
        (copy / f"gen-00{t}" / "metrics.jsonl").unlink()
    with pytest.raises(StoreError, match="no measured generation"):
        contents([open_run(copy)])


def test_an_exact_family_has_curves_and_no_pictures(tmp_path: Path) -> None:
    config = {
        "name": "exact",
        "generations": 2,
        "model": {"family": "gaussian", "replicates": 50},
        "sample": {"count": 20},
    }
    run_chain(parse(config | {"data": {"source": "exact", "train_size": 20}}), tmp_path / "exact")
    found = contents(
        [open_run(tmp_path / "exact")], verdict=lambda run: pytest.fail("there is nothing to diagnose")
    )
    (detail,) = found["runs"]
    assert "Memorisation" not in [group["title"] for group in found["groups"]], "numbers are no copies"
    assert [detail[part] for part in ("pictures", "map", "concepts", "nearest", "spectra", "verdict")] == [
        None
    ] * 6
    assert detail["cost"]["seconds"] > 0


def test_a_long_title_is_cut() -> None:
    assert page_title(["a"]) == "a" and page_title(list("abcde")) == "a, b, c, d and 1 more"


def test_an_ecosystem_is_shown_as_its_labs(tmp_path: Path) -> None:
    config = {
        "name": "eco",
        "generations": 1,
        "data": {"source": "exact", "train_size": 20},
        "model": {"family": "gaussian", "replicates": 3},
        "sample": {"count": 20},
        "ecosystem": {"labs": 2, "exchange": "pooled"},
    }
    run_chain(parse(config), tmp_path / "eco")
    labs, names = labs_of([open_run(tmp_path / "eco")], None)
    assert names == ["eco, lab 0", "eco, lab 1"] and [lab.config.lab for lab in labs] == [0, 1]
    assert labs_of([open_run(tmp_path / "eco")], ["mine"])[1] == ["mine, lab 0", "mine, lab 1"]
    groups = {group["title"]: group["charts"] for group in contents([open_run(tmp_path / "eco")])["groups"]}
    assert set(groups) == {"Fitted distribution", "Between labs"}
    (distance,) = groups["Between labs"]
    rows = [row for row in open_run(tmp_path / "eco").rows() if row["metric"] == "lab_distance"]
    (line,) = distance["lines"]
    assert line["name"] == "between the labs of eco" and line["t"] == [row["generation"] for row in rows]
    assert line["value"] == pytest.approx([row["value"] for row in rows], rel=1e-4)
    lines = [line for charts in groups.values() for chart in charts for line in chart["lines"]]
    assert {line["over"] for line in lines} == {"chains"}
