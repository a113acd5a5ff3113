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
        rows: columns pool, lab, generation (-1 = real), index and replicate (-1 = all). Without a column lab
            all images are the run's own. An optional column condition replaces the condition of an image;
            null = unchanged.
        shards_of: generation, and lab if there is that column -> its Shards.
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
        has_labs = "lab" in rows.column_names
        labs = rows["lab"].to_numpy() if has_labs else np.zeros(len(self.index), dtype=np.int64)
        # The sets of images in order of (lab, generation), and for each row the position of its set.
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
        """What each row is conditioned on, int64 [n]; None unless every image has a condition."""
        conditions = np.empty(len(self.index), dtype=np.int64)
        for place, shards in enumerate(self.sets.values()):
            values = conditions_of(shards) if shards.images else None
            if values is None:
                return None
            of_set = self.member == place
            conditions[of_set] = values[self.index[of_set]]
        if "condition" in rows.column_names:
            changed = rows["condition"].combine_chunks()
            conditions[changed.is_valid().to_numpy(zero_copy_only=False)] = changed.drop_null().to_numpy()
        return conditions

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
