"""What a run says at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_runs import (
    DIGITS,
    MEMORISER,
    of_folder,
)
from PIL import Image

from difflab.cli.endings import LEGEND, print_summary
from difflab.evaluation.summary import Change, Summary


@pytest.mark.usefixtures("undrawn")
def test_measures_left_out_and_flagged_samples_are_said(finished, call, tmp_path):
    _, out, _ = call("run", DIGITS, *MEMORISER, "--out", finished)
    assert "1 measure has no value; difflab status --all says why" in out
    _, out, _ = call("status", finished, "--all")
    assert "left out: class_accuracy (pixels): the samples are unconditional" in out
    assert "flagged" not in out
    (tmp_path / "grey").mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "grey" / f"{i}.png")
    code, out, _ = call(*of_folder(tmp_path / "grey", "measure.metrics=[]"), "--out", "out")
    assert code == 0 and "flagged: 24 samples of one colour (metric flagged_share)" in out


def test_exact_runs_have_a_table_too(call):
    Path("exact.yaml").write_text(
        "data: {source: exact, train_size: 20}\nmodel: {family: gaussian, replicates: 9}\nsample: {count: 20}\n"
    )
    code, out, _ = call("run", "exact.yaml", "generations=2")
    assert (
        code == 0
        and "variance" in out
        and "look at:  runs/run/report.html\n          runs/run/metrics.jsonl\n" in out
    )
    assert "budget: fitted by a formula" in call("status", "runs/run", "--all")[1]


def change(**values: Any) -> Change:
    known = {"metric": "recall", "extractor": "pixels", "first": 0.9, "last": 0.2, "floor": 0.95}
    return Change(**(known | {"ci_low": 0.1, "ci_high": 0.3, "n": 100, "noise": 0.1} | values))


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_summary_has_its_parts_in_order_and_fits_the_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    words = "a verdict of many words " * 10
    print_summary(Summary(words, [change()], ["a/report.html", "a/strip.png"], ["difflab x"], "more data"))
    out = capsys.readouterr().out
    lines = [line.rstrip() for line in out.splitlines()]
    assert max(map(len, lines)) <= min(columns, 100)
    order = [
        "a verdict",
        "what could help: more data",
        "recall",
        "look at:",
        "a/strip.png",
        "next:     difflab x",
    ]
    places = [out.index(part) for part in order]
    assert places == sorted(places)
    for cell in ("0.9", "0.2 ±0.1", "0.95", "100"):
        assert cell in out
    assert " ".join(LEGEND.split()) in " ".join(out.split())


def test_parts_that_are_empty_are_left_out(capsys):
    print_summary(Summary("all is well"))
    assert capsys.readouterr().out == "all is well\n"
    print_summary(Summary("", [change(floor=None, ci_low=None, ci_high=None)]))
    out = capsys.readouterr().out
    assert "recall" in out and LEGEND not in out and "look at" not in out and "next" not in out
