"""Find the damaged and missing files of a run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from difflab.core.errors import StoreError
from difflab.core.files import read_json
from difflab.core.hashing import file_hash
from difflab.core.rows import read_rows
from difflab.runs.folder import STAGES
from difflab.runs.hashes import FILE, changed
from difflab.runs.record import check_stored_recipe
from difflab.runs.run import Run
from difflab.runs.store import Shards


def verify(run: Run) -> Iterator[str]:
    """Yield a sentence for each fault in the files of a run.

    The real set, samples, models and training sets are compared with what their records say of them, all
    results of a generation with hashes.json, and the rows of the generations with metrics.jsonl of the run.
    Pictures and timings are not checked. A missing result is a fault only if a later stage is done.
    """
    said = []
    for fault in _records(run):
        said.append(fault)
        yield fault
    for path, fault in _bytes(run):
        if not any(str(path) in before for before in said):  # the record of the file has said more
            yield fault
    for check in (_recipe, _rows):
        try:
            yield from check(run)
        except StoreError as error:
            yield str(error)


def _bytes(run: Run) -> Iterator[tuple[Path, str]]:
    """Yield the path of each result whose bytes are not those that were written, with a sentence."""
    listed = {run.path / "real": True}
    for t in range(run.config.generations + 1):
        listed[run.gen(t)] = _whole(run, t)
    for folder, whole in listed.items():
        try:
            yield from changed(folder, whole)
        except StoreError as error:
            yield folder / FILE, str(error)


def _whole(run: Run, t: int) -> bool:
    """Whether all stages of a generation are done, as far as the record of the real set can be read."""
    try:
        return all(run.done(t, stage) for stage in STAGES)
    except StoreError:
        return False  # `_records` names the record


def _recipe(run: Run) -> Iterator[str]:
    return check_stored_recipe(run.path / "run.yaml")


def _rows(run: Run) -> Iterator[str]:
    """Compare the rows of the generations with those in metrics.jsonl of the run.

    A run that was stopped can have more rows in its generations.
    """
    path = run.path / "metrics.jsonl"
    if not path.exists():
        return
    stored = read_rows(path)
    for t in run.generations:
        rows = read_rows(run.gen(t) / "metrics.jsonl")
        if any(row not in rows for row in stored if row["generation"] == t):
            yield f"{run.gen(t) / 'metrics.jsonl'} and {path} have different rows of generation {t}"
    if {row["generation"] for row in stored} - set(range(run.config.generations + 1)):
        yield f"{path} has rows of a generation that the run does not have"


def _records(run: Run) -> Iterator[str]:
    """Yield a sentence for each result that is missing, cannot be read, or is not what its record says."""
    if not run.started and not (run.path / "real" / "about.json").exists():
        return  # it was stopped while it read the real set, whose last file is about.json
    try:
        yield from run.real.verify()
    except StoreError as error:
        yield str(error)
        return
    stages = list(product(range(run.config.generations + 1), STAGES))
    # Samples with a missing shard are not done, but sampled.json shows that the stage was finished.
    finished = set()
    for t, stage in stages:
        if run.done(t, stage) or (stage == "sample" and (run.gen(t) / "sampled.json").exists()):
            finished.add((t, stage))
    last = max((i for i, key in enumerate(stages) if key in finished), default=-1)
    for t, stage in stages[: last + 1]:
        if (t, stage) not in finished:
            yield (
                f"{run.gen(t)}: the result of stage {stage} is missing, but later stages are done; "
                "run the same command again"
            )
        elif stage in CHECKS:
            try:
                yield from CHECKS[stage](run, t)
            except StoreError as error:
                yield str(error)
            except (KeyError, TypeError, AttributeError) as error:
                # The file is valid JSON, but it does not have the keys that the stage writes.
                yield f"{run.gen(t)}: the record of stage {stage} is damaged ({type(error).__name__})"


def _model(run: Run, t: int) -> Iterator[str]:
    folder = run.gen(t)
    home = folder / "model"
    record = read_json(home / "hash.json")
    for name, wanted in record["files"].items():
        path = home / name
        if not path.resolve().is_relative_to(home.resolve()):
            # difflab must not read files elsewhere because a damaged file names them.
            yield f"{home / 'hash.json'} names a file outside the model's folder: {name!r}"
        elif not path.is_file():
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
    shards, record = run.samples(t), read_json(run.gen(t) / "sampled.json")
    faults = list(shards.verify())
    yield from faults
    if not faults and shards.hash() != record["hash"]:
        yield f"{shards.folder}: the set as a whole differs from its recorded hash"
    elif not faults and run.done(t, "train"):
        yield from _lineage(run, t, shards)


def _lineage(run: Run, t: int, shards: Shards) -> Iterator[str]:
    """Check that the samples were drawn from the model in the same folder.

    A model that is trained again, for example on another machine, can differ in its bits.
    """
    try:
        record = read_json(run.gen(t) / "model" / "hash.json")
    except StoreError:
        return  # the check of the model reports it
    if not isinstance(record, dict) or not {"model", "train_set"} <= record.keys():
        return
    for column, expected in (("model_hash", record["model"]), ("parents_hash", record["train_set"])):
        if set(shards.column(column)) != {expected}:
            yield f"{shards.folder}: the {column} of these samples is not that of the model beside them"


def _kept(run: Run, t: int) -> Iterator[str]:
    run.kept(t)
    return iter(())


CHECKS = {"train": _model, "sample": _samples, "select": _kept}
