"""Compile auto: counted passes, the decision from what compiling gained, and what a machine remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from difflab.config import Config, merged, parse
from difflab.core.files import write_json
from difflab.loop import compiling, passes
from difflab.loop.compiling import (
    Speed,
    best,
    choice,
    images_passed,
    known,
    measured,
    not_worth_a_trial,
    remember,
)
from difflab.models.compiled import compiled_home

pytestmark = tiny.LIBRARIES
DIGITS: dict[str, Any] = {
    "generations": 2,
    "data": {"source": "digits", "train_size": 40},
    "model": {"family": "pixel-mlp", "width": 16, "depth": 1},
    "train": {"images_seen": 64, "batch_size": 32},
    "sample": {"count": [20, 30], "steps": 5, "batch_size": 20, "guidance_scale": 2.0},
}
LONG = {"train.images_seen": 10**9, "sample.count": 10**8}
FAST = Speed(eager=2.0, compiled=1.0, cold=100.0, warm=6.0)


def config(values: dict[str, Any] | None = None) -> Config:
    return parse(merged(DIGITS, values or {}))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def model_of(made: Config, section: str = "sample") -> Any:
    return passes.random_model(made, section, getattr(made, section), "cpu")


# --------------------------------------------------------------------------------------------- the decision
@pytest.mark.parametrize(
    ("images", "runs", "value"),
    [(7, 1, True), (6, 1, False), (7, 2, False), (13, 2, True), (0, 1, False)],
)
def test_code_is_compiled_if_it_saves_more_than_loading_it_takes(images: int, runs: int, value: bool) -> None:
    made = best("train.compile", FAST, images, runs)
    assert made.value is value and "2.00 times as fast" in made.reason
    assert best("train.compile", Speed(1.0, 1.5, 0, 0), images, runs).value is False  # slower


def test_a_trial_must_be_expected_to_save_twice_what_it_takes() -> None:
    saved = 1 - 1 / compiling.EXPECTED_RATIO
    assert not_worth_a_trial(2 * 60 / saved + 1, 60) is None
    assert not_worth_a_trial(2 * 60 / saved - 1, 60) == (
        "all passes take about 11:59, and compiling for the first time takes about 1:00"
    )


def test_all_passes_of_a_chain_are_counted() -> None:
    assert images_passed(config(), "train", model_of(config())) == 3 * 64
    # Two passes per step with guidance; the last entry of a list counts for all later generations.
    assert images_passed(config(), "sample", model_of(config())) == 2 * 5 * (20 + 30 + 30)
    heun = config({"sample.scheduler": "HeunDiscreteScheduler", "sample.guidance_scale": 1.0})
    assert images_passed(heun, "sample", model_of(heun)) == 9 * (20 + 30 + 30)  # 2 n - 1 passes


def test_compiled_batches_are_filled_up_and_that_counts_against_compiling() -> None:
    made = config()  # batches of 20
    assert images_passed(made, "sample", model_of(made), whole_batches=True) == 2 * 5 * (20 + 40 + 40)
    assert images_passed(made, "train", model_of(made), whole_batches=True) == 3 * 64
    assert best("sample.compile", FAST, 20, 1, 20).value is True
    assert best("sample.compile", FAST, 20, 1, 40).value is False  # half of the images are thrown away


# ------------------------------------------------------------------------------------------------ one network
def test_a_short_run_is_not_compiled_and_nothing_is_remembered() -> None:
    for key in ("train.compile", "sample.compile"):
        made = choice(config(), key, [config()], True)
        assert made.value is False and "all passes take about 0:0" in made.reason
    assert not (compiled_home() / "speeds.json").exists()


def test_a_family_without_a_network_is_not_compiled() -> None:
    exact = parse({"data": {"source": "exact", "train_size": 8}, "model": {"family": "gaussian"}})
    assert choice(exact, "train.compile", [exact], True).reason == "gaussian has no network"


def test_a_long_run_is_tried_once_and_the_next_one_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def trial(work: Any, batch: int, device: str) -> Speed:
        tried.append(batch)
        return FAST

    monkeypatch.setattr(compiling, "measured", trial)
    long = config(LONG)
    later = choice(long, "sample.compile", [long], compile_now=False)
    assert later.value is False and "tries it when it starts" in later.reason and tried == []
    state = torch.random.get_rng_state()
    assert choice(long, "sample.compile", [long], True).value is True and tried == [40]
    assert torch.equal(state, torch.random.get_rng_state())
    # A short run knows now, also together with others, and without a trial.
    for runs in (1, 3):
        assert choice(config(), "sample.compile", [config()] * runs, False).value is True
    assert tried == [40]
    for other in ({"sample.batch_size": 10}, {"model.width": 24}):
        made = config({**LONG, **other})
        choice(made, "sample.compile", [made], True)
    assert tried == [40, 20, 40]


def test_where_compiling_fails_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> Speed:
        raise RuntimeError("no C++ compiler\nand a long trace")

    monkeypatch.setattr(compiling, "measured", broken)
    long = config(LONG)
    made = choice(long, "train.compile", [long], True)
    assert made.value is False and made.reason == "torch.compile failed: no C++ compiler"
    assert not (compiled_home() / "speeds.json").exists()


def test_a_trial_compiles_the_network_and_times_both(monkeypatch: pytest.MonkeyPatch) -> None:
    made = config({"sample.compile": True})
    model = model_of(made)
    torch.compiler.reset()
    speed = measured(passes.sampling_pass(model, "cpu", "no"), 4, "cpu")
    assert speed.eager > 0 and speed.compiled > 0 and speed.cold > speed.warm > 0
    assert speed.ratio == speed.eager / speed.compiled
    assert list((compiled_home() / "code").rglob("*.so"))


# -------------------------------------------------------------------------------------- what a machine knows
def test_speeds_are_found_by_all_that_they_depend_on() -> None:
    facts = compiling._facts(config(), "train", model_of(config(), "train"), 32, "cpu")
    assert known(facts) is None
    remember(facts, FAST)
    remember(facts | {"threads": 99}, Speed(1, 1, 1, 1))
    assert known(json.loads(json.dumps(facts))) == FAST
    for name in facts:
        assert known(facts | {name: "another"}) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', "null"])
def test_a_damaged_record_is_an_empty_one(text: str) -> None:
    file = compiled_home() / "speeds.json"
    file.parent.mkdir()
    file.write_text(text)
    assert known({"a": 1}) is None
    remember({"a": 1}, FAST)
    assert known({"a": 1}) == FAST


@pytest.mark.parametrize("entry", [{}, {"eager": 1}, {"eager": "x", "compiled": 1, "cold": 1, "warm": 1}])
def test_a_damaged_entry_is_unknown(entry: dict[str, Any]) -> None:
    remember({"a": 1}, FAST)
    file = compiled_home() / "speeds.json"
    write_json(file, {key: entry for key in json.loads(file.read_text())})
    assert known({"a": 1}) is None
