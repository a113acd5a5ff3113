"""Embeddings on disk: their types, padding, interrupted and shared encodings, damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from difflab.core.errors import StoreError
from difflab.models import text_table

PROMPTS = ["a", "bb", "cccc", None, "dd"]


class Encoders:
    """Encodes a prompt to its letters, in bf16 and padded to the longest prompt of the batch. Counts its uses."""

    def __init__(self) -> None:
        self.opened, self.read_prompts = 0, []

    def open(self) -> Any:
        self.opened += 1
        return self.read

    def read(self, prompts: Any) -> dict[str, torch.Tensor]:
        self.read_prompts += prompts
        texts = [p or "" for p in prompts]
        length = max(map(len, texts))
        codes = [[ord(c) for c in text] + [0] * (length - len(text)) for text in texts]
        states = torch.tensor(codes, dtype=torch.bfloat16)[..., None].expand(-1, -1, 3)
        return {"mask": states[..., 0] > 0, "pooled": states.sum(1).float(), "states": states}


def whole(path: Path, encoders: Encoders, batch: int = 2) -> dict[str, torch.Tensor]:
    text_table.encode(path, PROMPTS, batch, encoders.open)
    text_table.join(path, len(PROMPTS), batch)
    return text_table.mapped(path)


def test_rows_are_padded_to_the_longest_prompt_and_keep_their_types(tmp_path):
    tables = whole(tmp_path / "t.safetensors", Encoders())
    at_once = Encoders().read(PROMPTS)
    assert {name: t.dtype for name, t in tables.items()} == {
        "states": torch.bfloat16,
        "pooled": torch.float32,
        "mask": torch.bool,
    }
    for name, table in at_once.items():
        assert torch.equal(tables[name], table), name
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_the_file_is_a_safetensors_file(tmp_path):
    path = tmp_path / "t.safetensors"
    tables = whole(path, Encoders())
    theirs = load_file(path)
    assert theirs.keys() == tables.keys()
    assert all(torch.equal(theirs[name], t) for name, t in tables.items())


def test_a_map_reads_only_the_rows_that_are_indexed(tmp_path):
    """A file of 256 MiB with holes: after two rows of it are read, hardly any of it is in memory."""
    path, rows = tmp_path / "large.safetensors", 2**14
    head = json.dumps(
        {"states": {"dtype": "F32", "shape": [rows, 4096], "data_offsets": [0, rows * 4096 * 4]}}
    )
    head += " " * (-len(head) % 8)
    with open(path, "wb") as out:
        out.write(len(head).to_bytes(8, "little") + head.encode())
        out.truncate(8 + len(head) + rows * 4096 * 4)

    def resident() -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) * 1024

    before = resident()
    states = text_table.mapped(path)["states"]
    assert states[torch.tensor([5, rows - 1])].abs().sum() == 0
    assert resident() - before < 32 * 2**20 < states.nbytes / 4


def test_an_interrupted_encoding_goes_on_where_it_stopped(tmp_path):
    path, stopped = tmp_path / "t.safetensors", Encoders()
    text_table.encode(path, PROMPTS[:2], 2, stopped.open)  # the first part only
    again = Encoders()
    tables = whole(path, again)
    assert again.read_prompts == PROMPTS[2:]
    assert torch.equal(tables["states"], Encoders().read(PROMPTS)["states"])
    whole(path, again)
    assert again.opened == 1  # the file exists, so no encoder is loaded


def test_processes_share_the_prompts(tmp_path):
    path, encoders = tmp_path / "t.safetensors", [Encoders(), Encoders(), Encoders(), Encoders()]
    for rank, own in enumerate(encoders):
        text_table.encode(path, PROMPTS, 2, own.open, rank, len(encoders))
    assert [own.read_prompts for own in encoders] == [PROMPTS[:2], PROMPTS[2:4], PROMPTS[4:], []]
    assert encoders[3].opened == 0  # nothing to do, nothing is loaded
    text_table.join(path, len(PROMPTS), 2)
    assert path.read_bytes() == joined_by_one(tmp_path).read_bytes()


def joined_by_one(folder: Path) -> Path:
    whole(folder / "one.safetensors", Encoders())
    return folder / "one.safetensors"


def test_a_run_that_joins_later_than_another_one_uses_its_file(tmp_path):
    path = tmp_path / "t.safetensors"
    whole(path, Encoders())
    before = path.read_bytes()
    text_table.join(path, len(PROMPTS), 2)  # the parts are gone
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        text_table.join(tmp_path / "never.safetensors", len(PROMPTS), 2)


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "type"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "t.safetensors"
    whole(path, Encoders())
    content = path.read_bytes()
    changed = {
        "cut": content[:-7],
        "empty": b"",
        "header": content[:8] + b"x" + content[9:],
        "type": content.replace(b'"BF16"', b'"XF16"'),
    }
    path.write_bytes(changed[damage])
    with pytest.raises(
        StoreError, match=r"t\.safetensors cannot be read .*delete it and run the same command"
    ):
        text_table.mapped(path)
