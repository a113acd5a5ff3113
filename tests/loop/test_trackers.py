"""What trackers are given, read back from the event files of tensorboard; and that it is given once."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from difflab.cli.main import main
from difflab.config import merged, parse
from difflab.core.errors import ConfigError
from difflab.loop import trackers
from difflab.loop.chain import run_chain
from difflab.loop.reuse import keys
from difflab.runs.run import Run

run_chain = partial(run_chain, plots=False)  # curves take seconds

MEMORISER = {
    "generations": 2,
    "data": {"source": "digits", "limit": 200},
    "model": {"family": "memoriser"},
    "sample": {"count": 60},
    "measure": {"metrics": ["trace_ratio", "class_accuracy"], "resamples": 0},
    "track": ["tensorboard"],
}
GAUSSIAN = {
    "generations": 1,
    "data": {"source": "exact", "train_size": 20},
    "model": {"family": "gaussian"},
    "sample": {"count": 20},
}


def events(path: Path) -> EventAccumulator:
    """All that lies in the event files of a run."""
    read = EventAccumulator(str(path / "tracked" / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    read.Reload()
    return read


def steps(path: Path) -> dict[str, list[int]]:
    read = events(path)
    tags = {tag: read.Scalars(tag) for tag in read.Tags()["scalars"]} | {
        tag: read.Images(tag) for tag in read.Tags()["images"]
    }
    return {tag: [event.step for event in found] for tag, found in tags.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(parse(MEMORISER), tmp_path_factory.mktemp("track") / "run", plots=False)


def test_every_value_is_logged_at_its_generation(run):
    read = events(run.path)
    rows = [row for row in run.rows() if row["value"] is not None]
    seen = {(tag, e.step): e.value for tag in read.Tags()["scalars"] for e in read.Scalars(tag)}
    wanted = {
        (f"difflab/{row['metric']}/{row['extractor']}", row["generation"]): row["value"] for row in rows
    }
    assert seen.keys() == wanted.keys() and ("difflab/trace_ratio/pixels", 2) in seen
    assert all(seen[key] == pytest.approx(wanted[key], rel=1e-6) for key in wanted)


def test_pictures_are_those_of_the_run(run, tmp_path):
    read = events(run.path)
    for tag, step, file in (
        ("difflab/probe", 1, run.gen(1) / "grid.png"),
        ("difflab/strip", 2, run.path / "strip.png"),
    ):
        (event,) = [event for event in read.Images(tag) if event.step == step]
        (tmp_path / "logged.png").write_bytes(event.encoded_image_string)
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "logged.png")), np.asarray(Image.open(file).convert("RGB"))
        )
    assert [event.step for event in read.Images("difflab/strip")] == [2]


def test_a_resumed_run_logs_nothing_twice(tmp_path):
    whole = steps(run_chain(parse(MEMORISER), tmp_path / "whole", plots=False).path)
    path = tmp_path / "stopped"
    run_chain(parse({**MEMORISER, "generations": 1}), path, plots=False)
    for _ in range(2):
        run_chain(parse(MEMORISER), path, plots=False)
    found = steps(path)
    assert found.pop("difflab/strip") == [1, 2] and whole.pop("difflab/strip") == [
        2
    ]  # at the end of either call
    assert found == whole and all(own == sorted(set(own)) for own in found.values())
    assert json.loads((path / "tracked.json").read_text()) == {"tensorboard": [0, 1, 2]}


def test_a_tracker_that_comes_later_gets_what_it_has_missed(tmp_path):
    path = run_chain(parse({**MEMORISER, "track": []}), tmp_path / "run", plots=False).path
    assert not (path / "tracked").exists() and not (path / "tracked.json").exists()
    run_chain(parse(MEMORISER), path, plots=False)
    assert steps(path)["difflab/trace_ratio/pixels"] == [0, 1, 2]
    assert main(["verify", str(path)]) == 0


def test_exact_families_and_labs_are_logged_too(tmp_path):
    exact = run_chain(parse({**GAUSSIAN, "track": ["tensorboard"]}), tmp_path / "exact").path
    assert any(tag.startswith("difflab/variance") for tag in steps(exact))
    labs = run_chain(
        parse({**GAUSSIAN, "track": ["tensorboard"], "ecosystem": {"labs": 2}}), tmp_path / "labs"
    ).path
    assert steps(labs / "lab-0").keys() == steps(labs / "lab-1").keys() == steps(exact).keys()


def test_neither_the_recipe_nor_the_keys_of_stages_depend_on_it():
    with_it, without = parse(MEMORISER), parse({**MEMORISER, "track": []})
    assert Run(Path("x"), with_it).recipe == Run(Path("x"), without).recipe
    assert keys(with_it) == keys(without)
    assert without == parse({key: value for key, value in MEMORISER.items() if key != "track"})


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="tensorboard is not installed; run: pip install tensorboard"):
        run_chain(parse(MEMORISER), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="track"):
        parse({**MEMORISER, "track": ["tensorbord"]})


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_trackers_get_the_same(name, run, monkeypatch, tmp_path):
    """By stand-ins with the interface of accelerate's classes: the packages want an account or a server."""
    from accelerate import tracking

    given: list[tuple[str, Any, Any]] = []

    class Tracker:
        def __init__(self, project: str, **how: Any) -> None:
            given.append(("open", project, how))

        def start(self) -> None:
            given.append(("start", None, None))

        def log(self, values: dict[str, Any], step: int) -> None:
            given.append(("log", step, values))

        def log_images(self, values: dict[str, Any], step: int) -> None:
            given.append(("log", step, values))

        def finish(self) -> None:
            given.append(("finish", None, None))

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, Tracker)
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(Image=lambda picture: picture))
    own = Run(run.path, parse(merged(run.config.model_dump(mode="json"), {"track": [name]})))
    own.path = tmp_path  # its record lies elsewhere
    monkeypatch.setattr(own, "gen", run.gen)
    for _ in range(2):
        tracked = trackers.Trackers(own)
        for t in range(3):
            tracked.log(t)
        tracked.finish()
    (_, project, how), *logged, last = given
    assert (
        project == "difflab"
        and how["name"] == "run"
        and how["resume"] == "allow"
        and how["config"]["seed"] == 0
    )
    assert [what for what, *_ in given].count("open") == 1 and last[0] == "finish"
    assert [
        step for what, step, values in logged if what == "log" and "difflab/trace_ratio/pixels" in values
    ] == [0, 1, 2]
    assert [step for what, step, values in logged if what == "log" and "difflab/probe" in values] == [0, 1, 2]
