"""Batches of one bucket, in an order that is a function of the key and the step alone."""

from __future__ import annotations

import numpy as np
import pytest

from difflab.loop.bucket_order import bucket_order

KEY = ("run", 0)


def buckets(*counts: int, seed: int = 0) -> np.ndarray:
    bucket = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(bucket)


@pytest.mark.parametrize("counts", [(30, 12, 12), (64, 1, 7), (5, 5), (100,), (3, 4, 5)])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_a_batch_has_one_bucket_and_every_image_is_seen_equally_often(counts, batch):
    bucket = buckets(*counts)
    steps = 40 * len(bucket) // batch
    batches = [bucket_order(bucket, batch, step, KEY) for step in range(steps)]
    assert all(len(rows) == batch and len(set(bucket[rows])) == 1 for rows in batches)
    seen = np.bincount(np.concatenate(batches), minlength=len(bucket))
    # Each bucket may be one batch behind or ahead, and so its images.
    slack = 2 * batch / np.bincount(bucket)[bucket] + 1
    assert (np.abs(seen - 40) <= slack + 40 * batch * len(counts) / (40 * len(bucket))).all(), seen


def test_within_a_bucket_every_pass_is_a_permutation():
    bucket = buckets(24, 9)
    batches = [bucket_order(bucket, 4, step, KEY) for step in range(400)]
    for b, n in ((0, 24), (1, 9)):
        stream = np.concatenate([rows for rows in batches if bucket[rows[0]] == b])
        for start in range(0, len(stream) - n, n):
            assert sorted(stream[start : start + n]) == np.flatnonzero(bucket == b).tolist()


def test_an_epoch_has_the_batches_of_each_bucket_in_random_order():
    bucket = buckets(32, 16, 16)
    turns = [int(bucket[bucket_order(bucket, 4, step, KEY)[0]]) for step in range(32)]
    assert np.bincount(turns[:16]).tolist() == np.bincount(turns[16:]).tolist() == [8, 4, 4]
    assert turns[:16] != turns[16:] and turns[:16] != sorted(turns[:16])


def test_it_is_a_function_of_key_and_step():
    bucket = buckets(30, 12, 12)
    first = [bucket_order(bucket, 8, step, KEY) for step in range(30)]
    assert all(np.array_equal(first[step], bucket_order(bucket, 8, step, KEY)) for step in (29, 3, 17, 0))
    other = [bucket_order(bucket, 8, step, ("run", 1)) for step in range(30)]
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
