"""The identity of weights: names, types, shapes and bytes, whatever the order and the memory layout."""

import torch

from difflab.core.hashing import sha256_of


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
