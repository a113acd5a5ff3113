"""Write the samples of a generation as an image folder with ``metadata.jsonl``, for other tools."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from difflab.config import recipe_of
from difflab.core.errors import ConfigError, DataError
from difflab.core.hashing import digest
from difflab.runs.run import Run

KEPT = ("label", "class", "prompt", "seed", "generation", "flag", "sha256")

Sign = Callable[[bytes, str, dict[str, Any]], bytes]
"""An image file, its name and the statement about it -> the file with a manifest (`data.manifest.Signer`)."""


def export(
    run: Run, generation: int, folder: Path, sign: Sign | None = None, sign_prompts: bool = False
) -> int:
    """Write the samples of a generation to `folder` and return their number.

    The folder gets the files ``000000.png``, ``000001.png``, ... and ``metadata.jsonl``. The keys of a line
    are file_name, text (the caption or else the class) and the columns of the ledger in `KEPT`.

    Raises:
        ConfigError: the generation has no samples, or the samples are numbers.
        DataError: the folder is not empty or cannot be made.
    """
    if run.config.exact:
        raise ConfigError(f"{run.path} contains numbers, not images; it has nothing to export as pictures")
    # If a shard is missing, the samples still exist. Reading them raises an error that names the shard.
    if generation < 0 or not (run.gen(generation) / "sampled.json").exists():
        sampled = [t for t in range(run.config.generations + 1) if run.done(t, "sample")]
        raise ConfigError(f"{run.path} has no samples of generation {generation}; it has {sampled or 'none'}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not empty; give --to a new folder")
    shards = run.samples(generation)
    temporary = folder.with_name(f".{folder.name}.export.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}; give --to another folder") from error
    with open(temporary / "metadata.jsonl", "w", encoding="utf-8", newline="\n") as lines:
        for shard in shards.shards:
            for row in shards.table(shard).to_pylist():
                name = f"{row['index']:06d}.png"
                image = row["image"]["bytes"]
                if sign is not None:
                    image = sign(image, name, statement(run, row, sign_prompts))
                (temporary / name).write_bytes(image)
                text = row["prompt"] or row["class"] or ""
                line = {"file_name": name, "text": text, **{k: row[k] for k in KEPT}}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    if folder.exists():
        folder.rmdir()
    temporary.rename(folder)
    return len(shards)


def statement(run: Run, row: dict[str, Any], with_prompt: bool = False) -> dict[str, Any]:
    """What difflab's assertion in a manifest says about a sample: JSON types only.

    Args:
        row: its row of the ledger.
        with_prompt: with the prompt itself. Its SHA-256 is always there if the sample has a prompt.
    """
    prompt = row["prompt"]
    stated = {
        "run": run.config.name,
        "recipe": digest(recipe_of(run.config)),
        "generation": row["generation"],
        "depth": row.get("depth") or row["generation"] + 1,
        "lab": row["lab"],
        "seed": row["seed"],
        "model": row["model_hash"],
        "training_set": row["parents_hash"],
        "sha256_of_pixels": row["sha256"],
        "sha256_of_prompt": None if prompt is None else hashlib.sha256(prompt.encode()).hexdigest(),
        "prompt": prompt if with_prompt else None,
    }
    return {key: value for key, value in stated.items() if value is not None}
