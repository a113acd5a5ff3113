"""The split: deterministic, stratified, groups whole, and honest about what it cannot do."""

import numpy as np
import pytest

from difflab.config import Data
from difflab.core.account import Account
from difflab.core.errors import DataError
from difflab.data.registry import open_source
from difflab.data.source import Source
from difflab.data.split import split


def source(labels=None, groups=None, n=None):
    n = n if n is not None else len(labels)
    return Source(
        name="toy",
        size=4,
        channels=1,
        labels=None if labels is None else np.array(labels, dtype=np.int64),
        classes=None if labels is None else [f"c{i}" for i in range(max(labels) + 1)],
        prompts=None,
        groups=None if groups is None else np.array(groups, dtype=np.int64),
        attributes={},
        keys=[f"toy/{i}" for i in range(n)],
        licence="none",
        account=Account(n, n),
        read=lambda i: np.zeros((4, 4, 1), np.uint8),
    )


def assert_partition(train, held, n):
    assert train.dtype == held.dtype == np.int64
    assert sorted([*train, *held]) == list(range(n))


def test_unlabelled_has_the_asked_share_in_random_order():
    train, held = split(source(n=100), 0.3, seed=1)
    assert_partition(train, held, 100)
    assert len(held) == 30
    assert list(train) != sorted(train) and list(held) != sorted(held)


def test_same_seed_same_split_other_seed_other_split():
    toy = source([0, 1] * 30)
    first, again, other = split(toy, 0.5, 3), split(toy, 0.5, 3), split(toy, 0.5, 4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert set(first[1]) != set(other[1])


@pytest.mark.parametrize("held_out", [0.05, 0.34, 0.5, 0.9])
def test_stratified_and_exact_in_total(held_out):
    labels = [0] * 40 + [1] * 21 + [2] * 2 + [3] * 37
    train, held = split(source(labels), held_out, 0)
    assert_partition(train, held, 100)
    counts = np.bincount(np.array(labels)[held], minlength=4)
    assert abs(len(held) - 100 * held_out) <= 1
    assert counts[2] == 1, "a class of two occurs on both sides"
    assert np.all(np.abs(counts - held_out * np.array([40, 21, 2, 37])) <= 2)


def test_many_small_classes_do_not_round_in_one_direction():
    train, held = split(source([i // 3 for i in range(300)]), 0.5, 0)
    assert len(train) == len(held) == 150


@pytest.mark.parametrize("seed", range(20))
def test_groups_stay_whole_and_classes_occur_on_both_sides(seed):
    random = np.random.default_rng(seed)
    groups = np.sort(random.integers(0, 40, 150))
    labels = np.unique(groups, return_inverse=True)[1] // 3  # a class is made of about three groups
    toy = source(labels.tolist(), groups)
    train, held = split(toy, 0.4, seed)
    assert_partition(train, held, 150)
    assert not set(groups[train]) & set(groups[held])
    for label in range(labels.max() + 1):
        if len(set(groups[labels == label])) > 1:
            assert label in labels[train] and label in labels[held]


def test_one_large_group_beside_a_small_one_still_leaves_both_sides_filled():
    for seed in range(10):
        labels, groups = [0] * 6 + [1] * 6, [0, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7]
        train, held = split(source(labels, groups), 0.8, seed)
        assert set(np.array(labels)[train]) == set(np.array(labels)[held]) == {0, 1}


def test_classes_that_are_one_group_are_shared_out():
    toy = source([i // 3 for i in range(60)], [i // 3 for i in range(60)])
    train, held = split(toy, 0.5, 0)
    assert len(train) == len(held) == 30
    assert not set(toy.labels[train]) & set(toy.labels[held])


def test_groups_that_hold_several_classes():
    toy = source([i % 3 for i in range(300)], [i // 3 for i in range(300)])
    train, held = split(toy, 0.25, 0)
    assert not set(toy.groups[train]) & set(toy.groups[held])
    assert np.all(np.abs(np.bincount(toy.labels[held]) - 25) <= 1)


def test_a_class_of_one_image_is_named():
    with pytest.raises(DataError, match=r"class 'c1' has 1 image\(s\)"):
        split(source([0, 0, 0, 0, 1]), 0.5, 0)


def test_a_class_without_images_is_named():
    with pytest.raises(DataError, match=r"class 'c1' has 0 image\(s\)"):
        split(source([0, 0, 0, 0, 2, 2]), 0.5, 0)


@pytest.mark.parametrize(
    ("n", "held_out", "what"),
    [(3, 0.5, "at least 4"), (20, 0.01, "held-out side"), (20, 0.99, "training side")],
)
def test_too_few_images_on_a_side(n, held_out, what):
    with pytest.raises(DataError, match=what):
        split(source(n=n), held_out, 0)


def test_one_group_cannot_be_split():
    with pytest.raises(DataError, match="side"):
        split(source([0] * 10, [0] * 10), 0.5, 0)


def test_emoji_concepts_never_straddle():
    emoji = open_source(Data(source="emoji", label="style"), 0)
    train, held = split(emoji, 0.5, 0)
    concepts = np.array(emoji.attributes["concept"])
    assert not set(concepts[train]) & set(concepts[held])
    assert abs(len(train) - len(held)) < 0.02 * len(emoji)
