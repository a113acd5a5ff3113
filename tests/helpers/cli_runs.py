"""What tests of the command line share: small runs, folders of images, commands as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = CONFIGS / "digits.yaml"
BIN = Path(sys.executable).parent
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
SMALL = [
    "generations=1",
    "sample.count=60",
    "sample.guidance_scale=1.0",
    "data.limit=200",
    "data.train_size=100",
    "measure.resamples=20",
]
MEMORISER = ["model={family: memoriser}", *SMALL]
MLP = ["model.width=32", "model.depth=1", "train.images_seen=1000", "sample.steps=2", *SMALL]


def copied(run: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, to))


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def process(*argv: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in argv], env=ENV, capture_output=True, text=True, timeout=120, **kwargs
    )


def picture(path: Path, side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path)) + int(path.stem)).integers(
        0, 256, (side, side, 3), dtype=np.uint8
    )
    Image.fromarray(pixels).save(path)
    return path


def of_folder(folder: Path, *more: str) -> list[str]:
    """The command that runs a memoriser on an imagefolder, to be completed by --out."""
    overrides = [
        "model={family: memoriser}",
        "generations=1",
        "sample={count: 12}",
        "data.train_size=null",
        "measure.resamples=0",
    ]
    return ["run", str(DIGITS), *overrides, f"data.source=imagefolder:{folder}", *more]
