from __future__ import annotations

import json
from pathlib import Path

import pytest

from difflab.core.errors import StoreError
from difflab.core.hashing import file_hash
from difflab.runs.hashes import EVERYTHING, FILE, changed, forget_hashes, write_hashes


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("sampled.json", "model/unet/config.json", "samples/00000.parquet", "metrics.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def listed(folder: Path) -> dict[str, str]:
    return json.loads((folder / FILE).read_text())


def test_results_are_listed_with_the_hash_of_their_bytes(folder):
    (folder / "samples" / ".00001.parquet.tmp").write_text("unfinished")
    (folder / "notes.txt").write_text("of the user")
    write_hashes(folder)
    names = ["model/unet/config.json", "sampled.json", "samples/00000.parquet"]
    assert listed(folder) == {name: file_hash(folder / name) for name in names}
    assert list(changed(folder)) == []


def test_all_files_of_a_folder_without_the_list_itself(folder):
    write_hashes(folder, EVERYTHING)
    write_hashes(folder, EVERYTHING)
    assert sorted(listed(folder)) == [
        "metrics.jsonl",
        "model/unet/config.json",
        "sampled.json",
        "samples/00000.parquet",
    ]


def test_listed_files_keep_their_hash_new_ones_come_and_gone_ones_go(folder):
    write_hashes(folder)
    (folder / "sampled.json").write_text("changed")
    (folder / "samples" / "00000.parquet").unlink()
    (folder / "selected.parquet").write_text("new")
    write_hashes(folder)
    assert sorted(listed(folder)) == ["model/unet/config.json", "sampled.json", "selected.parquet"]
    assert [path.name for path, _ in changed(folder)] == ["sampled.json"]


def test_an_unchanged_list_is_not_written_again(folder):
    write_hashes(folder)
    before = (folder / FILE).stat().st_mtime_ns, (folder / FILE).stat().st_ino
    write_hashes(folder)
    assert ((folder / FILE).stat().st_mtime_ns, (folder / FILE).stat().st_ino) == before


def test_a_missing_file_is_a_fault_of_a_whole_generation_only(folder):
    write_hashes(folder)
    (folder / "sampled.json").unlink()
    assert [said for _, said in changed(folder)] == [
        f"{folder / 'sampled.json'}, which hashes.json lists, is missing"
    ]
    assert list(changed(folder, whole=False)) == []


def test_a_name_that_leads_elsewhere_is_not_read(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("other") / "secret"
    secret.write_text("x")
    (folder / FILE).write_text(json.dumps({str(secret): file_hash(secret)}))
    assert "names a file outside its folder" in next(changed(folder))[1]


@pytest.mark.parametrize("content", ["", "[]", '{"a": 3}'])
def test_a_damaged_list_is_named(folder, content):
    (folder / FILE).write_text(content)
    with pytest.raises(StoreError, match=FILE):
        list(changed(folder))


def test_without_a_list_nothing_is_said_and_forgetting_is_no_error(folder):
    forget_hashes(folder)
    assert list(changed(folder)) == []
    write_hashes(folder)
    forget_hashes(folder)
    assert not (folder / FILE).exists()
