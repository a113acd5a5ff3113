"""A page in Chromium, where there is one: `apt install chromium`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
browsing = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt install chromium")


class Tab:
    """An open page, what it complained about and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, width: int = 1200, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on(
            "request", lambda r: self.requests.append(r.url) if not r.url.startswith("data:") else None
        )
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#cards .card")

    def unfold(self) -> None:
        """Open everything that is folded, and show all rows of the table of values."""
        self.page.evaluate("document.querySelectorAll('details').forEach((node) => (node.open = true))")
        if self.page.is_visible("#more-values") and "all" in self.page.inner_text("#more-values"):
            self.page.click("#more-values")

    def column(self, table: str, k: int, read: str = "(cell) => cell.innerText") -> dict[str, str]:
        """What `read` makes of the k-th cell (from 1) of each row, by the text of the first."""
        rows = self.page.evaluate(
            f"[...document.querySelectorAll('{table} tbody tr')]"
            f".map((row) => [row.cells[0].innerText, ({read})(row.cells[{k - 1}])])"
        )
        return dict(rows)

    def through(self) -> None:
        """Scroll from top to bottom, so that all charts are drawn."""
        height = self.page.evaluate("document.documentElement.scrollHeight")
        for y in range(0, height, 600):
            self.page.evaluate(f"scrollTo(0, {y})")
            self.page.wait_for_timeout(30)

    def slide(self, t: int) -> None:
        self.page.evaluate(
            f"const s = document.getElementById('generation'); s.value = {t};"
            "s.dispatchEvent(new Event('input'))"
        )
