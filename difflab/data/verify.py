"""Find damaged or missing parts of a run and name them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from difflab.data.files import read_json
from difflab.errors import StoreError
from difflab.run import Run


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verify(run: Run) -> Iterator[str]:
    """Yield one line per fault: shards of the real set and of every sampled generation, models, training sets.

    A stage that has not been run yet is no fault; a result whose stage is marked as done and that is gone is one.
    """
    try:
        yield from run.real.verify()
    except StoreError as error:
        yield str(error)
        return
    for t in range(run.config.generations + 1):
        folder = run.gen(t)
        if run.done(t, "train"):
            yield from _model(folder)
        if run.done(t, "sample"):
            yield from _samples(run, t)
        if run.done(t, "select"):
            try:
                run.kept(t)
            except StoreError as error:
                yield str(error)


def _model(folder: Path) -> Iterator[str]:
    try:
        record = read_json(folder / "model" / "hash.json")
    except StoreError as error:
        yield str(error)
        return
    for name, wanted in record["files"].items():
        path = folder / "model" / Path(name)
        if not path.is_file():
            yield f"{path} is missing"
        elif file_hash(path) != wanted:
            yield f"{path} differs from its recorded hash"
    rows = folder / "train_set.parquet"
    try:
        pq.read_table(rows, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        yield f"{rows} is missing or damaged ({type(error).__name__})"
        return
    if file_hash(rows) != record["train_set"]:
        yield f"{rows} is not the training set that the model was fitted to"


def _samples(run: Run, t: int) -> Iterator[str]:
    shards = run.samples(t)
    faults = list(shards.verify())
    yield from faults
    record = read_json(run.gen(t) / "sampled.json")
    if not faults and shards.hash() != record["hash"]:
        yield f"{shards.folder}: the set as a whole differs from its recorded hash"
