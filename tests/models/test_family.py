"""The interface that each family fulfils."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from difflab.core.shape import Shape
from difflab.models.family import ClosedForm, Exact, Family
from difflab.models.registry import FAMILIES, family_of


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_defines_the_whole_interface(name: str) -> None:
    kind = family_of(SimpleNamespace(family=name))
    assert issubclass(kind, Family) and not kind.__abstractmethods__


def test_the_exact_families_are_of_closed_form_and_the_others_are_not_exact() -> None:
    kinds = {name: family_of(SimpleNamespace(family=name)) for name in FAMILIES}
    exact = {name for name, kind in kinds.items() if issubclass(kind, Exact)}
    closed = {name for name, kind in kinds.items() if issubclass(kind, ClosedForm)}
    assert exact == {"gaussian", "mixture", "categorical"} and closed == exact | {"memoriser"}


def test_a_family_without_sampling_cannot_be_created() -> None:
    kind: Any = Family
    with pytest.raises(TypeError, match="abstract"):
        kind(None, Shape((8, 8, 1)))
