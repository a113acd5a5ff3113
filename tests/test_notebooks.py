"""The notebooks are run from top to bottom, on a small run of the same kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
SMALL = ["generations=1", "train.images_seen=5000", "model.width=32", "model.depth=1", "sample.count=60", "sample.steps=4", "measure.resamples=20"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("notebook") / "run"
    command = [sys.executable, "-m", "difflab", "run", "configs/digits.yaml", *SMALL, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200)
    return out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jupyter_client and zmq, about event loops
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_and_shows_pictures(path, small_run, monkeypatch):
    monkeypatch.setenv("DIFFLAB_RUN", str(small_run))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_committed_outputs_are_small_and_tell_nothing_of_the_machine(path):
    text = path.read_text()
    assert len(text) < 2**20
    assert str(ROOT) not in text and "/home/" not in text and "/root/" not in text
