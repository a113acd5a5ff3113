"""compare-runs and theory, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from cli_runs import (
    copied,
)
from PIL import Image

from difflab.report.arms import arm_strip
from difflab.runs.run import open_run
from difflab.studies.compare_runs import arms_of


def test_arms_are_drawn_side_by_side_where_they_share_a_seed(finished, call, refused, tmp_path):
    def twin(**changes: Any) -> Path:
        path = copied(finished, tmp_path / str(len(list(tmp_path.iterdir()))))
        record = yaml.safe_load((path / "run.yaml").read_text())
        record["config"] |= changes
        (path / "run.yaml").write_text(yaml.safe_dump(record))
        return path

    strip = tmp_path / "strip.png"
    other = twin(regime={"name": "accumulate"})
    for asked, t in ([], 1), (["--generations", 1, 0], 0):
        assert call("compare-runs", finished, other, *asked, "--strip", strip)[0] == 0
        with Image.open(strip) as picture:
            assert np.array_equal(picture, arm_strip(arms_of([open_run(finished), open_run(other)]), t)), (
                "of the last generation that was asked for"
            )
    strip.unlink()
    assert "no seed in common" in refused(
        "compare-runs", finished, twin(seed=77, regime={"name": "accumulate"}), "--strip", strip
    )
    assert not strip.exists()


def test_theory_compares_laws_with_the_engine(call, refused):
    code, out, _ = call("theory", "A1-variance", "--chains", 200, "E2-survivors")
    assert code == 0 and "200 chains" in out and "A1-variance" in out and "E2-survivors" in out
    code, out, _ = call("theory", "A1-variance", "E2-survivors", "--chains", 200, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and {r["law"] for r in rows} == {"A1-variance", "E2-survivors"}
    assert all({"law", "theory", "measured", "z"} <= row.keys() for row in rows)
    assert "unknown law 'A1-varianc'" in refused("theory", "A1-varianc")


def test_theory_has_exit_code_1_for_a_law_that_does_not_hold(call, monkeypatch):
    from difflab.studies import theory

    monkeypatch.setattr(
        theory, "check", lambda *_: [{"law": "x", "what": "y", "theory": 1.0, "measured": 2.0, "z": -4.1}]
    )
    assert call("theory")[0] == 1


def test_a_sweep_is_found_by_name_and_a_misspelt_one_names_the_nearest(refused):
    assert "there is no config regimez; did you mean sweeps/regimes?" in refused("sweep", "regimez")
    assert "unknown key" in refused("sweep", "regimes", "nonsense=1")


def test_claims_are_those_of_the_package_or_of_a_folder(refused, tmp_path):
    assert "there is no claim 'fresh-limits'" in refused("claims", "fresh-limits")
    assert "there is no claim 'fresh-limit'" in refused("claims", "fresh-limit", "--folder", tmp_path)
