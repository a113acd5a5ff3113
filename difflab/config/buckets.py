"""The field data.buckets: sizes of images with several aspect ratios."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any

from pydantic import Field, ValidationError, model_validator

from difflab.config.spec import Spec
from difflab.core.size import LARGEST, SMALLEST, Size, equal_area, in_order, size_of


class EqualArea(Spec):
    """Buckets of nearly equal area, as for SDXL (Podell et al. 2307.01952, appendix I)."""

    size: int = Field(
        ge=SMALLEST,
        le=LARGEST,
        description="Side in pixels of the square that has the largest area of a bucket.",
    )
    step: int = Field(
        64, ge=1, le=LARGEST, description="Height and width are multiples of this number of pixels."
    )
    max_ratio: float = Field(
        4.0,
        ge=1,
        le=16,
        description="Largest ratio of the longer side to the shorter side; 1 = squares only.",
    )

    @model_validator(mode="after")
    def _possible(self) -> EqualArea:
        if self.size % self.step:
            raise ValueError(f"size {self.size} is not a multiple of step {self.step}")
        sides = list(chain.from_iterable(self.sizes))
        if min(sides) < SMALLEST or max(sides) > LARGEST:
            raise ValueError(f"sides are not from {SMALLEST} to {LARGEST}; use a smaller max_ratio")
        return self

    @property
    def sizes(self) -> list[Size]:
        """(H, W) of every bucket, from the narrowest to the widest."""
        return equal_area(self.size, self.step, self.max_ratio)


def parse_buckets(value: Any) -> Any:
    """The value of data.buckets in one form: sorted sizes, so that their order in a config has no meaning.

    Raises ValueError that says what is wrong.
    """
    if value is None or isinstance(value, EqualArea):
        return value
    if isinstance(value, dict):
        try:
            return EqualArea.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(
                f"{key + ': ' if key else ''}{message}; its keys are size, step, max_ratio"
            ) from None
    if not isinstance(value, list) or not value or isinstance(value[0], int):
        raise ValueError(
            "must be a list of sizes [[H, W], ...], or {size: 1024, step: 64, max_ratio: 4} for sizes of "
            "equal area"
        )
    sizes = in_order(size_of(size) for size in value)
    for narrower, wider in pairwise(sizes):
        if narrower[0] * wider[1] == narrower[1] * wider[0]:
            raise ValueError(
                f"{list(narrower)} and {list(wider)} have the same aspect ratio, so that no image would go "
                "to one of them; remove one"
            )
    return [list(size) for size in sizes]
