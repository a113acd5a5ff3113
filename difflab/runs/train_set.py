"""A training set: rows that point at images of the real set and of earlier generations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from difflab.runs.store import Shards

SHARED = -1  # replicate of a row that belongs to every replicate


@dataclass(frozen=True)
class Pool:
    """Images that may be drawn: `count` of the `rows` of one generation (-1 = real)."""

    kind: str  # fixed_real | fresh_real | synthetic
    generation: int
    rows: np.ndarray
    count: int
    same: bool = False  # the first `count` rows in every generation instead of a draw
    lab: int = 0  # whose samples they are; real images are always the lab's own
    key: tuple[object, ...] = ()  # names a draw that is the same in every training set; () = drawn anew


class TrainSet:
    """Reads the images that the rows of a ``train_set.parquet`` point at.

    Args:
        rows: columns pool, lab, generation (-1 = real), index, replicate (-1 = all); without a column lab all
            are the reader's own. A column condition says what an image is conditioned on instead of what it
            was asked for; null = not so.
        shards_of: generation, and lab where there is that column -> its Shards.
        conditions_of: Shards -> what each image is conditioned on, int64 [N], or None.
        read: (Shards, indices) -> what the model reads of these images; None = their pixels.
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
        labs = rows["lab"].to_numpy().astype(np.int64) if "lab" in rows.column_names else None
        # Sets in order of (lab, generation), and of each row the position of its set.
        _, first, self.member = np.unique(
            self.generation + (0 if labs is None else labs << 32), return_index=True, return_inverse=True
        )
        self.sets: dict[tuple[int, int], Shards] = {}
        for row in first:
            lab, generation = 0 if labs is None else int(labs[row]), int(self.generation[row])
            self.sets[lab, generation] = shards_of(generation) if labs is None else shards_of(generation, lab)
        self.read = read or (lambda shards, indices: shards.gather(indices))
        known = (
            [conditions_of(s) for s in self.sets.values()] if next(iter(self.sets.values())).images else []
        )
        self.conditions: np.ndarray | None = None  # int64 [n]; None unless every image has one
        if known and all(v is not None for v in known):
            self.conditions = np.empty(len(self.index), dtype=np.int64)
            for k, values in enumerate(known):
                at = self.member == k
                self.conditions[at] = values[self.index[at]]  # type: ignore[index]
            if "condition" in rows.column_names:
                other = rows["condition"].combine_chunks()
                at = other.is_valid().to_numpy(zero_copy_only=False)
                self.conditions[at] = other.drop_null().to_numpy()

    def __len__(self) -> int:
        return len(self.index)

    def inputs(self, at: np.ndarray) -> np.ndarray:
        """What the model reads of rows `at`: [b, ...]."""
        member, index, sets = self.member[at], self.index[at], list(self.sets.values())
        parts = {k: self.read(sets[k], index[member == k]) for k in np.unique(member)}
        first = next(iter(parts.values()))
        out = np.empty((len(at), *first.shape[1:]), dtype=first.dtype)
        for k, part in parts.items():
            out[member == k] = part
        return out

    def records(self) -> np.ndarray:
        """All records at once, for families fitted by a formula: [n, *record].

        Rows drawn for one replicate go to that replicate alone: chain r gets its shared rows followed by its
        own.
        """
        if (self.replicate < 0).all():
            return self.inputs(np.arange(len(self)))
        _, first, place = np.unique(
            np.stack([self.member, self.index]), axis=1, return_index=True, return_inverse=True
        )
        values = self.inputs(first)  # each record once, [u, R, d]
        return np.take_along_axis(values, self.by_chain(place)[:, :, None], axis=0)

    def by_chain(self, rows: np.ndarray) -> np.ndarray:
        """Something of each row, [N], in the order of `records`: [n], or [n, R] where chains have rows of
        their own.
        """
        if (self.replicate < 0).all():
            return rows
        replicates = next(iter(self.sets.values())).record[0]
        shared = rows[self.replicate < 0]
        return np.stack(
            [np.concatenate([shared, rows[self.replicate == r]]) for r in range(replicates)], axis=1
        )
