"""Write the real set of a run. It is split and written once: first the train split, then held-out images."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from difflab.config import Config
from difflab.core.errors import ConfigError, DataError, StoreError, reading
from difflab.core.files import write_json
from difflab.core.ragged import together
from difflab.core.seeds import image_seeds, seed_of
from difflab.core.text import encodable, plain
from difflab.data import record as records
from difflab.data.audit_record import identities, read_audit
from difflab.data.audited import Audited, audited
from difflab.data.content import contents, kept_together
from difflab.data.provenance import origins
from difflab.data.registry import open_source
from difflab.data.source import Source, in_sizes_of_use
from difflab.data.split import split
from difflab.data.weights import note
from difflab.loop.regimes import check_possible
from difflab.models import family_of
from difflab.runs.ledger import REAL
from difflab.runs.origins import COLUMNS, Evidence, counted, evidence_of, real_depths
from difflab.runs.run import Run
from difflab.runs.sizes import fresh_needed
from difflab.runs.store import Shards

SHARD = 1000  # real images per parquet file at most, and no more than SHARD_BYTES of pixels
SHARD_BYTES = 64 * 2**20
KEPT_BYTES = 256 * 2**20
"""Limit of the pixels that a process keeps in memory between the search for copies and the writing, in bytes.

Images within the limit are decoded once, others twice.
"""


def divided(
    config: Config, accelerator: Accelerator | None = None, kept: dict[int, np.ndarray] | None = None
) -> tuple[Source, np.ndarray, np.ndarray]:
    """The source, the positions of the train split (of this lab), and the positions of held-out images.

    Equal images stay in the same split and in the same lab. Raises DataError in all processes.

    Args:
        accelerator: each of its processes decodes a part of the images; None = one process decodes all.
        kept: gets the pixels of this process's part by position, if they are at most KEPT_BYTES.
    """
    with reading(f"data.source={config.data.source}"):
        source = open_source(config.data, config.seed)
    n, world = len(source), accelerator.num_processes if accelerator else 1
    keeps = -(-n // world) * math.prod(source.record) <= KEPT_BYTES
    hashes = _in_parts(n, accelerator, lambda part: contents(source, part, kept if keeps else None), config)
    source = in_sizes_of_use(_encodable(kept_together(source, hashes)))
    train, held_out = split(
        source, config.data.held_out, seed_of("split", config.data.drawn_with(config.seed))
    )
    return source, own_part(config, train, hashes), held_out


def _in_parts(
    n: int, accelerator: Accelerator | None, hashes_of: Callable[[np.ndarray], list[str]], config: Config
) -> list[str]:
    """The hashes of n images, of which each process decodes a part. Raises DataError in all processes."""
    world, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    hashes: list[Any]
    try:
        with reading(f"data.source={config.data.source}"):
            hashes = hashes_of(np.array_split(np.arange(n), world)[rank])
    except DataError as error:  # gathered and raised in all processes, so that none waits
        hashes = [error]
    if world > 1:
        hashes = gather_object(hashes)
    for item in hashes:
        if isinstance(item, DataError):
            raise item
    return hashes


def audit_of(config: Config, source: Source, accelerator: Accelerator | None = None) -> Audited | None:
    """What the record at data.audit says about the images; None without data.audit.

    Raises DataError for a record that cannot be used, see `audit_record.read_audit`.
    """
    if config.data.audit is None:
        return None
    record = read_audit(config.data)
    looked_up = _in_parts(len(source), accelerator, lambda part: identities(record, source, part), config)
    return audited(record, looked_up, config.data)


def _encodable(source: Source) -> Source:
    """`source` with names that can be stored in the ledger."""
    return replace(
        source,
        keys=[encodable(key) for key in source.keys],
        classes=_all_encodable(source.classes),
        prompts=_all_encodable(source.prompts),
    )


def _all_encodable(names: list[str] | None) -> list[str] | None:
    return None if names is None else [encodable(name) for name in names]


def own_part(config: Config, train: np.ndarray, content: list[str]) -> np.ndarray:
    """The positions of the train split that this lab has: all of them, or its part (ecosystem.real=disjoint).

    Args:
        train: positions of the train split, int64 [n].
        content: the content hash of each image, by position.
    """
    ecosystem = config.ecosystem
    if not ecosystem or ecosystem.real != "disjoint":
        return train
    turns: dict[str, int] = {}  # labs take turns; copies of an image go to the lab of the first one
    turn = np.array([turns.setdefault(content[i], len(turns)) for i in train])
    return train[turn % ecosystem.count == config.lab]


def check_unchanged(run: Run, say: Callable[[str], None]) -> None:
    """Compare the data with the listing that ``real/`` was made from.

    If the data have changed and nothing was trained on them yet, ``real/`` is deleted so that it is written
    again. If something was trained on them, raises StoreError that says what has changed. Sets that were made
    by older versions are not compared, nor are data that do not exist any more.
    """
    folder, source = run.path / "real", run.config.data.source
    before = records.kept(folder)
    stored_digest = run.about.get("listing") if (folder / "about.json").exists() else None
    if before is None and stored_digest is None:
        return
    try:
        now = records.record(run.config.data)
    except DataError as error:
        if not run.started:
            raise
        raise StoreError(
            f"{run.path} was made from other images than {source} holds now ({error}); restore the old "
            "images, or repair the new ones and use another folder for their run: --out "
            f"{run.path.with_name(run.path.name + '-new')}"
        ) from error
    if now is None:
        say(plain(f"{source} does not exist any more: the run continues with the images that it has stored"))
        return
    if records.digest(now) == (stored_digest or records.digest(before or {})):
        return
    changed = "its listing has changed"
    if before is not None:
        changed = ", ".join(records.changes(before, now)) or changed
    if run.started:
        other = run.path.with_name(f"{run.path.name}-{records.digest(now)[:6]}")
        raise StoreError(
            f"{run.path} was made from other images than {source} holds now: {changed}; restore the old "
            f"images, or use another folder for the run of the new ones: --out {other}"
        )
    say(
        plain(
            f"{source} has changed since it was read: {changed}; nothing was trained on it yet, so it is "
            "read again"
        )
    )
    for outdated in (folder, run.cache):
        shutil.rmtree(outdated, ignore_errors=True)


def ingest(run: Run, accelerator: Accelerator, say: Callable[[str], None] = lambda text: None) -> None:
    """Write the real set of a run to ``real/``. Every process writes its own shards.

    Raises DataError, ConfigError or StoreError before anything is fitted.

    Args:
        say: gets messages for the user that are not errors.
    """
    config = run.config
    labs = [lab.config for lab in run.labs] if config.ecosystem else []
    if accelerator.is_main_process:
        check_unchanged(run, say)
    accelerator.wait_for_everyone()
    if (run.path / "real" / "about.json").exists() and run.real.complete():
        check_possible(config, run.about["n_train"], labs, real_depths(run), evidence_of(run))
        return
    about, record, columns, pixels = _exact(run) if config.exact else _images(run, accelerator)
    depths = counted(columns["origin"], columns["depth"], config.data.unknown_origin)
    evidence = Evidence(np.array([origin == "unknown" for origin in columns["origin"]]), about.get("audit"))
    check_possible(config, about["n_train"], labs, depths, evidence)
    largest = max(math.prod(size) * record[-1] for size in about.get("sizes") or [record[:-1]])
    about |= {"record": list(record), "shard_size": max(1, min(SHARD, SHARD_BYTES // largest))}
    total = about["n_train"] + about["n_held_out"]
    folder = run.path / "real"
    entries = records.record(config.data)
    if entries is not None and accelerator.is_main_process:
        # Before the first shard, so that the files of a killed process are compared, too.
        records.keep(folder, entries)
        about["listing"] = records.digest(entries)
    shards = Shards(
        folder / "images",
        folder / "features",
        run.path / "cache" / "real" / "images",
        total,
        about["shard_size"],
        record,
        sizes=run.sizes_in(about),
    )
    for shard in shards.shards[accelerator.process_index :: accelerator.num_processes]:
        if not shards.has(shard):
            span = shards.span(shard)
            ledger = {name: values[span.start : span.stop] for name, values in columns.items()}
            shards.write(shard, pixels(span), {**ledger, "generation": REAL, "lab": 0, "kind": "real"})
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        about["content"] = shards.hash()[:16]
        write_json(folder / "about.json", about)
    accelerator.wait_for_everyone()


def _images(
    run: Run, accelerator: Accelerator
) -> tuple[dict[str, Any], tuple[int, ...], dict[str, list[Any]], Any]:
    """The real set of an image family: about.json, the shape of an image, the columns of the ledger, and a
    function that reads the pixels of a range of images.
    """
    config = run.config
    decoded: dict[int, np.ndarray] = {}
    source, train, held_out = divided(config, accelerator, decoded)
    order = np.concatenate([train, held_out])
    labels = None if source.labels is None else source.labels[order].tolist()
    columns: dict[str, list[Any]] = {
        "split": ["train"] * len(train) + ["held_out"] * len(held_out),
        "key": [source.keys[i] for i in order],
    }
    audit = audit_of(config, source, accelerator)
    with reading(f"data.source={config.data.source}"):
        declared = origins(source, config.data, audit)
    columns |= {name: [getattr(declared[i], name) for i in order] for name in COLUMNS}
    if source.weights is not None:
        columns["weight"] = source.weights[order].tolist()
        source.account.notes.append(note(source.weights))
    if labels is not None and source.classes is not None:
        columns |= {"label": labels, "class": [source.classes[label] for label in labels]}
    if source.prompts is not None:
        columns["prompt"] = [source.prompts[i] for i in order]
    elif config.text and config.conditional:
        raise ConfigError(
            f"family {config.model.family} is conditioned on captions and {source.name} has none; make them "
            f"from the classes with data.caption='a photo of a {{class}}', or set model.conditional=false"
        )
    about: dict[str, Any] = {
        "source": source.name,
        "licence": source.licence,
        "classes": source.classes,
        "n_train": len(train),
        "n_held_out": len(held_out),
        "account": source.account.as_dict(),
    }
    if audit is not None:
        about["audit"] = audit.summary(declared)
    if config.text:
        # The captions of all images, so that the list is the same in every lab.
        about["prompts"] = sorted(set(source.prompts or []))
    if source.sizes:
        about["sizes"] = [list(size) for size in source.sizes]
    record = source.record

    def pixels(span: range) -> np.ndarray:
        # Archives are fast when they are read in the order of the source. The shuffle happens in memory.
        wanted = order[span.start : span.stop]
        with reading(f"data.source={config.data.source}"):
            read = {
                int(i): decoded[int(i)] if int(i) in decoded else source.read(int(i)) for i in np.sort(wanted)
            }
        return together([read[int(i)] for i in wanted])

    return about, record, columns, pixels


def _exact(run: Run) -> tuple[dict[str, Any], tuple[int, ...], dict[str, list[Any]], Any]:
    """The same as `_images`, with records that are drawn from the true distribution of the family.

    There are as many training records as the whole chain needs, and n0 held-out records.
    """
    config = run.config
    n0 = config.data.train_size or 0
    n_train = n0 + fresh_needed(config, n0)
    lab = config.lab if config.ecosystem and config.ecosystem.real == "disjoint" else 0
    seeds = image_seeds(config.seed, lab, REAL, range(n_train + n0))
    family = family_of(config.model)
    record = family.truth(config.model, seeds[:1]).shape[1:]
    columns: dict[str, list[Any]] = {"split": ["train"] * n_train + ["held_out"] * n0, "seed": seeds}
    columns |= {
        "origin": ["real"] * len(seeds),
        "depth": [0] * len(seeds),
        "declared_by": ["exact"] * len(seeds),
    }
    about: dict[str, Any] = {
        "source": "exact",
        "licence": "drawn by difflab",
        "classes": None,
        "n_train": n_train,
        "n_held_out": n0,
    }
    return about, record, columns, lambda span: family.truth(config.model, seeds[span.start : span.stop])
