from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest
import torch

from difflab.core import files
from difflab.core.errors import ConfigError, DataError, StoreError
from difflab.core.files import (
    append_line,
    atomic,
    disk_errors,
    read_appended,
    read_json,
    read_tensors,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_written_file_is_whole_and_alone(tmp_path):
    write_bytes(tmp_path / "deep" / "er" / "a.bin", b"\x00\xff")
    assert (tmp_path / "deep" / "er" / "a.bin").read_bytes() == b"\x00\xff"
    assert names(tmp_path / "deep" / "er") == ["a.bin"]


def test_nothing_is_seen_under_the_final_name_before_the_end(tmp_path):
    path = tmp_path / "a.txt"
    with atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "half"


@pytest.mark.parametrize("crash", [RuntimeError, KeyboardInterrupt])
def test_a_crash_inside_leaves_nothing(tmp_path, crash):
    with pytest.raises(crash), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise crash
    assert names(tmp_path) == []


def test_a_crash_inside_keeps_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_body_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_says_so_and_keeps_the_old_file(tmp_path, monkeypatch, number, call):
    write_text(tmp_path / "a.txt", "old")

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(StoreError, match=r"no space left on the disk while writing .*a\.txt; free some"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_full_disk_while_making_the_folder_says_so(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StoreError, match="no space left"):
        write_text(tmp_path / "new" / "a.txt", "x")


def test_a_full_disk_inside_safetensors_says_so(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise RuntimeError(
            'I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }'
        )

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StoreError, match="no space left"):
        write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})


def test_a_disk_that_refuses_is_named_with_the_file(tmp_path, monkeypatch):
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(files.os, "replace", denied)
    with pytest.raises(StoreError, match=r"a.txt cannot be written \(denied\).*to resume"):
        write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == []


def test_a_disk_that_also_refuses_to_delete_is_named_for_the_write(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "replace", broken)
    monkeypatch.setattr(files.Path, "unlink", broken)
    with pytest.raises(StoreError, match=r"a\.txt cannot be written \(Input/output error\)"):
        write_text(tmp_path / "a.txt", "x")


def test_a_fault_of_the_caller_is_passed_on_as_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="share memory"):
        shared = torch.zeros(4)
        write_tensors(tmp_path / "b.safetensors", {"a": shared[:3], "b": shared[:2]})
    assert names(tmp_path) == []


def test_json_round_trip_is_stable_text(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": ["é", None, 0.1]})
    first = (tmp_path / "a.json").read_bytes()
    write_json(tmp_path / "a.json", {"a": ["é", None, 0.1], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == first
    assert read_json(tmp_path / "a.json") == {"a": ["é", None, 0.1], "b": 1}


@pytest.mark.parametrize("content", [None, b"", b'{"a": 1', b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.json is missing or damaged"):
        read_json(tmp_path / "a.json")


def test_tensors_round_trip_exactly_and_may_be_views(tmp_path):
    tensors = {
        "a": torch.arange(12.0).reshape(3, 4).T,
        "b": torch.tensor([1, 2], dtype=torch.uint8),
        "c": torch.zeros(0, 3),
    }
    write_tensors(tmp_path / "a.safetensors", tensors, {"step": "3"})
    read = read_tensors(tmp_path / "a.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[k], tensors[k]) and read[k].dtype == tensors[k].dtype for k in tensors)


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_damaged_tensors_are_named(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.arange(100.0)})
    if damage == "missing":
        path.unlink()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    if damage == "foreign":
        path.write_bytes(b"not tensors at all")
    with pytest.raises(StoreError, match=r"a\.safetensors cannot be read"):
        read_tensors(path)


@pytest.mark.parametrize("variable", ["DIFFLAB_CACHE", "DIFFLAB_SCRATCH"])
def test_a_folder_from_the_environment_is_no_url(monkeypatch, tmp_path, variable):
    monkeypatch.delenv(variable, raising=False)
    assert files.folder_from(variable) is None
    monkeypatch.setenv(variable, str(tmp_path))
    assert files.folder_from(variable) == tmp_path
    monkeypatch.setenv(variable, "s3://bucket/cache")
    with pytest.raises(ConfigError, match=f"{variable}=s3://bucket/cache is a URL and must be a folder, on"):
        files.folder_from(variable)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), "cannot be written .Input/output error"),
        (RuntimeError("I/O error: Input/output error (os error 5)"), "cannot be written .I/O error"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left"),
    ],
    ids=["system", "library", "full"],
)
def test_whatever_type_an_error_of_the_disk_has_it_is_one_sentence(tmp_path, error, said):
    with pytest.raises(StoreError, match=said), disk_errors(tmp_path / "model"):
        raise error


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), KeyError("a bug"), DataError("of the data")])
def test_other_errors_are_not_those_of_the_disk(tmp_path, error):
    with pytest.raises(type(error)), disk_errors(tmp_path / "model"):
        raise error


# --------------------------------------------------------------------------------------------- appended lines
def test_lines_are_added_and_an_unfinished_one_makes_room(tmp_path):
    path = tmp_path / "a.jsonl"
    append_line(path, "one é")
    with open(path, "a") as handle:
        handle.write("tw")  # and then the process was killed
    assert read_appended(path) == ["one é"]
    append_line(path, "two")
    assert path.read_text() == "one é\ntwo\n" and read_appended(path) == ["one é", "two"]
    path.write_text("unfinished")
    assert read_appended(path) == []
    append_line(path, "first")
    assert path.read_text() == "first\n"


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EIO, "cannot be written .Input/output error.*resume"), (errno.ENOSPC, "no space left.*resume")],
)
def test_a_line_that_the_disk_refuses_is_one_sentence(tmp_path, monkeypatch, number, said):
    class Refusing(io.FileIO):
        def write(self, _: object) -> int:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "open", lambda path, *_, **__: Refusing(path, "a+"), raising=False)
    with pytest.raises(StoreError, match=said):
        append_line(tmp_path / "a.jsonl", "one")


def test_a_line_of_which_a_full_disk_takes_a_part_is_refused_and_not_read(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, payload: bytes) -> int:
            return super().write(payload[:2])

    append_line(tmp_path / "a.jsonl", "one")
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", lambda path, *_, **__: Full(path, "a+"), raising=False)
        with pytest.raises(StoreError, match="no space left"):
            append_line(tmp_path / "a.jsonl", "two")
    assert read_appended(tmp_path / "a.jsonl") == ["one"]
