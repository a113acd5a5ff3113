"""Write the samples of a generation as an image folder with ``metadata.jsonl``, for other tools."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from difflab.core import fence
from difflab.core.errors import ConfigError, DataError
from difflab.core.files import read_json, write_bytes
from difflab.core.png import KEYWORD, with_text
from difflab.runs.contact_sheet import contact_sheet, inputs_of_set, sheet_of, statement_of_set
from difflab.runs.data_card import METADATA, write_card
from difflab.runs.origins import BY_RUN, sample_depth
from difflab.runs.run import Run

KEPT = ("label", "class", "prompt", "seed", "generation", "flag", "sha256")
ORIGIN = ("origin", "depth", "declared_by", "kind", "model_hash", "parents_hash", "set_hash", "recipe")
"""Where an image comes from: columns of the ledger, the hash of all samples, and the recipe of the run."""
ABOUT = ("generation", "seed", "sha256", "model_hash", "parents_hash", "set_hash", "recipe")
IN_FILE = ("origin", "depth", *ABOUT)
"""Keys of the text chunk in each PNG file."""

Sign = Callable[..., bytes]
"""An image file, its name, the statement about it and perhaps the inputs of its model -> the file with a
manifest (`data.manifest.Signer.sign`)."""


def export(
    run: Run,
    generation: int,
    folder: Path,
    sign: Sign | None = None,
    sign_prompts: bool = False,
    croissant: bool = False,
) -> int:
    """Write the samples of a generation to `folder` and return their number.

    The folder gets the files ``000000.png``, ``000001.png``, ... and ``metadata.jsonl``. The keys of a line
    are file_name, text (the caption or else the class), the columns of the ledger in `KEPT`, and those of
    `ORIGIN`. Each file has the keys `IN_FILE` as JSON in the text chunk ``difflab``. Pixels are unchanged.

    Args:
        run, generation, folder: a run of images, a sampled generation of it, a new or empty folder.
        sign: returns the file of an image with a signed manifest; None = the images are not signed. With it
            the contact sheet of the set is signed, too, and written beside the folder (`contact_sheet`).
        sign_prompts: the manifests hold the prompt itself, not only its hash.
        croissant: also write a data card, see `data_card`.

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
    if sign is not None and sheet_of(folder).exists():
        raise DataError(f"{sheet_of(folder)} exists; give --to another name, or remove the file")
    shared: dict[str, Any] = {
        "origin": "synthetic",
        "depth": sample_depth(run, generation)[0],
        "declared_by": BY_RUN,
        "set_hash": read_json(run.gen(generation) / "sampled.json").get("hash"),
        "recipe": run.recipe,
    }
    with _new_folder(folder) as temporary:
        _write_images(run, generation, temporary, shared, sign, sign_prompts)
        if croissant:
            write_card(run, generation, temporary)
    if sign is not None:
        about = statement_of_set(run, generation)
        inputs = inputs_of_set(run, generation, about["training_set"])
        signed = sign(contact_sheet(run, generation), sheet_of(folder).name, about, inputs)
        write_bytes(sheet_of(folder), signed)
    return len(run.samples(generation))


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """`fence.atomic_folder`, with an error that names the option."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        opened = ExitStack()
        temporary = opened.enter_context(fence.atomic_folder(folder))
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}; give --to another folder") from error
    with opened:
        yield temporary


def _write_images(
    run: Run,
    generation: int,
    folder: Path,
    shared: dict[str, Any],
    sign: Sign | None,
    sign_prompts: bool,
) -> None:
    """The files of `export`. `shared`: the columns that all samples have in common."""
    shards = run.samples(generation)
    with open(folder / METADATA, "w", encoding="utf-8", newline="\n") as lines:
        for shard in shards.shards:
            for row in shards.table(shard).to_pylist():
                name = f"{row['index']:06d}.png"
                values = shared | present(row)
                declaration = json.dumps({key: values[key] for key in IN_FILE})
                image = with_text(row["image"]["bytes"], KEYWORD, declaration)
                if sign is not None:
                    image = sign(image, name, statement(run, values, sign_prompts))
                (folder / name).write_bytes(image)
                text = row["prompt"] or row["class"] or ""
                line = {"file_name": name, "text": text, **{k: values.get(k) for k in (*KEPT, *ORIGIN)}}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def present(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the ledger without missing origins, which ledgers of older versions do not have."""
    return {key: value for key, value in row.items() if key not in ORIGIN[:3] or value is not None}


def statement(run: Run, row: dict[str, Any], with_prompt: bool = False) -> dict[str, Any]:
    """What difflab's assertion in a manifest says about a sample: JSON types only.

    Args:
        row: its row of the ledger, with its depth and recipe.
        with_prompt: with the prompt itself. Its SHA-256 is always there if the sample has a prompt.
    """
    prompt = row["prompt"]
    stated = {
        "run": run.config.name,
        "recipe": row["recipe"],
        "generation": row["generation"],
        "depth": row["depth"],
        "lab": row["lab"],
        "seed": row["seed"],
        "model": row["model_hash"],
        "training_set": row["parents_hash"],
        "sha256_of_pixels": row["sha256"],
        "sha256_of_prompt": None if prompt is None else hashlib.sha256(prompt.encode()).hexdigest(),
        "prompt": prompt if with_prompt else None,
    }
    return {key: value for key, value in stated.items() if value is not None}
