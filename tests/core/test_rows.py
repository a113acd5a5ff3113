from __future__ import annotations

import pytest

from difflab.core.errors import StoreError
from difflab.core.rows import KEYS, RowKind, read_rows, row, write_lines


def test_a_label_is_the_title_or_the_name_in_words() -> None:
    plain = RowKind("train_loss", unit="loss", better="none", about="Mean loss.", topic="Training")
    assert plain.label == "train loss" and plain.counts == "images"
    titled = RowKind("sd", unit="", better="real", about="", topic="", title="standard deviation")
    assert titled.label == "standard deviation"


def test_rows_come_back_from_their_file_as_they_were(tmp_path) -> None:
    rows = [
        row(1, "recall", "pixels", 0.1, (0.05, 0.15), 80, 0.9, "abc"),
        row(2, "fd", "pixels", None, None, 80, None, "abc", "too few images"),
    ]
    assert all(tuple(entry) == KEYS for entry in rows)
    assert (rows[0]["ci_low"], rows[0]["ci_high"], rows[1]["ci_low"]) == (0.05, 0.15, None)
    write_lines(tmp_path / "metrics.jsonl", rows)
    assert read_rows(tmp_path / "metrics.jsonl") == rows


def test_a_value_that_is_no_number_is_not_written(tmp_path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_lines(tmp_path / "metrics.jsonl", [row(1, "fd", "pixels", float("nan"), None, 80, None, "abc")])
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"generation": 1}'])
def test_a_damaged_file_of_rows_is_named(text, tmp_path) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(StoreError, match=r"metrics\.jsonl is damaged"):
        read_rows(tmp_path / "metrics.jsonl")
