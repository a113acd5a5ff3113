"""Tables at any width: no number is ever cut, whatever the command, on a terminal or in a pipe."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from commands import difflab
from pictures import folder
from rich.console import Console

from difflab.config import parse
from difflab.core.rows import row
from difflab.loop.chain import run_chain
from difflab.report.blocks import LEAST, Blocks, Column
from difflab.report.table import arms, comparison, number
from difflab.studies.compare_runs import Arm, compare_runs

WIDTHS = (24, 40, 43, 55, 60, 72, 80, 97, 120)


def shown(thing: Any, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as text:
        console.print(thing, crop=False)
    return text.get()


def words(text: str) -> list[str]:
    return text.replace("│", " ").split()


# ------------------------------------------------------------------------------------------------------ the mechanism
WORDS = "an arm whose name says at some length what it does"


def made(rng: np.random.Generator) -> tuple[Blocks, list[str], int]:
    """A random table, its numbers and how many columns stand in each part."""
    keys, count, texts = int(rng.integers(1, 3)), int(rng.integers(1, 9)), int(rng.integers(0, 2))
    heads = [Column(f"key {i}", "left", text=True) for i in range(keys)]
    heads += [Column(f"head\nof {i}") for i in range(count)] + [Column("said", "left", text=True)] * texts
    numbers = [
        [
            f"{x:,.{d}f}"
            for x, d in zip(
                rng.normal(0, 10.0 ** rng.integers(0, 9), count), rng.integers(0, 4, count), strict=True
            )
        ]
        for _ in range(3)
    ]
    rows = [
        [WORDS[: int(rng.integers(3, 40))] for _ in range(keys)] + own + [WORDS] * texts for own in numbers
    ]
    return Blocks(heads, rows, "a title", keys=keys), [x for own in numbers for x in own], keys


@pytest.mark.parametrize("seed", range(8))
def test_every_number_is_whole_at_every_width(seed):
    blocks, numbers, _ = made(np.random.default_rng(seed))
    for width in WIDTHS:
        text = shown(blocks, width)
        assert "…" not in text and set(numbers) <= set(words(text)), width
        least = max(blocks.least(group, tight=True) for group in blocks.groups(width))
        assert max(map(len, text.splitlines())) <= max(width, least), width
        assert re.sub(r"\s", "", WORDS[:3]) in re.sub(r"\s", "", text)


def test_texts_wrap_before_columns_go_into_a_further_table_which_repeats_the_first():
    heads = [Column("name", "left", text=True), Column("a"), Column("b"), Column("why", "left", text=True)]
    blocks = Blocks(heads, [["first", "1,234.5", "-0.00012", WORDS]], keys=1)
    assert len(blocks.groups(200)) == 1 and blocks.groups(14 + 2 * 12 + LEAST) == [[0, 1, 2, 3]]
    assert blocks.groups(30) == [[0, 1, 2], [0, 3]]
    assert shown(blocks, 30).count("first") == 2
    assert shown(blocks, 70).count("first") == 1 and WORDS not in " ".join(
        shown(blocks, 70).splitlines()
    )  # wrapped, in one table
    assert shown(blocks, 200).count("first") == 1 and WORDS in shown(blocks, 200)


def test_markup_in_a_cell_is_text_and_rows_may_be_dimmed_or_end_a_table():
    text = shown(
        Blocks([Column("a", "left"), Column("n")], [["[red]x", "1"], ["[/b]", "2"]], dim=1, ends=1), 40
    )
    lines = [line.strip() for line in text.splitlines()]
    assert lines[-4].startswith("[red]x") and lines[-3] == "" and lines[-2].startswith("[/b]")


# -------------------------------------------------------------------------------------------------------- the commands
def test_a_comparison_keeps_every_number_and_n():
    names = ["fd", "generalisation_score_own", "high_frequency_shift"]
    rows = [
        row(0, name, "efficientnet-lite0", 123.456 * 10**i, (-0.01234, 9876.5), 12345, 0.0001234, "r")
        for i, name in enumerate(names)
    ]
    for width in range(24, 121, 4):
        text = shown(comparison(rows), width)
        found = words(text)
        for r in rows:
            assert {number(r["value"]), number(r["floor"]), "12345"} <= set(found)
            assert "-0.0123 to 9,876" in text or "9,876" in found
        assert "…" not in text and ("fd" in found)


def test_arms_keep_every_number():
    class Seeds:
        def __init__(self, value: float):
            self.value = value

        def rows(self) -> list[dict[str, Any]]:
            return [row(0, f"measure_{i}", "pixels", self.value * 10**i, None, 9, 0.5, "r") for i in range(6)]

    named = [
        Arm(name, {s: Seeds(v + s) for s in range(2)})
        for name, v in (("replace", 1.234), ("an arm with a long name", 2.345))
    ]  # type: ignore[misc]
    rows = compare_runs(named)
    for width in WIDTHS:
        found = words(shown(arms(rows), width))
        assert {number(r["value"]) for r in rows} <= set(found) and "…" not in "".join(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, and two sets of images."""
    path = tmp_path_factory.mktemp("blocks")
    config = {
        "generations": 1,
        "data": {"source": f"imagefolder:{folder(path / 'R', 40, 16, 1)}"},
        "model": {"family": "memoriser"},
        "sample": {"count": 20, "shard_size": 20, "batch_size": 20},
        "probe": {"per_condition": 0},
        "measure": {"metrics": ["fd", "kid", "recall"], "resamples": 20},
    }
    run_chain(parse(config), path / "run", plots=False)
    (path / "px.yaml").write_text(json.dumps(config))
    folder(path / "G", 40, 16, 2)
    return path


def cells(rows: list[dict[str, Any]], *keys: str) -> set[str]:
    return {number(r[key]) for r in rows for key in keys if r.get(key) is not None}


COMPARE = (
    "compare",
    "R",
    "G",
    "--extractors",
    "pixels",
    "texture",
    "--resamples",
    "20",
    "--metrics",
    "fd",
    "kid",
    "recall",
    "contrast_shift",
    "--all",
)


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_commands_print_whole_numbers_at_any_width(place, monkeypatch, columns):
    monkeypatch.chdir(place)
    said = {}
    for command in (
        COMPARE,
        ("status", "run"),
        ("plan", "px.yaml"),
        ("measure", "run"),
        ("theory", "A1-variance", "--chains", "50"),
    ):
        done = difflab(*command, columns=columns)
        assert done.returncode in (0, 1) and "…" not in done.stdout, (command, done.stderr)
        said[command[0]] = (
            words(done.stdout),
            [json.loads(line) for line in difflab(*command, "--json", columns=columns).stdout.splitlines()],
        )
    found, rows = said["compare"]
    assert cells(rows, "value", "floor", "ci_low", "ci_high") <= set(found) and {
        str(r["n"]) for r in rows
    } <= set(found)
    found, rows = said["plan"]
    assert {
        f"{sum(r['images'] for r in rows if r['stage'] == stage):,}" for stage in ("sample", "train")
    } <= set(found)
    assert len([w for w in found if w == "MiB"]) >= 5
    assert said["status"][0].count("done") == 10
    found, rows = said["theory"]
    assert {f"{r['theory']:.5g}" for r in rows} | {f"{r['measured']:.5g}" for r in rows} | {
        f"{r['z']:+.2f}" for r in rows
    } <= set(found)


def test_json_does_not_depend_on_the_width(place, monkeypatch):
    monkeypatch.chdir(place)
    for command in (COMPARE, ("status", "run"), ("measure", "run")):
        assert (
            difflab(*command, "--json", columns=40).stdout == difflab(*command, "--json", columns=200).stdout
        )


def test_a_diagnosis_keeps_its_marks(place, monkeypatch):
    monkeypatch.chdir(place)
    folder(place / "real", 80, 16, 1)
    wide, *narrow = (
        difflab(
            "diagnose",
            "--reference",
            "real",
            "G",
            "R",
            "--extractors",
            "pixels",
            "--resamples",
            "20",
            "--all",
            columns=c,
        ).stdout
        for c in (160, 40, 60)
    )
    for text in narrow:
        assert "…" not in text and set(re.findall(r"-?\d+\.\d+", wide)) <= set(
            re.findall(r"-?\d+\.\d+", text)
        )
