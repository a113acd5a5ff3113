"""Compare two sets of images, and note everything special about them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commands import difflab
from PIL import Image

from difflab.config import Data
from difflab.core.errors import DataError, MeasureError
from difflab.data.registry import open_source
from difflab.evaluation.compare import compare
from difflab.metrics import METRICS, Pair, open_extractor
from difflab.metrics.defaults import COMMON, TEXTURE

FEW = {"extractors": ["pixels"], "metrics": ["fd", "recall", "coverage"], "resamples": 20}


@pytest.fixture(scope="module")
def emoji() -> np.ndarray:
    source = open_source(Data(source="emoji", limit=600), 0)
    return np.stack(
        [source.read(int(i)) for i in np.random.default_rng(0).permutation(len(source))]
    )  # they lie in order of style


def write(folder: Path, images, suffix: str = "png", **options) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{i:04d}.{suffix}", **options)
    return folder


# ----------------------------------------------------------------------------------------------- what it says
def test_features_in_bf16_are_said_and_move_no_measure_by_more_than_its_error(emoji):
    metrics = ["fd", "kid", "precision", "recall", "trace_ratio"]
    exact, rounded = (
        compare(emoji[:80], emoji[80:120], extractors=["efficientnet-lite0"], metrics=metrics, precision=p)
        for p in ("float32", "bf16")
    )
    assert not [note for note in exact.notes if "bfloat16" in note]
    assert [note for note in rounded.notes if "bfloat16" in note]
    for name in metrics:
        one, other = exact[name], rounded[name]
        half_width = (one["ci_high"] - one["ci_low"]) / 2
        assert one["recipe"] != other["recipe"] and abs(one["value"] - other["value"]) < half_width / 2, name


def test_equal_sets_lie_at_the_floor_and_changed_ones_do_not(emoji):
    real, same, changed = emoji[:400], emoji[400:], emoji[400:].copy()
    changed[:] = changed[:8].repeat(25, axis=0)  # a few images, repeated
    honest, collapsed = (compare(real, fake, extractors=["pixels"], resamples=20) for fake in (same, changed))
    for metric in ("recall", "coverage", "vendi"):
        row = honest[metric]
        assert (
            row["ci_low"] - 0.1 * abs(row["floor"])
            <= row["floor"]
            <= row["ci_high"] + 0.1 * abs(row["floor"])
        ), metric
        assert collapsed[metric]["ci_high"] < row["floor"], metric
    assert honest["repeats"]["value"] < 0.1 and collapsed["repeats"]["value"] == 1
    assert {row["n"] for row in honest.rows} == {200}
    assert (
        honest["fd"]["recipe"] == collapsed["fd"]["recipe"]
    )  # the same real set, n and features: comparable


def test_every_value_is_that_of_the_measure_on_the_same_rows(emoji):
    """With as many generated images as n all of them are measured, so the permutation does not matter."""
    result = compare(
        emoji[:300], emoji[300:450], extractors=["pixels"], metrics=["trace_ratio", "fd"], resamples=0
    )
    assert [row["n"] for row in result.rows] == [150, 150] and result["fd"]["ci_low"] is None
    pixels = open_extractor("pixels")
    spread = [
        float(pixels(torch.from_numpy(x)).double().var(0, correction=0).sum())
        for x in (emoji[:300], emoji[300:450])
    ]
    # The reference is a half of the real set, whose spread is near that of the whole.
    assert result["trace_ratio"]["value"] == pytest.approx(spread[1] / spread[0], rel=0.1)
    assert result["trace_ratio"]["floor"] == pytest.approx(1, abs=0.1)


def test_the_floor_is_between_two_different_halves(emoji):
    """Against itself a set would have distance 0, recall 1 and copies everywhere."""
    result = compare(
        emoji[:300],
        emoji[300:450],
        extractors=["pixels"],
        metrics=["fd", "recall", "trace_ratio"],
        resamples=0,
    )
    assert result["fd"]["floor"] > 0.1 * result["fd"]["value"]
    assert result["recall"]["floor"] < 1 and result["trace_ratio"]["floor"] != 1


def test_concepts_are_read_from_captions_by_a_clip_model(emoji, tmp_path):
    folder = tiny.clip(tmp_path / "clip")
    sides = [
        write(tmp_path / name, emoji[k : k + 40]) for name, k in (("real", 0), ("fake", 40), ("train", 80))
    ]
    for side in sides[:2]:  # the training images need no captions
        lines = [
            {"file_name": f"{i:04d}.png", "text": f"noto {('red apple', 'seal')[i % 2]}"} for i in range(40)
        ]
        (side / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = tmp_path / "concepts.txt"
    names.write_text("seal\nred apple\n")
    options = {"train": sides[2], "extractors": [f"open_clip:{folder}"], "resamples": 0}
    result = compare(
        *sides[:2], concepts=names, metrics=["zero_shot_accuracy", "prompt_alignment", "ct"], **options
    )
    assert [0 <= result["zero_shot_accuracy"][key] <= 1 for key in ("value", "floor")] == [True, True]
    assert -1 <= result["prompt_alignment"]["value"] <= 1 and result["ct"]["value"] is not None
    names.write_text("seal\nbanana\n")
    with pytest.raises((DataError, MeasureError), match="banana"):
        compare(*sides[:2], concepts=names, metrics=["zero_shot_accuracy"], **options)
    with pytest.raises(DataError, match="name no concept, the first: 'noto red apple'"):
        compare(*sides[:2], concepts=["seal", "banana"], metrics=["zero_shot_accuracy"], **options)


def test_it_is_a_function_of_its_arguments(emoji):
    first, again, other = (compare(emoji[:300], emoji[300:400], seed=seed, **FEW).rows for seed in (0, 0, 1))
    assert first == again and first != other


def test_blur_is_seen_by_the_texture_measures(emoji):
    blurred = np.stack([np.asarray(Image.fromarray(x).resize((8, 8)).resize((32, 32))) for x in emoji[400:]])
    result = compare(emoji[:400], blurred, extractors=["texture"], metrics=TEXTURE, resamples=20)
    assert result["sharpness_shift"]["ci_high"] < 0 and result["high_frequency_shift"]["ci_high"] < 0
    assert result["texture_distance"]["ci_low"] > result["texture_distance"]["floor"]


def test_copies_of_training_images_are_seen_with_train(emoji):
    train, held_out, fresh = emoji[:200], emoji[200:400], emoji[400:]
    metrics = ["auth_pct", "ct", "near_duplicates", "generalisation_score"]
    copied, honest = (
        compare(held_out, fake, train=train, extractors=["pixels"], metrics=metrics, resamples=0)
        for fake in (train[:100], fresh[:100])
    )
    assert copied["near_duplicates"]["value"] == 1 and honest["near_duplicates"]["value"] < 0.1
    assert copied["ct"]["value"] < -5 < honest["ct"]["value"]
    assert copied["generalisation_score"]["value"] == 0
    without = compare(held_out, fresh, extractors=["pixels"], metrics=["ct"], resamples=0)
    assert without["ct"]["value"] is None and "train" in without["ct"]["reason"]


def test_defaults_take_every_common_measure_on_features_and_texture(emoji):
    result = compare(emoji[:420], emoji[420:], resamples=0)
    assert [r["metric"] for r in result.rows] == [*COMMON, *TEXTURE]
    assert all(r["value"] is not None for r in result.rows if r["metric"] != "tail_recall")
    assert len({r["extractor"] for r in result.rows}) == 2 and set(result.frame["metric"]) == {
        *COMMON,
        *TEXTURE,
    }
    with pytest.raises(KeyError):
        result["ct"]


# -------------------------------------------------------------------------------------------- kinds of images
def test_folders_arrays_tensors_and_pil_images_are_the_same_images(emoji, tmp_path):
    real, fake = emoji[:80], emoji[80:120]
    wanted = compare(real, fake, **FEW).rows
    folders = write(tmp_path / "real", real), write(tmp_path / "fake", fake)
    assert (
        compare(*folders, **FEW).rows
        == wanted
        == compare(str(folders[0]), torch.from_numpy(fake), **FEW).rows
    )
    assert compare([Image.fromarray(x) for x in real], fake, **FEW).rows == wanted


def test_unequal_formats_sizes_and_colours_are_said(emoji, tmp_path):
    real = write(tmp_path / "real", [np.asarray(Image.fromarray(x).resize((48, 48))) for x in emoji[:60]])
    Image.fromarray(emoji[0]).resize((64, 40)).save(real / "odd.png")
    fake = write(tmp_path / "fake", emoji[60:90].mean(3).astype(np.uint8), "jpg")
    notes = "\n".join(compare(real, fake, **FEW).notes)
    assert "real: 2 different sizes; the central square of each is resized to 32 px" in notes
    assert "colour: real is colour, generated is grey; all are read as RGB" in notes
    assert "file format: real is png, generated is jpeg" in notes
    assert "n = 30" in notes
    assert "to 16 px" in "\n".join(compare(real, fake, image_size=16, **FEW).notes)


def test_duplicate_files_are_counted(emoji):
    fake = np.concatenate([emoji[100:130], emoji[100:120]])
    assert "generated: 20 of 50 images are exact copies of another" in "\n".join(
        compare(emoji[:100], fake, **FEW).notes
    )


def test_few_unreadable_images_are_left_out_and_named_many_are_an_error(emoji, tmp_path):
    real, fake = write(tmp_path / "real", emoji[:120]), write(tmp_path / "fake", emoji[120:180])
    (fake / "0003.png").write_bytes((fake / "0003.png").read_bytes()[:60])
    with pytest.raises(
        DataError, match=r"generated: 1 of 60 images are left out, the first: .*0003\.png.*--max-bad"
    ):
        compare(real, fake, **FEW)
    result = compare(real, fake, max_bad=0.05, **FEW)
    assert result.rows[0]["n"] == 59 and any(
        "1 of 60 images are left out" in note and "0003.png" in note for note in result.notes
    )


# -------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("fake", "said"),
    [
        (np.zeros((10, 8, 8, 3)), r"must be uint8 .*float64"),
        (np.zeros((10, 8, 8, 4), np.uint8), r"must be uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), "there is no image"),
        ([], "there is no image"),
        (["a.png"], "a list must contain PIL images"),
        ("nowhere", "generated: nowhere does not exist"),
    ],
    ids=["floats", "four channels", "empty array", "empty list", "names", "no folder"],
)
def test_unusable_sets_are_refused(fake, said, emoji):
    with pytest.raises(DataError, match=said):
        compare(emoji[:40], fake, **FEW)


def test_an_empty_folder_and_a_link_that_leads_out(emoji, tmp_path):
    real, empty = write(tmp_path / "real", emoji[:40]), tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="contains no image"):
        compare(real, empty, **FEW)
    (real / "link.png").symlink_to(write(tmp_path / "secret", emoji[:1]) / "0000.png")
    with pytest.raises(DataError, match="leads out of"):
        compare(real, emoji[:20], **FEW)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metrics": ["recal"]}, "did you mean 'recall'"),
        ({"extractors": ["fitted"]}, "belongs to a run"),
        ({"extractors": ["pixel"]}, "did you mean 'pixels'"),
        ({"metrics": ["class_accuracy"]}, "needs a judge trained in a run"),
        ({"concepts": ["cat", "dog"]}, "add an extractor open_clip"),
        ({"count": 50}, "count 50 is more than the 20 images"),
        ({"resamples": 5, "metrics": ["recall"]}, "at least 20 resamples"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unusable_options_are_refused(options, said, emoji):
    rows = None
    with pytest.raises(MeasureError, match=said):
        rows = compare(emoji[:40], emoji[40:80], **{**FEW, **options})
        raise MeasureError(
            str(rows.rows[0]["reason"])
        )  # what one measure cannot bear is its reason, not an error


def test_too_few_images_leave_a_measure_out_with_the_reason(emoji):
    result = compare(
        emoji[:8], emoji[8:12], extractors=["pixels"], metrics=["recall", "trace_ratio"], resamples=0
    )
    assert result["recall"]["value"] is None and "needs at least 6" in result["recall"]["reason"]
    assert result["trace_ratio"]["value"] is not None


def test_one_extractor_sees_the_same_whatever_else_is_measured(emoji):
    alone = compare(emoji[:100], emoji[100:150], extractors=["pixels"], metrics=["fd"], resamples=0).rows
    beside = compare(
        emoji[:100],
        emoji[100:150],
        extractors=["texture", "pixels"],
        metrics=["texture_distance", "fd"],
        resamples=0,
    ).rows
    assert alone == [r for r in beside if r["metric"] == "fd"]
    pair = Pair(torch.zeros(4, 2), torch.ones(4, 2))
    assert METRICS["fd"].of(pair) > 0


# ------------------------------------------------------------------------------------------------ the command
def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return difflab("compare", *arguments)


def test_the_command(emoji, tmp_path):
    real, fake = write(tmp_path / "real", emoji[:60]), write(tmp_path / "fake", emoji[60:90], "jpg")
    few = ["--extractors", "pixels", "--metrics", "fd", "recall", "--resamples", "20"]
    short, full = command(real, fake, *few), command(real, fake, *few, "--all")
    assert short.returncode == full.returncode == 0, short.stderr + full.stderr
    assert "by more than the noise (n = 30)" in short.stdout and "difflab diagnose" in short.stdout
    assert all(word in full.stdout for word in ("recall", "floor", "95% interval"))
    assert "file format" in short.stderr
    told = command(real, fake, *few, "--json")
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    assert rows == compare(real, fake, extractors=["pixels"], metrics=["fd", "recall"], resamples=20).rows
    wrong = command(real, tmp_path / "gone")
    assert (
        wrong.returncode == 2
        and wrong.stderr.startswith("difflab: error: generated: ")
        and wrong.stderr.count("\n") == 1
    )
