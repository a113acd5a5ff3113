"""A training set: rows that point at images of the real set and of earlier generations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from difflab.runs.store import Shards

SHARED = -1  # the replicate of a row that all replicates share


@dataclass(frozen=True)
class Pool:
    """Images of one generation that may enter a training set.

    Attributes:
        kind: fixed_real, fresh_real or synthetic.
        generation: the generation of the images; -1 = real images.
        rows: positions of the images in their set.
        count: how many of the images enter the training set.
        same: True = the first `count` rows in every generation; False = a random draw.
        lab: the lab that drew the samples. Real images are always those of the lab that trains.
        key: the key of a draw that all training sets share; () = each training set has its own draw.
    """

    kind: str
    generation: int
    rows: np.ndarray
    count: int
    same: bool = False
    lab: int = 0
    key: tuple[object, ...] = ()


class TrainSet:
    """Reads the images that the rows of a ``train_set.parquet`` point at.

    Args:
        rows: columns pool, lab, generation (-1 = real), index and replicate (-1 = all). Without the column
            lab all images belong to this run. The optional column condition replaces the condition of an
            image; null = unchanged.
        shards_of: returns the Shards of a generation. Its second argument is the lab, if there is a column
            lab.
        conditions_of: returns the condition of each image of some Shards, int64 [N], or None.
        read: returns the model inputs of the images at some indices of some Shards; None = their pixels.
    """

    def __init__(
        self,
        rows: pa.Table,
        shards_of: Callable[..., Shards],
        conditions_of: Callable[[Shards], np.ndarray | None] = Shards.labels,
        read: Callable[[Shards, np.ndarray], np.ndarray] | None = None,
    ):
        self.generation = rows["generation"].to_numpy()
        self.index = rows["index"].to_numpy()
        self.replicate = rows["replicate"].to_numpy()
        has_labs = "lab" in rows.column_names
        labs = rows["lab"].to_numpy() if has_labs else np.zeros(len(self.index), dtype=np.int64)
        # `sets`: the sets of images in order of (lab, generation). `member`: the position of each row's set.
        sources = np.stack([labs, self.generation]).astype(np.int64)
        pairs, member = np.unique(sources, axis=1, return_inverse=True)
        self.member = member.ravel()
        self.sets: dict[tuple[int, int], Shards] = {}
        for lab, generation in pairs.T.tolist():
            self.sets[lab, generation] = shards_of(generation, lab) if has_labs else shards_of(generation)
        self.read = read or (lambda shards, indices: shards.gather(indices))
        self.conditions = self._conditions(rows, conditions_of)

    def _conditions(
        self, rows: pa.Table, conditions_of: Callable[[Shards], np.ndarray | None]
    ) -> np.ndarray | None:
        """The condition of each row, int64 [n]; None unless every image has a condition."""
        conditions = np.empty(len(self.index), dtype=np.int64)
        for position, shards in enumerate(self.sets.values()):
            values = conditions_of(shards) if shards.images else None
            if values is None:
                return None
            of_set = self.member == position
            conditions[of_set] = values[self.index[of_set]]
        if "condition" in rows.column_names:
            changed = rows["condition"].combine_chunks()
            conditions[changed.is_valid().to_numpy(zero_copy_only=False)] = changed.drop_null().to_numpy()
        return conditions

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def bucket(self) -> np.ndarray | None:
        """The position of each row's size in `Shards.sizes`, int64 [n]; None = all images have one size."""
        bucket = np.empty(len(self.index), dtype=np.int64)
        for position, shards in enumerate(self.sets.values()):
            if not shards.sizes:
                return None
            of_set = self.member == position
            bucket[of_set] = shards.bucket[self.index[of_set]]
        return bucket

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """The model inputs of the rows at these positions, [len(rows), ...]. They have one size."""
        member, index, sets = self.member[rows], self.index[rows], list(self.sets.values())
        parts = {k: self.read(sets[k], index[member == k]) for k in np.unique(member)}
        first = next(iter(parts.values()))
        inputs = np.empty((len(rows), *first.shape[1:]), dtype=first.dtype)
        for k, part in parts.items():
            inputs[member == k] = part
        return inputs

    def records(self) -> np.ndarray:
        """All records at once, [n, *record], for families that are fitted by a formula.

        A row of one replicate goes to that replicate only. The records of a replicate are the shared rows,
        followed by the rows of that replicate.
        """
        if (self.replicate < 0).all():
            return self.inputs(np.arange(len(self)))
        _, first, position = np.unique(
            np.stack([self.member, self.index]), axis=1, return_index=True, return_inverse=True
        )
        values = self.inputs(first)  # each record once, [u, R, d]
        return np.take_along_axis(values, self.by_chain(position)[:, :, None], axis=0)

    def by_chain(self, rows: np.ndarray) -> np.ndarray:
        """Put one value for each row, [N], in the order of `records`.

        The result is [n] if all rows are shared, and [n, R] if replicates have rows of their own.
        """
        if (self.replicate < 0).all():
            return rows
        replicates = next(iter(self.sets.values())).record[0]
        shared = rows[self.replicate < 0]
        return np.stack(
            [np.concatenate([shared, rows[self.replicate == r]]) for r in range(replicates)], axis=1
        )
