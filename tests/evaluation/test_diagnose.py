"""Diagnose folders, arrays and runs, from Python and from the command line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from changed_digits import N, changed
from commands import difflab
from PIL import Image

from difflab import config
from difflab.config import parse
from difflab.core.errors import DataError, MeasureError
from difflab.evaluation.advice import Chain
from difflab.evaluation.diagnose import chain_of, diagnose, diagnose_run
from difflab.evaluation.readings import Images
from difflab.evaluation.signs import (
    PRESENT,
    SCALING,
    TAILS,
)
from difflab.loop import chain
from difflab.runs.run import Run, open_run


# -------------------------------------------------------------------------------------- folders and bad input
def write(folder: Path, images: Images) -> Path:
    for i, image in enumerate(images.pixels):
        place = folder / f"class-{images.labels[i]}" if images.labels is not None else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(place / f"{i:04d}.png")
    return folder


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return difflab("diagnose", *words)


@pytest.fixture(scope="module")
def folders(digits, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sets")
    both = Images(
        np.concatenate([digits["reference"].pixels, digits["other"].pixels]),
        np.concatenate([digits["reference"].labels, digits["other"].labels]),
    )
    sets = {
        "real": both,
        "gen0": changed(digits, "nothing", 1.0),
        "gen1": changed(digits, "repeated", 0.7),
        "train": digits["train"],
    }
    return {name: write(root / name, images) for name, images in sets.items()}


def test_the_command_on_anybody_s_folders(folders):
    quick = ["--extractors", "pixels", "--resamples", 12]
    sets = ["--reference", folders["real"], folders["gen0"], folders["gen1"], "--train", folders["train"]]
    short, full = command(*sets, *quick), command(*sets, *quick, "--all")
    assert short.returncode == full.returncode == 0, short.stderr + full.stderr
    assert "catastrophic collapse" in short.stdout and "first alarm in generation 1" in short.stdout
    assert "catastrophic collapse" in full.stdout and "first alarm: generation 1" in full.stdout
    assert "what could help" in short.stdout and "what could help" in full.stdout
    as_json = command("--reference", folders["real"], folders["gen0"], folders["gen1"], *quick, "--json")
    rows = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert len(rows) == 16 and rows[-1]["stage"] == "catastrophic"
    assert f"not answerable from one chain: {SCALING}" in full.stdout


def test_one_set_alone_says_what_it_cannot_say(folders):
    done = command("--reference", folders["real"], folders["gen1"], "--extractors", "pixels", "--count", 100)
    assert done.returncode == 0 and "one generation alone" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing"], "is not the folder of a run"),
        (["gen0"], "give one run"),
        (["--reference", "missing", "gen0"], "does not exist"),
        (["--reference", "real", "gen0", "--count", "5000"], "count 5000 is more than"),
        (["--reference", "real", "gen0", "--count", "20"], "needs at least 30 images"),
        (["--reference", "real", "gen0", "--extractors", "pixel"], "did you mean 'pixels'"),
        (["--reference", "real", "foreign"], "is none of the reference's"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2(folders, words, message, digits, tmp_path):
    if "foreign" in words:
        Image.fromarray(digits["pool"].pixels[0].squeeze()).save(
            _made(tmp_path / "foreign" / "zebra") / "0.png"
        )
        for i in range(60):
            Image.fromarray(digits["pool"].pixels[i].squeeze()).save(
                tmp_path / "foreign" / "zebra" / f"{i}.png"
            )
    named = [str(folders.get(w, tmp_path / w if w in ("missing", "foreign") else w)) for w in words]
    done = command(*named)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1, (
        done.stderr
    )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_no_generation_is_an_error(digits):
    with pytest.raises(DataError, match="no generation"):
        diagnose(digits["reference"].pixels, [])


def test_arrays_do_too(digits):
    both = np.concatenate([digits["reference"].pixels, digits["other"].pixels])
    blurred = changed(digits, "blurred", 0.9)
    found = diagnose(both, [blurred.pixels], extractors=["pixels"]).findings[0]
    assert found.name == "blurred" and found.n == N


# ------------------------------------------------------------------------------------------------------- runs
@pytest.fixture(scope="module")
def memoriser(tmp_path_factory) -> Path:
    """Digits that are resampled from themselves: copies from the start, and loss of variety."""
    path = tmp_path_factory.mktemp("runs") / "memoriser"
    spec = {
        "name": "memoriser",
        "generations": 4,
        "data": {"source": "digits", "train_size": 200},
        "model": {"family": "memoriser"},
        "sample": {"count": 200},
        "measure": {"extractors": ["pixels"], "metrics": ["fd"], "resamples": 0},
    }
    chain.run_chain(config.parse(spec, "test"), path, plots=False)
    return path


def test_a_run_is_diagnosed_from_its_own_images(memoriser):
    result = diagnose_run(open_run(memoriser), extractors=["pixels"], resamples=12)
    first, last = result.findings[0], result.findings[-1]
    assert "overfitting" in first.instead  # a bootstrap of the training images is nothing but copies
    # Held-out images are the control of copies; that other real images of a run were trained on takes nothing
    # from it.
    assert first.copies_told and not result.doubts and "near_duplicates" not in first.left_out
    assert last.generation == 4 and last.profile[TAILS] == PRESENT and last.stage in ("early", "catastrophic")
    assert (first.chain.real, last.chain.real, last.chain.guidance) == (1, 0, 1), "what the run does already"
    done = command(memoriser, "--count", 150, "--extractors", "pixels", "--resamples", 12)
    assert done.returncode == 0 and "overfitting" in done.stdout
    wrong = command(memoriser, "--train", memoriser)
    assert wrong.returncode == 2 and "--train goes with --reference" in wrong.stderr


def test_exact_families_have_no_images(tmp_path):
    spec = {
        "generations": 0,
        "data": {"source": "exact", "train_size": 50},
        "model": {"family": "gaussian", "dim": 2, "replicates": 3},
    }
    chain.run_chain(config.parse(spec | {"sample": {"count": 50}}, "test"), tmp_path / "gaussian")
    with pytest.raises(MeasureError, match="makes no images to diagnose"):
        diagnose_run(open_run(tmp_path / "gaussian"))


@pytest.mark.parametrize(
    ("pools", "more", "expected"),
    [
        (["fixed_real"] * 4, {}, Chain(1.0, 0.0, 1.0, "scratch")),
        (["synthetic"] * 4, {"sample": {"guidance_scale": 2.0}}, Chain(0.0, 0.0, 2.0, "scratch")),
        (
            ["synthetic", "synthetic", "synthetic", "fresh_real"],
            {"train": {"start_from": "previous"}},
            Chain(0.25, 0.25, 1.0, "previous"),
        ),
        (
            ["synthetic", "fixed_real"],
            {"policies": [{"policy": "guidance_by_generation", "scales": [1.0, 1.0, 3.0]}]},
            Chain(0.5, 0.0, 3.0, "scratch", ("guidance_by_generation",)),
        ),
        (
            ["synthetic"],
            {"policies": [{"policy": "temperature", "scale": 0.9}]},
            Chain(0.0, 0.0, 1.0, "scratch", ("temperature",)),
        ),
        (
            ["synthetic"],
            {"policies": [{"policy": "temperature", "scale": 1.1}]},
            Chain(0.0, 0.0, 1.0, "scratch"),
        ),
    ],
)
def test_a_chain_is_read_from_its_training_set_and_config(
    pools: list[str], more: dict[str, Any], expected: Chain, tmp_path: Path
) -> None:
    config = {
        "model": {"family": "pixel-mlp", "conditional": True},
        "train": {"start_from": "scratch", "condition_dropout": 0.1},
    }
    run = Run(tmp_path, parse(config | more | {"train": config["train"] | more.get("train", {})}))
    run.gen(2).mkdir(parents=True)
    parquet.write_table(
        pa.table({"pool": pa.array(pools).dictionary_encode()}), run.gen(2) / "train_set.parquet"
    )
    assert chain_of(run, 2) == expected


def test_a_chain_knows_which_guidance_is_none_for_its_base(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "ZImagePipeline"}')
    config = {"data": {"source": "emoji"}, "model": {"family": "flow", "base": str(tmp_path)}}
    run = Run(tmp_path / "run", parse(config | {"sample": {"guidance_scale": 1.0}}))
    run.gen(1).mkdir(parents=True)
    pools = pa.table({"pool": pa.array(["synthetic"]).dictionary_encode()})
    parquet.write_table(pools, run.gen(1) / "train_set.parquet")
    chain = chain_of(run, 1)
    assert (chain.guidance, chain.unguided) == (1.0, 0.0) and chain.guided
