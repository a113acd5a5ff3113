"""The monitor: no alarm without a change, an alarm when variety or detail is lost, curves in a tracker."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from forks import pair
from pictures import folder
from PIL import Image

import difflab
from difflab.config import Data
from difflab.core.errors import DataError, MeasureError
from difflab.data.registry import open_source
from difflab.evaluation.compare import compare
from difflab.evaluation.monitor import CollapseWarning, Monitor

FEW = {
    "extractors": ["pixels", "texture"],
    "metrics": ["recall", "coverage", "trace_ratio", "fd", "sharpness_shift"],
    "resamples": 20,
}


@pytest.fixture(scope="module")
def emoji() -> np.ndarray:
    source = open_source(Data(source="emoji", limit=700), 0)
    return np.stack(
        [source.read(int(i)) for i in np.random.default_rng(0).permutation(len(source))]
    )  # they lie in order of style


def test_it_is_silent_while_nothing_changes(emoji):
    monitor = Monitor(emoji[:300], **FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        for step in range(3):
            rows = monitor.update(emoji[300 + 120 * step : 420 + 120 * step], step=step)
            assert {row["n"] for row in rows} == {120} and {row["generation"] for row in rows} == {step}
    assert monitor.alarms == [] and len(monitor.rows) == 15 and set(monitor.frame["step"]) == {0, 1, 2}


@pytest.mark.filterwarnings("always::difflab.evaluation.monitor.CollapseWarning")
def test_lost_variety_and_lost_detail_alarm(emoji):
    monitor = Monitor(emoji[:300], **FEW)
    monitor.update(emoji[300:450])
    few = emoji[300:303].repeat(50, axis=0)
    with warnings.catch_warnings(record=True) as said:
        monitor.update(few)
    assert all(w.category is CollapseWarning and w.filename == __file__ for w in said) and len(said) == len(
        monitor.alarms
    )
    assert any(re.match(r"step 1: recall \(pixels\) is .*floor", str(w.message)) for w in said)
    assert {(1, "recall", "pixels"), (1, "coverage", "pixels")} <= set(monitor.alarms)
    blurred = [Image.fromarray(x).resize((6, 6)).resize((32, 32)) for x in emoji[450:600]]
    monitor.update(blurred, step=10, warn=False)
    assert (10, "sharpness_shift", "texture") in monitor.alarms and (10, "recall", "pixels") in monitor.alarms
    assert [r["generation"] for r in monitor.rows if r["metric"] == "fd"] == [0, 1, 10]


def test_the_floor_is_between_two_different_halves(emoji):
    rows = Monitor(emoji[:300], **{**FEW, "resamples": 0}).update(emoji[300:400])
    floor = {row["metric"]: row["floor"] for row in rows}
    assert (
        floor["fd"] > 0.01 and floor["recall"] < 1 and floor["trace_ratio"] != 1
    )  # against itself: 0, 1 and 1


def test_getting_better_is_no_alarm(emoji):
    monitor = Monitor(emoji[:300], **FEW)
    monitor.update(emoji[300:303].repeat(50, axis=0), warn=False)
    monitor.update(emoji[300:450])
    assert monitor.alarms == []


def test_curves_go_to_the_trackers(emoji):
    class Kept:
        num_processes = 1

        def __init__(self):
            self.seen = []

        def log(self, values, step):
            self.seen.append((step, values))

    kept = Kept()
    rows = Monitor(emoji[:200], accelerator=kept, **FEW).update(emoji[200:300], step=500)
    assert kept.seen == [(500, {f"difflab/{r['metric']}/{r['extractor']}": r["value"] for r in rows})]
    Monitor(emoji[:200], accelerator=Accelerator(cpu=True), **FEW).update(
        emoji[200:300]
    )  # the real one takes it too


def test_every_extractor_has_its_own_curve_and_its_own_alarm(emoji):
    """The curves of one measure on three extractors do not overwrite each other; alarms name theirs."""

    class Kept:
        num_processes = 1

        def log(self, values, step):
            self.values = values

    spaces = [
        "pixels",
        f"python:{Path(__file__).parents[1] / 'helpers' / 'space.py'}:rows_and_columns",
        "texture",
    ]
    monitor = Monitor(
        emoji[:200],
        extractors=spaces,
        metrics=["fd", "trace_ratio", "contrast_shift"],
        resamples=20,
        accelerator=Kept(),
    )
    rows = monitor.update(emoji[200:300])
    assert len(rows) == len(monitor.accelerator.values) == 5
    assert {"difflab/fd/pixels", "difflab/fd/python:space:rows_and_columns"} <= set(
        monitor.accelerator.values
    )
    monitor.update(emoji[300:301].repeat(100, axis=0), warn=False)
    seen = [alarm for alarm in monitor.alarms if alarm.metric == "trace_ratio"]
    assert [alarm.extractor for alarm in seen] == ["pixels", "python:space:rows_and_columns"] and len(
        set(monitor.alarms)
    ) == len(monitor.alarms)
    step, metric, extractor = seen[0]
    assert (step, metric, extractor) == (1, "trace_ratio", "pixels")


def test_grey_images_are_read_in_the_colours_of_the_reference(emoji):
    grey = [Image.fromarray(x).convert("L") for x in emoji[200:260]]
    monitor = Monitor(emoji[:100], extractors=["pixels"], metrics=["trace_ratio"], resamples=0)
    as_rgb = monitor.update([x.convert("RGB") for x in grey])
    assert monitor.update(grey)[0]["value"] == as_rgb[0]["value"]
    with pytest.raises(DataError, match="images are in colour and the reference is grey"):
        Monitor(grey, extractors=["pixels"], metrics=["trace_ratio"], resamples=0).update(emoji[:40])


def test_without_intervals_it_never_alarms(emoji):
    monitor = Monitor(emoji[:200], **{**FEW, "resamples": 0})
    monitor.update(emoji[200:300])
    assert (
        all(r["ci_low"] is None for r in monitor.update(emoji[200:201].repeat(100, axis=0)))
        and monitor.alarms == []
    )


def test_images_are_read_at_the_size_of_the_reference(emoji):
    monitor = Monitor(emoji[:200], image_size=16, **{**FEW, "resamples": 0})
    own = monitor.update(emoji[200:300])
    small = monitor.update(
        [Image.fromarray(x).resize((16, 16), Image.Resampling.LANCZOS) for x in emoji[200:300]]
    )
    assert [r["value"] for r in own] == [r["value"] for r in small]


@pytest.mark.parametrize(
    ("images", "said"),
    [([], "there is no image"), (np.zeros((4, 8, 8, 3)), "must be uint8"), ("nowhere", "does not exist")],
    ids=["none", "floats", "path"],
)
def test_unusable_images_are_refused(images, said, emoji):
    monitor = Monitor(emoji[:100], **FEW)
    with pytest.raises(DataError, match=said):
        monitor.update(images)
    assert monitor.rows == []


def test_measures_that_want_more_than_real_images_are_refused(emoji):
    for name in ("class_accuracy", "ct", "generalisation_score_own", "zero_shot_accuracy"):
        with pytest.raises(MeasureError, match=f"{name} needs more than real images"):
            Monitor(emoji[:100], metrics=[name])
    assert difflab.Monitor is Monitor and difflab.compare is compare


SHARED = """
import json
import numpy as np
from accelerate import Accelerator
from difflab.config import Data
from difflab.data.registry import open_source
from difflab.evaluation.monitor import Monitor

def watch(**more):
    source = open_source(Data(source="digits", limit=500), 0)
    images = np.stack([source.read(i) for i in np.random.default_rng(0).permutation(len(source))])
    monitor = Monitor(images[:300], extractors=["pixels"], metrics=["fd", "recall"], resamples=20, **more)
    accelerator = more.get("accelerator")
    mine = images[300:420]
    if accelerator:
        mine = mine[accelerator.process_index :: accelerator.num_processes]
    return monitor.update(mine, step=7)

def reason(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def main(rank, out, bad):
    accelerator = Accelerator(cpu=True)
    assert accelerator.process_index == rank
    rows = watch(accelerator=accelerator)
    said = {}
    rng = np.random.default_rng(rank)
    of = lambda n, side=8: rng.integers(0, 17, (n, side, side), dtype=np.uint8)
    shared = {"extractors": ["pixels"], "metrics": ["fd"], "resamples": 0, "accelerator": accelerator}
    reference = np.random.default_rng(9).integers(0, 17, (80, 8, 8), dtype=np.uint8)
    monitor = Monitor(reference, **shared)
    for counts in ((31, 30), (5, 40)):
        said[str(counts)] = monitor.update(of(counts[rank]))
    said["sizes"] = monitor.update(of(20, (8, 12)[rank]))
    said["notes"] = monitor.notes
    said["unreadable"] = reason(lambda: monitor.update(bad if rank else of(30)))
    said["none"] = reason(lambda: monitor.update(of(30) if rank else []))
    said["kind"] = reason(lambda: monitor.update(of(30) if rank else of(30).astype(float)))
    said["colour"] = reason(lambda: monitor.update(of(30) if rank else of(30)[..., None].repeat(3, 3)))
    said["reference"] = reason(lambda: Monitor(reference if rank else "nowhere", **shared))
    said["after"] = monitor.update(of(25), step=9)
    json.dump([accelerator.num_processes, rows, said], open(f"{out}-{rank}.json", "w"))
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What two processes gave each: its number of processes, rows, and what it said."""
    out = tmp_path_factory.mktemp("shared")
    folder(out / "bad", 30, 8)
    (out / "bad" / "007.png").write_bytes((out / "bad" / "007.png").read_bytes()[:60])
    pair(SHARED, out / "shared", out / "bad")
    return [json.loads((out / f"shared-{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_share_the_samples(shared):
    """Each gives half of the images. Both get the rows of all of them, as one process alone does."""
    (count, first, _), (_, second, _) = shared
    assert count == 2 and first == second and len(first) == 2
    exec(SHARED, known := {})
    alone = known["watch"]()
    for a, b in zip(alone, first, strict=True):
        assert (a["n"], a["metric"]) == (b["n"], b["metric"]) == (120, a["metric"])
        assert b["value"] == pytest.approx(a["value"], rel=1e-5)


def test_processes_with_more_images_than_others_are_cut_to_the_smallest(shared):
    (*_, first), (*_, second) = shared
    for counts, n in (("(31, 30)", 40), ("(5, 40)", 10), ("sizes", 40), ("after", 40)):  # of the reference 40
        assert (
            first[counts] == second[counts]
            and first[counts][0]["n"] == n
            and first[counts][0]["value"] is not None
        )
    assert first["notes"] == second["notes"]
    assert [note for note in first["notes"] if "processes" in note] == [
        "the processes gave 31, 30 images; 30 of each are measured",
        "the processes gave 5, 40 images; 5 of each are measured",
    ]


@pytest.mark.parametrize(
    ("what", "rank", "said"),
    [
        ("unreadable", 1, "images are left out, the first: 007.png"),
        ("none", 0, "there is no image"),
        ("kind", 0, "images must be uint8"),
        ("colour", 0, "images are in colour and the reference is grey"),
        ("reference", 0, "nowhere"),
    ],
)
def test_what_one_process_cannot_read_is_one_clear_error_in_all(shared, what, rank, said):
    own, other = shared[rank][2][what], shared[1 - rank][2][what]
    assert own.startswith("DataError") and said in own
    assert other.startswith(f"DataError: process {rank}: ") and said in other
