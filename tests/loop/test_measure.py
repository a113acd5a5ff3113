"""Stage 5 writes the rows of each generation and metrics.jsonl of the run."""

import shutil
from pathlib import Path

import pytest
from measured_digits import BASE, digits, run_chain

from difflab.core.errors import DifflabError, MeasureError
from difflab.core.rows import KEYS
from difflab.loop.measure import collect
from difflab.runs.run import Run
from difflab.runs.sizes import measured_count


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("measure") / "run")


def test_metrics_jsonl_of_the_run_is_that_of_its_generations(run):
    own = [(run.gen(t) / "metrics.jsonl").read_text() for t in (0, 1)]
    assert (run.path / "metrics.jsonl").read_text() == "".join(own)
    assert (run.metrics["extractor"] != "training").sum() == 22 and list(run.metrics.columns) == list(KEYS)


def test_more_images_than_there_are_cannot_be_measured(run):
    with pytest.raises(MeasureError, match=r"measure\.count 81 is more than the 80 images"):
        measured_count(Run(run.path, digits(measure={"count": 81})))


def test_the_count_is_the_same_in_all_generations_also_in_later_ones(run):
    shrinking = {**BASE["sample"], "count": [80, 80, 40]}
    for generations in (
        1,
        2,
        9,
    ):  # a run that is extended must not change the n of what it has measured already
        assert (
            measured_count(Run(run.path, digits(generations=generations, sample=shrinking, measure={}))) == 40
        )


def test_collect_writes_what_the_generations_hold(run, tmp_path: Path):
    shutil.copytree(run.path, tmp_path / "run")
    copy, before = Run(tmp_path / "run", run.config), (run.path / "metrics.jsonl").read_bytes()
    (copy.path / "metrics.jsonl").unlink()
    collect(copy)
    assert (copy.path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measure": {"count": 81}}, "measure.count 81 is more than the 80 images"),
        ({"sample": {"count": 5, "batch_size": 5}, "measure": {"metrics": []}}, "too small to ask for class"),
    ],
)
def test_counts_that_do_not_go_together_are_found_before_anything_is_fitted(tmp_path, changes, said):
    with pytest.raises(DifflabError, match=said):
        run_chain(digits(**changes), tmp_path / "run")
    assert not list((tmp_path / "run").glob("gen-*"))
