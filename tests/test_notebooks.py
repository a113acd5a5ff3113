"""The notebooks are run from top to bottom on a tiny budget, from a copy, without a network; what is committed has small outputs with pictures."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SIZE = 600_000  # bytes of a file at most
OFFLINE = {
    "DIFFLAB_QUICK": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}
# Before each notebook: a namespace of its own, and no way out to a network (a kernel talks to this process through sockets it has already).
CLEAN = """
%reset -f
import os, socket
os.chdir({folder!r})
def _refuse(*args, **kwargs):
    raise OSError("a notebook wants the network")
socket.create_connection = socket.getaddrinfo = _refuse
del os, socket
"""

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of jupyter_client and zmq, about event loops


def every() -> Any:
    return pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Notebooks and configs, as they lie in the repository and without its runs."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "configs", root / "configs")
    (root / "notebooks").mkdir()
    for path in NOTEBOOKS:
        shutil.copy(path, root / "notebooks")
    return root / "notebooks"


@pytest.fixture(scope="module")
def kernel(folder: Path) -> Iterator[tuple[Any, Any]]:
    """One kernel for all notebooks: importing torch and diffusers takes longer than running most of them."""
    manager, client = start_new_kernel(
        kernel_name="python3", cwd=str(folder), env={**os.environ, **OFFLINE}, startup_timeout=120
    )
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook: Any) -> list[bytes]:
    return [
        base64.b64decode(output.data["image/png"])
        for output in outputs(notebook)
        if "image/png" in output.get("data", {})
    ]


def texts(notebook: Any) -> Iterator[str]:
    """What outputs say, without the pictures."""
    for output in outputs(notebook):
        yield output.get("text", "")
        yield from (
            str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")
        )


@pytest.mark.timeout(900)  # seconds on a free core, minutes where many share it
@every()
def test_notebook_runs_from_top_to_bottom(path: Path, folder: Path, kernel: tuple[Any, Any]) -> None:
    manager, client = kernel
    notebook = nbformat.read(folder / path.name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    notebook.cells.insert(0, nbformat.v4.new_code_cell(CLEAN.format(folder=str(folder))))
    executor = NotebookClient(notebook, km=manager, timeout=600, allow_errors=True)
    executor.kc = client
    executor.execute()
    errors = [
        f"{output.ename}: {output.evalue}" for output in outputs(notebook) if output.output_type == "error"
    ]
    assert not errors
    assert len(pictures(notebook)) >= 2
    assert not [
        output.text
        for output in outputs(notebook)
        if output.output_type == "stream" and output.name == "stderr"
    ]


@every()
def test_kept_outputs_are_of_one_run_from_top_to_bottom(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [
        output.text
        for output in outputs(notebook)
        if output.output_type == "stream" and output.name == "stderr"
    ]


@every()
def test_kept_outputs_hold_pictures(path: Path) -> None:
    kept = pictures(nbformat.read(path, as_version=4))
    assert len(kept) >= 2
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 2000 for picture in kept)


@every()
def test_kept_outputs_tell_nothing_of_the_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for text in texts(notebook):
        found = re.search(r"(?<![\w.])/(work|tmp|home|root|Users|usr|opt|var|mnt)/|[A-Z]:\\\\", text)
        assert not found, text[max(0, found.start() - 80) : found.end() + 80]
    whole = path.read_text(encoding="utf-8")
    assert str(ROOT) not in whole and str(Path.home()) + "/" not in whole


@every()
def test_file_is_small(path: Path) -> None:
    assert path.stat().st_size < SIZE


def test_notebooks_are_numbered_without_a_gap() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{i:02d}" for i in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) >= 6
