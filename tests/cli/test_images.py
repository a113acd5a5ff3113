"""compare and diagnose, as a user types them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_runs import picture, process


@pytest.mark.parametrize(
    "words",
    [
        ["compare", ".", "nope"],
        ["diagnose", "--reference", "nope", "."],
        ["diagnose", "--reference", ".", ".", "--train", "nope"],
    ],
)
def test_a_misspelt_path_is_found_before_libraries_are(words):
    code = f"import sys, difflab.cli.main; print(difflab.cli.main.main({words!r}), 'torch' in sys.modules)"
    done = process(sys.executable, "-c", code)
    assert done.stdout == "2 False\n" and "nope does not exist (current folder: " in done.stderr


def test_compare_ends_with_the_clearest_measures_and_with_all_prints_every_one(call):
    for name in ("gen 0", "gen 1"):
        for i in range(120):
            picture(Path(name) / f"{i}.png", side=8)
    sets = ["gen 0", "gen 1"]
    options = ["--extractors", "pixels", "texture", "--resamples", 20]
    code, out, _ = call("compare", *sets, *options)
    assert code == 0 and "next:     difflab compare 'gen 0' 'gen 1' --all" in out and "floor" in out
    _, everything, _ = call("compare", *sets, *options, "--all")
    _, rows, _ = call("compare", *sets, *options, "--json")
    measured = {row["metric"] for row in map(json.loads, rows.splitlines()) if row["value"] is not None}
    assert len(measured) > 5 and all(name in everything for name in measured)
    assert sum(f"  {name} " in out for name in measured) == 5
    _, out, _ = call("compare", *sets, *options[:-1], 10)
    assert out.startswith("no measure has a value") and "an interval needs at least 20" in out


def test_diagnose_refuses_options_that_a_run_knows_itself(finished, refused):
    line = refused("diagnose", finished, "--train", ".")
    assert "--train goes with --reference; a run knows its own" in line
    assert "give one run, or real images to compare with" in refused("diagnose", finished, finished)
