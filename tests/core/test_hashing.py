"""The identity of weights, JSON-able things, images and files."""

import hashlib

import numpy as np
import torch

from difflab.core import hashing
from difflab.core.hashing import content_hash, digest, file_hash, file_hash_once, sha256_of


def test_the_hash_depends_on_names_types_shapes_and_values_alone():
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0)}
    same = {"b": torch.zeros(0), "a": torch.arange(6.0).view(2, 3).T.contiguous().T}
    assert sha256_of(weights) == sha256_of(same)
    changed = [
        {**weights, "a": weights["a"] + 1},
        {**weights, "a": weights["a"].view(3, 2)},
        {**weights, "a": weights["a"].double()},
        {"c": weights["a"], "b": weights["b"]},
        {"a": weights["a"]},
    ]
    assert len({sha256_of(weights), *(sha256_of(state) for state in changed)}) == 6


def test_the_content_hash_is_fixed():
    assert (
        content_hash(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
        == "27c6b7286667a36ddcb9b7a5dca14b7f20baa9ea8cbee5fd87eb533a56cc01e7"
    )


def test_file_hash_is_sha256(tmp_path):
    payload = bytes(range(256)) * 9000  # more than one chunk
    (tmp_path / "a").write_bytes(payload)
    assert file_hash(tmp_path / "a") == hashlib.sha256(payload).hexdigest()


def test_the_hash_of_a_file_is_kept_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    file, counted = tmp_path / "a", []

    def count(path):
        counted.append(path)
        return file_hash(path)

    monkeypatch.setattr(hashing, "file_hash", count)
    for content in (b"one", b"three"):
        file.write_bytes(content)
        for _ in range(2):
            assert file_hash_once(file) == hashlib.sha256(content).hexdigest()
    assert len(counted) == 2
    for kept in (tmp_path / "cache" / "hashes").iterdir():
        kept.write_text("half")
    assert file_hash_once(file) == hashlib.sha256(b"three").hexdigest() and len(counted) == 3
    monkeypatch.setenv("DIFFLAB_CACHE", str(file))  # a cache that cannot be written
    assert file_hash_once(file) == hashlib.sha256(b"three").hexdigest() and len(counted) == 4


def test_the_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1}) != digest({"a": 1, "b": [3, 2]})
    assert digest({}) == hashlib.sha256(b"{}").hexdigest()[:12]
