"""Many measures of the same sets: values are the measures themselves, and what is missing has a reason."""

from types import SimpleNamespace

import pytest
import torch

from difflab.core.rows import KEYS
from difflab.metrics import METRICS, Pair
from difflab.metrics.evaluate import ComparedSets, MeasureSettings, Side, left_out, measured
from difflab.metrics.interval import interval, resampled

PIXELS = SimpleNamespace(name="pixels", recipe={"name": "pixels"}, statistics=None)
TEXTURE = SimpleNamespace(name="texture", recipe={"name": "texture"}, statistics="texture")


def normal(seed, n=60, d=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def take(metrics, sets, extractor=PIXELS, resample=lambda metric, pair: [], **settings):
    return measured(extractor, sets, MeasureSettings(metrics, resample, **settings))


SETS = ComparedSets(Side(normal(0)), Side(normal(1) / 2), Side(normal(2)), normal(3), "real set")


def test_value_floor_and_interval_are_those_of_the_measure():
    resample = lambda metric, pair: resampled(metric, pair, range(20), 7)  # noqa: E731
    (row,) = take(["recall"], SETS, resample=resample, generation=4)
    recall, pair = METRICS["recall"], Pair(normal(0), normal(1) / 2)
    assert tuple(row) == KEYS and row["generation"] == 4 and row["n"] == 60 and row["reason"] is None
    assert row["value"] == recall.of(pair) and row["floor"] == recall.of(Pair(normal(2), normal(0)))
    low, high = interval(row["value"], sorted(resampled(recall, pair, range(20), 7)), recall.range, 60)
    assert (row["ci_low"], row["ci_high"]) == (low, high)


def test_memorisation_has_a_floor_with_real_images_as_samples():
    (row,) = take(["auth_pct"], SETS)
    auth = METRICS["auth_pct"]
    assert row["floor"] == auth.of(Pair(normal(0), normal(0), train=normal(3)))
    assert row["value"] == auth.of(Pair(normal(0), normal(1) / 2, train=normal(3)))


def test_texture_measures_stay_on_their_extractor_and_others_off_it():
    assert take(["texture_distance"], SETS) == [] and take(["fd"], SETS, TEXTURE) == []


def test_rows_that_are_not_finite_are_left_out_of_both_value_and_n():
    broken = normal(1) / 2
    broken[:5, 0] = torch.nan
    sets = ComparedSets(SETS.real, Side(broken), SETS.second_real)
    (row,) = take(["fd"], sets)
    assert row["n"] == 55 and row["value"] == METRICS["fd"].of(Pair(normal(0), broken[5:]))
    assert row["reason"] == "5 of 60 samples have features that are no finite numbers, and are left out"


def test_what_has_no_value_has_a_reason_and_neither_floor_nor_interval():
    told = []
    rows = take(["class_accuracy", "fd"], SETS, no_judge="no labels", advance=told.append)
    assert rows[0]["reason"] == "class_accuracy has no value: no labels"
    assert rows[0]["value"] is rows[0]["floor"] is rows[0]["ci_low"] is None
    assert rows[1]["value"] is not None and told == [1, 1]


def test_without_a_second_real_set_there_is_no_floor():
    (row,) = take(["fd"], ComparedSets(SETS.real, SETS.fake))
    assert row["value"] > 0 and row["floor"] is None and row["reason"] is None


@pytest.mark.parametrize(
    ("change", "same"), [({}, True), ({"neighbours": 3}, False), ({"generation": 2}, True)]
)
def test_the_recipe_is_the_same_where_numbers_compare(change, same):
    (before,), (after,) = take(["recall"], SETS), take(["recall"], SETS, **change)
    assert (before["recipe"] == after["recipe"]) == same
    (other,) = take(["recall"], ComparedSets(SETS.real, SETS.fake, identity="another"))
    assert other["recipe"] != before["recipe"]


def test_reasons_that_are_equal_share_a_line():
    assert left_out({"a (x)": "a has no value: few", "b": "b has no value: few", "c": "c fails"}) == [
        "a (x), b: few",
        "c: fails",
    ]
