from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from difflab.errors import StoreError
from difflab.metrics import METRICS
from difflab.report.contents import contents, group_of
from difflab.run import Run, open_run


def test_curves_are_the_rows_of_the_run(hostile: Run) -> None:
    found = contents([hostile])
    charts = [chart for group in found["groups"] for chart in group["charts"]]
    rows = [row for row in hostile.rows() if row["value"] is not None]
    assert {(c["metric"], c["extractor"]) for c in charts} == {(r["metric"], r["extractor"]) for r in rows}
    for chart in charts:
        (line,) = chart["lines"]
        own = [r for r in rows if (r["metric"], r["extractor"]) == (chart["metric"], chart["extractor"])]
        assert line["t"] == [r["generation"] for r in own]
        for key, column in (("value", "value"), ("low", "ci_low"), ("high", "ci_high")):
            assert line[key] == pytest.approx([r[column] for r in own], rel=1e-4) if own[0][column] is not None else set(line[key]) == {None}
        assert chart["floor"] == (None if own[0]["floor"] is None else pytest.approx(own[0]["floor"], rel=1e-4))
        assert chart["title"] in chart["says"].replace("_", " ") and "generation 2" in chart["says"]
    assert json.loads(json.dumps(found, allow_nan=False))["title"] == "hostile"
    assert found["compared"] is None and found["generations"] == [0, 1, 2] and found["planned"] == 2


def test_every_measure_has_a_heading() -> None:
    assert {name for name in METRICS if group_of(name, "pixels") == "Other"} == set()
    assert group_of("zero_shot_accuracy", "clip") == "Concepts" and group_of("saturation_shift", "texture") == "Aesthetics and texture"
    assert group_of("auth_pct", "pixels") == "Memorisation" and group_of("drift_from_base", "training") == "Process"
    assert group_of("mine", "pixels") == "Other"


def test_several_runs_are_arms_and_several_seeds_one(hostile: Run, other: Run, tmp_path: Path) -> None:
    again = shutil.copytree(hostile.path, tmp_path / "again")
    record = again / "run.yaml"
    record.write_text(record.read_text().replace("seed: 0", "seed: 1", 1))
    found = contents([hostile, open_run(again), other])
    assert found["arms"] == [{"name": "hostile", "seeds": [0, 1]}, {"name": "other", "seeds": [0]}]
    chart = next(c for g in found["groups"] for c in g["charts"] if c["metric"] == "recall")
    seeds, single = chart["lines"]
    assert seeds["over"] == "seeds" and seeds["n"] == [2, 2, 2] and single["over"] == "images" and single["n"][0] == 60
    assert {row["arm"] for row in found["compared"]} == {"hostile", "other"} and {row["generation"] for row in found["compared"]} == {2}
    assert [run["name"] for run in found["runs"]] == ["hostile", "other"], "pictures of the first seed of each"
    assert found["budget"] == "budgets do NOT match: training set 60 in hostile, 240 in other (generation 2)"


def test_names_of_arms_as_given(hostile: Run, other: Run) -> None:
    assert [arm["name"] for arm in contents([hostile, other], ["a", "b"])["arms"]] == ["a", "b"]


def test_nothing_measured_is_an_error(hostile: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(hostile.path, tmp_path / "run")
    for t in range(3):
        (copy / f"gen-00{t}" / "metrics.jsonl").unlink()
    with pytest.raises(StoreError, match="no measured generation"):
        contents([open_run(copy)])


def test_an_exact_family_has_curves_and_no_pictures(tmp_path: Path) -> None:
    from difflab.chain import run_chain
    from difflab.config import parse

    config = {"name": "exact", "generations": 2, "model": {"family": "gaussian", "replicates": 50}, "sample": {"count": 20}}
    run_chain(parse(config | {"data": {"source": "exact", "train_size": 20}}), tmp_path / "exact")
    (detail,) = contents([open_run(tmp_path / "exact")], verdict=lambda run: pytest.fail("there is nothing to diagnose"))["runs"]
    assert [detail[part] for part in ("pictures", "map", "concepts", "nearest", "spectra", "verdict")] == [None] * 6
    assert detail["cost"]["seconds"] > 0
