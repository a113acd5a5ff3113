from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from difflab.core.errors import StoreError
from difflab.loop.row_kinds import row_kinds
from difflab.report.contents import GROUPS, contents, group_of
from difflab.runs.run import Run, open_run


def test_curves_are_the_rows_of_the_run(hostile: Run) -> None:
    found = contents([hostile])
    charts = [chart for group in found["groups"] for chart in group["charts"]]
    rows = [row for row in hostile.rows() if row["value"] is not None and row["metric"] != "flagged_share"]
    assert {(c["metric"], c["extractor"]) for c in charts} == {(r["metric"], r["extractor"]) for r in rows}
    for chart in charts:
        (line,) = chart["lines"]
        own = [r for r in rows if (r["metric"], r["extractor"]) == (chart["metric"], chart["extractor"])]
        assert line["t"] == [r["generation"] for r in own]
        for key, column in (("value", "value"), ("low", "ci_low"), ("high", "ci_high")):
            assert (
                line[key] == pytest.approx([r[column] for r in own], rel=1e-4)
                if own[0][column] is not None
                else set(line[key]) == {None}
            )
        assert chart["floor"] == (
            None if own[0]["floor"] is None else pytest.approx(own[0]["floor"], rel=1e-4)
        )
        assert chart["title"] in chart["says"].replace("_", " ") and "generation 2" in chart["says"]
    assert json.loads(json.dumps(found, allow_nan=False))["title"] == "hostile"
    assert found["compared"] is None and found["generations"] == [0, 1, 2] and found["planned"] == 2


def test_every_row_has_a_heading(hostile: Run) -> None:
    assert {name for name in row_kinds() if group_of(name) == "Other"} == set()
    assert {group_of(name) for name in row_kinds()} | {"Other"} == set(GROUPS)
    assert {row["metric"] for row in hostile.rows()} <= set(row_kinds())
    headings = {
        "zero_shot_accuracy": "Concepts",
        "judge_retrained_on_real": "Concepts",
        "saturation_shift": "Aesthetics and texture",
        "aesthetic_score": "Aesthetics and texture",
        "auth_pct": "Memorisation",
        "loss_gap": "Memorisation",
        "drift_from_base": "Training",
        "held_out_loss_1": "Training",
        "held_out_loss_rare": "Tails and likelihood",
        "fid": "Fidelity",
        "variance": "Fitted distribution",
        "mine": "Other",
    }
    assert {name: group_of(name) for name in headings} == headings


def with_rows(run: Run, path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Run:
    """A copy of `run` whose measured rows are what `change` makes of them; None = without it."""
    copy = shutil.copytree(run.path, path)
    for record in copy.glob("gen-*/metrics.jsonl"):
        rows = [change(json.loads(line)) for line in record.read_text().splitlines()]
        record.write_text("".join(json.dumps(row) + "\n" for row in rows if row))
    return open_run(copy)


def test_flagged_images_have_a_curve_where_there_are_any(hostile: Run, tmp_path: Path) -> None:
    titles = lambda run: {  # noqa: E731
        chart["title"]: group["title"] for group in contents([run])["groups"] for chart in group["charts"]
    }
    assert "images of one colour" not in titles(hostile)
    some = with_rows(
        hostile,
        tmp_path / "run",
        lambda row: row | {"value": 0.1} if row["metric"] == "flagged_share" else row,
    )
    assert titles(some)["images of one colour"] == "Fidelity"


def test_levels_of_noise_are_named(hostile: Run) -> None:
    training = next(group for group in contents([hostile])["groups"] if group["title"] == "Training")
    titles = [chart["title"] for chart in training["charts"] if chart["metric"].startswith("held_out_loss_")]
    assert titles == [
        f"held-out loss, {level}" for level in ("least noise", "low noise", "high noise", "most noise")
    ]


def test_where_no_copies_were_looked_for_it_is_said(hostile: Run, tmp_path: Path) -> None:
    group = lambda run: next(group for group in contents([run])["groups"] if group["title"] == "Memorisation")  # noqa: E731
    assert [chart["metric"] for chart in group(hostile)["charts"]] == [
        "near_duplicates",
        "loss_gap",
    ] and not group(hostile)["note"]
    bare = with_rows(
        hostile,
        tmp_path / "run",
        lambda row: None if row["metric"] in ("near_duplicates", "loss_gap") else row,
    )
    assert group(bare)["charts"] == [] and "near_duplicates" in group(bare)["note"]


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


def test_names_of_arms_as_given(hostile: Run, other: Run) -> None:
    assert [arm["name"] for arm in contents([hostile, other], ["a", "b"])["arms"]] == ["a", "b"]


def test_nothing_measured_is_an_error(hostile: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(hostile.path, tmp_path / "run")
    for t in range(3):
        (copy / f"gen-00{t}" / "metrics.jsonl").unlink()
    with pytest.raises(StoreError, match="no measured generation"):
        contents([open_run(copy)])


def test_an_exact_family_has_curves_and_no_pictures(tmp_path: Path) -> None:
    from difflab.config import parse
    from difflab.loop.chain import run_chain

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
