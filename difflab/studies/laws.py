"""All laws by their names."""

from __future__ import annotations

from collections.abc import Callable

from difflab.studies import category_laws, gaussian_laws
from difflab.studies.law import Chapter, Law

CHAPTERS: tuple[Callable[[], Chapter], ...] = (
    gaussian_laws.replace,
    gaussian_laws.replace_with_sampling_bias,
    gaussian_laws.accumulate,
    gaussian_laws.fresh_real,
    gaussian_laws.weighted_real,
    gaussian_laws.weights_of_models,
    gaussian_laws.growing,
    category_laws.categories,
    category_laws.modes,
    category_laws.pooled_and_isolated_labs,
    category_laws.one_way_and_swapped_labs,
    category_laws.guidance,
    category_laws.selection,
)
LAWS: dict[str, Law] = {}
"""Every law by its name, in the order of the chapters."""
for _chapter in CHAPTERS:
    LAWS |= _chapter()
