from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from difflab.core.rows import TOPICS
from difflab.report.charts import kind_of, titled
from difflab.report.contents import contents
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


def test_no_curve_of_a_run_is_under_other(hostile: Run) -> None:
    groups = contents([hostile])["groups"]
    titles = [group["title"] for group in groups]
    assert "Other" not in titles and titles == [topic for topic in TOPICS if topic in titles]


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


def test_a_name_that_no_code_declares_says_nothing() -> None:
    kind = kind_of("mine")
    assert (kind.label, kind.about, kind.better, kind.topic) == ("mine", "", "none", "Other")


def test_the_extractor_is_named_where_there_are_several() -> None:
    assert titled("recall", "pixels", True) == "recall (pixels)"
    assert titled("recall", "pixels", False) == titled("recall", "none", True) == "recall"
