"""Lines of a record, going on after an interruption, damaged records."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from difflab.core.errors import DataError, StoreError
from difflab.evaluation.audit.record import Line, Record, hash_of_key, line_of
from difflab.evaluation.audit.stream import View

VIEW = View(0, "ab12", "", (3, 4), "png", {"synthetic": "iptc"}, "evidence")


def test_a_line_is_read_as_it_was_written(tmp_path: Path) -> None:
    lines = [
        line_of(VIEW, "a.png", 0.0, False),
        Line(1, "ff", failed=True),
        line_of(View(2, "cd", size=(1, 1)), "b.png", 0.1234567, True),
    ]
    record = Record(tmp_path / "r", {"images": "x"})
    record.append(lines)
    assert list(record) == lines
    assert lines[0].score == 0.0 and lines[2].score == 0.123457
    assert lines[0].key == hashlib.sha256(b"a.png").hexdigest()[:16] == hash_of_key("a.png")
    assert lines[0].text is None and lines[2].text == {"key": "b.png"}
    assert "evidence" not in (tmp_path / "r").read_text()


def test_a_cut_line_is_removed_and_the_record_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r"
    record = Record(path, {})
    record.append([Line(0, "aa"), Line(1, "bb")])
    path.write_bytes(path.read_bytes()[:-3])
    again = Record(path, {})
    assert again.done == 1
    again.append([Line(1, "bb")])
    assert [line.key for line in again] == ["aa", "bb"]


def test_records_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "r"
    Record(path, {"images": "x"}).append([Line(0, "aa")])
    with pytest.raises(DataError, match="other images"):
        Record(path, {"images": "y"})
    path.write_text(path.read_text() + "[1, 2]\n")
    with pytest.raises(StoreError, match="line 3 is damaged"):
        list(Record(path, {"images": "x"}))
    (tmp_path / "foreign").write_text("a,b\n1,2\n")
    with pytest.raises(StoreError, match="no record of an audit"):
        Record(tmp_path / "foreign", {})
    (tmp_path / "cut").write_text('{"difflab')
    with pytest.raises(StoreError, match="damaged"):
        Record(tmp_path / "cut", {})
