"""The real set of a run: decoded once, split once, written once. Train split first, then held-out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from accelerate import Accelerator

from difflab.config import Config
from difflab.data.files import write_json
from difflab.data.ledger import REAL
from difflab.data.store import Shards
from difflab.errors import ConfigError
from difflab.models import family_of
from difflab.regimes import check_possible, fresh_needed
from difflab.run import Run
from difflab.seeds import image_seeds, seed_of

SHARD = 1000  # real images per parquet file at most, and no more than SHARD_BYTES of pixels
SHARD_BYTES = 64 * 2**20


def own_part(config: Config, train: np.ndarray) -> np.ndarray:
    """The positions of the train split that this lab has: all, or its part of them."""
    ecosystem = config.ecosystem
    return train[config.lab :: ecosystem.count] if ecosystem and ecosystem.real == "disjoint" else train


def ingest(run: Run, accelerator: Accelerator) -> None:
    """Write ``real/``. Every process writes its own shards. Raises DataError or ConfigError before anything is fitted."""
    config = run.config
    labs = [lab.config for lab in run.labs] if config.ecosystem else []
    if (run.path / "real" / "about.json").exists() and run.real.complete():
        check_possible(config, run.about["n_train"], labs)
        return
    about, record, columns, pixels = _exact(run) if config.exact else _images(run)
    check_possible(config, about["n_train"], labs)
    about |= {"record": list(record), "shard_size": max(1, min(SHARD, SHARD_BYTES // math.prod(record)))}
    total = about["n_train"] + about["n_held_out"]
    folder = run.path / "real"
    shards = Shards(folder / "images", folder / "features", run.path / "cache" / "real" / "images", total, about["shard_size"], record)
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


def _images(run: Run) -> tuple[dict[str, Any], tuple[int, ...], dict[str, list[Any]], Any]:
    from difflab.data.sources import open_source
    from difflab.data.split import split

    config = run.config
    source = open_source(config.data, config.seed)
    train, held_out = split(source, config.data.held_out, seed_of("split", config.data.drawn_with(config.seed)))
    train = own_part(config, train)
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
            f"family {config.model.family} is conditioned on captions and {source.name} has none; make them from the classes with data.caption='a photo of a {{class}}', or set model.conditional=false"
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
        about["prompts"] = sorted(set(source.prompts or []))  # of all labs, whichever part of the images is this one's
    record = (source.size, source.size, source.channels)

    def pixels(span: range) -> np.ndarray:
        # In the source's own order, which is how archives are read fast; the shuffle happens in memory.
        wanted = order[span.start : span.stop]
        read = {int(i): source.read(int(i)) for i in np.sort(wanted)}
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
    about: dict[str, Any] = {"source": "exact", "licence": "drawn by difflab", "classes": None, "n_train": n_train, "n_held_out": n0}
    return about, record, columns, lambda span: family.truth(config.model, seeds[span.start : span.stop])
