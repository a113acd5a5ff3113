"""Log the numbers and pictures of a run to tensorboard, wandb or trackio, with the trackers of accelerate.

The config field `track` names the trackers. The step is the generation. A number has the name
difflab/METRIC/EXTRACTOR. The picture of one generation has the name difflab/probe, and the picture of all
generations has the name difflab/strip. The strip is logged with the last generation.

tracked.json in the folder of the run lists the generations that each tracker has. A resumed run therefore
logs nothing twice. A tracker that is added later gets all generations. The folder tracked/ of the run holds
the files of tensorboard and the local files of wandb.
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
    """Raise ConfigError if the package of a tracker is not installed. The message has the command to run."""
    for name in config.track:
        if find_spec(name) is None:
            raise ConfigError(
                f"track: {name} is not installed; run: pip install {name}, or leave it out of "
                f"track={config.track}"
            )


class Trackers:
    """The trackers of one run. Only the main process uses them. Each is opened before its first log."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.record = run.path / "tracked.json"
        self.logged: dict[str, list[int]] = {}  # the generations that each tracker has
        if run.config.track and self.record.exists():
            self.logged = read_json(self.record)
        self._opened: dict[str, Any] = {}

    def log(self, generation: int) -> None:
        """Log a measured generation to every tracker that does not have it."""
        for name in self.run.config.track:
            if generation in self.logged.get(name, []):
                continue
            tracker = self._opened[name] = self._opened.get(name) or started(name, self.run)
            for key, picture in pictures(self.run, generation).items():
                show(name, tracker, key, picture, generation)
            # For tensorboard, this call also writes the pictures to disk.
            tracker.log(values(self.run, generation), step=generation)
            self.logged[name] = [*self.logged.get(name, []), generation]
            write_json(self.record, self.logged)

    def finish(self) -> None:
        """Close the open trackers."""
        with redirect_stdout(sys.stderr):
            for tracker in self._opened.values():
                tracker.finish()
        self._opened.clear()


def values(run: Run, generation: int) -> dict[str, float]:
    """The values of one generation by the name difflab/METRIC/EXTRACTOR. Rows without a value are left out.

    The name of a row without an extractor is difflab/METRIC.
    """
    by_name = {}
    for row in read_rows(run.gen(generation) / "metrics.jsonl"):
        if row["value"] is not None:
            parts = ["difflab", row["metric"]]
            if row["extractor"]:
                parts.append(row["extractor"])
            by_name["/".join(parts)] = row["value"]
    return by_name


def pictures(run: Run, generation: int) -> dict[str, Any]:
    """The existing pictures of one generation as PIL images, by name."""
    from PIL import Image

    files = {"difflab/probe": run.gen(generation) / "grid.png"}
    if generation == run.config.generations:
        files["difflab/strip"] = run.path / "strip.png"
    return {key: Image.open(path).convert("RGB") for key, path in files.items() if path.exists()}


def started(name: str, run: Run) -> Any:
    """Start a tracker of accelerate for this run. If the run has logged to it before, it goes on there."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    config, folder = run.config, run.path / "tracked"
    folder.mkdir(exist_ok=True)
    settings: dict[str, dict[str, Any]] = {
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
    tracker = LOGGER_TYPE_TO_CLASS[name](name if name == "tensorboard" else "difflab", **settings[name])
    with redirect_stdout(sys.stderr):  # trackio prints a greeting, and stdout is for results
        tracker.start()
    return tracker


def show(name: str, tracker: Any, key: str, picture: Any, generation: int) -> None:
    """Log one picture. The trackers have different methods for this."""
    import numpy as np

    if name == "tensorboard":
        tracker.log_images({key: np.asarray(picture)[None]}, step=generation, dataformats="NHWC")
    elif name == "wandb":
        tracker.log_images({key: [picture]}, step=generation)
    else:
        import trackio

        tracker.log({key: trackio.Image(picture)}, step=generation)
