"""The order of the training data of a set of several sizes: every batch has images of one size only."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from difflab.core.seeds import numpy_generator


def bucket_order(bucket: np.ndarray, batch: int, step: int, key: tuple[object, ...]) -> np.ndarray:
    """The rows of the batch of one training step, int64 [batch]. All are of one bucket.

    Each bucket has an endless stream of its rows, one permutation after another, of which its batches take
    the next rows. After e epochs a bucket of n rows has had floor(e n / batch) batches, so that every image
    is seen equally often, up to one batch. The batches of an epoch come in random order. A bucket with fewer
    rows than a batch has batches in which images are repeated.

    Args:
        bucket: the bucket of each row, int64 [N].
        batch: rows of a batch.
        step: number of earlier steps.
        key: the key of all random numbers.
    """
    counts = np.bincount(bucket)
    epoch = _epoch_of(step, counts, batch)
    before = epoch * counts // batch  # batches that each bucket has had
    turns = np.repeat(np.arange(len(counts)), (epoch + 1) * counts // batch - before)
    turns = numpy_generator("bucket turns", *key, epoch).permutation(turns)[: step - int(before.sum()) + 1]
    chosen = int(turns[-1])
    first = (int(before[chosen]) + int((turns == chosen).sum()) - 1) * batch
    rows = np.flatnonzero(bucket == chosen)
    passes, offsets = np.divmod(np.arange(first, first + batch), len(rows))
    out = np.empty(batch, dtype=np.int64)
    for turn in np.unique(passes):
        of_pass = passes == turn
        out[of_pass] = rows[_permutation(len(rows), chosen, int(turn), key)[offsets[of_pass]]]
    return out


def _epoch_of(step: int, counts: np.ndarray, batch: int) -> int:
    """The epoch that the batch of a step belongs to."""
    epoch = step * batch // int(counts.sum())  # it has at least as many epochs before it
    while int(((epoch + 1) * counts // batch).sum()) <= step:
        epoch += 1
    return epoch


@lru_cache(maxsize=16)
def _permutation(size: int, bucket: int, turn: int, key: tuple[object, ...]) -> np.ndarray:
    return numpy_generator("bucket order", *key, bucket, turn).permutation(size)
