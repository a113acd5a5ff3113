from __future__ import annotations

import numpy as np
import pytest

from difflab.data import ledger
from difflab.errors import ConfigError
from difflab.policies import selection
from difflab.policies.selection import policy_of


def rows():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    pixels[1], pixels[3] = 0, 200
    return ledger.table({"index": list(range(4))}, pixels, images=True)


def test_all_keeps_flagged_images_too():
    assert policy_of("all")(rows()) == [None] * 4


def test_unflagged_drops_images_of_one_colour_and_says_why():
    assert policy_of("unflagged")(rows()) == [None, "constant", None, "constant"]


@pytest.mark.parametrize("name", ["all", "unflagged"])
def test_a_policy_answers_for_every_row_even_when_there_are_none(name):
    assert policy_of(name)(rows().slice(0, 0)) == []


def test_an_unknown_policy_names_the_nearest_or_all():
    with pytest.raises(ConfigError, match="'unflaged' is unknown; did you mean 'unflagged'"):
        policy_of("unflaged")
    with pytest.raises(ConfigError, match=r"known: all, .*unflagged"):
        policy_of("zzz")


def test_a_registered_policy_is_found_under_its_name(monkeypatch):
    monkeypatch.setattr(selection, "POLICIES", dict(selection.POLICIES))

    @selection.selection("first")
    def first(rows):
        return [None] + ["later"] * (len(rows) - 1)

    assert policy_of("first") is first
    assert policy_of("first")(rows()) == [None, "later", "later", "later"]
