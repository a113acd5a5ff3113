"""A machine without caches and without a network, and caches of the hub that a test fills itself."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants


def empty_caches(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Caches of torch and of the hub in `folder`, which are empty, and a network on which every connection fails the test."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    patch.setenv("TORCH_HOME", str(folder / "torch"))
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    patch.setattr(socket.socket, "connect", refuse)


def put_into_cache(folder: Path, repository: str, revision: str = "0" * 40) -> None:
    """Leave in the cache what the hub's client leaves of a repository, from a folder."""
    home = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / revision)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(revision)
