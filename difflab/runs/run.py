"""A run on disk: where everything lies, what it was asked for, and how to look at it.

runs/<name>/
  run.yaml                  the resolved config, its recipe hash, versions
  real/                     the real set, train split first, then held-out; its features
  gen-000/ gen-001/ ...     train_set.parquet, model/, samples/, features/, selected.parquet, probe/, grid.png, metrics.jsonl
  metrics.jsonl             one line per number
  strip.png  curves.png     the same seeds down the generations; every measure with its interval
  cache/                    decoded pixels; disposable, removed when the run is complete

Of an ecosystem all this lies in lab-0/, lab-1/, ... (EcosystemRun).
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from difflab import config as configs
from difflab.config import Config
from difflab.data.account import Account, encodable
from difflab.core.files import cache_home, read_json, write_text
from difflab.runs.ledger import REAL
from difflab.runs.store import Shards
from difflab.core.errors import ConfigError, StoreError, reading
from difflab.core.shape import Shape

# Of every row of metrics.jsonl.
KEYS = ("generation", "lab", "metric", "extractor", "value", "ci_low", "ci_high", "n", "floor", "recipe", "reason")
STAGES = ("mix", "train", "sample", "select", "measure")


class About(BaseModel):
    """What real/about.json holds, as far as it is read. What has a default is not in the sets of all versions and kinds."""

    model_config = ConfigDict(strict=True)
    source: str = ""
    licence: str = ""
    classes: list[str] | None
    n_train: int = Field(ge=1)
    n_held_out: int = Field(ge=1)
    record: list[Annotated[int, Field(ge=1)]] = Field(min_length=2, max_length=3)
    shard_size: int = Field(ge=1)
    account: dict[str, Any] | None = None
    content: str | None = None
    listing: str | None = None
    prompts: list[str] | None = None


class Sampled(BaseModel):
    """What sampled.json of a generation holds."""

    model_config = ConfigDict(strict=True)
    count: int = Field(1, ge=1)
    hash: str = ""
    probe: int = Field(ge=0)


class Run:
    """One run directory. ``difflab.open_run(path)`` gives one for looking at; the engine opens one for work.

    Args:
        cache: folder of decoded pixels; None = the run's own.
    """

    def __init__(self, path: Path, config: Config, cache: Path | None = None):
        self.path, self.config = Path(path), config
        self.cache = cache or self.path / "cache"
        self._lock: Any = None
        self._labs: list[Run] = []  # all labs of the same ecosystem, once they are known

    # --------------------------------------------------------------------------------------------- paths
    def gen(self, generation: int) -> Path:
        return self.path / f"gen-{generation:03d}"

    @property
    def about(self) -> dict[str, Any]:
        """What the real set is: n_train, n_held_out, record, classes, source, licence, account."""
        path = self.path / "real" / "about.json"
        found = read_json(path, About)
        if len(found["record"]) != (2 if self.config.exact else 3):
            raise StoreError(f"{path} is damaged (record is {found['record']}); delete it and run the same command again")
        return found

    @property
    def account(self) -> Account | None:
        """What became of the images of the real set; None without images, and where an older version made the set."""
        path = self.path / "real" / "about.json"
        given = self.about.get("account") if path.exists() else None
        with reading(f"the account in {path}", StoreError, "delete it and run the same command again"):
            return None if given is None else Account.from_dict(given)

    @property
    def came_in(self) -> list[str]:
        """`account` in one or two lines; [] where there is none."""
        account = self.account
        if account is None:
            return []
        about, parts = self.about, self.config.ecosystem is not None and self.config.ecosystem.real == "disjoint"
        return account.told(f"real images ({about['source']})", None if parts else about["n_train"] + about["n_held_out"])

    @property
    def shape(self) -> Shape:
        about = self.about
        return Shape(tuple(about["record"]), len(about["classes"] or []), tuple(self.prompts))

    @property
    def prompts(self) -> list[str]:
        """The distinct captions of the real set, for a model that is conditioned on text; their positions are its conditions."""
        return self.about["prompts"] if self.config.text and self.config.conditional else []

    def conditions(self, shards: Shards) -> np.ndarray | None:
        """What each image of a set is conditioned on, int64 [N]: its class, its caption (position in `prompts`), or nothing."""
        if not self.config.conditional:
            return None
        if not self.config.text:
            return shards.labels()
        at = {prompt: i for i, prompt in enumerate(self.prompts)}
        return np.array([at[prompt] for prompt in shards.column("prompt")], dtype=np.int64)

    def _shards(self, folder: Path, name: str, count: int, shard_size: int, encoded: Path | None = None) -> Shards:
        cache = self.cache / folder.name / name
        return Shards(folder / name, folder / "features", cache, count, shard_size, tuple(self.about["record"]), encoded)

    @property
    def real(self) -> Shards:
        """Train split (its first images are training set 0), then held-out."""
        about = self.about
        # Its latents lie where other runs find them, under the name of its content.
        encoded = cache_home() / "latents" / about["content"] if self.config.text else None
        return self._shards(self.path / "real", "images", about["n_train"] + about["n_held_out"], about["shard_size"], encoded)

    def samples(self, generation: int, lab: int | None = None) -> Shards:
        """The samples of one generation as Shards: ``.table(k)``, ``.labels()``, ``.gather(indices)``, ``.features(name)``.

        `lab`: of an ecosystem, whose samples; None = its own. Real images are always its own.
        """
        if generation == REAL:
            return self.real
        if lab not in (None, self.config.lab):
            return self.labs[lab].samples(generation)
        how = self.config.sample
        return self._shards(self.gen(generation), "samples", how.count_of(generation), how.shard_size)

    def probe(self, generation: int, count: int) -> Shards:
        return self._shards(self.gen(generation), "probe", count, max(1, min(count, self.config.sample.batch_size)))

    def done(self, generation: int, stage: str) -> bool:
        """Whether a stage of a generation has left its result."""
        folder = self.gen(generation)
        if stage == "sample":
            return (folder / "sampled.json").exists() and self.samples(generation).complete()
        result = {"mix": "train_set.parquet", "train": "model/hash.json", "select": "selected.parquet", "measure": "metrics.jsonl"}[stage]
        return (folder / result).exists()

    # ---------------------------------------------------------------------------------------------- labs
    @property
    def parts(self) -> list[Run]:
        """The runs that hold generations: itself, or the labs of an ecosystem."""
        return [self]

    @property
    def labs(self) -> list[Run]:
        """All labs of the ecosystem that this one belongs to, in order; of a chain by itself just the run."""
        if self.config.ecosystem is None:
            return [self]
        if not self._labs:
            count = self.config.ecosystem.count
            self._labs = [self if i == self.config.lab else open_run(self.path.parent / f"lab-{i}") for i in range(count)]
        return self._labs

    @property
    def started(self) -> bool:
        """Whether anything was fitted here, or in another lab of the ecosystem."""
        return any(any(lab.path.glob("gen-*")) for lab in self._labs or [self]) or any(self.path.glob("lab-*/gen-*"))

    # -------------------------------------------------------------------------------------- opening, lock
    @classmethod
    def create(cls, path: Path, config: Config) -> Run:
        """Open `path` for work: make it, or resume it when it holds the same recipe. The caller holds the lock.

        Raises StoreError when the folder belongs to another recipe (naming the differing keys), holds something
        else, or another process works on it.
        """
        run = cls(path, config)
        run.claim()
        return run

    def claim(self) -> None:
        """Lock the folder and make it this run's, see `create`."""
        if encodable(str(self.path)) != str(self.path):  # pyarrow opens no such file
            raise StoreError(f"the name {self.path} holds bytes that are no UTF-8; choose another folder with --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a")  # noqa: SIM115 (held open as long as the run is worked on)
        except OSError as error:
            raise StoreError(f"cannot write to {self.path}: {error.strerror}; choose another folder with --out") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._claim()
        except BlockingIOError:
            self.close()
            raise StoreError(f"another process is working on {self.path}; wait for it, or choose another folder with --out") from None
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        """Check that the locked folder is this recipe's, clear what a killed process left half-written, write run.yaml."""
        record = self.path / "run.yaml"
        others = [p for p in self.path.iterdir() if p.name not in (".lock", "run.yaml") and not p.name.startswith(".run.yaml.")]
        if record.exists():
            if self.started:
                self._check_recipe(record)
            elif read_record(record) != self.config:
                # Nothing was fitted under that recipe (it asked for bad images, say): the mended config may have the folder.
                for part in (self.path / "real", self.cache, *self.path.glob("lab-*")):
                    shutil.rmtree(part, ignore_errors=True)
        elif others:
            raise StoreError(f"{self.path} is not empty and holds no run; choose another folder with --out")
        for stray in list(self.path.rglob(".*tmp*")):  # only ever under a run.yaml, or in a folder that was empty
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)
        self._write_record(record)

    def close(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def _write_record(self, record: Path) -> None:
        packages = ("difflab", "torch", "diffusers", "accelerate", "torchmetrics", "numpy", "pillow", "pyarrow")
        now = {"python": platform.python_version(), **{p: version(p) for p in packages}}
        content = {"config": self.config.model_dump(mode="json"), "recipe": self.recipe, "versions": now}
        if record.exists():  # what started the run stays; what went on with it under other versions is added
            before = yaml.safe_load(record.read_text())
            content["versions"] = before.get("versions", now)
            resumed = before.get("resumed_with", [])
            if now not in (content["versions"], *resumed):
                resumed = [*resumed, now]
            if resumed:
                content["resumed_with"] = resumed
        write_text(record, yaml.safe_dump(content, sort_keys=False))

    def _check_recipe(self, record: Path) -> None:
        old, new = configs.recipe_of(read_record(record)), configs.recipe_of(self.config)
        differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if differing:
            shown = ", ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} asked" for key in differing[:6])
            more = f" and {len(differing) - 6} more" if len(differing) > 6 else ""
            base = self.path.name
            raise StoreError(
                f"{self.path} holds a run of another recipe ({shown}{more}); give this one its own folder: --out {self.path.with_name(base + '-' + self.recipe)}"
            )

    @property
    def recipe(self) -> str:
        """Hash of everything that determines the run's numbers."""
        return configs.digest(configs.recipe_of(self.config))

    # ------------------------------------------------------------------------------------------- looking
    @property
    def generations(self) -> list[int]:
        """Generations that have been measured."""
        return [t for t in range(self.config.generations + 1) if self.done(t, "measure")]

    @property
    def metrics(self) -> Any:
        """Every number as a pandas DataFrame: generation, lab, metric, extractor, value, ci_low, ci_high, n, floor, recipe."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=list(KEYS))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl as dicts."""
        return [row for t in self.generations for row in read_rows(self.gen(t) / "metrics.jsonl")]

    def training(self, generation: int) -> dict[str, Any]:
        """Images seen, size of the training set and the loss curve of one generation ({} for formula-fitted families)."""
        path = self.gen(generation) / "training.json"
        return read_json(path, dict[str, Any]) if path.exists() else {}

    def timings(self) -> list[dict[str, Any]]:
        """Seconds per stage and generation, in the order in which they were run."""
        path = self.path / "timings.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            if not all(isinstance(row, dict) and {"generation", "stage", "seconds"} <= row.keys() for row in rows):
                raise ValueError("a line holds no time")
            return rows
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is damaged ({error}); it holds nothing but times: delete it") from error

    def grid(self, generation: int) -> Any:
        """The probe of one generation as a PIL image."""
        from difflab.report.grid import grid

        return grid(self, generation)

    def strip(self) -> Any:
        """The same seeds down the generations, real images on top, as a PIL image."""
        from difflab.report.grid import strip

        return strip(self)

    def curves(self) -> Any:
        """Every measure over the generations with interval and floor, as a matplotlib figure."""
        from difflab.report.curves import curves

        return curves([self])

    def add_time(self, generation: int, stage: str, seconds: float, **detail: Any) -> None:
        with open(self.path / "timings.jsonl", "a") as handle:
            handle.write(json.dumps({"generation": generation, "stage": stage, "seconds": round(seconds, 4), **detail}) + "\n")

    def drop_cache(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)

    def kept(self, generation: int) -> np.ndarray:
        """Indices of the samples that selection kept."""
        import pyarrow.parquet as pq

        path = self.gen(generation) / "selected.parquet"
        try:
            rows = pq.read_table(path, page_checksum_verification=True)
            return rows["index"].to_numpy()[rows["kept"].to_numpy(zero_copy_only=False)]
        except Exception as error:  # missing, truncated or foreign: one message
            raise StoreError(f"{path} cannot be read ({type(error).__name__}); delete it and run the same command again") from error


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
        self._labs = [Run(self.path / f"lab-{i}", own, cache and cache / f"lab-{i}") for i, own in enumerate(config.labs())]
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
        return StoreError(f"{self.path} is an ecosystem of {len(self._labs)} labs, each a run of its own: name one, such as {self._labs[0].path}")

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
        return [t for t in range(self.config.generations + 1) if self.between(t).exists() and all(t in own for own in done)]

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all labs (column lab) and those between them (lab None), by generation."""
        return sorted([row for lab in self._labs for row in lab.rows()] + self.rows_between(), key=lambda row: row["generation"])

    def rows_between(self) -> list[dict[str, Any]]:
        """The rows between the labs."""
        return [row for t in range(self.config.generations + 1) if self.between(t).exists() for row in read_rows(self.between(t))]

    def timings(self) -> list[dict[str, Any]]:
        return [{"lab": i, **row} for i, lab in enumerate(self._labs) for row in lab.timings()]

    def strip(self) -> Any:
        """The strips of all labs below each other, as a PIL image."""
        from difflab.report.grid import below

        return below([lab.strip() for lab in self._labs])

    def curves(self) -> Any:
        """Every measure over the generations, the labs over each other, as a matplotlib figure."""
        from difflab.report.curves import curves

        return curves(self._labs, more={"between labs": [row for row in self.rows_between() if row["value"] is not None]})

    def drop_cache(self) -> None:
        for lab in self._labs:
            lab.drop_cache()


def run_class(config: Config) -> type[Run]:
    """What kind of folder a config makes."""
    return EcosystemRun if config.ecosystem is not None and config.ecosystem.lab is None else Run


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one file of measures. Raises StoreError."""
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if not all(isinstance(row, dict) and {"generation", "metric", "value"} <= row.keys() for row in rows):
            raise ValueError("a line holds no number")
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}); delete it and run the same command again") from error
    return rows


def read_record(record: Path) -> Config:
    """The config in a run.yaml. Raises StoreError."""
    try:
        content = yaml.safe_load(record.read_text())
        return configs.parse(content["config"], str(record))
    except (yaml.YAMLError, TypeError, KeyError, ValueError, OSError, RecursionError) as error:
        raise StoreError(
            f"{record} is missing or damaged ({type(error).__name__}); put it back from a copy, or start anew in another folder with --out"
        ) from error
    except ConfigError as error:
        raise StoreError(
            f"{error}; the file was changed or comes from another version: put it back, or start anew in another folder with --out"
        ) from error


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run for looking at it; nothing in it is changed (decoded pixels go to a temporary folder), no lock is taken.

    Raises StoreError when there is none, naming the runs that lie beside it.
    """
    folder = Path(path)
    if not (folder / "run.yaml").exists():
        near = sorted(p.parent.name for p in folder.parent.glob("*/run.yaml")) if folder.parent.is_dir() else []
        hint = f"runs beside it: {', '.join(near[:8])}" if near else "start one with: difflab run configs/digits.yaml"
        raise StoreError(f"{folder} holds no run (no run.yaml); {hint}")
    config = read_record(folder / "run.yaml")
    cache = Path(tempfile.mkdtemp(prefix="difflab-"))
    atexit.register(shutil.rmtree, cache, ignore_errors=True)  # its samples may outlive the Run
    return run_class(config)(folder, config, cache)
