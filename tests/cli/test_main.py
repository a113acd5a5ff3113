"""The commands as a user types them. Most are called in this process; what only a process of its own can show is run as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from PIL import Image

from difflab.cli.main import DISK_FULL, main
from difflab.config import parse
from difflab.core.rows import KEYS
from difflab.report.arms import arm_strip
from difflab.runs.folder import STAGES
from difflab.runs.run import open_run
from difflab.studies.compare_runs import arms_of

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = CONFIGS / "digits.yaml"
BIN = Path(sys.executable).parent
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
SMALL = [
    "generations=1",
    "sample.count=60",
    "sample.guidance_scale=1.0",
    "data.limit=200",
    "data.train_size=100",
    "measure.resamples=20",
]
MEMORISER = ["model={family: memoriser}", *SMALL]
MLP = ["model.width=32", "model.depth=1", "train.images_seen=1000", "sample.steps=2", *SMALL]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def undrawn(monkeypatch):
    """Runs in this process leave out the curves and the report, which take a second and have tests of their own."""
    from difflab.cli import endings
    from difflab.loop import chain
    from difflab.report import live

    monkeypatch.setattr(chain, "run_chain", partial(chain.run_chain, plots=False))
    monkeypatch.setattr(live, "after_generation", lambda *args: None)
    monkeypatch.setattr(endings, "verdict", lambda run, fresh=True: None)


@pytest.fixture
def call(capsys):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run(*argv: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(call):
    """Run a command that must be refused; returns the one line of its error."""

    def run(*argv: Any) -> str:
        code, out, err = call(*argv)
        lines = [line for line in err.splitlines() if not line.startswith("generation ")]
        assert code == 2 and out == "" and len(lines) == 1, (code, out, err)
        assert lines[0].startswith("difflab: error: ") and "Traceback" not in err
        return lines[0]

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A complete memoriser run. Tests that change it work on a copy."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["run", str(DIGITS), *MEMORISER, "--out", str(path)]) == 0
    return path


def copied(run: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, to))


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def process(*argv: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in argv], env=ENV, capture_output=True, text=True, timeout=120, **kwargs
    )


def picture(path: Path, side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path)) + int(path.stem)).integers(
        0, 256, (side, side, 3), dtype=np.uint8
    )
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """An imagefolder of two classes with twelve images each."""
    for name in ("cat", "dog"):
        for i in range(12):
            picture(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def of_folder(folder: Path, *more: str) -> list[str]:
    """The command that runs a memoriser on an imagefolder, to be completed by --out."""
    overrides = [
        "model={family: memoriser}",
        "generations=1",
        "sample={count: 12}",
        "data.train_size=null",
        "measure.resamples=0",
    ]
    return ["run", str(DIGITS), *overrides, f"data.source=imagefolder:{folder}", *more]


# ------------------------------------------------------------------------------------------ real processes
def test_version_and_help_of_the_installed_command():
    version = process(BIN / "difflab", "--version")
    assert version.returncode == 0 and version.stdout.startswith("difflab 0.")
    text = process(sys.executable, "-m", "difflab", "--help")
    assert text.returncode == 0 and text.stderr == ""
    for word in (
        "difflab run digits",
        "accelerate launch",
        "export",
        "verify",
        "theory",
        "schema",
        "status",
        "plan",
    ):
        assert word in text.stdout


def test_help_waits_for_no_library():
    code = (
        "import sys, difflab.cli.main; print({'torch', 'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules))"
    )
    assert process(sys.executable, "-c", code).stdout == "set()\n"


@pytest.mark.parametrize(
    "words",
    [
        ["compare", ".", "nope"],
        ["diagnose", "--reference", "nope", "."],
        ["diagnose", "--reference", ".", ".", "--train", "nope"],
    ],
)
def test_a_misspelt_path_is_found_before_libraries_are(words):
    code = f"import sys, difflab.cli.main; print(difflab.cli.main.main({words!r}), 'torch' in sys.modules)"
    done = process(sys.executable, "-c", code)
    assert done.stdout == "2 False\n" and "nope does not exist (looked from " in done.stderr


def test_run_with_json_prints_rows_alone_on_stdout_and_again_when_resumed(tmp_path, call):
    done = process(BIN / "difflab", "run", DIGITS, *MEMORISER, "--json", "--out", "out")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows and all(tuple(row) == KEYS for row in rows)
    assert done.stdout == (tmp_path / "out" / "metrics.jsonl").read_text()
    assert done.stderr == ""
    assert call("run", DIGITS, *MEMORISER, "--json", "--out", "out") == (0, done.stdout, "")


def test_an_error_is_one_line_and_no_traceback_in_a_real_process():
    done = process(BIN / "difflab", "run", "nothing.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "difflab: error: there is no config nothing.yaml; difflab presets lists those that come with difflab\n"
    )


def test_a_reader_that_goes_early_is_no_error(finished):
    shell = f"set -o pipefail; {BIN}/difflab schema | head -1; echo $?; {BIN}/difflab status {finished} | true; echo $?"
    done = process("bash", "-c", shell)
    assert done.stdout == "{\n0\n0\n" and done.stderr == ""


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


# ------------------------------------------------------------------------------------------------- run
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
    assert redrawn <= {"strip.png", "curves.png", "metrics.jsonl", "run.yaml", ".lock"}


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


@pytest.mark.usefixtures("undrawn")
def test_measures_left_out_and_flagged_samples_are_said(finished, call, tmp_path):
    _, out, _ = call("run", DIGITS, *MEMORISER, "--out", finished)
    assert "1 measure has no value; --all says why" in out
    _, out, _ = call("status", finished, "--all")
    assert "left out: class_accuracy (pixels): the samples are unconditional" in out
    assert "flagged" not in out
    (tmp_path / "grey").mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "grey" / f"{i}.png")
    code, out, _ = call(*of_folder(tmp_path / "grey", "measure.metrics=[]"), "--out", "out")
    assert code == 0 and "flagged: 24 samples of one colour (metric flagged_share)" in out


def test_exact_runs_have_a_table_too(call):
    Path("exact.yaml").write_text(
        "data: {source: exact, train_size: 20}\nmodel: {family: gaussian, replicates: 9}\nsample: {count: 20}\n"
    )
    code, out, _ = call("run", "exact.yaml", "generations=2")
    assert (
        code == 0
        and "variance" in out
        and "look at:  runs/run/report.html\n          runs/run/metrics.jsonl\n" in out
    )
    assert "budget: fitted by a formula" in call("status", "runs/run", "--all")[1]


# ------------------------------------------------------------------------------------------- other commands
def test_status_shows_every_stage(finished, call, tmp_path):
    code, out, _ = call("status", finished)
    assert code == 0 and out.splitlines()[-1] == "complete" and out.count("done") == 10
    half = copied(finished, tmp_path / "half")
    (half / "gen-001" / "metrics.jsonl").unlink()
    code, out, _ = call("status", half, "--json")
    first, second = map(json.loads, out.splitlines())
    assert first == {"generation": 0, **dict.fromkeys(STAGES, True)} and second == {
        **first,
        "generation": 1,
        "measure": False,
    }
    assert (
        call("status", half)[1].splitlines()[-1]
        == f"not complete; the command that started it resumes it: difflab run CONFIG --out {half}"
    )


def test_names_with_brackets_are_printed_as_they_are(finished, call, tmp_path):
    odd = copied(finished, tmp_path / "a[bold]b[" / "c]")
    code, out, _ = call("status", odd)
    assert code == 0 and "".join(str(odd).split()) in "".join(out.split())


def test_plan_says_costs_and_runs_nothing(call, tmp_path):
    code, out, _ = call("plan", DIGITS, "generations=1", "sample.count=60")
    assert code == 0 and "nothing was run" in out and "TFLOP" in out and "total" in out
    code, out, _ = call("plan", DIGITS, "generations=1", "sample.count=60", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(r["generation"], r["stage"]) for r in rows] == [(t, stage) for t in (0, 1) for stage in STAGES]
    assert list(tmp_path.iterdir()) == []


def test_plan_refuses_what_run_would_refuse(refused, tmp_path):
    assert "did you mean 'DDIMScheduler'?" in refused("plan", DIGITS, "sample.scheduler=DDIMSchedulr")
    assert "unknown measure 'fdd'" in refused("plan", DIGITS, "measure.metrics=[fdd]")
    assert "the train split has" in refused("plan", DIGITS, "data.train_size=5000")
    assert list(tmp_path.iterdir()) == []


def test_arms_are_drawn_side_by_side_where_they_share_a_seed(finished, call, refused, tmp_path):
    def twin(**changes: Any) -> Path:
        path = copied(finished, tmp_path / str(len(list(tmp_path.iterdir()))))
        record = yaml.safe_load((path / "run.yaml").read_text())
        record["config"] |= changes
        (path / "run.yaml").write_text(yaml.safe_dump(record))
        return path

    strip = tmp_path / "strip.png"
    other = twin(regime={"name": "accumulate"})
    for asked, t in ([], 1), (["--generations", 1, 0], 0):
        assert call("compare-runs", finished, other, *asked, "--strip", strip)[0] == 0
        with Image.open(strip) as picture:
            assert np.array_equal(picture, arm_strip(arms_of([open_run(finished), open_run(other)]), t)), (
                "of the last generation that was asked for"
            )
    strip.unlink()
    assert "no seed in common" in refused(
        "compare-runs", finished, twin(seed=77, regime={"name": "accumulate"}), "--strip", strip
    )
    assert not strip.exists()


def test_export_writes_pictures_or_says_why_not(finished, call, refused, tmp_path):
    code, out, _ = call("export", finished, "--generation", 1, "--to", "deep/out")
    assert (code, out) == (0, "60 images and metadata.jsonl in deep/out\n")
    assert len(list(Path("deep/out").glob("*.png"))) == 60
    code, out, _ = call("export", finished, "--generation", 0, "--to", "zero", "--json")
    assert json.loads(out) == {"generation": 0, "images": 60, "folder": "zero"}
    assert "has no samples of generation 7; it has [0, 1]" in refused(
        "export", finished, "--generation", 7, "--to", "x"
    )
    assert "deep/out exists and is not empty; give --to a new folder" in refused(
        "export", finished, "--generation", 1, "--to", "deep/out"
    )
    assert "cannot write to /proc/nothing/x" in refused(
        "export", finished, "--generation", 1, "--to", "/proc/nothing/x"
    )
    Path("exact.yaml").write_text(
        "data: {source: exact, train_size: 20}\nmodel: {family: gaussian}\nsample: {count: 20}\ngenerations: 0\n"
    )
    call("run", "exact.yaml", "--out", "exact")
    assert "holds numbers, not images" in refused("export", "exact", "--generation", 0, "--to", "x")
    assert not Path("x").exists()


def test_verify_has_exit_code_1_for_a_fault_and_names_it(finished, call, tmp_path):
    assert call("verify", finished) == (0, f"{finished}: no fault found\n", "")
    assert call("verify", finished, "--json") == (0, "", "")
    damaged = copied(finished, tmp_path / "run")
    shard = damaged / "gen-001" / "samples" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    code, out, err = call("verify", damaged)
    assert code == 1 and out.startswith(str(shard)) and err == ""
    code, out, _ = call("verify", damaged, "--json")
    assert code == 1 and str(shard) in json.loads(out.splitlines()[0])["fault"]


def test_the_schema_accepts_the_configs_and_refuses_others(call):
    _, out, _ = call("schema")
    schema = json.loads(out)
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    for path in sorted(CONFIGS.glob("*.yaml")):
        validator(schema).validate(yaml.safe_load(path.read_text()))
    config = yaml.safe_load(DIGITS.read_text())
    for wrong in (
        {"colour": 1},
        {"generations": -1},
        {"train": {"batch_size": "many"}},
        {"model": {"family": "gan"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator(schema).validate({**config, **wrong})


def test_theory_compares_laws_with_the_engine(call, refused):
    code, out, _ = call("theory", "A1-variance", "--chains", 200, "E2-survivors")
    assert code == 0 and "200 chains" in out and "A1-variance" in out and "E2-survivors" in out
    code, out, _ = call("theory", "A1-variance", "E2-survivors", "--chains", 200, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and {r["law"] for r in rows} == {"A1-variance", "E2-survivors"}
    assert all({"law", "theory", "measured", "z"} <= row.keys() for row in rows)
    assert "unknown law 'A1-varianc'" in refused("theory", "A1-varianc")


def test_theory_has_exit_code_1_for_a_law_that_does_not_hold(call, monkeypatch):
    from difflab.studies import theory

    monkeypatch.setattr(
        theory, "check", lambda *_: [{"law": "x", "what": "y", "theory": 1.0, "measured": 2.0, "z": -4.1}]
    )
    assert call("theory")[0] == 1


# --------------------------------------------------------------------------------------------- bad configs
def test_a_missing_config_names_the_nearest_one(refused):
    assert f"there is no config {CONFIGS}/digit.yaml; did you mean {DIGITS}?" in refused(
        "run", CONFIGS / "digit.yaml"
    )
    assert "difflab presets lists those" in refused("plan", "no/such/folder/x.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [1,\n b", "is not valid YAML"),
        (b"- 1\n- 2", "holds no mapping of keys"),
        (b"", "holds no mapping of keys"),
        (b"\xff\xfe\x00", "cannot read config"),
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
            "regime.real_fraction has no meaning under regime.name=replace; use fixed_real or fresh_real",
        ),
        ("foo", "override 'foo' is not of the form key=value"),
        ("policies=[unflaged]", "policies: 'unflaged' is unknown; did you mean 'unflagged'?"),
        ("measure.metrics=[recal]", "unknown measure 'recal'; did you mean 'recall'?"),
        (
            "sample.scheduler=DDIMSchedulr",
            "'DDIMSchedulr' is no scheduler of diffusers; did you mean 'DDIMScheduler'?",
        ),
        ("sample.scheduler_options={etta: 1}", "knows no 'etta'"),
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


# ---------------------------------------------------------------------------------------------- bad images
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
    assert "16 x 16 pixels exceed data.max_pixels=255; remove or shrink it, or raise data.max_pixels" in line
    assert call(*of_folder(folder, "data.max_pixels=256"), "--out", "other")[0] == 0


def test_folders_without_images_are_refused(folder, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty holds no image" in refused(*of_folder(tmp_path / "empty"), "--out", "a")
    assert "does not exist" in refused(*of_folder(tmp_path / "gone"), "--out", "b")
    (folder / "owl").mkdir()
    assert "owl holds no image; fill it or remove it" in refused(*of_folder(folder), "--out", "c")


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


# -------------------------------------------------------------------------------------------- bad folders
@pytest.mark.usefixtures("undrawn")
def test_a_run_of_another_recipe_is_left_alone_and_a_folder_is_suggested(finished, refused, call):
    before = files(finished)
    line = refused("run", DIGITS, *MEMORISER, "seed=3", "sample.count=61", "--out", finished)
    assert "sample.count: 60 there, 61 asked" in line and "seed: 0 there, 3 asked" in line
    other = line.split("--out ")[1]
    assert Path(other).parent == finished.parent and not Path(other).exists()
    after = files(finished)
    assert {k: v for k, v in before.items() if k != ".lock"} == {
        k: v for k, v in after.items() if k != ".lock"
    }
    assert call("run", DIGITS, *MEMORISER, "seed=3", "sample.count=61", "--out", other)[0] == 0


def test_a_folder_that_holds_something_else_is_left_alone(refused):
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("x")
    assert "mine is not empty and holds no run; choose another folder with --out" in refused(
        "run", DIGITS, *MEMORISER, "--out", "mine"
    )
    assert Path("mine/thesis.tex").read_text() == "x"
    Path("file").write_text("x")
    assert "cannot write to file" in refused("run", DIGITS, *MEMORISER, "--out", "file")


def test_a_folder_that_cannot_be_written_is_refused(refused):
    assert "cannot write to /proc/run" in refused("run", DIGITS, *MEMORISER, "--out", "/proc/run")


def test_a_folder_without_a_run_names_the_runs_beside_it(finished, refused):
    for command in (["status"], ["verify"], ["export", "--generation", 0, "--to", "x"]):
        assert "holds no run (no run.yaml); runs beside it: run" in refused(
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


# ------------------------------------------------------------------------------------- trouble on the way
@pytest.fixture
def disk(tmp_path):
    """A file system of its own whose size can be set: (folder, resize)."""
    place = tmp_path / "disk"
    place.mkdir()
    made = (
        process("mount", "-t", "tmpfs", "-o", "size=4k", "difflab-test", place) if os.geteuid() == 0 else None
    )
    if made is None or made.returncode:
        pytest.skip("mounting a file system is not allowed here")

    def resize(size: str) -> None:
        assert process("mount", "-o", f"remount,size={size}", place).returncode == 0

    yield place, resize
    process("umount", place)


@pytest.mark.parametrize("size", ["4k", "12k", "40k", "90k", "400k"])
def test_on_a_full_disk_the_run_stops_and_goes_on_when_room_is_made(disk, size, refused, call, tmp_path):
    place, resize = disk
    argv = ["run", str(DIGITS), *MLP, "model.width=128", "train.images_seen=256", "measure.metrics=[]"]
    resize(size)
    line = refused(*argv, "--out", place / "run")
    assert "no space left on the disk" in line and "run the same command again, it resumes" in line
    resize("50m")
    assert call(*argv, "--out", place / "run")[0] == 0
    assert call("verify", place / "run")[0] == 0
    assert not list((place / "run").rglob("*.tmp"))


@pytest.mark.parametrize("nth", [1, 4, 8, 14])
def test_without_space_at_any_write_the_run_resumes(nth, refused, call, monkeypatch):
    import errno

    from difflab.core import files as module

    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "fsync", full)
        assert "no space left on the disk while writing out/" in refused(
            "run", DIGITS, *MEMORISER, "measure.metrics=[fd]", "--out", "out"
        )
    assert call("run", DIGITS, *MEMORISER, "measure.metrics=[fd]", "--out", "out")[0] == 0
    assert call("verify", "out")[0] == 0


def test_only_messages_of_a_full_disk_count_as_one():
    full = [
        "[Errno 28] No space left on device: 'x'",
        "I/O error: No space left on device (os error 28)",
        "12800 requested and 8064 written",
    ]
    assert all(DISK_FULL.search(text) for text in full)
    assert not DISK_FULL.search("3 images requested and none written")


def test_other_trouble_with_files_is_one_line_and_a_fault_of_ours_keeps_its_traceback(
    refused, call, monkeypatch
):
    from difflab.runs import run

    def denied(_: Any) -> None:
        raise PermissionError(13, "Permission denied", "somewhere/run.yaml")

    monkeypatch.setattr(run, "open_run", denied)
    assert refused("status", "x") == "difflab: error: somewhere/run.yaml: Permission denied"
    monkeypatch.setattr(run, "open_run", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("status", "x")


@pytest.mark.usefixtures("undrawn")
def test_a_loss_that_is_not_finite_says_what_to_lower(refused, call):
    wild = ["train.learning_rate=1e30", "train.gradient_clip=0"]
    line = refused("run", DIGITS, *MLP, *wild, "--out", "out")
    assert "the loss is nan in gen-000" in line and "Lower train.learning_rate (now 1e+30)" in line
    assert not Path("out/gen-000/model").exists()
    assert call("status", "out")[0] == 0
    assert call("run", DIGITS, *MLP, "--out", "calm")[0] == 0


def test_processes_other_than_the_main_one_say_nothing(call, monkeypatch, finished):
    from difflab.loop import chain
    from difflab.runs.run import Run

    seen = {}

    def chained(config: Any, path: Path, report: Any, after_generation: Any) -> Run:
        seen["quiet"] = report.quiet
        return Run(finished, parse(yaml.safe_load((finished / "run.yaml").read_text())["config"]))

    monkeypatch.setattr(chain, "run_chain", chained)
    monkeypatch.setenv("RANK", "1")
    assert call("run", DIGITS, *MEMORISER, "--out", "out") == (0, "", "") and seen == {"quiet": True}
    monkeypatch.setenv("RANK", "0")
    assert call("run", DIGITS, *MEMORISER, "--out", "out")[1] and seen == {"quiet": False}
