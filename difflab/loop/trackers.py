"""The numbers and pictures of a run in tensorboard, wandb or trackio, over the trackers of accelerate (config
field `track`).

Step = generation. Numbers are called difflab/METRIC/EXTRACTOR, pictures difflab/probe (one generation) and
difflab/strip (all, at the end). tracked.json in the run directory keeps what each tracker has been given, so
that a run that is resumed logs nothing twice, and one that gets a tracker later logs what it had missed.
Files of tensorboard, and the local ones of wandb, lie in the run's folder tracked/.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

from difflab import config as configs
from difflab.config import Config
from difflab.core.errors import ConfigError
from difflab.core.files import read_json, write_json
from difflab.core.hashing import digest
from difflab.core.rows import read_rows
from difflab.runs.run import Run


def check(config: Config) -> None:
    """Raise ConfigError if the package of a tracker is not installed. The error names the command."""
    for name in config.track:
        if find_spec(name) is None:
            raise ConfigError(
                f"track: {name} is not installed; run: pip install {name}, or leave it out of "
                f"track={config.track}"
            )


class Trackers:
    """The trackers of one run, each opened when there is something to log. For the main process alone."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.record = run.path / "tracked.json"
        self.given: dict[str, list[int]] = (
            read_json(self.record) if run.config.track and self.record.exists() else {}
        )
        self._opened: dict[str, Any] = {}

    def log(self, generation: int) -> None:
        """Give a measured generation to every tracker that has not had it."""
        for name in self.run.config.track:
            if generation in self.given.get(name, []):
                continue
            tracker = self._opened[name] = self._opened.get(name) or started(name, self.run)
            for key, picture in pictures(self.run, generation).items():
                show(name, tracker, key, picture, generation)
            tracker.log(
                values(self.run, generation), step=generation
            )  # of tensorboard this also writes everything to disk
            self.given[name] = [*self.given.get(name, []), generation]
            write_json(self.record, self.given)

    def finish(self) -> None:
        """Close what was opened."""
        with redirect_stdout(sys.stderr):
            for tracker in self._opened.values():
                tracker.finish()
        self._opened.clear()


def values(run: Run, generation: int) -> dict[str, float]:
    """The measures of one generation by difflab/METRIC/EXTRACTOR; those without a value are left out."""
    rows = read_rows(run.gen(generation) / "metrics.jsonl")
    return {
        "/".join(["difflab", row["metric"], *filter(None, [row["extractor"]])]): row["value"]
        for row in rows
        if row["value"] is not None
    }


def pictures(run: Run, generation: int) -> dict[str, Any]:
    """The pictures of one generation as PIL images, as far as the run has them."""
    from PIL import Image

    files = {"difflab/probe": run.gen(generation) / "grid.png"}
    if generation == run.config.generations:
        files["difflab/strip"] = run.path / "strip.png"
    return {key: Image.open(path).convert("RGB") for key, path in files.items() if path.exists()}


def started(name: str, run: Run) -> Any:
    """One tracker of accelerate, ready to log into the place of this run."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    config, folder = run.config, run.path / "tracked"
    folder.mkdir(exist_ok=True)
    how: dict[str, dict[str, Any]] = {
        "tensorboard": {"logging_dir": folder},
        "wandb": {
            "name": config.name,
            "id": digest([str(run.path.resolve()), run.recipe]),
            "resume": "allow",
            "dir": str(folder),
            "config": configs.flat(config),
        },
        "trackio": {"name": config.name, "resume": "allow", "config": configs.flat(config)},
    }
    tracker = LOGGER_TYPE_TO_CLASS[name](name if name == "tensorboard" else "difflab", **how[name])
    with redirect_stdout(sys.stderr):  # trackio greets on stdout, where results go
        tracker.start()
    return tracker


def show(name: str, tracker: Any, key: str, picture: Any, generation: int) -> None:
    """Log one picture, in the way of each tracker."""
    import numpy as np

    if name == "tensorboard":
        tracker.log_images({key: np.asarray(picture)[None]}, step=generation, dataformats="NHWC")
    elif name == "wandb":
        tracker.log_images({key: [picture]}, step=generation)
    else:
        import trackio

        tracker.log({key: trackio.Image(picture)}, step=generation)
