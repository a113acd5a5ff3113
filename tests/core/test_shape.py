"""The shape of a data set."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from difflab.core.shape import Shape


def test_a_set_has_no_classes_and_no_captions_unless_it_says_so():
    shape = Shape((8, 8, 1))
    assert shape.classes == 0 and shape.prompts == ()


def test_shapes_compare_by_value_and_do_not_change():
    assert Shape((8, 8, 1), 3) == Shape((8, 8, 1), 3) != Shape((8, 8, 1), 4)
    assert len({Shape((8, 8, 3), 0, ("a", "b")), Shape((8, 8, 3), 0, ("a", "b"))}) == 1
    with pytest.raises(FrozenInstanceError):
        Shape((8, 8, 1)).classes = 2  # type: ignore[misc]
