"""Reading labels, and counting them by what the detector says."""

from __future__ import annotations

from pathlib import Path

import pytest

from difflab.core.errors import DataError
from difflab.evaluation.audit.labels import counted, read_labels

KEYS = ["cats/a.png", "b.png", "c.png"]


def test_labels_are_read_and_empty_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("note,file_name,label\nx,cats/a.png,Synthetic\n,b.png, real \n,c.png,\n")
    assert read_labels(path, KEYS) == {"cats/a.png": True, "b.png": False}


def test_counts_by_flag() -> None:
    labels = {"a": True, "b": False, "c": True, "d": False, "unreadable": True}
    assert counted(labels, {"a": True, "b": True, "c": False, "d": False}) == (1, 2, 1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na,real", "no column file_name"),
        ("", "its columns: none"),
        ("file_name,label\nb.png,fake", "line 2: the label must be real or synthetic"),
        ("file_name,label\nbb.png,real", "did you mean b.png"),
        ("file_name,label\nb.png,real\nb.png,real", "labelled twice"),
        ("file_name,label\nb.png,", "labels no image"),
    ],
)
def test_wrong_labels(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "l.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(path, KEYS)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "no.csv", KEYS)
