"""Configs and overrides as arguments: a wrong one is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli_runs import (
    CONFIGS,
    DIGITS,
    MEMORISER,
    MLP,
)

from difflab.cli.args import Commands, Parser, config_arguments, fast_argument, read_config
from difflab.cli.main import main


def test_a_missing_config_names_the_nearest_one(refused):
    assert f"there is no config {CONFIGS}/digit.yaml; did you mean {DIGITS}?" in refused(
        "run", CONFIGS / "digit.yaml"
    )
    assert "difflab presets lists those" in refused("plan", "no/such/folder/x.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [1,\n b", "is not valid YAML"),
        (b"- 1\n- 2", "is not a mapping of keys to values"),
        (b"", "is not a mapping of keys to values"),
        (b"\xff\xfe\x00", "cannot be read as UTF-16-LE text"),
        (b"model: !!python/object/apply:os.system [touch pwned]", "is not valid YAML"),
    ],
    ids=["half", "list", "empty", "binary", "attack"],
)
def test_a_file_that_is_no_config_is_refused(refused, text, message):
    Path("bad.yaml").write_bytes(text)
    assert message in refused("run", "bad.yaml", "--out", "out")
    assert not Path("out").exists() and not Path("pwned").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.imags_seen=3", "unknown key 'train.imags_seen'; did you mean 'images_seen'?"),
        ("train.batch_size=many", "'train.batch_size': Input should be a valid integer (got 'many')"),
        (
            "regime.real_fraction=0.5",
            "regime.real_fraction has no effect with regime.name=replace; use fixed_real or fresh_real",
        ),
        ("foo", "override 'foo' is not of the form key=value"),
        ("policies=[unflaged]", "policies: 'unflaged' is unknown; did you mean 'unflagged'?"),
        ("measure.metrics=[recal]", "unknown measure 'recal'; did you mean 'recall'?"),
        (
            "sample.scheduler=DDIMSchedulr",
            "'DDIMSchedulr' is no scheduler of diffusers; did you mean 'DDIMScheduler'?",
        ),
        ("sample.scheduler_options={etta: 1}", "has no option 'etta'"),
    ],
    ids=lambda text: text.split("=")[0] if "=" in text else None,
)
def test_a_config_that_cannot_be_run_is_refused_before_anything_is_written(refused, override, message):
    assert message in refused("run", DIGITS, *MLP, override, "--out", "out")
    assert not Path("out").exists()


def test_an_unknown_extractor_is_refused(refused):
    assert "unknown extractor 'pixls'; did you mean 'pixels'?" in refused(
        "run", DIGITS, *MEMORISER, "measure.extractors=[pixls]", "--out", "out"
    )
    assert not Path("out/gen-000").exists()


@pytest.mark.usefixtures("undrawn")
def test_options_may_stand_before_the_overrides(call):
    code, out, _ = call("run", DIGITS, "--out", "here", "--json", *MEMORISER)
    assert code == 0 and Path("here/metrics.jsonl").read_text() == out
    assert yaml.safe_load(Path("here/run.yaml").read_text())["config"]["model"] == {"family": "memoriser"}
    assert call("plan", "--json", DIGITS, "generations=0")[0] == 0


def test_an_unknown_option_is_refused(capsys):
    for argv in (["run", str(DIGITS), "--outt", "x"], ["status", "x", "y"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err


def test_a_file_wins_over_a_preset_of_the_same_name(call):
    Path("digits").write_text(
        "name: mine\ngenerations: 0\ndata: {source: digits}\nmodel: {family: memoriser}\n"
    )
    code, out, _ = call("plan", "digits")
    assert code == 0 and "mine: nothing was run" in out


def test_descriptions_are_wrapped():
    commands = Commands(Parser("x"))
    added = commands.add("do", lambda args: 0, "word " * 40, ["x do"])
    assert max(map(len, (added.description or "").splitlines())) <= 80
    assert commands.top.examples == {"do": ["x do"]}


def test_fast_is_four_overrides_that_others_can_replace():
    parser = Parser()
    config_arguments(parser)
    fast_argument(parser)
    made = read_config(parser.parse_args(["--fast", str(DIGITS), "sample.compile=false"]))
    assert (made.train.precision, made.train.compile) == ("auto", "auto")
    assert (made.sample.precision, made.sample.compile) == ("auto", False)
    assert read_config(parser.parse_args([str(DIGITS)])).train.compile is False
