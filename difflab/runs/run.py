"""The class of a run: its numbers, pictures and training. ``difflab.open_run(path)`` returns one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from difflab.config import Config
from difflab.core.errors import StoreError
from difflab.core.files import append_line, read_appended, read_json
from difflab.core.rows import KEYS, read_rows
from difflab.core.text import is_url
from difflab.plots.curves import curve_figure
from difflab.plots.sheet import below
from difflab.runs import probe
from difflab.runs.folder import RunFolder
from difflab.runs.record import read_record
from difflab.runs.remote import fetched


class Run(RunFolder):
    """One run. ``difflab.open_run(path)`` opens it for reading. The chain claims its folder and writes."""

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
        """The rows of metrics.jsonl as a pandas DataFrame.

        Its columns are the keys of a row (`core.rows.KEYS`), among them generation, lab, metric, extractor,
        value, ci_low, ci_high, n, floor and recipe.
        """
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=list(KEYS))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl as dicts."""
        files = [self.gen(t) / "metrics.jsonl" for t in self.generations]
        return list(chain.from_iterable(read_rows(file) for file in files))

    def training(self, generation: int) -> dict[str, Any]:
        """The content of training.json of one generation, such as images seen and the loss curve.

        {} for families that are fitted by a formula.
        """
        path = self.gen(generation) / "training.json"
        return read_json(path, dict[str, Any]) if path.exists() else {}

    def timings(self) -> list[dict[str, Any]]:
        """The rows of timings.jsonl in the order of the work: generation, stage and seconds.

        Raises StoreError if the file is damaged.
        """
        path = self.path / "timings.jsonl"
        try:
            if not path.exists():
                return []
            rows = [json.loads(line) for line in read_appended(path)]
            if not all(_is_timing(row) for row in rows):
                raise ValueError("a line has no time")
            return rows
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is damaged ({error}); it contains only times: delete it") from error

    def numbers(self) -> list[dict[str, Any]]:
        """The rows that have a value."""
        return [row for row in self.rows() if row["value"] is not None]

    def grid(self, generation: int) -> Any:
        """The probe of one generation as a PIL image. Raises StoreError if there are no pictures."""
        return probe.grid(self, generation)

    def strip(self) -> Any:
        """A PIL image with one row per generation below a row of real images.

        The images of a column have the same seed. Raises StoreError if there are no pictures.
        """
        return probe.strip(self)

    def curves(self) -> Any:
        """Every measure over the generations with interval and noise floor, as a matplotlib figure."""
        return curve_figure([(self.config.name, self.numbers())])

    def add_time(self, generation: int, stage: str, seconds: float, **detail: Any) -> None:
        """Add a row to timings.jsonl."""
        row = {"generation": generation, "stage": stage, "seconds": round(seconds, 4), **detail}
        append_line(self.path / "timings.jsonl", json.dumps(row))


def _is_timing(row: Any) -> bool:
    return isinstance(row, dict) and {"generation", "stage", "seconds"} <= row.keys()


class EcosystemRun(Run):
    """The run of an ecosystem. Each of its labs is a run in lab-0/, lab-1/, ...

    runs/<name>/
      run.yaml                  the config of the ecosystem
      lab-0/ lab-1/ ...         the folders of the labs, each with its own run.yaml
      between/                  distances between the labs, one file per generation
      metrics.jsonl             the rows of all labs, and the rows between labs, which have lab null
      strip.png                 the strips of the labs, one below another
      curves.png                the curves of all labs in the same plots
    """

    def __init__(self, path: Path, config: Config, cache: Path | None = None):
        super().__init__(path, config, cache)
        self._labs = [
            Run(self.path / f"lab-{i}", lab_config, cache and cache / f"lab-{i}")
            for i, lab_config in enumerate(config.labs())
        ]
        for lab in self._labs:
            lab._labs = self._labs

    @property
    def parts(self) -> list[Run]:
        """The labs, in order."""
        return self._labs

    @property
    def labs(self) -> list[Run]:
        """The labs, in order."""
        return self._labs

    def claim(self, say: Callable[[str], None] | None = None) -> None:
        """Make and claim the folders of the ecosystem and of all labs, see `create`."""
        super().claim(say)
        try:
            for lab in self._labs:
                lab.claim(say)
        except BaseException:
            self.close()
            raise

    @property
    def claims(self) -> list[tuple[int, str] | None]:
        """Those of the ecosystem and of its labs."""
        return [*super().claims, *chain.from_iterable(lab.claims for lab in self._labs)]

    def follow(self, claims: list[tuple[int, str] | None]) -> None:
        """Write as one of several processes, see `RunFolder.follow`."""
        super().follow(claims)
        for lab, its_claim in zip(self._labs, claims[1:], strict=True):
            lab.follow([its_claim])

    def close(self) -> None:
        """Release all claims."""
        for lab in self._labs:
            lab.close()
        super().close()

    def _elsewhere(self) -> StoreError:
        """The error for a question that only a single lab can answer."""
        return StoreError(
            f"{self.path} is an ecosystem of {len(self._labs)} labs, and each lab is a run: name one, such "
            f"as {self._labs[0].path}"
        )

    def gen(self, generation: int) -> Path:
        """Raise StoreError, because only a lab has generations."""
        raise self._elsewhere()

    @property
    def about(self) -> dict[str, Any]:
        """Raise StoreError, because only a lab has a real set."""
        raise self._elsewhere()

    def between(self, generation: int) -> Path:
        """The file of the rows between the labs of one generation."""
        return self.path / "between" / f"gen-{generation:03d}.jsonl"

    @property
    def generations(self) -> list[int]:
        """Generations that have been measured in all labs and between them."""
        measured = set(range(self.config.generations + 1))
        for lab in self._labs:
            measured &= set(lab.generations)
        return [t for t in sorted(measured) if self.between(t).exists()]

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all labs and the rows between labs, sorted by generation.

        The value of lab is the position of the lab; None for rows between labs.
        """
        return sorted(
            [*chain.from_iterable(lab.rows() for lab in self._labs), *self.rows_between()],
            key=lambda row: row["generation"],
        )

    def rows_between(self) -> list[dict[str, Any]]:
        """The rows between labs of all generations that have them."""
        files = [self.between(t) for t in range(self.config.generations + 1)]
        return list(chain.from_iterable(read_rows(file) for file in files if file.exists()))

    def timings(self) -> list[dict[str, Any]]:
        """The timings of all labs, one lab after another. Each row has the position of its lab."""
        rows = []
        for i, lab in enumerate(self._labs):
            rows += [{"lab": i, **row} for row in lab.timings()]
        return rows

    def strip(self) -> Any:
        """The strips of all labs, one below another, as a PIL image."""
        return below([lab.strip() for lab in self._labs])

    def curves(self) -> Any:
        """Every measure over the generations as a matplotlib figure with all labs in the same plots."""
        lines = [(lab.config.name, lab.numbers()) for lab in self._labs]
        between = [row for row in self.rows_between() if row["value"] is not None]
        return curve_figure([*lines, ("between labs", between)])

    def drop_cache(self) -> None:
        """Delete the decoded pixels of all labs."""
        for lab in self._labs:
            lab.drop_cache()


def run_class(config: Config) -> type[Run]:
    """`EcosystemRun` for the config of an ecosystem, `Run` for that of a chain or of one lab."""
    return EcosystemRun if config.ecosystem is not None and config.ecosystem.lab is None else Run


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run for reading. The folder is neither changed nor locked.

    Decoded pixels go to a temporary folder. Raises StoreError if the folder is not a run; the message names
    runs in the folder above. A string with a URL, such as s3://bucket/path, is first copied to this machine,
    see `remote.fetched`.
    """
    folder = fetched(str(path), weights=True) if is_url(path) else Path(path)
    if not (folder / "run.yaml").exists():
        near = (
            sorted(p.parent.name for p in folder.parent.glob("*/run.yaml")) if folder.parent.is_dir() else []
        )
        hint = "start one with: difflab run digits"
        if near:
            hint = f"runs beside it: {', '.join(near[:8])}"
        raise StoreError(f"{folder} is not the folder of a run (no run.yaml); {hint}")
    return run_class(read_record(folder / "run.yaml")).open(folder)
