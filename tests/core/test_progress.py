from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from difflab.core import progress
from difflab.core.progress import EVERY, Reporter, clock


@pytest.fixture
def now(monkeypatch):
    """A clock that stands until it is moved: ``now.at += 5``."""
    clock = SimpleNamespace(at=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.at))
    return clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (75, "1:15"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (90061, "25:01:01"),
        (None, "-:--"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_without_a_terminal_there_is_a_plain_line_every_few_seconds_and_one_at_the_end(now, capsys):
    with Reporter(weights={(3, "train"): 20.0}).stage(3, "train", 1000) as advance:
        for _ in range(4):
            now.at += EVERY / 2 + 0.1
            advance(100)
        now.at += 10
        advance(600)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split("images")[0] for line in lines] == [
        f"generation 3/3 train   {n} " for n in ("200/1,000", "400/1,000", "1,000/1,000", "1,000")
    ]
    assert lines[0].endswith("images  38/s  0:21 left  (run: 0:21 left)")  # 200 in 5.2 s, 800 to go
    assert lines[-1].endswith("images in 0:20 (49/s)")


def test_the_time_left_of_the_run_counts_what_comes_and_follows_the_pace(now, capsys):
    report = Reporter(
        weights={(0, "train"): 10.0, (0, "sample"): 5.0, (1, "train"): 10.0, (1, "sample"): 5.0}
    )
    report.skip(0, "sample")
    with report.stage(0, "train", 100) as advance:
        now.at += 10  # half of it took 10 s where 5 were expected: everything takes twice as long
        advance(50)
    assert "(run: 0:40 left)" in capsys.readouterr().err  # 2 x (5 + 10 + 5)


def test_a_guess_that_was_far_off_for_one_kind_of_stage_does_not_outlive_its_first(now, capsys):
    """A speed test that something disturbed: training is a hundred times faster than expected, sampling as
    expected.
    """
    report = Reporter(
        weights={
            (0, "sample"): 10.0,
            (1, "train"): 1000.0,
            (1, "sample"): 10.0,
            (2, "train"): 1000.0,
            (2, "sample"): 10.0,
        }
    )
    for t, stage, seconds in ((0, "sample", 10), (1, "train", 10)):
        with report.stage(t, stage, 100):
            now.at += seconds
    capsys.readouterr()
    with report.stage(1, "sample", 100) as advance:
        now.at += 6
        advance(60)
    assert (
        "(run: 0:24 left)" in capsys.readouterr().err
    )  # 4 of this stage, 10 of the next training, 10 of its samples


def test_a_slow_network_says_nothing_about_measuring(now, capsys):
    report = Reporter(
        weights={
            (0, "sample"): 0.1,
            (0, "measure"): 2.0,
            (1, "train"): 0.1,
            (1, "sample"): 0.1,
            (1, "measure"): 2.0,
        }
    )
    with report.stage(0, "sample", 100) as advance:
        now.at += 40
        advance(50)
    assert (
        "(run: 3:24 left)" in capsys.readouterr().err
    )  # 40 of this stage, 80 and 80 of the next two, 2 and 2 of measuring


def test_the_labs_of_an_ecosystem_share_the_pace_of_a_kind(now, capsys):
    report = Reporter(
        weights={(0, f"lab {lab} {stage}"): 10.0 for lab in (0, 1) for stage in ("train", "sample")}
    )
    for report.lab, share in ((0, 100), (1, 50)):
        with report.stage(0, "train", 100) as advance:
            now.at += 40 * share / 100
            advance(share)
    assert (
        "(run: 1:40 left)" in capsys.readouterr().err.splitlines()[-2]
    )  # 20 of this training, 2 x 40 of samples


def test_small_stages_leave_no_line(now, capsys):
    report = Reporter()
    with report.stage(0, "mix", 0), report.stage(0, "measure", 3, "measures") as advance:
        advance(3)
    assert capsys.readouterr().err == ""


def test_more_than_everything_is_everything(now, capsys):
    with Reporter().stage(0, "train", 1000) as advance:
        now.at += 6
        advance(1024)
    assert "1,000/1,000" in capsys.readouterr().err


def test_quiet_says_nothing(now, capsys):
    report = Reporter(quiet=True)
    report.say("hello")
    with report.stage(0, "train", 10) as advance:
        now.at += 60
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_texts_are_printed_as_they_are(capsys):
    Reporter().say("[bold]a[/] [0.5]")
    assert capsys.readouterr().err == "[bold]a[/] [0.5]\n"


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize(("stage", "unit"), [("train", "images"), ("measure", "measures")])
def test_on_a_terminal_the_bar_fits_its_line(now, width, stage, unit):
    report = Reporter(weights={(12, stage): 4000.0, (12, "sample"): 4000.0})
    written = io.StringIO()
    report.console = Console(file=written, force_terminal=True, width=width, color_system=None)
    report.terminal = True
    with report.stage(12, stage, 20_000_000, unit) as advance:
        advance(0)
        now.at += 1000
        advance(12_345_678)
    lines = [
        re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip()
        for line in re.split(r"[\r\n]+", written.getvalue())
    ]
    assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
    last = next(line for line in reversed(lines) if "%" in line)
    assert last.startswith(f"generation 12/12 {stage:<7}") and "━" in last
    assert re.search(rf" 62%  12,346 {unit}/s  10:20 left  \(run 37:20\)$", last), last


def test_nothing_is_guessed_before_anything_is_done(now):
    report = Reporter()
    written = io.StringIO()
    report.console, report.terminal = (
        Console(file=written, force_terminal=True, width=100, color_system=None),
        True,
    )
    with report.stage(0, "train", 10) as advance:
        advance(0)
    assert "  0%  0 images/s  -:-- left" in written.getvalue()
