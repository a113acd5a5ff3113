"""What holds for all tests: nobody's home is touched, and thousands of small files are written to memory where it can hold them."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch reads it
    os.environ["OMP_NUM_THREADS"] = "1"

MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 8 * 2**30:
    os.environ["TMPDIR"], tempfile.tempdir = str(MEMORY), None  # the workers inherit it


SLOWEST = (
    "test_chain_latent.py",
    "test_chain_latent_processes.py",
    "test_chains.py",
    "test_architecture.py",
    "test_notebooks.py",
    "test_wheel.py",
    "test_converted_base.py",
    "test_chain_images.py",
    "test_rectangles.py",
    "test_measure_run.py",
    "test_theory.py",
    "test_examine.py",
    "test_bucket_processes.py",
    "test_chain_processes.py",
    "test_failing_calls.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: a file stays in one process, and the last one should not keep the others waiting."""
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Latents, texts and downloaded weights go to a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFLAB_CACHE", str(tmp_path_factory.mktemp("difflab-cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _settled() -> None:
    """What was there before a module is left out of later garbage collections: every training ends with one, over all of torch's objects."""
    gc.collect()
    gc.freeze()
