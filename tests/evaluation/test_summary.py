"""The end of a run, a comparison and a diagnosis."""

from __future__ import annotations

import math

import numpy as np
import pytest
from changed_digits import changed, examined

from difflab.config import parse
from difflab.evaluation.compare import compare
from difflab.evaluation.summary import (
    Change,
    changes_most,
    changes_of,
    count_in_words,
    largest,
    sentence,
    summary_of_run,
)
from difflab.loop.chain import run_chain


def row(generation, metric, value, half=0.1, floor=0.9, **more):
    interval = {"ci_low": None, "ci_high": None}
    if half is not None and value is not None:
        interval = {"ci_low": value - half, "ci_high": value + half}
    fixed = {"generation": generation, "metric": metric, "extractor": "pixels", "value": value, "n": 100}
    return {**fixed, **interval, "floor": floor, **more}


def test_the_first_and_the_last_generation_are_compared_in_units_of_both_intervals():
    (change,) = changes_of([row(2, "recall", 0.3, 0.03), row(0, "recall", 0.8, 0.04), row(1, "recall", 0.1)])
    assert (change.first, change.last, change.floor, change.n) == (0.8, 0.3, 0.9, 100)
    assert change.noise == pytest.approx(0.05) and change.size == pytest.approx(10) and change.clear


def test_one_generation_is_compared_with_the_floor():
    (change,) = changes_of([row(0, "recall", 0.7, 0.1)])
    assert change.first is None and change.reference == 0.9 and change.size == pytest.approx(2)
    (without,) = changes_of([row(0, "recall", 0.7, 0.1, floor=None)])
    assert without.reference is None and without.size == 0 and not without.clear


def test_without_an_interval_the_floor_is_the_noise_and_without_both_there_is_no_rank():
    (change,) = changes_of([row(0, "fd", 1.0, None, 0.5), row(1, "fd", 4.0, None, 0.5)])
    assert change.size == pytest.approx(6)
    (unknown,) = changes_of([row(0, "loss", 1.0, None, None), row(1, "loss", 4.0, None, None)])
    assert unknown.noise is None and unknown.size == 0
    (exact,) = changes_of([row(0, "share", 1.0, 0.0), row(1, "share", 0.5, 0.0)])
    assert exact.size == math.inf


def test_rows_about_the_training_and_rows_without_a_value_are_left_out():
    rows = [row(0, "grad_norm", 1.0, extractor="training"), row(0, "ct", None), row(0, "fd", 1.0)]
    assert [change.metric for change in changes_of(rows)] == ["fd"]


def test_each_measure_is_ranked_once_by_its_largest_change():
    rows = []
    for metric, extractor, last in (
        ("recall", "pixels", 0.7),
        ("recall", "inception", 0.1),
        ("vendi", "pixels", 0.75),
        ("density", "pixels", 0.4),
    ):
        rows += [row(0, metric, 0.8, extractor=extractor), row(5, metric, last, extractor=extractor)]
    assert [(c.metric, c.extractor) for c in changes_most(rows, 2)] == [
        ("recall", "inception"),
        ("density", "pixels"),
    ]
    assert len(changes_most(rows)) == 3
    arms = [Change("recall", "pixels", 0.8, 0.1, 0.9, None, None, 3, 0.1, arm=arm) for arm in ("a", "b")]
    assert len(largest(arms)) == 2


def test_verdicts_are_sentences():
    lost = changes_of([row(0, "recall", 0.8), row(3, "recall", 0.1), row(0, "fd", 0.8), row(3, "fd", 0.8)])
    assert (
        count_in_words(lost, 3)
        == "1 of 2 measures changed from generation 0 to generation 3 by more than the noise (n = 100)"
    )
    same = changes_of([row(0, "recall", 0.9)])
    assert count_in_words(same, 0) == "no measure differs from real images by more than the noise (n = 100)"
    assert sentence("late collapse", 2, 50) == "generation 2: late collapse (n = 50)"


def test_a_run_ends_with_its_diagnosis_or_with_the_number_of_measures_that_changed(tmp_path):
    spec = {
        "generations": 6,
        "data": {"source": "exact", "train_size": 10},
        "model": {"family": "gaussian", "replicates": 200},
        "sample": {"count": 10},
    }
    run = run_chain(parse(spec), tmp_path / "a run", plots=False)
    end = summary_of_run(run)
    assert "measures changed from generation 0 to generation 6" in end.verdict
    variance = next(change for change in end.changes if change.metric == "variance")
    assert variance.last < 0.7 * variance.first and variance.clear and variance.n == 200
    assert end.look_at == [str(run.path / "metrics.jsonl")] and end.advice == ""
    assert end.next_commands == [f"difflab report '{run.path}'", f"difflab status '{run.path}' --all"]
    diagnosis = {"words": "early collapse", "generation": 6, "n": 10, "first_alarm": [3, ["recall"]]}
    told = summary_of_run(run, diagnosis | {"advice": "stop"})
    assert told.verdict == sentence("early collapse", 6, 10, (3, ["recall"])) and told.advice == "stop"
    assert summary_of_run(run, {"reason": "too few images"}).verdict == end.verdict


def test_a_comparison_ends_with_the_measures_that_differ_most():
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)
    narrow = (real[:60] // 4 + 96).astype(np.uint8)
    names = ["trace_ratio", "recall", "fd"]
    end = compare(real, narrow, extractors=["pixels"], metrics=names, resamples=20).summary("r", "g h")
    assert "of 3 measures differ from real images by more than the noise (n = 60)" in end.verdict
    trace = next(change for change in end.changes if change.metric == "trace_ratio")
    assert trace.first is None and trace.last == pytest.approx(1 / 16, rel=0.1) and trace.clear
    assert end.next_commands[0] == "difflab diagnose --reference r 'g h'"


def test_a_diagnosis_ends_with_the_finding_of_its_last_generation(digits):
    result = examined(digits, changed(digits, "nothing", 1.0), changed(digits, "tails_cut", 1.0))
    end, last = result.summary(run="runs/x"), result.findings[-1]
    assert end.verdict.startswith(f"generation 1: {last.words} (n = 200); first alarm in generation 1")
    assert end.advice == last.advice and end.next_commands[0] == "difflab report runs/x"
    recall = next(change for change in end.changes if change.metric == "recall")
    reading = next(r for r in last.readings["7 lost tails"] if r.sign.metric == "recall")
    assert recall.last == reading.value and recall.floor == reading.controls["real images"][0]
    assert recall.first == reading.controls["generation 0"][0] and recall.clear
    assert len({(r["generation"], r["metric"], r["extractor"]) for r in result.values()}) == len(
        result.values()
    )
    assert result.summary().next_commands == ["difflab compare REAL GENERATED"]
