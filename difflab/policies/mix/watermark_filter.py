"""Remove images with a watermark from the training sets."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.core.files import write_json
from difflab.core.ragged import each_size
from difflab.core.shape import Shape
from difflab.features.spread_spectrum import LEAST, agreements, detected
from difflab.policies.interface import At, Policy
from difflab.runs.ledger import REAL
from difflab.runs.train_set import TrainSet

BLOCK = 512
"""Images that are read at once."""


@policy("watermark_filter")
class WatermarkFilter(Policy):
    """Images in which the watermark of a key is detected are removed from the training sets, real images too.

    The mark is that of the policy `watermark` with method spread_spectrum. Training sets become smaller, and
    the number of images seen stays the same. `watermark_filter.json` beside the training set counts the real
    images and samples that were read and removed. Exact: an image without the mark is removed by a random
    key with probability at most `false_positive_rate`; under one key similar images have a common fate.
    """

    source: ClassVar[str] = "the popular account; the binomial test of difflab/features/spread_spectrum.py"

    first: int = Field(
        1,
        ge=1,
        description="First generation in which the policy acts. Generation 0 trains on all real images.",
    )
    key: int = Field(ge=0, description="The key of the mark, as in the policy watermark.")
    chip: int = Field(1, ge=1, description="The chip of the mark, as in the policy watermark.")
    false_positive_rate: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Largest probability, over keys, that an image without the mark is removed, 0 to 1.",
    )

    def check(self, config: Any) -> None:
        if config.exact:
            raise ConfigError(
                f"policies: watermark_filter reads images, but the samples of model.family="
                f"{config.model.family} are numbers"
            )

    def check_shape(self, shape: Shape) -> None:
        if min(map(min, shape.all_sizes)) < LEAST * self.chip:
            raise ConfigError(
                f"policies: watermark_filter needs images of {LEAST * self.chip} or more pixels a side at "
                f"chip={self.chip}; use larger images"
            )

    def rows(self, at: At, rows: pa.Table) -> pa.Table:
        found = self.found(at, rows)
        synthetic = rows["generation"].to_numpy() != REAL
        counts = {
            f"{kind}_{what}": int((which & of).sum())
            for kind, which in (("real", ~synthetic), ("samples", synthetic))
            for what, of in (("read", np.ones_like(found)), ("removed", found))
        }
        if found.all():
            raise ConfigError(
                f"policies: watermark_filter removes all {len(rows)} images of training set {at.generation}; "
                "add images without the mark (regime.name accumulate or fixed_real), or lower "
                "false_positive_rate"
            )
        settings = {"key": self.key, "chip": self.chip, "false_positive_rate": self.false_positive_rate}
        write_json(at.run.gen(at.generation) / "watermark_filter.json", settings | counts)
        at.say(
            f"watermark_filter: {counts['samples_removed']} of {counts['samples_read']} samples and "
            f"{counts['real_removed']} of {counts['real_read']} real images of training set {at.generation} "
            f"were removed (false positive rate {self.false_positive_rate:g})"
        )
        return rows.take(pa.array(np.flatnonzero(~found)))

    def found(self, at: At, rows: pa.Table) -> np.ndarray:
        """Whether the mark is detected in the image of each row, bool [n]."""
        train_set = TrainSet(rows, at.run.samples)
        found = np.zeros(len(rows), dtype=bool)
        for member, shards in enumerate(train_set.sets.values()):
            of_set = np.flatnonzero(train_set.member == member)
            for start in range(0, len(of_set), BLOCK):
                block = of_set[start : start + BLOCK]
                found[block] = each_size(shards.gather(train_set.index[block]), self._detected)
        return found

    def _detected(self, images: np.ndarray) -> np.ndarray:
        read = agreements(torch.from_numpy(images), self.key, self.chip)
        return detected(read, self.false_positive_rate).numpy()
