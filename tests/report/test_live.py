from __future__ import annotations

from typing import Any

import pytest

from difflab.report import live
from difflab.report.page import FILE
from difflab.runs.run import Run


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each page that is written belongs to a run in progress."""
    pages: list[bool] = []
    monkeypatch.setattr(live, "report", lambda runs, path, **options: pages.append(options["live"]))
    return pages


@pytest.mark.parametrize(
    ("generation", "changed", "pages"), [(0, True, [True]), (2, True, [False]), (1, False, [])]
)
def test_a_generation_that_brought_something_writes_the_page(
    hostile: Run, written: list[Any], generation: int, changed: bool, pages: list[bool]
) -> None:
    live.after_generation(hostile, generation, changed)
    assert written == pages


def test_the_last_generation_makes_up_for_a_missing_page(
    hostile: Run, written: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FILE", "none.html")
    assert not (hostile.path / "none.html").exists()
    live.after_generation(hostile, 2, changed=False)
    assert written == [False] and FILE == "report.html"
