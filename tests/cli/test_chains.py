"""run, plan and status, as a user types them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_bases
import yaml
from cli_runs import (
    BIN,
    DIGITS,
    ENV,
    MEMORISER,
    MLP,
    copied,
    files,
    of_folder,
    process,
)
from commands import difflab
from object_stores import memory_store

from difflab.config import parse
from difflab.core.rows import KEYS
from difflab.loop import gpu_advice
from difflab.loop.gpu_memory import GIB, StageMemory
from difflab.runs import objects
from difflab.runs.folder import STAGES


def test_run_with_json_prints_rows_alone_on_stdout_and_again_when_resumed(tmp_path, call):
    done = process(BIN / "difflab", "run", DIGITS, *MEMORISER, "--json", "--out", "out")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows and all(tuple(row) == KEYS for row in rows)
    assert done.stdout == (tmp_path / "out" / "metrics.jsonl").read_text()
    assert done.stderr == ""
    assert call("run", DIGITS, *MEMORISER, "--json", "--out", "out") == (0, done.stdout, "")


def test_run_prints_table_budget_and_places_and_resumes_to_the_same(tmp_path, call):
    code, out, err = call("run", DIGITS, *MLP, "--out", "out")
    assert code == 0
    assert "generation 1/1 train   1,000 images in" in err and "generation 1/1 sample  60 images in" in err
    assert out.startswith("generation 1: ") and "what could help: " in out
    for words in (
        "measure",
        "first",
        "last",
        "floor",
        "look at:  out/report.html",
        "next:     difflab diagnose out",
    ):
        assert words in out
    assert len(out.splitlines()) <= 24
    assert (tmp_path / "out" / "diagnosis.json").exists() and not (tmp_path / "out" / "cache").exists()
    _, everything, _ = call("status", "out", "--all")
    for words in (
        "digits: recipe",
        "recall",
        "floor",
        "budget: 1,024 images seen, the same in every generation; set size NOT matched: 100 to 60",
    ):
        assert words in everything
    before = files(tmp_path / "out")
    again = call("run", DIGITS, *MLP, "--out", "out")
    assert again == (0, out, "")
    redrawn = {name for name, when in files(tmp_path / "out").items() if before.get(name) != when}
    assert redrawn <= {"strip.png", "curves.png", "metrics.jsonl", "run.yaml", ".lease-000002"}


def test_status_shows_every_stage(finished, call, tmp_path):
    code, out, _ = call("status", finished)
    assert code == 0 and out.splitlines()[-1] == "complete" and out.count("done") == 10
    half = copied(finished, tmp_path / "half")
    (half / "gen-001" / "metrics.jsonl").unlink()
    code, out, _ = call("status", half, "--json")
    first, second = map(json.loads, out.splitlines())
    shares = [row.pop("training_set")["synthetic_share"] for row in (first, second)]
    assert shares == [0, 1]
    assert first == {"generation": 0, **dict.fromkeys(STAGES, True)} and second == {
        **first,
        "generation": 1,
        "measure": False,
    }
    assert (
        call("status", half)[1].splitlines()[-1]
        == f"not complete; the command that started it resumes it: difflab run CONFIG --out {half}"
    )


def test_plan_says_costs_and_runs_nothing(call, tmp_path):
    code, out, _ = call("plan", DIGITS, "generations=1", "sample.count=60")
    assert code == 0 and "nothing was run" in out and "TFLOP" in out and "total" in out
    code, out, _ = call("plan", DIGITS, "generations=1", "sample.count=60", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(r["generation"], r["stage"]) for r in rows] == [(t, stage) for t in (0, 1) for stage in STAGES]
    assert list(tmp_path.iterdir()) == []


def test_plan_says_what_auto_would_choose(call, tmp_path, monkeypatch):
    from difflab.loop import auto
    from difflab.loop.choice import Choice

    def choices(config, runs, compile_now):
        assert not compile_now
        return [Choice("train.precision", "bf16", "measured 1.70 times as fast as float32")]

    monkeypatch.setattr(auto, "choices", choices)
    code, out, err = call("plan", DIGITS, "generations=0", "train.precision=auto")
    assert code == 0 and "nothing was run" in out
    assert "train.precision=auto: bf16, measured 1.70 times as fast as float32\n" in err
    assert "precision" not in call("plan", DIGITS, "generations=0")[2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*torch_dtype.* is deprecated:FutureWarning")
def test_plan_for_a_gpu(call, refused, tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    (base,) = (base for base in tiny_bases.bases() if base.name == "sd15")
    config.write_text(yaml.safe_dump(base.config(base.write(tmp_path / "base"))))
    code, out, _ = call("plan", config, "--gpu", 24, "--json")
    *stages, last = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and last["fits"] and {"texts", "train", "sample"} <= {row["stage"] for row in stages}
    assert max(row["needed"] for row in stages) == last["needed"]
    assert "--gpu estimates text-to-image runs" in refused("plan", DIGITS, "--gpu", 24)

    def invented(asked: Any) -> list[StageMemory]:
        return [StageMemory("train", (20 if asked.train.gradient_checkpointing else 40) * GIB)]

    monkeypatch.setattr(gpu_advice, "stages", invented)
    code, out, _ = call("plan", config, "--gpu", 24)
    assert code == 1 and "does not fit 24 GiB" in out and "gradient_checkpointing=true" in out


@pytest.mark.parametrize("size", ["0", "much", "-3"])
def test_plan_for_a_gpu_needs_a_size(size, call, capsys):
    with pytest.raises(SystemExit):
        call("plan", "emoji", f"--gpu={size}")
    assert f"'{size}' is not a number of GiB above 0, such as 24" in capsys.readouterr().err


def test_plan_refuses_what_run_would_refuse(refused, tmp_path):
    assert "did you mean 'DDIMScheduler'?" in refused("plan", DIGITS, "sample.scheduler=DDIMSchedulr")
    assert "unknown measure 'fdd'" in refused("plan", DIGITS, "measure.metrics=[fdd]")
    assert "the train split has" in refused("plan", DIGITS, "data.train_size=5000")
    assert list(tmp_path.iterdir()) == []


def test_processes_other_than_the_main_one_say_nothing(call, monkeypatch, finished):
    from difflab.loop import chain
    from difflab.runs.run import Run

    seen = {}

    def chained(config: Any, path: Path, report: Any, after_generation: Any, after_stage: Any) -> Run:
        seen["quiet"] = report.quiet
        return Run(finished, parse(yaml.safe_load((finished / "run.yaml").read_text())["config"]))

    monkeypatch.setattr(chain, "run_chain", chained)
    monkeypatch.setenv("RANK", "1")
    assert call("run", DIGITS, *MEMORISER, "--out", "out") == (0, "", "") and seen == {"quiet": True}
    monkeypatch.setenv("RANK", "0")
    assert call("run", DIGITS, *MEMORISER, "--out", "out")[1] and seen == {"quiet": False}


@pytest.mark.usefixtures("undrawn")
def test_interrupting_says_how_to_go_on_and_the_same_command_does(tmp_path, call):
    argv = ["run", str(DIGITS), *MLP, "generations=0", "train.images_seen=20000", "--out", "out"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    restored = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 (a suite in the background of a shell ignores it)
    with subprocess.Popen([str(BIN / "difflab"), *argv], env=ENV, preexec_fn=restored, **pipes) as running:
        waited = time.monotonic()
        while not list(tmp_path.glob("out/gen-000/*.parquet")):
            assert running.poll() is None and time.monotonic() - waited < 60
            time.sleep(0.05)
        time.sleep(0.1)  # into the training
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 130 and out == ""
    assert err.splitlines()[-1] == "difflab: stopped; the same command resumes" and "Traceback" not in err
    assert (
        call("status", "out")[1]
        .splitlines()[-1]
        .startswith("not complete; the command that started it resumes it")
    )
    assert call(*argv)[0] == 0 and call("status", "out")[1].splitlines()[-1] == "complete"


@pytest.mark.usefixtures("undrawn")
def test_a_file_that_is_no_image_is_named_and_the_same_command_runs_once_it_is_mended(folder, refused, call):
    bad = folder / "cat" / "3.png"
    good = bad.read_bytes()
    for content in (b"no image", good[: len(good) // 2], b""):
        bad.write_bytes(content)
        line = refused(*of_folder(folder), "--out", "out")
        assert "cat/3.png: cannot be decoded" in line and "data.bad_images=skip" in line
    bad.write_bytes(good)
    assert call(*of_folder(folder), "--out", "out")[0] == 0
    assert call("verify", "out")[0] == 0


@pytest.mark.usefixtures("undrawn")
def test_image_bombs_are_refused_by_their_header(folder, refused, call):
    line = refused(*of_folder(folder, "data.max_pixels=255"), "--out", "out")
    assert (
        "16 x 16 pixels exceed data.max_pixels=255; remove the image, make it smaller, or increase "
        "data.max_pixels" in line
    )
    assert call(*of_folder(folder, "data.max_pixels=256"), "--out", "other")[0] == 0


def test_folders_without_images_are_refused(folder, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty contains no image" in refused(*of_folder(tmp_path / "empty"), "--out", "a")
    assert "does not exist" in refused(*of_folder(tmp_path / "gone"), "--out", "b")
    (folder / "owl").mkdir()
    assert "owl contains no image; add images or remove the folder" in refused(
        *of_folder(folder), "--out", "c"
    )


def test_sets_that_are_too_small_are_refused_before_anything_is_fitted(refused):
    assert "asks for 1000 real images, the train split has 140" in refused(
        "run", DIGITS, *MEMORISER, "data.train_size=1000", "--out", "a"
    )
    fresh = ["regime={name: fresh_real, real_fraction: 0.5}"]
    assert "fresh_real runs out of unseen real images" in refused(
        "run", DIGITS, *MEMORISER, *fresh, "--out", "b"
    )
    assert not list(Path().glob("?/gen-*"))
    assert "measure.count 90 is more than the 60 images" in refused(
        "run", DIGITS, *MEMORISER, "measure.count=90", "--out", "c"
    )


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "wrong",
    [
        "data.bad_images=error",
        "data.source=imagefolder:gone",
        "data.train_size=5000",
        "measure.extractors=[pixls]",
    ],
)
def test_a_mended_config_may_have_the_folder_of_one_that_could_not_start(folder, refused, call, wrong):
    (folder / "cat" / "3.png").write_bytes(b"no image")
    refused(*of_folder(folder, "data.bad_images=skip", wrong), "--out", "out")
    code, out, _ = call(*of_folder(folder, "data.bad_images=skip"), "--out", "out", "--json")
    assert code == 0 and call("verify", "out")[0] == 0
    assert call(*of_folder(folder, "data.bad_images=skip"), "--out", "fresh", "--json")[1] == out


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_another_recipe_is_left_alone_and_a_folder_is_suggested(finished, refused, call):
    before = files(finished)
    line = refused("run", DIGITS, *MEMORISER, "seed=3", "sample.count=61", "--out", finished)
    assert "sample.count: 60 there, 61 asked" in line and "seed: 0 there, 3 asked" in line
    other = line.split("--out ")[1]
    assert Path(other).parent == finished.parent and not Path(other).exists()
    after = files(finished)
    assert {k: v for k, v in before.items() if not k.startswith(".lease-")} == {
        k: v for k, v in after.items() if not k.startswith(".lease-")
    }
    assert call("run", DIGITS, *MEMORISER, "seed=3", "sample.count=61", "--out", other)[0] == 0


def test_a_folder_that_holds_something_else_is_left_alone(refused):
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("x")
    assert "mine is not empty and contains no run; choose another folder with --out" in refused(
        "run", DIGITS, *MEMORISER, "--out", "mine"
    )
    assert Path("mine/thesis.tex").read_text() == "x"
    Path("file").write_text("x")
    assert "cannot write to file" in refused("run", DIGITS, *MEMORISER, "--out", "file")


def test_a_folder_that_cannot_be_written_is_refused(refused):
    assert "cannot write to /proc/run" in refused("run", DIGITS, *MEMORISER, "--out", "/proc/run")


def test_a_folder_without_a_run_names_the_runs_beside_it(finished, refused):
    for command in (["status"], ["verify"], ["export", "--generation", 0, "--to", "x"]):
        assert "is not the folder of a run (no run.yaml); runs beside it: run" in refused(
            command[0], finished.parent / "rum", *command[1:]
        )
    assert "start one with: difflab run" in refused("status", "nowhere/at/all")


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_another_process_works_on_is_refused(refused, call):
    hold = "import fcntl, sys; f = open('out/.lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    Path("out").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout and holder.stdout.readline()
        line = refused("run", DIGITS, *MEMORISER, "--out", "out")
        assert "another process is working on out; wait for it, or choose another folder with --out" in line
        assert call("status", "out")[0] == 2
        holder.communicate()
    assert call("run", DIGITS, *MEMORISER, "--out", "out")[0] == 0


@pytest.mark.usefixtures("undrawn")
def test_a_loss_that_is_not_finite_says_what_to_lower(refused, call):
    wild = ["train.learning_rate=1e30", "train.gradient_clip=0"]
    line = refused("run", DIGITS, *MLP, *wild, "--out", "out")
    assert "the loss is nan in gen-000" in line and "Lower train.learning_rate (now 1e+30)" in line
    assert not Path("out/gen-000/model").exists()
    assert call("status", "out")[0] == 0
    assert call("run", DIGITS, *MLP, "--out", "calm")[0] == 0


# -------------------------------------------------------------------------------------------- object stores
@pytest.fixture
def stored(undrawn, tmp_path, monkeypatch):
    """The URL of a run in memory, and the objects there."""
    monkeypatch.setattr(objects, "SETTLE_S", 0.0)
    monkeypatch.setenv("DIFFLAB_SCRATCH", str(tmp_path / "scratch"))
    with memory_store() as found:
        url = "memory://bucket/digits"
        assert difflab("run", DIGITS, *MEMORISER, "--json", "--out", url).returncode == 0
        monkeypatch.setenv("DIFFLAB_SCRATCH", str(tmp_path / "elsewhere"))
        yield url, found


def test_a_run_at_a_url_is_read_by_the_commands_that_take_a_run(stored, tmp_path):
    url, _ = stored
    for words in (
        ("status", url),
        ("verify", url),
        ("diagnose", url, "--count", 30, "--resamples", 10),
        ("report", url, "--no-diagnosis", "--out", "page.html"),
        ("compare-runs", url),
        ("export", url, "--generation", 1, "--to", "images"),
    ):
        done = difflab(*words)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").exists() and len(list((tmp_path / "images").glob("*.png"))) == 60
    assert difflab("run", DIGITS, *MEMORISER, "--out", url).stdout.splitlines()[-1] == f"published: {url}"


def test_measures_are_added_to_a_run_at_a_url(stored):
    url, found = stored
    before = found["/bucket/digits/metrics.jsonl"].getvalue()
    done = difflab("measure", url, "vendi", "--json")
    assert done.returncode == 0 and {json.loads(line)["metric"] for line in done.stdout.splitlines()} == {
        "vendi"
    }
    after = found["/bucket/digits/metrics.jsonl"].getvalue()
    assert b'"vendi"' in after and b'"vendi"' not in before
    assert "/bucket/digits/measures.yaml" in found
    assert difflab("verify", url).returncode == 0


def test_what_is_wrong_with_a_url_is_one_line(stored, tmp_path):
    url, _ = stored
    cases = {
        ("status", "memory://bucket/other"): "contains no run (no run.yaml); start one with: difflab run",
        ("run", DIGITS, *MEMORISER, "--out", "nosuch://bucket/run"): "Protocol not known: nosuch",
        ("run", DIGITS, *MEMORISER, "seed=7", "--out", url): "another recipe (seed:",
        ("sweep", "regimes", "--out", url): "is a URL and must be a folder",
    }
    for words, message in cases.items():
        done = difflab(*words)
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*:*"))
