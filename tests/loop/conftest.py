"""What holds for the tests of the loop: chains draw no curves, which would take a sixth of the time of a small chain."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from difflab.loop.chain import run_chain


@pytest.fixture(scope="module", autouse=True)
def _without_curves() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_chain, "__defaults__", (None, False, None, None))
        yield
