"""What the stages share, and who opens the folder of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator

from difflab.config import parse
from difflab.core.errors import StoreError
from difflab.core.progress import Reporter
from difflab.loop.work import Work, open_for_work
from difflab.runs.run import EcosystemRun, Run

CHAIN: dict[str, Any] = {
    "generations": 3,
    "model": {"family": "memoriser"},
    "policies": [{"policy": "unflagged"}, {"policy": "random", "count": 5, "first": 2}],
}


def test_policies_act_in_their_generations_and_know_where_they_stand(tmp_path: Path) -> None:
    run = Run(tmp_path, parse(CHAIN))
    said: list[str] = []
    report = Reporter(quiet=True)
    report.say = said.append  # type: ignore[method-assign]
    work = Work(run, Accelerator(), report, extractors=["an extractor"])
    assert list(work.generations) == [0, 1, 2, 3]
    assert [policy.policy for policy, _ in work.acting("select", 1)] == ["unflagged"]
    acting = list(work.acting("select", 2, n_train=7))
    assert [(policy.policy, at.position) for policy, at in acting] == [("unflagged", 0), ("random", 1)]
    at = acting[1][1]
    assert (at.generation, at.n_train, at.run, at.extractors) == (2, 7, run, ["an extractor"])
    at.say("heard")
    assert said == ["heard"]


def test_the_main_process_locks_the_folder_and_others_only_look(tmp_path: Path) -> None:
    config = parse(CHAIN)
    run = open_for_work(config, tmp_path / "run", Accelerator())
    try:
        with pytest.raises(StoreError, match="another process is working on"):
            open_for_work(config, tmp_path / "run", Accelerator())
        other: Any = SimpleNamespace(
            is_main_process=False, main_process_first=Accelerator().main_process_first, num_processes=1
        )
        assert open_for_work(config, tmp_path / "run", other).path == run.path
    finally:
        run.close()


def test_an_ecosystem_is_opened_as_one(tmp_path: Path) -> None:
    run = open_for_work(
        parse({**CHAIN, "policies": [], "ecosystem": {"labs": 2}}), tmp_path / "run", Accelerator()
    )
    run.close()
    assert isinstance(run, EcosystemRun) and len(run.parts) == 2


def test_the_main_process_alone_says_that_a_stage_is_finished(tmp_path: Path) -> None:
    calls: list[int] = []
    run, report = Run(tmp_path, parse(CHAIN)), Reporter(quiet=True)
    for main in (True, False):
        process: Any = SimpleNamespace(is_main_process=main)
        Work(run, process, report, after_stage=lambda: calls.append(1)).finished()
        Work(run, process, report).finished()
    assert calls == [1]
