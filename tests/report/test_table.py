from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from difflab.config import parse
from difflab.core.rows import row
from difflab.report.table import arms, cell, left_out, number, table
from difflab.runs.run import Run
from difflab.studies.compare_runs import Arm, compare_runs

METRICS = ("fd", "kid", "precision", "recall", "rare_class_survival")


def made(path: Path, rows: list[dict[str, Any]], name: str = "made") -> Run:
    run = Run(path, parse({"name": name, "model": {"family": "memoriser"}, "generations": 9}))
    for t in {r["generation"] for r in rows}:
        run.gen(t).mkdir(parents=True)
        (run.gen(t) / "metrics.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in rows if r["generation"] == t)
        )
    return run


@pytest.fixture
def run(tmp_path) -> Run:
    rows = [
        row(t, m, "pixels", 0.1234 + t + i, (0.1 + t + i, 0.2 + t + i), 50, 0.015 + i, "r")
        for t in range(2)
        for i, m in enumerate(METRICS)
    ]
    return made(
        tmp_path,
        [
            *rows,
            row(0, "flagged_share", "none", 0.0, None, 50, 0.0, "r"),
            row(0, "kid", "none", None, None, 50, None, "r", "why"),
        ],
    )


def shown(run: Run, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as text:
        console.print(table(run, width))
    return text.get()


def columns(text: str, start: str) -> list[str]:
    """Every word of the rows that begin with `start`, tables below each other joined."""
    return [
        word
        for line in text.splitlines()
        if line.split()[:1] == [start]
        for word in re.split(r"  +", line.strip())[1:]
    ]


def test_a_wide_table_has_every_number_with_its_interval_and_floor(run):
    text = shown(run, 140)
    assert columns(text, "floor") == ["0.015", "1.01", "2.02", "3.02", "4.01"]
    assert columns(text, "0") == [f"{v} ±0.05" for v in ("0.123", "1.12", "2.12", "3.12", "4.12")]
    assert columns(text, "1")[0] == "1.12 ±0.05"
    assert text.count("gen.") == 1 and "flagged" not in text and run.recipe in text


def test_a_narrower_table_drops_the_intervals_rather_than_be_split(run):
    text = shown(run, 60)
    assert columns(text, "0") == ["0.123", "1.12", "2.12", "3.12", "4.12"] and text.count("gen.") == 1


def test_a_narrow_one_is_split_and_keeps_the_intervals_that_cost_no_further_table(run):
    text = shown(run, 54)
    assert text.count("gen.") == 2 and "±" in text
    assert [word.split(" ")[0] for word in columns(text, "0")] == ["0.123", "1.12", "2.12", "3.12", "4.12"]


@pytest.mark.parametrize("width", [24, 30, 40, 60, 80, 100, 120, 200])
def test_it_fits_its_width_and_no_number_is_ever_cut(run, width):
    text = shown(run, width)
    body = [line.rstrip() for line in text.splitlines()[1:]]
    assert max(map(len, body)) <= width and "…" not in "".join(body)
    assert columns(text, "floor") == ["0.015", "1.01", "2.02", "3.02", "4.01"]
    for metric in METRICS:
        assert all(word in text for word in metric.split("_"))


def test_long_names_are_cut_in_the_title_alone(tmp_path):
    run = made(tmp_path, [row(0, "fd", "pixels", 1.0, None, 9, None, "r")], "n" * 300)
    lines = shown(run, 60).splitlines()
    assert max(map(len, lines)) <= 60 and lines[0].endswith("…") and columns("\n".join(lines), "0") == ["1"]


def test_extractors_are_named_when_there_are_several_whatever_they_hold(tmp_path):
    rows = [row(0, "fd", name, 1.5, None, 9, None, "r") for name in ("pixels", "open_clip:[/bold]x")]
    text = shown(made(tmp_path, rows), 100)
    assert "(pixels)" in text and "(open_clip:[/bold]x)" in text


def test_a_measure_that_a_generation_lacks_is_a_dash(tmp_path):
    rows = [
        row(0, "fd", "pixels", 1.5, None, 9, None, "r"),
        row(1, "kid", "pixels", 2.5, None, 9, 0.5, "r"),
        row(1, "fd", "pixels", None, None, 9, None, "r"),
    ]
    text = shown(made(tmp_path, rows), 100)
    assert (
        columns(text, "floor") == ["-", "-"]
        and columns(text, "0") == ["1.5", "-"]
        and columns(text, "1") == ["-", "2.5"]
    )


def test_reasons_are_said_once_for_all_measures_that_have_them():
    reasons = {
        "recall (pixels)": "recall needs 6 images",
        "ct": "ct has no value: all are one",
        "kid": "kid needs 6 images",
        "fd": "no images",
    }
    assert left_out(reasons) == ["recall (pixels), kid: needs 6 images", "ct: all are one", "fd: no images"]
    assert left_out({}) == []


def test_a_run_without_numbers_has_an_empty_table(tmp_path):
    assert "made: recipe" in shown(made(tmp_path, []), 80)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (0.0, "0"), (1.0, "1"), (0.12345, "0.123"), (-0.00015, "-0.00015"), (1.5e-7, "1.5e-07"), (999.6, "1,000"), (12345.6, "12,346"), (-2e6, "-2,000,000")],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_cell_is_a_value_and_its_half_width():
    assert cell(row(0, "fd", "p", 0.5, (0.42, 0.62), 9, None, "r")) == "0.5 ±0.1"
    assert cell(row(0, "fd", "p", 0.5, (0.42, 0.62), 9, None, "r"), intervals=False) == "0.5"
    assert cell(row(0, "fd", "p", 0.5, None, 9, None, "r")) == "0.5" and cell(None) == "-" == cell(
        row(0, "fd", "p", None, None, 9, None, "r")
    )


# ------------------------------------------------------------------------------------------------------------- arms
class Seeds:
    """A run with one generation and these numbers."""

    def __init__(self, **values: float):
        self.values = values

    def rows(self) -> list[dict[str, Any]]:
        return [row(0, name, "pixels", value, None, 9, 0.5, "r") for name, value in self.values.items()]


def arm(name: str, *values: dict[str, float]) -> Arm:
    return Arm(name, {seed: Seeds(**own) for seed, own in enumerate(values)})  # type: ignore[misc]


def compared(*given: Arm, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as text:
        console.print(arms(compare_runs(given), width))
    return text.get()


def test_every_verdict_has_its_mark_and_the_legend_says_which():
    base = [{"recall": v, "fd": v, "kid": v} for v in (0.1, 0.2, 0.3)]
    other = [{"recall": 0.5 + v, "fd": v + d, "kid": v} for v, d in ((0.11, -0.1), (0.2, 0.1), (0.3, 0.01))]
    del other[1]["kid"], other[2]["kid"]
    text = compared(arm("replace", *base), arm("other", *other))
    assert columns(text, "other") == ["0.703 ±0.2 *", "0.207 ±0.4 =", "0.11 ?"]
    assert not set("*=?") & set("".join(columns(text, "replace")))
    assert (
        "* higher or lower than replace, = not distinguishable, ? cannot tell (fewer than two seeds in common)"
        in " ".join(text.split())
    )
    assert max(map(len, text.splitlines())) <= 80


def test_only_marks_that_occur_are_explained():
    same = [{"recall": 0.1}, {"recall": 0.2}]
    assert "= not distinguishable" in compared(arm("a", *same), arm("b", *same)) and "*" not in compared(
        arm("a", *same), arm("b", *same)
    )
    text = compared(arm("a", same[0]), arm("b", same[0]))
    assert (
        columns(text, "b") == ["0.1 ?"] and "one seed: no interval; ? cannot tell" in text and "=" not in text
    )


def test_an_arm_without_runs_is_a_row_of_gaps_with_its_seeds():
    text = compared(arm("a", {"recall": 0.1}, {"recall": 0.2}), arm("failed"), arm("b", {"recall": 0.4}))
    assert [columns(text, name)[0] for name in ("a", "failed", "b")] == ["2", "0", "1"] and columns(
        text, "failed"
    ) == ["0", "-"]


def test_without_a_run_of_the_first_arm_values_are_shown_and_nothing_is_marked():
    text = compared(arm("base"), arm("b", {"recall": 0.4}, {"recall": 0.5}))
    assert columns(text, "base") == ["0", "-"] and columns(text, "b") == ["2", "0.45 ±0.6"]
    assert not set("*=?") & set(text)
