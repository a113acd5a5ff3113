"""The folder of a run: where its files are, which stages are done, and the claim of the process that writes.

runs/<name>/
  run.yaml                  the resolved config, its recipe hash, versions
  real/                     the real set, train split first, then held-out; its features
  gen-000/ gen-001/ ...     one folder per generation, see STAGES
                            hashes.json in them and in real/ lists the SHA-256 of every result
  metrics.jsonl             one line per number
  strip.png                 one row per generation; the images of a column have the same seed
  curves.png                every measure over the generations, with its interval
  cache/                    decoded pixels; removed when the run is complete
  .lease-000001             which process writes, see runs/lease.py

The folder of an ecosystem holds one such folder per lab: lab-0/, lab-1/, ...
"""

from __future__ import annotations

import atexit
import fcntl
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from difflab.config import Config
from difflab.core.account import Account
from difflab.core.errors import StoreError, reading
from difflab.core.files import cache_home, read_json
from difflab.core.shape import Shape
from difflab.core.size import Size
from difflab.core.text import encodable
from difflab.runs import lease
from difflab.runs.ledger import REAL
from difflab.runs.record import check_recipe, read_record, recipe_hash, write_record
from difflab.runs.store import Shards


@dataclass(frozen=True)
class Stage:
    """One of the five stages of a generation.

    Attributes:
        name: the name of the stage in timings.jsonl and in messages.
        hooks: the policy hooks of this stage, in the order of their calls.
        files: the files and folders that the stage writes in the folder of its generation. The last one is
            written last.
        done_file: the stage is done if this file exists.
        lower: advice for an error message about memory: the settings to change.
    """

    name: str
    hooks: tuple[str, ...]
    files: tuple[str, ...]
    done_file: str
    lower: str = ""


STAGE_TABLE = (
    Stage("mix", ("pools", "rows"), ("train_set.parquet",), "train_set.parquet"),
    Stage(
        "train",
        ("row_weights", "training", "trainer", "weights"),
        ("training.json", "held_out_loss.json", "model"),
        "model/hash.json",
        "set train.micro_batch_size lower, train.gradient_checkpointing=true, train.precision=bf16, "
        "train.optimizer=adamw8bit, train.ema_decay=0, or model.lora_rank=16",
    ),
    Stage(
        "sample",
        ("sampling", "steer", "drawn_images"),
        ("samples", "features", "probe", "sampled.json"),
        "sampled.json",
        "set sample.batch_size lower, or sample.precision=bf16",
    ),
    Stage("select", ("select",), ("selected.parquet",), "selected.parquet"),
    Stage(
        "measure",
        (),
        ("replicates.safetensors", "metrics.jsonl"),
        "metrics.jsonl",
        "set measure.count lower, or measure with fewer extractors",
    ),
)
STAGES = tuple(stage.name for stage in STAGE_TABLE)
STAGE = {stage.name: stage for stage in STAGE_TABLE}


class About(BaseModel):
    """The keys of real/about.json that are read.

    Keys with a default can be missing: they depend on the version of difflab and on the kind of the set.
    """

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
    sizes: list[list[int]] | None = None
    audit: dict[str, Any] | None = None


class Sampled(BaseModel):
    """The keys of sampled.json of a generation."""

    model_config = ConfigDict(strict=True)
    count: int = Field(1, ge=1)
    hash: str = ""
    probe: int = Field(ge=0)


class RunFolder:
    """The folder of one chain, or of one lab of an ecosystem.

    Args:
        path: the folder.
        config: the config of the run.
        cache: folder of decoded pixels; None = the folder cache/ of the run.
    """

    def __init__(self, path: Path, config: Config, cache: Path | None = None):
        self.path, self.config = Path(path), config
        self.cache = cache or self.path / "cache"
        self._lease: lease.Lease | None = None
        self._labs: list[Any] = []  # all labs of the same ecosystem, once they are known

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder for reading.

        Decoded pixels go to a temporary folder that is deleted when the process ends.
        """
        cache = Path(tempfile.mkdtemp(prefix="difflab-"))
        atexit.register(shutil.rmtree, cache, ignore_errors=True)  # samples may outlive the RunFolder
        return cls(path, read_record(path / "run.yaml"), cache)

    # --------------------------------------------------------------------------------------------- paths
    def gen(self, generation: int) -> Path:
        """The folder of one generation."""
        return self.path / f"gen-{generation:03d}"

    @property
    def about(self) -> dict[str, Any]:
        """The content of real/about.json: n_train, n_held_out, record, classes, source, licence, account.

        Raises StoreError if the file is missing or damaged.
        """
        path = self.path / "real" / "about.json"
        about = read_json(path, About)
        if len(about["record"]) != (2 if self.config.exact else 3):
            raise StoreError(
                f"{path} is damaged (record is {about['record']}); delete it and run the same command again"
            )
        return about

    @property
    def account(self) -> Account | None:
        """How many images of the real set were used, left out and altered.

        None for exact families, and for a set that an older version of difflab made.
        """
        path = self.path / "real" / "about.json"
        account = self.about.get("account") if path.exists() else None
        if account is None:
            return None
        with reading(f"the account in {path}", StoreError, "delete it and run the same command again"):
            return Account.from_dict(account)

    @property
    def came_in(self) -> list[str]:
        """`account` as one or two lines of text; [] if there is no account."""
        account = self.account
        if account is None:
            return []
        about, used = self.about, None
        if self.config.ecosystem is None or self.config.ecosystem.real != "disjoint":
            used = about["n_train"] + about["n_held_out"]
        return account.told(f"real images ({about['source']})", used)

    @property
    def shape(self) -> Shape:
        """The shape of a record, the number of classes and the captions of the real set."""
        about = self.about
        classes = len(about["classes"] or [])
        return Shape(tuple(about["record"]), classes, tuple(self.prompts), self.sizes)

    @staticmethod
    def sizes_in(about: dict[str, Any]) -> tuple[Size, ...]:
        """The sizes (H, W) in the content of about.json; () = all images have one size."""
        return tuple((height, width) for height, width in about.get("sizes") or [])

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes (H, W) of the images of a run with data.buckets; () = all images have one size."""
        return self.sizes_in(self.about)

    @property
    def prompts(self) -> list[str]:
        """The distinct captions of the real set.

        Their positions are the conditions of a text-to-image model.
        """
        return self.about["prompts"] if self.config.text and self.config.conditional else []

    def conditions(self, shards: Shards) -> np.ndarray | None:
        """The condition of each image of a set, int64 [N]; None for an unconditional model.

        A condition is the class of the image, or the position of its caption in `prompts`.
        """
        if not self.config.conditional:
            return None
        if not self.config.text:
            return shards.labels()
        positions = {prompt: i for i, prompt in enumerate(self.prompts)}
        return np.array([positions[prompt] for prompt in shards.column("prompt")], dtype=np.int64)

    def _shards(
        self, folder: Path, name: str, count: int, shard_size: int, encoded: Path | None = None
    ) -> Shards:
        cache = self.cache / folder.name / name
        about = self.about
        return Shards(
            folder / name,
            folder / "features",
            cache,
            count,
            shard_size,
            tuple(about["record"]),
            encoded,
            self.sizes_in(about),
        )

    @property
    def real(self) -> Shards:
        """The real images: the train split, which begins with training set 0, then the held-out images."""
        about = self.about
        # Runs on the same images share their latents. The folder is named after the content of the images.
        encoded = cache_home() / "latents" / about["content"] if self.config.text else None
        return self._shards(
            self.path / "real", "images", about["n_train"] + about["n_held_out"], about["shard_size"], encoded
        )

    def samples(self, generation: int, lab: int | None = None) -> Shards:
        """The samples of one generation; generation -1 = the real images.

        The result has the methods ``.table(k)``, ``.labels()``, ``.gather(indices)`` and ``.features(name)``.
        In an ecosystem, `lab` is the position of the lab that drew the samples; None = this lab. The real
        images are those of this lab in any case.
        """
        if generation == REAL:
            return self.real
        if lab not in (None, self.config.lab):
            return self.labs[lab].samples(generation)
        settings = self.config.sample
        count = settings.count_of(generation)
        return self._shards(self.gen(generation), "samples", count, settings.shard_size)

    def probe(self, generation: int, count: int) -> Shards:
        """The `count` images of the probe of one generation."""
        return self._shards(
            self.gen(generation), "probe", count, max(1, min(count, self.config.sample.batch_size))
        )

    def done(self, generation: int, stage: str) -> bool:
        """Whether a stage of a generation has written all its files."""
        if not (self.gen(generation) / STAGE[stage].done_file).exists():
            return False
        return stage != "sample" or self.samples(generation).complete()

    def kept(self, generation: int) -> np.ndarray:
        """Indices of the samples that selection kept, int64 [n].

        Raises StoreError if selected.parquet is missing or damaged.
        """
        import pyarrow.parquet as pq

        path = self.gen(generation) / "selected.parquet"
        try:
            rows = pq.read_table(path, page_checksum_verification=True)
            return rows["index"].to_numpy()[rows["kept"].to_numpy(zero_copy_only=False)]
        except Exception as error:  # pyarrow raises many kinds of errors for a bad file
            raise StoreError(
                f"{path} cannot be read ({type(error).__name__}); delete it and run the same command again"
            ) from error

    # ---------------------------------------------------------------------------------------------- labs
    @property
    def labs(self) -> list[Any]:
        """All labs of the ecosystem that this lab belongs to, in order.

        Without an ecosystem the list holds this run only.
        """
        if self.config.ecosystem is None:
            return [self]
        if not self._labs:
            count = self.config.ecosystem.count
            lab = self.config.lab
            self._labs = [
                self if i == lab else self.open(self.path.parent / f"lab-{i}") for i in range(count)
            ]
        return self._labs

    @property
    def started(self) -> bool:
        """Whether this run, or another lab of its ecosystem, has a folder of a generation."""
        return any(any(lab.path.glob("gen-*")) for lab in self._labs or [self]) or any(
            self.path.glob("lab-*/gen-*")
        )

    # ------------------------------------------------------------------------------------------- claiming
    @classmethod
    def create(cls, path: Path, config: Config, say: Callable[[str], None] | None = None) -> Self:
        """Make the folder `path`, or open it to resume a run of the same recipe. Claim it until `close`.

        Args:
            say: gets a sentence if it has to wait for the lease of another process, see `lease.claim`.

        Raises StoreError if the folder belongs to a run of another recipe (the message names the keys that
        differ), has other files, or is in use by another process.
        """
        run = cls(path, config)
        run.claim(say)
        return run

    def claim(self, say: Callable[[str], None] | None = None) -> None:
        """Make and claim the folder, see `create`."""
        if encodable(str(self.path)) != str(self.path):  # pyarrow cannot open such a path
            raise StoreError(
                f"the name {self.path} has bytes that are not UTF-8; choose another folder with --out"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_other_files()
            self._refuse_old_lock()
            self._lease = lease.claim(self.path, say)
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.path}: {error.strerror}; choose another folder with --out"
            ) from error
        try:
            self._claim(self._lease)
        except BaseException:
            self.close()
            raise

    @property
    def claims(self) -> list[tuple[int, str] | None]:
        """Number and token of the lease that this process holds, for `follow`; None = it holds none."""
        return [(self._lease.number, self._lease.token) if self._lease else None]

    def follow(self, claims: list[tuple[int, str] | None]) -> None:
        """Write as one of several processes, of which the main one has these `claims`."""
        if self._lease is None and claims[0] is not None:
            self._lease = lease.follow(self.path, *claims[0])

    def _refuse_other_files(self) -> None:
        """Raise StoreError for a folder that has files and no run.yaml."""
        if (self.path / "run.yaml").exists():
            return
        for entry in self.path.iterdir():
            own = entry.name == ".lock" or entry.name.startswith(".run.yaml.")
            if not own and not lease.NAME.fullmatch(entry.name):
                raise StoreError(
                    f"{self.path} is not empty and contains no run; choose another folder with --out"
                )

    def _refuse_old_lock(self) -> None:
        """Raise StoreError if a process of an earlier version of difflab holds its lock on the folder."""
        path = self.path / ".lock"
        if not path.exists():
            return
        with open(path, "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise lease.in_use(self.path, None) from None
            except OSError:
                pass  # a file system without locks

    def _claim(self, claimed: lease.Lease) -> None:
        """Check the recipe of the claimed folder, delete the half-written files in it, and write run.yaml."""
        record = self.path / "run.yaml"
        if record.exists():
            if self.started:
                check_recipe(record, self.config)
            elif read_record(record) != self.config:
                # The earlier recipe failed before anything was fitted, for example on unreadable images. The
                # new recipe may use the folder.
                for part in (self.path / "real", self.cache, *self.path.glob("lab-*")):
                    shutil.rmtree(part, ignore_errors=True)
        lease.clear(self.path, claimed.number)
        write_record(record, self.config)

    def close(self) -> None:
        """Release the claim."""
        if self._lease:
            self._lease.release()
            self._lease = None

    @property
    def recipe(self) -> str:
        """The hash of everything that determines the run's numbers."""
        return recipe_hash(self.config)

    def drop_cache(self) -> None:
        """Delete the decoded pixels."""
        shutil.rmtree(self.cache, ignore_errors=True)
