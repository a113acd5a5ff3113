"""Fields that are auto: decided, stored, kept, and the same for all who share a decision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import yaml
from accelerate.state import AcceleratorState
from asking import BOTH, Measured, config

from difflab.config import Config
from difflab.core.errors import ConfigError, DataError, StoreError
from difflab.core.progress import Reporter
from difflab.loop import auto, checks, compiling, precision
from difflab.loop.auto import asked, choices, decide, put, settled
from difflab.loop.chain import run_chain
from difflab.loop.choice import Choice
from difflab.loop.passes import shape_of
from difflab.runs.record import recipe_hash
from difflab.runs.run import open_run

pytestmark = tiny.LIBRARIES


@pytest.fixture(autouse=True)
def _precision_of_the_next_test() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)


class Clock:
    """Stands in for the measurement: seconds by section and precision, and what was measured."""

    def __init__(self) -> None:
        self.seconds: Measured = {"train": {"no": 3.0, "bf16": 2.0}, "sample": {"no": 1.0, "bf16": 2.0}}
        self.calls: list[str] = []

    def __call__(self, asks: Config, section: str, known: Sequence[str], device: str) -> dict[str, float]:
        shape_of(asks)  # as the measurement does first
        self.calls.append(section)
        return {precision: self.seconds[section][precision] for precision in known}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A machine with bf16, on which training is faster in it and sampling is not."""
    made = Clock()
    monkeypatch.setattr(precision, "measured", made)
    monkeypatch.setattr(precision, "faster_precisions", lambda device: ("bf16",))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(checks, "emulates_bf16", lambda: False)
    return made


# -------------------------------------------------------------------------------------------- the decision
def test_each_key_has_its_own_measurement_and_keys_with_a_value_have_none(clock: Clock) -> None:
    assert [(c.key, c.value) for c in choices(config())] == [
        ("train.precision", "bf16"),
        ("sample.precision", "no"),
    ]
    assert clock.calls == ["train", "sample"]
    assert [c.key for c in choices(config({"sample.precision": "auto"}))] == ["sample.precision"]
    assert clock.calls == ["train", "sample", "sample"]
    assert choices(config({})) == []


def test_without_instructions_or_without_a_network_nothing_is_measured(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = {"data": {"source": "exact", "train_size": 8}, "model": {"family": "gaussian"}}
    assert {c.value for c in choices(config(base=exact))} == {"no"}
    assert "gaussian has no network" in choices(config(base=exact))[0].reason
    monkeypatch.setattr(precision, "faster_precisions", lambda device: ())
    found = choices(config())
    assert {c.value for c in found} == {"no"} and "this machine (cpu) has no known instructions" in found[
        0
    ].reason
    assert clock.calls == []


# ---------------------------------------------------------------------------------------------- the config
def test_a_config_with_auto_has_the_recipe_of_its_values(clock: Clock, tmp_path: Path) -> None:
    made = settled(config(), tmp_path / "run", lambda line: None)
    explicit = config({"train.precision": "bf16", "sample.precision": "no"})
    assert made == explicit and recipe_hash(made) == recipe_hash(explicit) != recipe_hash(config())
    assert settled(explicit, tmp_path / "run", pytest.fail) is explicit


def test_tf32_is_a_value_of_its_own_in_run_yaml_and_in_the_recipe(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "faster_precisions", lambda device: ("tf32", "bf16"))
    clock.seconds = {
        "train": {"no": 3.0, "tf32": 2.0, "bf16": 1.9},
        "sample": {"no": 3.0, "tf32": 2.0, "bf16": 1.0},
    }
    said: list[str] = []
    made = settled(config(), None, said.append)
    assert (made.train.precision, made.sample.precision) == ("tf32", "bf16")
    assert said[0] == "train.precision=auto: tf32, measured 1.50 times as fast as float32"
    hashes = {
        recipe_hash(config({"train.precision": kind, "sample.precision": "bf16"}))
        for kind in ("no", "tf32", "bf16")
    }
    assert recipe_hash(made) in hashes and len(hashes) == 3


@pytest.mark.parametrize("value", ["Auto", "fp8", "float32", True, None, 16])
def test_unknown_values_are_refused(value: Any) -> None:
    for section in ("train", "sample"):
        with pytest.raises(ConfigError, match=rf"'{section}\.precision'.*'auto'"):
            config({f"{section}.precision": value})


def test_the_labs_of_an_ecosystem_share_the_decision_of_the_first_that_asks(clock: Clock) -> None:
    labs: dict[str, Any] = {
        "overrides": [{}, {"sample.precision": "auto"}, {"sample": {"precision": "auto", "count": 5}}]
    }
    made = config({"train.precision": "auto", "ecosystem": labs})
    assert asked(made) == {"train.precision": 0, "sample.precision": 1}
    done = put(made, {"train.precision": "bf16", "sample.precision": "fp16"})
    assert [lab.train.precision for lab in done.labs()] == ["bf16"] * 3
    assert [lab.sample.precision for lab in done.labs()] == ["no", "fp16", "fp16"]
    assert asked(done) == {} and done.labs()[2].sample.count == 5


def test_other_settings_named_auto_stay(clock: Clock) -> None:
    made = put(config(), {"train.precision": "no", "sample.precision": "no"})
    assert made.data.color == "auto"


# ------------------------------------------------------------------------------------------------- the run
class Heard(Reporter):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_run_says_its_decision_stores_it_and_keeps_it_on_another_machine(
    clock: Clock, tmp_path: Path
) -> None:
    report = Heard()
    run = run_chain(config(), tmp_path / "run", report, plots=False)
    assert [line for line in report.lines if "precision" in line] == [
        "train.precision=auto: bf16, measured 1.50 times as fast as float32",
        "sample.precision=auto: no (float32), bf16 was measured 0.50 times as fast as float32, and 1.1 is the "
        "least that counts",
    ]
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert [record["config"][name]["precision"] for name in ("train", "sample")] == ["bf16", "no"]
    assert record["recipe"] == run.recipe == open_run(tmp_path / "run").recipe

    clock.seconds = {"train": {"no": 1.0, "bf16": 9.0}, "sample": {"no": 9.0, "bf16": 1.0}}
    report.lines.clear()
    longer = config({**BOTH, "generations": 1})
    again = run_chain(longer, tmp_path / "run", report, plots=False)
    assert (again.config.train.precision, again.config.sample.precision) == ("bf16", "no")
    assert again.generations == [0, 1] and again.recipe == run.recipe and len(clock.calls) == 2
    assert "train.precision=auto: bf16, as when the run began" in report.lines

    run_chain(config({"train.precision": "bf16"}), tmp_path / "run", plots=False)  # the same recipe
    with pytest.raises(StoreError, match=r"train\.precision: 'bf16' there, 'no' asked"):
        run_chain(config({}), tmp_path / "run", plots=False)


def test_a_run_of_another_recipe_is_refused_by_what_differs(clock: Clock, tmp_path: Path) -> None:
    run_chain(config(), tmp_path / "run", plots=False)
    with pytest.raises(StoreError, match=r"another recipe \(train\.learning_rate: [^,]*, 0\.5 asked\)"):
        run_chain(config({**BOTH, "train.learning_rate": 0.5}), tmp_path / "run", plots=False)


def test_a_run_that_failed_before_anything_was_fitted_is_measured_again(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    first = config({"train.precision": "no"})
    record = {"config": first.model_dump(mode="json"), "recipe": recipe_hash(first)}
    (tmp_path / "run" / "run.yaml").write_text(yaml.safe_dump(record))
    assert settled(config(), tmp_path / "run", lambda line: None).train.precision == "bf16"


def test_a_damaged_record_is_an_error(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "run" / "gen-000").mkdir(parents=True)
    (tmp_path / "run" / "run.yaml").write_text("config: [")
    with pytest.raises(StoreError, match="damaged"):
        settled(config(), tmp_path / "run", pytest.fail)


def test_images_that_cannot_be_read_are_an_error_before_anything_is_written(
    clock: Clock, tmp_path: Path
) -> None:
    made = config({**BOTH, "data.source": f"imagefolder:{tmp_path / 'gone'}"})
    with pytest.raises(DataError):
        run_chain(made, tmp_path / "run", plots=False)
    assert not (tmp_path / "run").exists()
    made = config({**BOTH, "data.source": "digts"})
    with pytest.raises(DataError, match="did you mean digits"):
        shape_of(made)


@pytest.mark.parametrize("sent", [{"train.precision": "fp16", "sample.precision": "no"}, DataError("gone")])
def test_other_processes_take_the_decision_of_the_main_process(
    sent: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def receive(found: list[Any]) -> None:
        found[0] = sent

    monkeypatch.setattr(auto, "PartialState", lambda cpu: SimpleNamespace(is_main_process=False))
    monkeypatch.setattr(auto, "broadcast_object_list", receive)
    if isinstance(sent, DataError):
        with pytest.raises(DataError, match="gone"):
            settled(config(), tmp_path / "run", pytest.fail)
    else:
        assert settled(config(), tmp_path / "run", pytest.fail).train.precision == "fp16"
    assert clock.calls == []


def test_runs_of_one_model_share_a_decision_and_started_runs_keep_theirs(
    clock: Clock, tmp_path: Path
) -> None:
    runs = [(config({**BOTH, "seed": seed}), tmp_path / str(seed)) for seed in range(3)]
    larger = config({**BOTH, "model.width": 24})
    said: list[str] = []
    plain = (config({}), tmp_path / "plain")
    values = decide([*runs, (larger, tmp_path / "larger"), plain], said.append)
    assert values == [{"train.precision": "bf16", "sample.precision": "no"}] * 4 + [{}]
    assert clock.calls == ["train", "sample"] * 2 and len(said) == 4  # two models

    run_chain(runs[1][0], runs[1][1], plots=False)
    clock.seconds = {"train": {"no": 1.0, "bf16": 9.0}, "sample": {"no": 9.0, "bf16": 1.0}}
    clock.calls.clear()
    assert decide(runs, said.append) == values[:3] and clock.calls == []
    assert decide([runs[0]], said.append) == [{"train.precision": "no", "sample.precision": "bf16"}]


def test_a_run_that_cannot_be_decided_leaves_the_others(clock: Clock, tmp_path: Path) -> None:
    gone = config({**BOTH, "data.source": f"imagefolder:{tmp_path / 'gone'}", "model.width": 24})
    found = decide([(gone, tmp_path / "a"), (config(), tmp_path / "b")], lambda line: None)
    assert isinstance(found[0], DataError) and found[1] == {
        "train.precision": "bf16",
        "sample.precision": "no",
    }


# ----------------------------------------------------------------------------------------------- compile
def test_compiling_is_decided_after_the_precision_and_for_all_runs_together(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def choice(lab: Config, key: str, runs: Sequence[Config], compile_now: bool) -> Choice:
        seen.append((key, lab.train.precision, sorted(run.seed for run in runs), compile_now))
        return Choice(key, key == "train.compile", "measured")

    monkeypatch.setattr(compiling, "choice", choice)
    both = {**BOTH, "train.compile": "auto", "sample.compile": "auto"}
    runs = [(config({**both, "seed": seed}), tmp_path / str(seed)) for seed in range(3)]
    said: list[str] = []
    values = decide(runs, said.append)
    assert (
        values
        == [
            {
                "train.precision": "bf16",
                "sample.precision": "no",
                "train.compile": True,
                "sample.compile": False,
            }
        ]
        * 3
    )
    assert seen == [(key, "bf16", [0, 1, 2], True) for key in ("train.compile", "sample.compile")]
    assert said[2:] == ["train.compile=auto: true, measured", "sample.compile=auto: false, measured"]

    made = settled(runs[0][0], None, lambda line: None, compile_now=False)
    assert (made.train.compile, made.sample.compile) == (True, False)
    assert seen[2:] == [(key, "bf16", [0], False) for key in ("train.compile", "sample.compile")]


def test_a_resumed_run_compiles_as_the_run_did(clock: Clock, tmp_path: Path) -> None:
    asks = {"sample.compile": "auto", "train.compile": "auto"}
    run = run_chain(config(asks), tmp_path / "run", plots=False)  # far too short to be compiled
    assert run.config.sample.compile is run.config.train.compile is False
    report = Heard()
    run_chain(config({**asks, "generations": 1}), tmp_path / "run", report, plots=False)
    assert "train.compile=auto: false, as when the run began" in report.lines
    with pytest.raises(StoreError, match=r"train\.compile: False there, True asked"):
        run_chain(config({"train.compile": True}), tmp_path / "run", plots=False)


@pytest.mark.parametrize("value", ["Auto", "yes", 1, None])
def test_unknown_values_of_compile_are_refused(value: Any) -> None:
    for section in ("train", "sample"):
        with pytest.raises(ConfigError, match=rf"{section}\.compile"):
            config({f"{section}.compile": value})
