"""Runs that reports are made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM
from hostile import VERDICT, folder, settings

from difflab.config import parse
from difflab.loop.chain import run_chain
from difflab.report.page import report
from difflab.runs.run import Run, open_run


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Run:
    base = tmp_path_factory.mktemp("report")
    run_chain(parse(settings(folder(base / "images"))), base / "runs" / "hostile")
    return open_run(base / "runs" / "hostile")


@pytest.fixture(scope="session")
def other(hostile: Run) -> Run:
    """Another arm of the same seed: samples and real images together."""
    config = hostile.config.model_dump(mode="json") | {"name": "other"}
    path = hostile.path.parent / "other"
    run_chain(parse(config | {"regime": {"name": "accumulate"}}), path)
    return open_run(path)


@pytest.fixture(scope="session")
def page(hostile: Run, other: Run) -> Path:
    return report(
        [hostile, other], hostile.path.parent / "both.html", ["<u>first</u>", "other"], lambda run: VERDICT
    )


@pytest.fixture(scope="session")
def single(hostile: Run) -> Path:
    """Of one run: half of the nodes that axe-core has to look at."""
    return report([hostile], hostile.path.parent / "single.html", None, lambda run: VERDICT)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()
