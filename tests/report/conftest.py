"""Runs that reports are made of."""

from __future__ import annotations

import pytest
from hostile import folder, settings

from difflab.config import parse
from difflab.loop.chain import run_chain
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
