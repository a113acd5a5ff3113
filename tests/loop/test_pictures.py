"""When pictures of a run are drawn, and when they are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from difflab.config import merged, parse
from difflab.loop.chain import run_chain

DIGITS: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "limit": 60},
    "model": {"family": "memoriser"},
    "sample": {"count": 20},
    "measure": {"metrics": ["recall"], "resamples": 0},
    "probe": {"per_condition": 1, "conditions": 3},
}


def pictures(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*.png"))


def test_a_grid_per_generation_then_strip_and_curves(tmp_path: Path) -> None:
    run_chain(parse(DIGITS), tmp_path / "run", plots=True)
    assert pictures(tmp_path / "run") == ["curves.png", "gen-000/grid.png", "gen-001/grid.png", "strip.png"]


def test_a_grid_is_drawn_once_and_again_where_it_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run_chain(parse(DIGITS), path, plots=False)
    os.utime(path / "gen-000" / "grid.png", (1, 1))
    (path / "gen-001" / "grid.png").unlink()
    run_chain(parse(DIGITS), path, plots=False)
    assert (path / "gen-000" / "grid.png").stat().st_mtime == 1 and (path / "gen-001" / "grid.png").exists()


def test_without_a_probe_or_plots_there_are_none(tmp_path: Path) -> None:
    run_chain(parse(merged(DIGITS, {"probe.per_condition": 0})), tmp_path / "run", plots=False)
    assert pictures(tmp_path / "run") == []


def test_numbers_have_no_pictures(tmp_path: Path) -> None:
    exact = {"data": {"source": "exact", "train_size": 8}, "model": {"family": "gaussian"}, "generations": 0}
    run_chain(parse(exact), tmp_path / "run", plots=True)
    assert pictures(tmp_path / "run") == []
