"""What cannot be measured is said before anything is fitted."""

import re

import pytest
import tiny
from measured_digits import JUDGES, MEMORISER, digits, run_chain
from spoken import folder_of_classes, spoken

from difflab.core.errors import MeasureError
from difflab.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("measure") / "run")


JUDGED = "class_accuracy, class_entropy, rare_class_survival"
UNASKED = "the samples are unconditional"
NO_LABELS = "it needs the classes|carry no class labels"
CLASSES_MISSING = {"class_entropy": "carry no class labels", "within_class_ratio": "class"}
TWO = ["prompt_diversity", "tail_recall"]


@pytest.mark.parametrize(
    ("classes", "measure", "lost"),
    [
        ({"cats": 60}, {}, {JUDGED: "needs training images of at least 2 classes, got 1"}),
        ({"cats": 30, "dogs": 30}, {"metrics": ["fd", "class_accuracy"]}, {"class_accuracy": UNASKED}),
        ({"": 60}, {"metrics": ["fd", "class_entropy", "within_class_ratio"]}, CLASSES_MISSING),
        # of half of them
        (
            {"": 60},
            {"metrics": ["kid", "recall"], "neighbours": 20},
            {"recall": "needs at least 21 real images"},
        ),
        ({"": 60}, {"metrics": ["fd", "fd_infinity"]}, {"fd_infinity": "needs at least 1536 real images"}),
        ({"": 60}, {"metrics": ["fd", *TWO]}, {"prompt_diversity": UNASKED, "tail_recall": "at least 100"}),
        ({"": 60}, {"metrics": ["kid"], "judge_drift": True}, {"judge_drift": NO_LABELS}),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_fitted(tmp_path, classes, measure, lost):
    config = digits(
        **MEMORISER,
        data={"source": folder_of_classes(tmp_path / "set", **classes)},
        measure={"resamples": 20, **measure},
    )
    run, said = spoken(config, tmp_path / "run")
    names = {name for group in lost for name in group.split(", ")}
    for name in names:
        line = next(line for line in said if name in line)
        assert re.search(next(why for group, why in lost.items() if name in group), line), line
    assert not [line for line in said if not any(name in line for name in names)]
    without = {r["metric"] for r in run.rows() if r["value"] is None}
    assert without == (names - {"judge_drift"} | (set(JUDGES) if "judge_drift" in names else set()))
    for r in run.rows():
        assert (
            r["value"] is not None
            or r["metric"] in JUDGES
            or any(
                r["reason"].removeprefix(f"{r['metric']} ") in line or r["reason"].partition(": ")[2] in line
                for line in said
            )
        )


def test_where_nothing_can_be_measured_nothing_is_trained(tmp_path):
    for metrics in (["class_accuracy"], ["rare_class_survival", "tail_recall"]):
        config = digits(
            **MEMORISER,
            data={"source": folder_of_classes(tmp_path / "-".join(metrics), cats=60)},
            measure={"metrics": metrics},
        )
        with pytest.raises(
            MeasureError, match=r"none of measure\.metrics can be measured here: .*at least 2 classes, got 1"
        ):
            run_chain(config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("gen-*"))


def test_concepts_that_the_set_cannot_have_are_an_error_before_anything_is_fitted(tmp_path):
    spec = f"open_clip:{tiny.clip(tmp_path / 'clip')}"
    (tmp_path / "concepts.txt").write_text("cat\ndog\n")
    for concepts, match in (
        ("classes", "these images have no classes"),
        (str(tmp_path / "concepts.txt"), "conditioned on classes, not on captions: use 'classes'"),
    ):
        measure = {"metrics": ["fd", "zero_shot_accuracy"], "extractors": [spec], "concepts": concepts}
        config = digits(
            **MEMORISER,
            data={"source": folder_of_classes(tmp_path / f"set of {concepts[-7:]}", **{"": 60})},
            measure=measure,
        )
        with pytest.raises(MeasureError, match=match):
            run_chain(config, tmp_path / "run")
        assert not list((tmp_path / "run").glob("gen-*"))


def test_a_complete_run_says_nothing_again(tmp_path):
    config = digits(
        **MEMORISER, data={"source": folder_of_classes(tmp_path / "set", cats=60)}, measure={"resamples": 0}
    )
    assert len(spoken(config, tmp_path / "run")[1]) == 1 and spoken(config, tmp_path / "run")[1] == []
