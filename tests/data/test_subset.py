"""The long tail, the limit, and what they keep."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import folder, picture

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.registry import open_source
from difflab.data.split import split
from difflab.data.subset import apportion


def test_zipf_tail_follows_the_formula():
    data = Data(source="digits", tail={"kind": "zipf", "exponent": 1.5})
    whole, source = open_source(Data(source="digits"), 0), open_source(data, 0)
    counts = np.bincount(whole.labels)
    ranked = sorted(range(10), key=lambda c: (-counts[c], c))
    expected = [min(counts[c], max(2, round(counts[ranked[0]] * r**-1.5))) for r, c in enumerate(ranked, 1)]
    assert [int(np.sum(source.labels == c)) for c in ranked] == expected
    assert source.read(5).tolist() == whole.read(whole.keys.index(source.keys[5])).tolist()


def test_steep_tail_keeps_two_of_every_class():
    source = open_source(Data(source="digits", tail={"kind": "zipf", "exponent": 10}), 0)
    assert sorted(np.bincount(source.labels))[:9] == [2] * 9
    split(source, 0.5, 0)


def test_tail_depends_on_the_seed_alone():
    data = Data(source="digits", tail={"kind": "zipf"})
    assert open_source(data, 1).keys == open_source(data, 1).keys != open_source(data, 2).keys


def test_limit_is_stratified_and_exact():
    source = open_source(Data(source="digits", limit=101), 0)
    assert len(source) == 101
    assert set(np.bincount(source.labels)) <= {9, 10, 11}
    assert (
        source.prompts[0]
        == f"a handwritten digit {['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine'][source.labels[0]]}"
    )


def test_one_split_seed_keeps_the_same_images_in_runs_of_other_seeds():
    kept = [
        set(open_source(Data(source="digits", limit=100, split_seed=split), seed).keys)
        for split, seed in ((3, 0), (3, 1), (None, 3), (None, 1))
    ]
    assert kept[0] == kept[1] == kept[2] != kept[3]


def test_limit_too_small_for_the_classes():
    with pytest.raises(DataError, match=r"use at least data.limit=20"):
        open_source(Data(source="digits", limit=12), 0)


def test_limit_above_the_size_keeps_all():
    assert len(open_source(Data(source="digits", limit=10_000), 0)) == 1797


def test_apportion_respects_bounds():
    counts = np.array([100, 3, 1, 50])
    sizes = apportion(counts, 20, np.minimum(counts, 2))
    assert sizes.sum() == 20 and np.all(sizes <= counts) and np.all(sizes >= [2, 2, 1, 2])
    assert apportion(counts, 154, np.zeros(4, int)).tolist() == counts.tolist()


def test_tail_without_labels(tmp_path):
    for i in range(4):
        picture(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match="has no labels"):
        folder(tmp_path, tail={"kind": "zipf"})
    assert len(folder(tmp_path, limit=4)) == 4
