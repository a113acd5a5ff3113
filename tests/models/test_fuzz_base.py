"""Damaged model folders: each is refused in one line, or still samples; never another exception."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from difflab.config import Sample
from difflab.core.errors import DifflabError

pytestmark = [
    *tiny.LIBRARIES,
    pytest.mark.filterwarnings("ignore"),
]  # what libraries say of damaged files is no part of this

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    1e30,
    "",
    "x",
    [],
    [1],
    {},
    {"a": 1},
    [4, "8"],
    "linear",
    float("nan"),
    2**40,
]
COUNT = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    return {kind: tiny.make(kind, root / kind) for kind in ("sd15", "sd3")}


def damage(folder: Path, rng: random.Random) -> str:
    """One random damage to one file of a model folder; returns what was done."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    file = rng.choice(files)
    name = str(file.relative_to(folder))
    kinds = ["truncate", "flip", "delete", "empty", "bytes"] + ["value", "drop", "list"] * 3 * (
        file.suffix == ".json"
    )
    kind = rng.choice(kinds)
    content = file.read_bytes()
    if kind == "truncate":
        file.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "flip":
        at = rng.randrange(min(len(content), 2000))  # headers lie at the beginning
        file.write_bytes(content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :])
    elif kind == "delete":
        file.unlink()
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "bytes":
        file.write_bytes(rng.randbytes(200))
    elif kind == "list":
        file.write_text("[1, 2]")
    else:
        entries = json.loads(content)
        key = rng.choice(sorted(entries))
        if kind == "drop":
            del entries[key]
        else:
            entries[key] = rng.choice(VALUES)
            kind = f"value {key} = {entries[key]!r}"
        file.write_text(json.dumps(entries))
    return f"{name}: {kind}"


@pytest.mark.parametrize("number", range(COUNT))
def test_a_damaged_base_is_refused_in_one_line_or_still_samples(number, made, tmp_path):
    rng = random.Random(number)
    kind = rng.choice(sorted(made))
    folder = shutil.copytree(made[kind], tmp_path / "base")
    done = damage(folder, rng)
    how = Sample(**tiny.sampler(kind), guidance_scale=3.0, batch_size=2)
    try:
        model = tiny.model(kind, folder)
        model.check_sampling(how)
        model.encoder("cpu")(tiny.torch.from_numpy(tiny.images(2)))
        model.prepare_sampling(how, "cpu")
        drawn = model.sample(np.array([1, 4]), [5, 6], how)
    except DifflabError as error:
        assert str(error) and len(str(error)) < 1500, done
    else:
        assert drawn.shape == (2, tiny.SIDE, tiny.SIDE, 3), done
