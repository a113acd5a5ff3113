"""A training set: rows that point at images of the real set and of earlier generations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from difflab.data.store import Shards


class TrainSet:
    """Reads the images that the rows of a ``train_set.parquet`` point at.

    Args:
        rows: columns pool, generation (-1 = real), index, replicate (-1 = all).
        shards_of: generation -> its Shards.
    """

    def __init__(self, rows: pa.Table, shards_of: Callable[[int], Shards]):
        self.generation = rows["generation"].to_numpy()
        self.index = rows["index"].to_numpy()
        self.replicate = rows["replicate"].to_numpy()
        self.sets = {int(g): shards_of(int(g)) for g in np.unique(self.generation)}
        labels = {g: s.labels() for g, s in self.sets.items()} if next(iter(self.sets.values())).images else {}
        self.labels: np.ndarray | None = None  # int64 [n]; None unless every image is labelled
        if labels and all(v is not None for v in labels.values()):
            self.labels = np.empty(len(self.index), dtype=np.int64)
            for g, known in labels.items():
                at = self.generation == g
                self.labels[at] = known[self.index[at]]  # type: ignore[index]

    def __len__(self) -> int:
        return len(self.index)

    def images(self, at: np.ndarray) -> np.ndarray:
        """The images of rows `at`: uint8 [b, H, W, C]."""
        generation, index = self.generation[at], self.index[at]
        first = next(iter(self.sets.values()))
        out = np.empty((len(at), *first.record), dtype=np.uint8 if first.images else np.float64)
        for g in np.unique(generation):
            here = generation == g
            out[here] = self.sets[int(g)].gather(index[here])
        return out

    def records(self) -> np.ndarray:
        """All records at once, for families fitted by a formula: [n, *record].

        Rows drawn for one replicate go to that replicate alone: chain r gets its shared rows followed by its own.
        """
        if (self.replicate < 0).all():
            return self.images(np.arange(len(self)))
        replicates = next(iter(self.sets.values())).record[0]
        _, first, place = np.unique(np.stack([self.generation, self.index]), axis=1, return_index=True, return_inverse=True)
        values = self.images(first)  # each record once, [u, R, d]
        shared = place[self.replicate < 0]
        rows = np.stack([np.concatenate([shared, place[self.replicate == r]]) for r in range(replicates)], axis=1)  # [n, R]
        return np.take_along_axis(values, rows[:, :, None], axis=0)
