"""The shape of the data that a model is trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from difflab.core.size import Size


@dataclass(frozen=True)
class Shape:
    """The shape of one record, the number of classes and the distinct captions of a data set.

    Attributes:
        record: (H, W, C) of a uint8 image, or (R, d) of a float64 record of an exact family with R chains.
        classes: number of classes; 0 = the data set has no labels.
        prompts: the distinct captions; empty = the data set has none.
        sizes: the sizes (H, W) of a set with several; `record` has the most frequent one. Empty = all images
            have the size in `record`.
    """

    record: tuple[int, ...]
    classes: int = 0
    prompts: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()

    @property
    def size(self) -> Size:
        """(H, W) of an image."""
        return self.record[0], self.record[1]

    @property
    def all_sizes(self) -> tuple[Size, ...]:
        """(H, W) of all images."""
        return self.sizes or (self.size,)

    def at(self, size: Size) -> Shape:
        """The shape of images of one size, (H, W)."""
        return replace(self, record=(*size, *self.record[2:]), sizes=())
