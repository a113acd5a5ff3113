"""A run to look at: its numbers, its pictures, its training. ``difflab.open_run(path)`` gives one."""

from __future__ import annotations

import json
import os
from itertools import chain
from pathlib import Path
from typing import Any

from difflab.config import Config
from difflab.core.errors import StoreError
from difflab.core.files import read_json
from difflab.core.rows import KEYS, read_rows
from difflab.plots.curves import curve_figure
from difflab.plots.sheet import below
from difflab.runs import probe
from difflab.runs.folder import RunFolder
from difflab.runs.record import read_record


class Run(RunFolder):
    """One run. ``difflab.open_run(path)`` opens one for reading; the engine opens one for work."""

    @property
    def parts(self) -> list[Run]:
        """The runs that hold generations: the run itself, or the labs of an ecosystem."""
        return [self]

    @property
    def generations(self) -> list[int]:
        """Generations that have been measured."""
        return [t for t in range(self.config.generations + 1) if self.done(t, "measure")]

    @property
    def metrics(self) -> Any:
        """Every number as a pandas DataFrame: generation, lab, metric, extractor, value, ci_low, ci_high, n,
        floor, recipe.
        """
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=list(KEYS))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl as dicts."""
        files = [self.gen(t) / "metrics.jsonl" for t in self.generations]
        return list(chain.from_iterable(read_rows(file) for file in files))

    def training(self, generation: int) -> dict[str, Any]:
        """Images seen, size of the training set and the loss curve of one generation ({} for formula-fitted
        families).
        """
        path = self.gen(generation) / "training.json"
        return read_json(path, dict[str, Any]) if path.exists() else {}

    def timings(self) -> list[dict[str, Any]]:
        """Seconds per stage and generation, in the order in which they were run."""
        path = self.path / "timings.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            if not all(
                isinstance(row, dict) and {"generation", "stage", "seconds"} <= row.keys() for row in rows
            ):
                raise ValueError("a line holds no time")
            return rows
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is damaged ({error}); it holds nothing but times: delete it") from error

    def numbers(self) -> list[dict[str, Any]]:
        """The rows that have a value."""
        return [row for row in self.rows() if row["value"] is not None]

    def grid(self, generation: int) -> Any:
        """The probe of one generation as a PIL image. Raises StoreError when there are no pictures."""
        return probe.grid(self, generation)

    def strip(self) -> Any:
        """The same seeds down the generations, real images on top, as a PIL image.

        Raises StoreError without pictures.
        """
        return probe.strip(self)

    def curves(self) -> Any:
        """Every measure over the generations with interval and noise floor, as a matplotlib figure."""
        return curve_figure([(self.config.name, self.numbers())])

    def add_time(self, generation: int, stage: str, seconds: float, **detail: Any) -> None:
        with open(self.path / "timings.jsonl", "a") as handle:
            handle.write(
                json.dumps({"generation": generation, "stage": stage, "seconds": round(seconds, 4), **detail})
                + "\n"
            )


class EcosystemRun(Run):
    """Several labs, each a run of its own in lab-0/, lab-1/, ...; here lies what they are together.

    runs/<name>/
      run.yaml                  the config of the ecosystem
      lab-0/ lab-1/ ...         what a run holds, each with its own run.yaml
      between/                  distances between the labs, one file per generation
      metrics.jsonl             the rows of all labs, and those between them, which have lab null
      strip.png  curves.png     the labs below each other; the labs in one plot
    """

    def __init__(self, path: Path, config: Config, cache: Path | None = None):
        super().__init__(path, config, cache)
        self._labs = [
            Run(self.path / f"lab-{i}", own, cache and cache / f"lab-{i}")
            for i, own in enumerate(config.labs())
        ]
        for lab in self._labs:
            lab._labs = self._labs

    @property
    def parts(self) -> list[Run]:
        return self._labs

    @property
    def labs(self) -> list[Run]:
        return self._labs

    def claim(self) -> None:
        super().claim()
        try:
            for lab in self._labs:
                lab.claim()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for lab in self._labs:
            lab.close()
        super().close()

    def _elsewhere(self) -> StoreError:
        return StoreError(
            f"{self.path} is an ecosystem of {len(self._labs)} labs, each a run of its own: name one, such "
            f"as {self._labs[0].path}"
        )

    def gen(self, generation: int) -> Path:
        raise self._elsewhere()

    @property
    def about(self) -> dict[str, Any]:
        raise self._elsewhere()

    def between(self, generation: int) -> Path:
        """The file of the rows between the labs of one generation."""
        return self.path / "between" / f"gen-{generation:03d}.jsonl"

    @property
    def generations(self) -> list[int]:
        """Generations that have been measured in all labs and between them."""
        done = [set(lab.generations) for lab in self._labs]
        return [
            t
            for t in range(self.config.generations + 1)
            if self.between(t).exists() and all(t in own for own in done)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all labs (column lab) and those between them (lab None), by generation."""
        return sorted(
            [*chain.from_iterable(lab.rows() for lab in self._labs), *self.rows_between()],
            key=lambda row: row["generation"],
        )

    def rows_between(self) -> list[dict[str, Any]]:
        """The rows between the labs."""
        files = [self.between(t) for t in range(self.config.generations + 1)]
        return list(chain.from_iterable(read_rows(file) for file in files if file.exists()))

    def timings(self) -> list[dict[str, Any]]:
        return [{"lab": i, **row} for i, lab in enumerate(self._labs) for row in lab.timings()]

    def strip(self) -> Any:
        """The strips of all labs below each other, as a PIL image."""
        return below([lab.strip() for lab in self._labs])

    def curves(self) -> Any:
        """Every measure over the generations, the labs over each other, as a matplotlib figure."""
        lines = [(lab.config.name, lab.numbers()) for lab in self._labs]
        between = [row for row in self.rows_between() if row["value"] is not None]
        return curve_figure([*lines, ("between labs", between)])

    def drop_cache(self) -> None:
        for lab in self._labs:
            lab.drop_cache()


def run_class(config: Config) -> type[Run]:
    """What kind of folder a config makes."""
    return EcosystemRun if config.ecosystem is not None and config.ecosystem.lab is None else Run


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run for reading. Nothing in it is changed and no lock is taken; decoded pixels go to a temporary
    folder.

    Raises StoreError when there is no run. The message names the runs beside the path.
    """
    folder = Path(path)
    if not (folder / "run.yaml").exists():
        near = (
            sorted(p.parent.name for p in folder.parent.glob("*/run.yaml")) if folder.parent.is_dir() else []
        )
        hint = "start one with: difflab run digits"
        if near:
            hint = f"runs beside it: {', '.join(near[:8])}"
        raise StoreError(f"{folder} holds no run (no run.yaml); {hint}")
    return run_class(read_record(folder / "run.yaml")).open(folder)
