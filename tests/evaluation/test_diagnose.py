"""difflab diagnose: it names what was done to real images, keeps silent where nothing was, and never says more than n allows."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import difflab
from PIL import Image

from difflab import config
from difflab.config import Data
from difflab.core.errors import DataError, MeasureError
from difflab.data.sources import open_source
from difflab.evaluation import controls as look
from difflab.evaluation.diagnose import Images, diagnose, diagnose_run, examine
from difflab.evaluation.rules import (
    ABSENT,
    DIVERGING,
    ENTANGLED,
    INCREASE,
    LOOK,
    PRESENT,
    SCALING,
    TAILS,
    UNKNOWN,
    Reading,
    Sign,
)
from difflab.evaluation.simulate import simulate
from difflab.loop import chain
from difflab.metrics import open_extractor
from difflab.runs.run import open_run

N = 200


@pytest.fixture(scope="module")
def digits() -> dict[str, Images]:
    """Disjoint parts of the digits: reference, other, train, and the pool that samples are made from."""
    source = open_source(Data(source="digits"), 0)
    order = np.random.default_rng(3).permutation(len(source))
    assert source.labels is not None
    real = Images(np.stack([source.read(int(i)) for i in order]), source.labels[order])
    return {
        "reference": real[:N],
        "other": real[N : 2 * N],
        "train": real[2 * N : 3 * N],
        "pool": real[3 * N :],
    }


def changed(digits, kind: str, degree: float, seed: int = 0) -> Images:
    pool, train = digits["pool"], digits["train"]
    return Images(*simulate(kind, pool.pixels, pool.labels, degree, N, seed, (train.pixels, train.labels)))


def examined(digits, *generations: Images, **options):
    given = {
        "train": digits["train"],
        "classes": [str(i) for i in range(10)],
        "extractors": [open_extractor("pixels")],
        "resamples": 12,
    } | options
    return examine(digits["reference"], digits["other"], generations, **given)


# ------------------------------------------------------------------------------------------------------- the one rule
def reading(
    value: float, error: float, worse: str = "lower", relevant: float = 0.1, **controls: tuple[float, float]
) -> Reading:
    return Reading(
        Sign("recall", worse, relevant),
        value,
        error,
        {name.replace("_", " "): c for name, c in controls.items()},
        1.0,
        100,
    )


def test_present_wants_every_control_to_be_better_by_three_errors_and_by_what_is_relevant():
    assert reading(0.5, 0.03, real_images=(0.9, 0.03), generation_0=(0.8, 0.03)).verdict == PRESENT
    assert (
        reading(0.5, 0.03, real_images=(0.9, 0.03), generation_0=(0.6, 0.03)).verdict == UNKNOWN
    )  # 2.4 errors
    assert reading(0.5, 0.03, real_images=(0.9, 0.03), generation_0=(0.5, 0.03)).verdict == ABSENT
    assert (
        reading(0.85, 0.001, real_images=(0.9, 0.001)).verdict == ABSENT
    )  # 35 errors, but less than a tenth
    assert reading(0.95, 0.02, real_images=(0.9, 0.02)).verdict == ABSENT  # better
    assert reading(2.0, 0.1, "higher", real_images=(1.0, 0.1)).verdict == PRESENT
    assert reading(0.8, 0.2, real_images=(0.9, 0.2)).verdict == UNKNOWN  # too few images to say


def test_the_control_that_explains_most_is_named_and_its_effect_given():
    one = reading(0.5, 0.03, real_images=(0.9, 0.04), generation_0=(0.6, 0.04))
    assert one.nearest == "generation 0" and one.effect == pytest.approx(0.1) and one.z == pytest.approx(2)
    row = one.row()
    assert (
        row["control_value"] == 0.6
        and row["effect_high"] == pytest.approx(0.1 + 1.96 * 0.05)
        and row["verdict"] == UNKNOWN
    )
    assert (
        reading(1.0, 0.0, real_images=(1.0, 0.0)).z == 0
        and reading(0.5, 0.0, real_images=(1.0, 0.0)).row()["z"] is None
    )


# ---------------------------------------------------------------------------------------------- what was done is named
@pytest.mark.parametrize(
    ("kind", "degree", "name"),
    [
        ("tails_cut", 0.8, "early"),
        ("shrunk", 0.6, "early"),
        ("blended", 0.8, "late"),
        ("repeated", 0.6, "catastrophic"),
        ("dropped", 0.6, "forgetting"),
        ("swapped", 0.6, "poisoned labels"),
        ("copied", 0.6, "overfitting"),
        ("blurred", 0.8, "blurred"),
        ("sharpened", 0.8, "sharpened"),
    ],
)
def test_what_was_done_is_named_with_evidence(digits, kind, degree, name):
    finding = examined(digits, changed(digits, kind, degree)).findings[0]
    assert finding.name == name and finding.alarm and finding.n == N
    assert finding.gone or finding.evidence()
    assert finding.advice


@pytest.mark.parametrize(
    ("kind", "degree"),
    [("nothing", 1.0), ("fewer", 0.4), ("fewer", 1.0), ("reencoded", 0.5), ("reencoded", 1.0)],
)
def test_where_nothing_is_lost_there_is_no_alarm(digits, kind, degree):
    finding = examined(digits, changed(digits, kind, degree)).findings[0]
    assert not finding.alarm and PRESENT not in finding.profile.values()
    assert (finding.name == "changed encoding") == (kind == "reencoded")


def test_the_verdict_does_not_lean_on_the_name_of_a_set(digits):
    """Real images in the place of samples, in many draws: an alarm in none of them."""
    alarms = [examined(digits, changed(digits, "nothing", 1.0, seed)).findings[0].alarm for seed in range(3)]
    assert sum(alarms) == 0


def test_degrees_are_ordered(digits):
    effects = []
    for degree in (0.4, 0.7, 1.0):
        finding = examined(digits, changed(digits, "tails_cut", degree)).findings[0]
        effects.append(next(r.effect for r in finding.readings[TAILS] if r.sign.metric == "recall"))
    assert effects == sorted(effects) and effects[0] < effects[-1] - 0.2


def test_few_images_give_less_to_say(digits):
    """The same change, at fewer images: cannot tell, and never the opposite."""
    profile = [
        examined(digits, changed(digits, "tails_cut", 0.5)[:n]).findings[0].profile[TAILS] for n in (200, 40)
    ]
    assert profile == [PRESENT, UNKNOWN]
    with pytest.raises(MeasureError, match="wants 30 images or more"):
        examined(digits, changed(digits, "nothing", 1.0)[:20])


def test_copies_are_told_only_where_the_training_images_are_known(digits):
    copied = changed(digits, "copied", 0.8)
    assert examined(digits, copied).findings[0].name == "overfitting"
    assert not examined(digits, copied, train=None).findings[0].alarm


def test_without_labels_concepts_have_no_verdict_and_the_reason_is_given(digits):
    bare = {name: Images(part.pixels) for name, part in digits.items()}
    finding = examined(bare, Images(changed(digits, "swapped", 1.0).pixels), classes=None).findings[0]
    assert finding.profile[ENTANGLED] == UNKNOWN and not finding.alarm
    assert "class_accuracy" in finding.left_out
    assert (
        examined(bare, Images(changed(digits, "repeated", 0.6).pixels), classes=None).findings[0].name
        == "catastrophic"
    )


def test_missing_classes_and_a_loss_in_the_others_are_both_said(digits):
    pool, keep = digits["pool"], np.isin(digits["pool"].labels, np.arange(6))
    both = Images(*simulate("blended", pool.pixels[keep], pool.labels[keep], 1.0, N, 0))
    finding = examined(digits, both).findings[0]
    assert (
        finding.stage == "late" and "forgetting" in finding.instead and finding.gone == ["6", "7", "8", "9"]
    )


# ----------------------------------------------------------------------------------------------------- over generations
def test_a_chain_is_judged_from_its_generation_0_and_the_first_alarm_is_found(digits):
    degrees = (0.1, 0.2, 0.6, 1.0)
    result = examined(
        digits,
        changed(digits, "nothing", 1.0),
        *(changed(digits, "tails_cut", d, i) for i, d in enumerate(degrees)),
    )
    assert result.findings[0].stage in ("none", "cannot tell")
    assert [f.alarm for f in result.findings] == [False, False, False, True, True]
    generation, measures = result.first_alarm
    assert generation == 3 and "recall" in measures
    assert result.alarms["recall"] == 3
    assert {r.sign.metric: set(r.controls) for r in result.findings[3].readings[TAILS]}["recall"] == {
        "real images",
        "re-encoded",
        "generation 0",
        f"generation 0 {LOOK}",
    }


def test_a_first_model_that_falls_short_is_no_collapse_until_more_is_lost(digits):
    weak = [changed(digits, "blended", 0.8, seed) for seed in range(3)]
    result = examined(digits, *weak, changed(digits, "repeated", 0.8))
    assert (
        all(f.stage in ("none", "cannot tell") for f in result.findings[:3])
        and "weak first model" in result.findings[0].instead
    )
    assert result.findings[3].stage == "catastrophic"


def test_risk_that_goes_on_growing_diverges_and_a_plateau_does_not(digits):
    start = changed(digits, "nothing", 1.0)
    growing = [start, *(changed(digits, "blurred", d) for d in (0.2, 0.5, 0.75, 1.0))]
    level = [start, *(changed(digits, "blurred", 1.0, seed) for seed in range(4))]
    last = examined(digits, *growing).findings[-1]
    assert (
        last.profile[DIVERGING] == PRESENT and last.profile[SCALING] == UNKNOWN
    )  # that one takes runs of several sizes
    assert examined(digits, *level).findings[-1].profile[DIVERGING] == ABSENT
    assert (
        examined(digits, *growing[:2]).findings[-1].profile[DIVERGING] == UNKNOWN
    )  # two points are no course


def test_rows_have_one_line_per_generation_and_definition(digits):
    result = examined(digits, changed(digits, "nothing", 1.0), changed(digits, "repeated", 0.8))
    rows = result.rows()
    assert len(rows) == 2 * 8 and {row["generation"] for row in rows} == {0, 1}
    json.dumps(rows, allow_nan=False)
    risk = next(row for row in rows if row["generation"] == 1 and row["definition"] == INCREASE)
    assert (
        risk["verdict"] == PRESENT
        and risk["diagnosis"] == "catastrophic"
        and risk["effect_low"] < risk["effect"] < risk["effect_high"]
    )
    assert math.isfinite(risk["effect"]) and len(result.frame) == 16


# ------------------------------------------------------------------------------------------------- folders and bad input
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
    done = command(
        "--reference", folders["real"], folders["gen0"], folders["gen1"], "--train", folders["train"], *quick
    )
    assert done.returncode == 0, done.stderr
    assert (
        "catastrophic collapse" in done.stdout
        and "first alarm: generation 1" in done.stdout
        and "what could help" in done.stdout
    )
    as_json = command("--reference", folders["real"], folders["gen0"], folders["gen1"], *quick, "--json")
    rows = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert len(rows) == 16 and rows[-1]["stage"] == "catastrophic"
    assert f"not answerable from one chain: {SCALING}" in done.stdout


def test_one_set_alone_says_what_it_cannot_say(folders):
    done = command("--reference", folders["real"], folders["gen1"], "--extractors", "pixels", "--count", 100)
    assert done.returncode == 0 and "one generation alone" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing"], "holds no run"),
        (["gen0"], "give one run"),
        (["--reference", "missing", "gen0"], "does not exist"),
        (["--reference", "real", "gen0", "--count", "5000"], "count 5000 is more than"),
        (["--reference", "real", "gen0", "--count", "20"], "wants 30 images"),
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


# ------------------------------------------------------------------------------------------------------------------ runs
@pytest.fixture(scope="module")
def memoriser(tmp_path_factory) -> Path:
    """Real digits, resampled from themselves for some generations: copies from the start, and variety lost."""
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
    # Held-out images are the control of copies; that other real images of a run were trained on takes nothing from it.
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


def test_the_look_of_samples_is_what_the_control_has(digits):
    """Blurred samples, and real images that were given their look, measure alike: that is why blur is no loss of variety."""
    finding = examined(digits, changed(digits, "blurred", 1.0)).findings[0]
    recall = next(r for r in finding.readings[TAILS] if r.sign.metric == "recall")
    assert recall.worse_than("real images") and not recall.worse_than(f"real images {LOOK}")
    assert (
        look.matched(digits["reference"].pixels, changed(digits, "blurred", 1.0).pixels).shape
        == digits["reference"].pixels.shape
    )


def test_images_without_features_cost_a_measure_those_images_alone_and_reasons_are_sentences(digits):
    """A few black digits have no direction in pixels: vendi goes on without them. Where real images have no value at all, a sentence says so."""
    black = replace(digits["other"], pixels=digits["other"].pixels.copy())
    black.pixels[[3, 50, 90]] = 0
    result = examined(digits | {"other": black}, changed(digits, "shrunk", 0.6))
    assert (
        "vendi (pixels): 3 of 200 images have features of length 0, hence no direction, and are left out"
        in result.notes
    )
    assert "vendi" not in result.findings[0].left_out
    empty = replace(black, pixels=np.zeros_like(black.pixels))
    lost = examined(digits | {"other": empty}, changed(digits, "shrunk", 0.6)).findings[0].left_out
    assert lost["vendi"].startswith(
        "vendi has no value between real images: vendi needs at least 2 fake images, got 0: 200 of 200 images have"
    )
    for measure, reason in lost.items():
        assert reason[0].isalpha() and len(reason.split()) > 3 and not reason.startswith("("), measure
