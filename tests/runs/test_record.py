from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from difflab import open_run
from difflab.config import parse
from difflab.core.errors import StoreError
from difflab.loop.chain import run_chain

CONFIG: dict[str, Any] = {
    "name": "small",
    "generations": 1,
    "data": {"source": "digits", "limit": 120, "train_size": 50},
    "model": {"family": "pixel-mlp", "width": 16, "depth": 1},
    "train": {"images_seen": 512},
    "sample": {"count": 40, "steps": 2, "batch_size": 15, "shard_size": 15},
    "measure": {"metrics": ["fd", "recall"], "resamples": 20},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "small"
    run_chain(parse(CONFIG), path)
    return path


@pytest.fixture
def copy(path, tmp_path) -> Path:
    return Path(shutil.copytree(path, tmp_path / "small"))


def content(path: Path) -> dict[str, int]:
    return {str(p.relative_to(path)): p.stat().st_mtime_ns for p in path.rglob("*")}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "TypeError"),
        (b"config: [1, 2", "ParserError"),
        (b"versions: {}", "KeyError"),
        (b"\xff\xfe\x00", "UnicodeDecodeError"),
        (b"config: 2026-13-45", "ValueError"),
        (b"config: " + b"[" * 3000, "RecursionError|ParserError"),
        (b"config: !!python/object/apply:os.mkdir [pwned]", "ConstructorError"),
        (b"config: !!python/name:os.system", "ConstructorError"),
    ],
    ids=["empty", "half", "foreign", "binary", "date", "deep", "attack", "name"],
)
def test_a_damaged_record_is_said_with_what_to_do_and_runs_no_code(
    copy, content, reason, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (copy / "run.yaml").write_bytes(content)
    with pytest.raises(
        StoreError,
        match=rf"run.yaml is missing or damaged \(({reason})\); put it back from a copy, or start a new run",
    ):
        open_run(copy)
    assert not (tmp_path / "pwned").exists()


def test_a_record_of_another_version_is_a_store_error_too(copy):
    record = yaml.safe_load((copy / "run.yaml").read_text())
    record["config"]["colour"] = 1
    (copy / "run.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(StoreError, match=r"unknown key 'colour'.*comes from another version"):
        open_run(copy)


def test_versions_that_started_a_run_stay_and_others_are_added(copy):
    record = copy / "run.yaml"
    content = yaml.safe_load(record.read_text())
    first = {**content["versions"], "torch": "2.0.0"}
    record.write_text(yaml.safe_dump({**content, "versions": first}))
    for _ in range(2):
        run_chain(parse(CONFIG), copy)
    after = yaml.safe_load(record.read_text())
    assert after["versions"] == first and after["resumed_with"] == [content["versions"]]
