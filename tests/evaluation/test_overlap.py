"""What sets share, exactly or nearly, is said first and taken out of the controls that it would spoil."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import difflab
from pictures import folder, pictures
from PIL import Image

from difflab import compare
from difflab.evaluation.diagnose import diagnose
from difflab.evaluation.overlap import Contents, Overlap, Shared, shared_in_words, without_trained

HOW = {"extractors": ["pixels"], "resamples": 12}
QUICK = ["--extractors", "pixels", "--resamples", 12]


def stack(n: int, seed: int, side: int = 32) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures(n, side, seed)])


def noisy(pixels: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-1, 2, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def again(of: Path, to: Path, how: str, n: int) -> Path:
    """The first n pictures of a folder, saved as JPEG or at half the size and back."""
    to.mkdir(parents=True, exist_ok=True)
    for file in sorted(of.glob("*.png"))[:n]:
        with Image.open(file) as image:
            if how == "jpeg":
                image.save(to / f"again-{file.stem}.jpg", quality=90)
            else:
                half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
                half.resize(image.size, Image.Resampling.BICUBIC).save(to / f"again-{file.name}")
    return to


# ------------------------------------------------------------------------------------------------ what is shared
def test_exact_and_near_copies_are_counted_apart_for_each_pair():
    real, fake = stack(60, 1), stack(40, 2)
    train = np.concatenate([stack(50, 3), real[:10], noisy(real[10:25])])
    sets = {name: Contents.of(x) for name, x in (("real", real), ("fake", fake), ("train", train))}
    exact, near = shared_in_words(sets)
    assert exact == "real and train share images, pixel for pixel: 10 of 60 of real, 10 of 75 of train"
    assert (
        near.startswith("real and train share near copies") and "15 of 60 of real, 15 of 75 of train" in near
    )
    shared = Shared(sets["real"], sets["train"])
    assert shared.exact.tolist() == [True] * 10 + [False] * 50
    assert shared.near.tolist() == [False] * 10 + [True] * 15 + [False] * 35
    assert shared.either.sum() == 25 and shared.near_in_of == 15


def test_a_share_of_copies_within_a_set_is_found_and_groups_join_them():
    once = stack(40, 1)
    contents = Contents.of(np.concatenate([once, once[:2], noisy(once[4:6])]))
    assert contents.repeated == pytest.approx(8 / 44)
    groups = contents.groups
    assert groups[0] == groups[40] and groups[4] == groups[42] and len(set(groups)) == 40
    assert Contents.of(once[:0]).repeated == 0 and Contents.of(once).repeated == 0


@pytest.mark.parametrize(("trained", "kept"), [(0, 100), (1, 99), (20, 80), (49, 51), (50, 100), (100, 100)])
def test_real_images_that_were_trained_on_are_left_out_if_enough_remain(trained, kept):
    real = stack(100, 1)
    train = np.concatenate([stack(60, 2), real[: trained // 2], noisy(real[trained // 2 : trained])])
    rows, notes = without_trained("reference", Contents.of(real), Contents.of(train), 40)
    assert rows.tolist() == list(range(100 - kept, 100))
    assert [note.split(" images are")[0] for note in notes] == (
        [f"reference: {trained} of 100"] if kept < 100 else []
    )
    assert len(without_trained("reference", Contents.of(real), Contents.of(train), 100)[0]) == 100
    assert len(without_trained("reference", Contents.of(real), None, 0)[0]) == 100


def test_copies_that_the_sets_hold_anyway_are_not_left_out():
    """Half of the pictures are two blank pages: they are among any real images, trained on or not."""
    blank = np.repeat(stack(2, 8), 25, 0)
    real, train = (np.concatenate([blank, stack(50, seed)]) for seed in (1, 2))
    assert len(without_trained("real", Contents.of(real), Contents.of(train), 2)[0]) == 100


@pytest.mark.parametrize("change", [np.copy, noisy])
def test_a_control_that_was_trained_on_is_doubted_and_samples_of_it_are_named(change):
    real, train = stack(120, 1), stack(60, 2)
    assert not Overlap(real[:60], real[60:], train).doubts and not Overlap(real[:60], real[60:], None).doubts
    other_half = Overlap(real[:60], real[60:], np.concatenate([train, change(real[60:])]))
    assert not other_half.doubts and not other_half.known
    spoilt = Overlap(real[:60], real[60:], np.concatenate([train, change(real[:20])]))
    assert len(spoilt.known) == 20 and "20 of 120 reference images are training images" in spoilt.doubts[0]
    finding = SimpleNamespace(instead=[])
    spoilt.judge(finding, np.concatenate([change(real[100:]), change(train[:30]), stack(10, 5)]))
    counts, none = (
        {"training images": 30, "reference images": 20},
        {"training images": 0, "reference images": 0},
    )
    assert (finding.equal, finding.near) == ((counts, none) if change is np.copy else (none, counts))
    assert finding.instead == ["overfitting", "reference images"] and not finding.copies_told


# ---------------------------------------------------------------------------------------------------- diagnose
def test_near_copies_of_reference_images_among_samples_are_the_explanation():
    reference, fresh = stack(120, 1), stack(60, 2)
    finding = diagnose(reference, [np.concatenate([noisy(reference[:30]), fresh[:30]])], **HOW).findings[0]
    assert finding.near["reference images"] == 30 and finding.instead[0] == "reference images"
    assert "copies: 30 of 60 samples are near copies of reference images" in finding.evidence()
    assert finding.rows()[0]["near_to_reference_images"] == 30
    clean = diagnose(reference, [fresh], **HOW)
    assert not clean.findings[0].alarm and not any("share" in note for note in clean.notes)


def test_near_copies_in_the_reference_are_in_one_half_of_it():
    """If each picture had its near copy in the other half, that half would cover everything."""
    once = stack(60, 1)
    result = diagnose(np.concatenate([once, noisy(once)]), [stack(60, 2)], **HOW)
    coverage = next(r for r in result.findings[0].readings["7 lost tails"] if r.sign.metric == "coverage")
    assert coverage.controls["real images"][0] < 0.98


@pytest.mark.parametrize("how", ["jpeg", "resized"])
def test_the_command_leaves_reference_images_out_that_were_trained_on(tmp_path, how):
    real = folder(tmp_path / "real", 120, 48, 1)
    train = again(real, folder(tmp_path / "train", 60, 48, 2), how, 30)
    gen = tmp_path / "gen"  # half copies of training images
    folder(gen, 25, 48, 4)
    for file in sorted(train.glob("0*.png"))[:25]:
        shutil.copy(file, gen / f"copy-{file.name}")
    done = difflab("diagnose", "--reference", real, gen, "--train", train, *QUICK)
    assert done.returncode == 0, done.stderr
    shared = [line for line in done.stderr.splitlines() if " share " in line]
    assert done.stderr.splitlines()[: len(shared)] == shared and len(shared) == 2
    assert "generation 0 and train share images, pixel for pixel: 25 of 50" in shared[0]
    assert "reference and train share near copies" in shared[1]
    assert "are training images or near copies of them" in done.stderr and "left out" in done.stderr
    assert "overfitting" in done.stdout and "copies cannot be told" not in done.stdout


@pytest.mark.parametrize("how", ["jpeg", "resized"])
def test_the_command_doubts_a_reference_that_is_the_training_set_saved_again(tmp_path, how):
    real = folder(tmp_path / "real", 80, 48, 1)
    train = again(real, tmp_path / "train", how, 80)
    gen = again(real, tmp_path / "gen", "jpeg", 40)
    done = difflab("diagnose", "--reference", real, gen, "--train", train, *QUICK)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "all 80 reference images are training images or near copies of them: near copies of" in told
    assert "overfitting" in told and "all 40 samples are" in told
    assert "reference and train share near copies" in done.stderr


def test_the_command_finds_nothing_between_different_folders(tmp_path):
    sets = [
        folder(tmp_path / name, n, 48, i) for i, (name, n) in enumerate((("r", 80), ("g", 40), ("t", 40)))
    ]
    done = difflab("diagnose", "--reference", sets[0], sets[1], "--train", sets[2], *QUICK, "--json")
    assert done.returncode == 0 and "share" not in done.stderr and "left out" not in done.stderr
    row = json.loads(done.stdout.splitlines()[0])
    assert row["near_to_training_images"] == row["near_to_reference_images"] == 0


# ----------------------------------------------------------------------------------------------------- compare
def test_the_floor_of_compare_is_one_of_images_that_were_not_trained_on(tmp_path):
    real = folder(tmp_path / "real", 100, 48, 1)
    train = again(real, folder(tmp_path / "train", 60, 48, 2), "jpeg", 20)
    fake = folder(tmp_path / "fake", 50, 48, 3)
    options = {
        "metrics": ["near_duplicates", "generalisation_score"],
        "extractors": ["pixels"],
        "resamples": 0,
    }
    found = compare(real, fake, train=train, **options)
    for file in sorted(real.glob("*.png"))[:20]:
        file.unlink()
    alone = compare(real, fake, train=train, **options)
    assert found["generalisation_score"]["n"] == alone["generalisation_score"]["n"] == 40
    floors = [result["generalisation_score"]["floor"] for result in (found, alone)]
    assert floors[0] == pytest.approx(floors[1], rel=0.1)
    assert "real and train share near copies" in found.notes[0] and "20 of 100 of real" in found.notes[0]
    assert "floor is not valid" not in found.notes[0] and "20 of 100 images" in found.notes[1]
    assert not any("share" in note for note in alone.notes)


def test_compare_says_which_samples_are_compared_with_themselves_and_a_floor_without_control(tmp_path):
    real = folder(tmp_path / "real", 60, 48, 1)
    fake, train = (again(real, tmp_path / name, "jpeg", n) for name, n in (("fake", 30), ("train", 60)))
    notes = compare(real, fake, train=train, metrics=["fd"], extractors=["pixels"], resamples=0).notes
    near = [note for note in notes if "share near copies" in note]
    assert any(note.endswith("compared with themselves") for note in near)
    assert any(note.endswith("their floor is not valid here") for note in near)


def test_a_damaged_image_in_a_shared_set_is_said_as_ever(tmp_path):
    real, fake = folder(tmp_path / "real", 80, 48, 1), folder(tmp_path / "fake", 40, 48, 2)
    for file in sorted(fake.glob("*.png"))[:20]:
        file.write_bytes(b"no picture")
    done = difflab("diagnose", "--reference", real, fake, "--train", real, *QUICK)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
