"""The real set of a run: decoded once, split once, written once. Train split first, then held-out."""

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
from difflab.core.seeds import image_seeds, seed_of
from difflab.core.text import encodable, plain
from difflab.data import record as records
from difflab.data.content import contents, kept_together
from difflab.data.registry import open_source
from difflab.data.source import Source
from difflab.data.split import split
from difflab.loop.regimes import check_possible
from difflab.models import family_of
from difflab.runs.ledger import REAL
from difflab.runs.run import Run
from difflab.runs.sizes import fresh_needed
from difflab.runs.store import Shards

SHARD = 1000  # real images per parquet file at most, and no more than SHARD_BYTES of pixels
SHARD_BYTES = 64 * 2**20
KEPT_BYTES = 256 * 2**20
"""Pixels that stay in memory between the look for copies and the writing, so that small sets are decoded
once.
"""


def divided(
    config: Config, accelerator: Accelerator | None = None, kept: dict[int, np.ndarray] | None = None
) -> tuple[Source, np.ndarray, np.ndarray]:
    """The real set, its positions to train on (those of this lab), and those held out.

    Equal images stay on one side, and in one lab.

    The processes of `accelerator` decode a part each. kept: gets the pixels of this process's part, where
    they are few. Raises DataError.
    """
    world, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    with reading(f"data.source={config.data.source}"):
        source = open_source(config.data, config.seed)
        own = np.array_split(np.arange(len(source)), world)[rank]
        found: list[Any]
        try:
            found = contents(
                source, own, kept if len(own) * source.size**2 * source.channels <= KEPT_BYTES else None
            )
        except DataError as error:  # an error in all processes, so that none waits
            found = [error]
    for one in found if world == 1 else (found := gather_object(found)):
        if isinstance(one, DataError):
            raise one
    source = _encodable(kept_together(source, found))
    train, held_out = split(
        source, config.data.held_out, seed_of("split", config.data.drawn_with(config.seed))
    )
    return source, own_part(config, train, found), held_out


def _encodable(source: Source) -> Source:
    """`source` with names that the ledger can hold."""
    classes, prompts = (
        None if names is None else [encodable(name) for name in names]
        for names in (source.classes, source.prompts)
    )
    return replace(source, keys=[encodable(key) for key in source.keys], classes=classes, prompts=prompts)


def own_part(config: Config, train: np.ndarray, content: list[str]) -> np.ndarray:
    """The positions of the train split that this lab has: all, or its part of them. content: hashes, by
    position.
    """
    ecosystem = config.ecosystem
    if not ecosystem or ecosystem.real != "disjoint":
        return train
    turns: dict[str, int] = {}  # labs take turns; a copy goes where the first of them went
    turn = np.array([turns.setdefault(content[i], len(turns)) for i in train])
    return train[turn % ecosystem.count == config.lab]


def check_unchanged(run: Run, say: Callable[[str], None]) -> None:
    """Compare the data with the listing that ``real/`` was made from.

    What was not trained on yet is made anew.

    Raises StoreError that says what has changed. Sets made by older versions, and data that are gone, are not
    compared.
    """
    folder, source = run.path / "real", run.config.data.source
    before = records.kept(folder)
    told = run.about.get("listing") if (folder / "about.json").exists() else None
    if before is None and told is None:
        return
    try:
        now = records.record(run.config.data)
    except DataError as error:
        if not run.started:
            raise
        raise StoreError(
            f"{run.path} was made from other images than {source} holds now ({error}); put them back as they "
            "were, or mend them and "
            f"give the new ones a folder of their own: --out {run.path.with_name(run.path.name + '-new')}"
        ) from error
    if now is None:
        say(plain(f"{source} is not there any more: the run goes on with the images that it has"))
        return
    if records.digest(now) == (told or records.digest(before or {})):
        return
    changed = (
        ", ".join(records.changes(before, now) if before is not None else []) or "its listing is another one"
    )
    if run.started:
        place = run.path.with_name(f"{run.path.name}-{records.digest(now)[:6]}")
        raise StoreError(
            f"{run.path} was made from other images than {source} holds now: {changed}; put them back as "
            "they were, or give the "
            f"new ones a folder of their own: --out {place}"
        )
    say(
        plain(
            f"{source} has changed since it was read: {changed}; nothing was trained on it yet, so it is "
            "read again"
        )
    )
    for part in (folder, run.cache):
        shutil.rmtree(part, ignore_errors=True)


def ingest(run: Run, accelerator: Accelerator, say: Callable[[str], None] = lambda text: None) -> None:
    """Write ``real/``.

    Every process writes its own shards. Raises DataError or ConfigError before anything is fitted.

    `say`: gets what the user should know and is no error.
    """
    config = run.config
    labs = [lab.config for lab in run.labs] if config.ecosystem else []
    if accelerator.is_main_process:
        check_unchanged(run, say)
    accelerator.wait_for_everyone()
    if (run.path / "real" / "about.json").exists() and run.real.complete():
        check_possible(config, run.about["n_train"], labs)
        return
    about, record, columns, pixels = _exact(run) if config.exact else _images(run, accelerator)
    check_possible(config, about["n_train"], labs)
    about |= {"record": list(record), "shard_size": max(1, min(SHARD, SHARD_BYTES // math.prod(record)))}
    total = about["n_train"] + about["n_held_out"]
    folder = run.path / "real"
    entries = records.record(config.data)
    if entries is not None and accelerator.is_main_process:
        records.keep(folder, entries)  # before the first shard: what a killed process leaves is compared, too
        about["listing"] = records.digest(entries)
    shards = Shards(
        folder / "images",
        folder / "features",
        run.path / "cache" / "real" / "images",
        total,
        about["shard_size"],
        record,
    )
    for shard in shards.shards[accelerator.process_index :: accelerator.num_processes]:
        if not shards.has(shard):
            span = shards.span(shard)
            own = {name: values[span.start : span.stop] for name, values in columns.items()}
            shards.write(shard, pixels(span), {**own, "generation": REAL, "lab": 0, "kind": "real"})
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        about["content"] = shards.hash()[:16]
        write_json(folder / "about.json", about)
    accelerator.wait_for_everyone()


def _images(
    run: Run, accelerator: Accelerator
) -> tuple[dict[str, Any], tuple[int, ...], dict[str, list[Any]], Any]:
    config = run.config
    decoded: dict[int, np.ndarray] = {}
    source, train, held_out = divided(config, accelerator, decoded)
    order = np.concatenate([train, held_out])
    labels = None if source.labels is None else source.labels[order].tolist()
    columns: dict[str, list[Any]] = {
        "split": ["train"] * len(train) + ["held_out"] * len(held_out),
        "key": [source.keys[i] for i in order],
    }
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
    if config.text:
        about["prompts"] = sorted(
            set(source.prompts or [])
        )  # of all labs, whichever part of the images is this one's
    record = (source.size, source.size, source.channels)

    def pixels(span: range) -> np.ndarray:
        # In the source's own order, which is how archives are read fast; the shuffle happens in memory.
        wanted = order[span.start : span.stop]
        with reading(f"data.source={config.data.source}"):
            read = {
                int(i): decoded[int(i)] if int(i) in decoded else source.read(int(i)) for i in np.sort(wanted)
            }
        return np.stack([read[int(i)] for i in wanted])

    return about, record, columns, pixels


def _exact(run: Run) -> tuple[dict[str, Any], tuple[int, ...], dict[str, list[Any]], Any]:
    """Records drawn from the family's own truth: as many as the chain will ever ask for, and n0 held out."""
    config = run.config
    n0 = config.data.train_size or 0
    n_train = n0 + fresh_needed(config, n0)
    lab = config.lab if config.ecosystem and config.ecosystem.real == "disjoint" else 0
    seeds = image_seeds(config.seed, lab, REAL, range(n_train + n0))
    family = family_of(config.model)
    record = family.truth(config.model, seeds[:1]).shape[1:]
    columns: dict[str, list[Any]] = {"split": ["train"] * n_train + ["held_out"] * n0, "seed": seeds}
    about: dict[str, Any] = {
        "source": "exact",
        "licence": "drawn by difflab",
        "classes": None,
        "n_train": n_train,
        "n_held_out": n0,
    }
    return about, record, columns, lambda span: family.truth(config.model, seeds[span.start : span.stop])
