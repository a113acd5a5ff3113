"""The input of a selection policy: the samples of one generation that no earlier policy has dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from difflab.core.errors import MeasureError
from difflab.metrics.judge import Judge
from difflab.runs import ledger
from difflab.runs.run import Run
from difflab.runs.sizes import first_size


@dataclass
class Candidates:
    """Samples of one generation that no policy has dropped yet.

    Attributes:
        index: int64 [n], ascending positions among the samples of the generation.
        extractors: opened feature extractors, in the order of measure.extractors.
    """

    run: Run
    generation: int
    index: np.ndarray
    extractors: Any = ()
    # values that are read once for all policies of the stage
    _shared: dict[Any, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def only(self, index: np.ndarray) -> Candidates:
        """The candidates at these positions. They share the values that were read already."""
        return Candidates(self.run, self.generation, index, self.extractors, self._shared)

    def once(self, key: Any, read: Callable[[], Any]) -> Any:
        """The result of ``read()``, which is called once for each `key` in the stage, whichever policy asks
        first.
        """
        if key not in self._shared:
            self._shared[key] = read()
        return self._shared[key]

    @cached_property
    def rows(self) -> pa.Table:
        """The ledger columns of the candidates, without pictures."""
        shards = self.run.samples(self.generation)
        names = [name for name, _ in ledger.COLUMNS]
        table = self.once("rows", lambda: pa.concat_tables([shards.table(k, names) for k in shards.shards]))
        return table.take(pa.array(self.index))

    @property
    def labels(self) -> np.ndarray | None:
        """The requested class of each candidate, int64 [n]; None = unconditional."""
        labels = self.once("labels", self.run.samples(self.generation).labels)
        return None if labels is None else labels[self.index]

    def images(self) -> np.ndarray:
        """Pixels, uint8 [n, H, W, C]. The exact families have values instead, float64 [n, R, d]."""
        return self.run.samples(self.generation).gather(self.index)

    def blocks(self, size: int = 512) -> Iterator[Candidates]:
        """The candidates in parts of at most `size`, so that not all pixels are in memory at once."""
        for start in range(0, len(self), size):
            yield self.only(self.index[start : start + size])

    def features(self, extractor: Any) -> torch.Tensor:
        """Features of one opened extractor, float32 [n, d]. Raises MeasureError if a value is not finite."""
        whole = self.once(extractor.key, lambda: self.run.samples(self.generation).features(extractor.key))
        return _finite(
            whole[torch.from_numpy(self.index)], self.index, f"sample {{}} of generation {self.generation}"
        )

    def real(self, extractor: Any) -> tuple[torch.Tensor, np.ndarray | None]:
        """Features [m, d] and classes [m] (None = unlabelled) of generation 0's training set."""
        run = self.run

        def read() -> torch.Tensor:
            n0 = first_size(run.config, run.about["n_train"])
            return _finite(run.real.features(extractor.key)[:n0], np.arange(n0), "real image {}")

        features, labels = self.once(("real", extractor.key), read), self.once("real labels", run.real.labels)
        return features, None if labels is None else labels[: len(features)]

    def judge(self, extractor: Any) -> Any:
        """The class judge of the run, fitted to generation 0's training set on the features of `extractor`.

        Raises MeasureError without classes.
        """
        features, labels = self.real(extractor)
        if labels is None:
            raise MeasureError(
                "a class judge is fitted to labelled real images, and the real images of this run have no "
                "labels"
            )
        classes = len(self.run.about["classes"])
        return self.once(
            ("judge", extractor.key), lambda: Judge.fit(features, torch.from_numpy(labels), classes)
        )

    @property
    def exact(self) -> bool:
        """Whether the candidates are numbers instead of images."""
        return self.run.config.exact


def _finite(features: torch.Tensor, index: np.ndarray, whose: str) -> torch.Tensor:
    bad = ~torch.isfinite(features).all(1)
    if bad.any():
        raise MeasureError(
            f"{whose.format(index[int(bad.nonzero()[0])])} has features that are NaN or infinite; look at "
            "that image before you select by features"
        )
    return features
