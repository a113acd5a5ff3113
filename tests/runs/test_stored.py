"""A run that was made before the modules moved into rooms (version 0.1.0) opens, verifies and goes on."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

import difflab
from difflab.config import merged, parse
from difflab.core.rows import Row
from difflab.loop.chain import run_chain
from difflab.runs.verify import verify

STORED = Path(__file__).parents[1] / "stored" / "run-before-rooms.zip"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    with zipfile.ZipFile(STORED) as archive:
        archive.extractall(tmp_path / "run")
    return tmp_path / "run"


def content(folder: Path) -> dict[str, str]:
    """The hash of every file below `folder` that holds a result. That version wrote no hashes.json."""
    leave = ("timings.jsonl", "hashes.json")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in leave]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_it_opens_and_has_its_numbers_and_pictures(stored: Path) -> None:
    run = difflab.open_run(stored)
    assert run.generations == [0, 1]
    recall = [row["value"] for row in run.rows() if row["metric"] == "recall"]
    assert recall == [2 / 30, 5 / 30]
    assert run.strip().size > (100, 100) and run.grid(1).size > (50, 50)
    assert run.training(1)["images_seen"] == 512


def test_it_has_no_fault(stored: Path) -> None:
    assert list(verify(difflab.open_run(stored))) == []


def test_the_same_command_finds_it_complete(stored: Path) -> None:
    before = content(stored)
    run_chain(difflab.open_run(stored).config, stored, plots=False)
    after = content(stored)
    assert {name: after[name] for name in before if name != "run.yaml"} == {
        name: digest for name, digest in before.items() if name != "run.yaml"
    }


def test_more_generations_extend_it_and_change_nothing_of_the_old_ones(stored: Path) -> None:
    before = {t: content(stored / f"gen-00{t}") for t in (0, 1)}
    raw = difflab.open_run(stored).config.model_dump(mode="json")
    run = run_chain(parse(merged(raw, {"generations": 2})), stored, plots=False)
    assert run.generations == [0, 1, 2]
    assert {t: content(stored / f"gen-00{t}") for t in (0, 1)} == before


def test_a_generation_that_is_deleted_is_made_again(stored: Path) -> None:
    rows = difflab.open_run(stored).rows()
    shutil.rmtree(stored / "gen-001")
    run = run_chain(difflab.open_run(stored).config, stored, plots=False)
    kept = [(row["generation"], row["metric"], row["extractor"]) for row in rows]
    assert [(row["generation"], row["metric"], row["extractor"]) for row in run.rows()] == kept
    assert [row["value"] for row in run.rows() if not row["generation"]] == [
        row["value"] for row in rows if not row["generation"]
    ]


def test_measuring_it_again_gives_the_same_numbers(stored: Path) -> None:
    """The values of all measures, and the intervals of those that come from half-samples, as when it was made."""

    def numbers() -> dict[tuple[int, str, str], tuple[float, float]]:
        rows = difflab.open_run(stored).rows()
        key = ("generation", "metric", "extractor")
        return {tuple(row[name] for name in key): (row["value"], low(row)) for row in rows}  # type: ignore[misc]

    def low(row: Row) -> float:
        return 0.0 if row["metric"] in smooth else row["ci_low"] or 0.0

    smooth = {"fd", "kid", "trace_ratio", "within_class_ratio", "vendi"}
    smooth |= {"class_accuracy", "class_margin", "class_entropy"}

    before = numbers()
    (stored / "gen-001" / "metrics.jsonl").unlink()
    run_chain(difflab.open_run(stored).config, stored, plots=False)
    for name, value in numbers().items():
        assert value == pytest.approx(before[name], rel=1e-4), name
