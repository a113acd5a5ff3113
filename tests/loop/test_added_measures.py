"""Sections of added measures: which rows settings make, what is lacking, and the file that remembers them."""

from types import SimpleNamespace
from typing import Any

import pytest

from difflab.config import Measure
from difflab.core.errors import MeasureError, StoreError
from difflab.loop.added_measures import FILE, add, added, expected, lacking, missing, taken


@pytest.fixture
def run(tmp_path) -> Any:
    measure = Measure(metrics=["fd", "recall"], extractors=["pixels"], neighbours=5, resamples=20)
    return SimpleNamespace(path=tmp_path, config=SimpleNamespace(measure=measure))


def test_each_measure_is_taken_on_the_extractors_it_belongs_on():
    measure = Measure(
        metrics=["fd", "class_entropy", "texture_distance", "zero_shot_accuracy"],
        extractors=["texture", "pixels", "open_clip:tiny-clip"],
        concepts="classes",
        judge_drift=True,
    )
    assert list(taken(measure)) == [
        ("fd", "pixels"),
        ("fd", "open_clip:tiny-clip"),
        ("class_entropy", "pixels"),
        ("texture_distance", "texture"),
        ("zero_shot_accuracy", "open_clip:tiny-clip"),
        ("judge_drift", "pixels"),
    ]
    assert taken(measure)["zero_shot_accuracy", "open_clip:tiny-clip"]["concepts"] == "classes"


def test_only_what_the_run_lacks_becomes_a_section(run):
    wanted = Measure(metrics=["recall", "vendi"], extractors=["pixels", "texture"], resamples=20)
    assert lacking(run, wanted) == [{"extractors": ["pixels"], "metrics": ["vendi"], "neighbours": 5}]
    add(run, lacking(run, wanted))
    assert lacking(run, wanted) == []


def test_the_same_measure_with_other_settings_is_refused(run):
    with pytest.raises(MeasureError, match=r"recall \(pixels\) is in this run with neighbours 5, not 3"):
        lacking(run, Measure(metrics=["recall"], extractors=["pixels"], neighbours=3))


def test_added_sections_are_read_in_order_with_the_count_and_resamples_of_the_run(run):
    assert added(run) == []
    add(run, [{"extractors": ["pixels"], "metrics": ["vendi"], "neighbours": 5}])
    add(run, [{"extractors": ["texture"], "metrics": ["texture_distance"], "neighbours": 5}])
    first, second = added(run)
    assert (first.metrics, second.extractors) == (["vendi"], ["texture"])
    assert first.resamples == second.resamples == 20


@pytest.mark.parametrize("text", ["{", "- 3\n", "- {metrics: 5}\n"])
def test_a_damaged_file_is_named(run, text):
    (run.path / FILE).write_text(text)
    with pytest.raises(StoreError, match=f"{FILE} is damaged"):
        added(run)


def test_a_section_is_missing_while_one_of_its_rows_is(run):
    run.config.measure = Measure(metrics=["fd", "kid"], extractors=["inception"], judge_drift=False)
    inception = SimpleNamespace(name="inception")
    assert expected(run, [inception]) == {("fid", "inception"), ("kid", "inception")}
    rows = [{"metric": "fid", "extractor": "inception"}, {"metric": "kid", "extractor": "pixels"}]
    assert missing([(run, [inception])], rows) == [(run, [inception])]
    rows.append({"metric": "kid", "extractor": "inception"})
    assert missing([(run, [inception])], rows) == []
