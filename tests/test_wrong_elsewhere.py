"""docs/what-goes-wrong-elsewhere.md names tests that exist, and every row has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "what-goes-wrong-elsewhere.md"
TODO = "TODO-TEST"  # in rows whose tests are still to be written; such a row is not checked
COLUMNS = ["what goes wrong", "reported in", "what difflab does", "test"]


def table_rows(page: str) -> list[list[str]]:
    """The cells of all rows below the heads of the page's tables."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in page.splitlines()
        if line.startswith("| ")
    ]
    return [row for row in cells if row != COLUMNS]


def faults(page: str, root: Path) -> list[str]:
    """What is wrong with the page, in sentences: rows without the four cells, and tests that are not defined in their file."""
    wrong = []
    for row in table_rows(page):
        if len(row) != len(COLUMNS) or not all(row):
            wrong.append(f"not {len(COLUMNS)} cells: {row}")
            continue
        if TODO in row[-1]:
            continue
        tests = re.findall(r"`([^`]+)`", row[-1])
        if not tests:
            wrong.append(f"names no test: {row[0]}")
        for test in tests:
            file, _, name = test.partition("::")
            if not name or name not in defined(root / file):
                wrong.append(f"there is no {test}")
    return wrong


def defined(file: Path) -> set[str]:
    """The functions that are defined at the top of a file; none where there is no file."""
    if not file.is_file():
        return set()
    return {
        node.name
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_test_that_the_page_names_exists():
    page = PAGE.read_text(encoding="utf-8")
    assert len(table_rows(page)) > 40
    assert faults(page, ROOT) == []


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        ("`tests/test_wrong_elsewhere.py::test_every_test_that_the_page_names_exists`", None),
        (
            "`tests/test_wrong_elsewhere.py::test_that_was_renamed`",
            "there is no tests/test_wrong_elsewhere.py::test_that_was_renamed",
        ),
        ("`tests/test_that_was_moved.py::test_x`", "there is no tests/test_that_was_moved.py::test_x"),
        ("`tests/test_wrong_elsewhere.py`", "there is no tests/test_wrong_elsewhere.py"),
        ("by hand", "names no test: a"),
        (f"{TODO} `tests/test_that_will_be.py::test_x`", None),
    ],
)
def test_what_does_not_exist_is_found(cell, fault):
    page = f"text\n\n| {' | '.join(COLUMNS)} |\n|---|---|---|---|\n| a | b | c | {cell} |\n"
    assert faults(page, ROOT) == ([] if fault is None else [fault])


def test_a_row_of_another_form_is_found():
    assert faults("| a | b | c |\n", ROOT) == ["not 4 cells: ['a', 'b', 'c']"]
