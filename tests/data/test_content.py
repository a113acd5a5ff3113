"""Equal content: found whatever the file is, kept on one side of every split, counted, and without effect
where there is none.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from commands import difflab
from pictures import folder, pictures
from scipy.sparse.csgraph import connected_components

import difflab.data.split as splitting
from difflab import Monitor, compare
from difflab.config import Data, parse
from difflab.data.content import contents, contents_of, doubled, halves, kept_together, linked, overlaps
from difflab.data.registry import open_source
from difflab.evaluation.diagnose import diagnose
from difflab.loop.ingest import divided
from difflab.runs.run import open_run

LOSSLESS = {"png": {}, "bmp": {}, "webp": {"lossless": True}}


def twice(path: Path, n: int = 40, side: int = 16) -> Path:
    """A flat folder of n pictures, each under two names."""
    folder(path, n, side)
    for file in sorted(path.glob("*.png")):
        shutil.copy(file, path / f"again-{file.name}")
    return path


def formats(path: Path, n: int = 20, side: int = 16) -> Path:
    """Every picture as PNG, BMP and lossless WebP."""
    path.mkdir(parents=True)
    for i, picture in enumerate(pictures(n, side)):
        for suffix, how in LOSSLESS.items():
            picture.save(path / f"{i:03d}-{suffix}.{suffix}", **how)
    return path


def classes(path: Path, n: int = 30, side: int = 16) -> Path:
    """Two class folders, of which the second holds ten pictures of the first."""
    folder(path / "a", n, side, 1)
    folder(path / "b", n, side, 2)
    for i in range(10):
        shutil.copy(path / "a" / f"{i:03d}.png", path / "b" / f"{i:03d}.png")
    return path


def config(source: Path, **more):
    raw = {
        "data": {"source": f"imagefolder:{source}"},
        "model": {"family": "memoriser"},
        "generations": 0,
        "sample": {"count": 20},
    }
    return parse(
        raw | {"measure": {"extractors": ["pixels"], "metrics": ["near_duplicates"], "resamples": 0}} | more
    )


@pytest.mark.parametrize("make", [twice, formats, classes])
@pytest.mark.parametrize("seed", range(3))
def test_equal_pictures_are_on_one_side_whatever_their_names_formats_and_classes(tmp_path, make, seed):
    source, train, held_out = divided(config(make(tmp_path / "set"), seed=seed))
    found = contents(source)
    assert not {found[i] for i in train} & {found[i] for i in held_out}
    assert sorted([*train, *held_out]) == list(range(len(source)))
    copied = len(found) - len(set(found))
    assert copied == {twice: 40, formats: 40, classes: 10}[make] == source.account.count("duplicated")
    assert abs(len(train) - len(held_out)) <= 3


def test_a_run_counts_copies_and_its_floor_is_one_between_different_pictures(tmp_path):
    twice(tmp_path / "set")
    (tmp_path / "c.yaml").write_text(json.dumps(config(tmp_path / "set").model_dump(mode="json")))
    done = difflab("run", tmp_path / "c.yaml", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "40 have the same content as an earlier image of the set" in done.stderr
    floor = next(
        row["floor"] for row in open_run(tmp_path / "run").rows() if row["metric"] == "near_duplicates"
    )
    assert floor <= 0.1  # with copies on both sides it was a half


@pytest.mark.parametrize(
    "data",
    [{"source": "digits"}, {"source": "mnist5k"}, {"source": "emoji"}, {"source": "emoji", "limit": 500}],
)
def test_where_content_joins_nothing_the_split_is_the_one_it_was(data):
    source = open_source(Data(**data), 0)
    together = kept_together(source, contents(source))
    before, after = (splitting.split(one, 0.5, 7) for one in (source, together))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert (together.account.count("duplicated") > 0) == (data == {"source": "emoji"})


def test_equal_pictures_join_the_groups_that_a_set_has(tmp_path):
    source = open_source(Data(source="emoji", limit=60), 0)
    hashes = contents(source)
    one, two = 0, next(i for i in range(60) if source.groups[i] != source.groups[0])
    hashes[two] = hashes[one]
    groups = kept_together(source, hashes).groups
    assert groups[one] == groups[two] and len(np.unique(groups)) == len(np.unique(source.groups)) - 1
    for group in np.unique(source.groups):
        assert len(set(groups[source.groups == group])) == 1


def test_labs_with_parts_of_their_own_have_no_picture_in_common(tmp_path):
    ecosystem = {"labs": 2, "real": "disjoint"}
    whole = config(formats(tmp_path / "set", 40), ecosystem=ecosystem)
    parts = []
    for lab in whole.labs():
        source, train, _ = divided(lab)
        found = contents(source)
        parts.append({found[i] for i in train})
    assert parts[0] and parts[1] and not parts[0] & parts[1]


def test_a_small_set_is_decoded_once(tmp_path, monkeypatch):
    from difflab.data import decode, listing
    from difflab.loop.ingest import ingest
    from difflab.runs.run import Run

    calls = []
    monkeypatch.setattr(listing, "decode", lambda *args: calls.append(args) or decode.decode(*args))
    run = Run(tmp_path / "run", config(folder(tmp_path / "set", 30, 16)))
    ingest(run, Accelerator())
    assert len(calls) == 30 and run.real.complete()


# --------------------------------------------------------------------------------------- halves for a floor
def test_halves_are_the_first_and_the_next_without_copies_and_share_nothing_with_them():
    for a, b in (halves(list("abcdefgh"), 3), halves(list("abcdefgh"), 4)):
        assert a.tolist() == list(range(len(a))) and b.tolist() == list(range(len(a), 2 * len(a)))
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(2, 20))
        hashes = [str(x) for x in rng.integers(0, rng.integers(2, 40), 2 * n)]
        a, b = halves(hashes, n)
        assert len(a) == len(b) <= n and not {hashes[i] for i in a} & {hashes[i] for i in b}
        assert len(a) > 0 or len(set(hashes)) == 1


FEW = {"extractors": ["pixels"], "resamples": 0}


def test_chains_of_equal_images_and_copies_are_one_group():
    """As the connected components that scipy finds in the graph of all pairs."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 30))
        hashes = [str(x) for x in rng.integers(0, 2 * n, n)]
        copy_of = np.where(rng.random(n) < 0.3, rng.integers(0, n, n), -1)
        equal = np.array([[a == b for b in hashes] for a in hashes])
        equal[np.arange(n)[copy_of >= 0], copy_of[copy_of >= 0]] = True
        expected = connected_components(equal, directed=False)[1]
        found = np.array(linked(hashes, copy_of))
        assert np.array_equal(found[:, None] == found, expected[:, None] == expected)


def test_the_halves_of_compare_and_monitor_share_no_picture(tmp_path):
    real, fake = twice(tmp_path / "real"), folder(tmp_path / "fake", 40, 16, 9)
    result = compare(real, fake, metrics=["fd", "coverage"], **FEW)
    alone = compare(folder(tmp_path / "once", 80, 16), fake, metrics=["fd", "coverage"], **FEW)
    # Twenty pictures in each half are further apart than forty; with their copies in the other half they were
    # nearer to it.
    assert result["fd"]["floor"] > alone["fd"]["floor"] and result["fd"]["n"] == 40
    monitor = Monitor(real, metrics=["fd"], **FEW)
    assert monitor.update(fake, 0)[0]["floor"] > alone["fd"]["floor"]
    assert any("40 of 80 images are exact copies" in note for note in monitor.notes)


def test_where_the_halves_cannot_be_filled_they_are_smaller_and_that_is_said():
    (one, *others), fake = (
        np.stack([np.asarray(p) for p in pictures(n, 16, seed)]) for n, seed in ((21, 0), (40, 5))
    )
    result = compare(np.stack([*[one] * 60, *others]), fake, metrics=["fd"], **FEW)
    assert result["fd"]["n"] == 20 and any("n = 20 instead of 40" in note for note in result.notes)
    with pytest.raises(Exception, match="all images are the same picture"):
        compare(np.stack([one] * 80), fake, metrics=["fd"], **FEW)


def test_the_control_of_a_diagnosis_shares_no_picture_with_its_reference(tmp_path):
    sets = formats(tmp_path / "real", 60, 16), folder(tmp_path / "gen", 60, 16, 7)
    result = diagnose(
        sets[0], [sets[1]], train=folder(tmp_path / "train", 60, 16, 8), extractors=["pixels"], resamples=4
    )
    coverage = next(r for r in result.findings[0].readings["7 lost tails"] if r.sign.metric == "coverage")
    assert coverage.controls["real images"][0] < 0.98, (
        "a copy of every picture on the other side would cover everything"
    )
    assert any("reference: " in note and "exact copies" in note for note in result.notes)
    assert "reference: all 180 images are read" in result.notes


# --------------------------------------------------------------------------------------------- between sets
def test_what_sets_have_in_common_is_said_by_name_and_number():
    a, b, c = list("abcd"), list("cdefg"), list("xy")
    assert overlaps({"a": a, "b": b, "c": c}) == [
        "a and b share images, pixel for pixel: 2 of 4 of a, 2 of 5 of b"
    ]
    assert overlaps({"a": a, "b": [*a, "a"]}) == [
        "a and b are the same images, pixel for pixel (4 different ones)"
    ]
    assert doubled(list("aabc")) == 0.5 and doubled([]) == 0


def test_compare_says_which_sets_share_pictures_and_what_that_makes_worthless(tmp_path):
    real, train = folder(tmp_path / "real", 60, 16), folder(tmp_path / "train", 30, 16, 3)
    for i in range(15):
        shutil.copy(real / f"{i:03d}.png", train / f"shared-{i:03d}.png")
    fake = formats(tmp_path / "fake", 10, 16)  # the first ten of real, in three formats
    notes = "\n".join(compare(real, fake, train=train, metrics=["fd"], **FEW).notes)
    assert "15 of 60 of real, 15 of 45 of train\n" in notes
    assert "real: 15 of 60 images are training images" in notes
    assert "n = 22 instead of 30: training images are left out" in notes
    worthless = "\n".join(compare(real, fake, train=real, metrics=["fd"], **FEW).notes)
    assert "; memorisation measures assume that real images were not trained on" in worthless
    assert (
        "real and generated share images" in notes
        and "30 of 30 of generated; these samples are compared with themselves" in notes
    )
    assert "generated and train share images" in notes
    assert "share" not in "\n".join(
        compare(real, folder(tmp_path / "other", 30, 16, 4), metrics=["fd"], **FEW).notes
    )


def stack(n: int, seed: int) -> np.ndarray:
    return np.stack([np.asarray(p) for p in pictures(n, 16, seed)])


HOW = {"extractors": ["pixels"], "resamples": 12}


def test_a_reference_that_was_trained_on_is_no_control_for_copies(tmp_path):
    d = folder(tmp_path / "d", 80, 16, 1)
    gen = tmp_path / "gen"
    gen.mkdir()
    for i in range(40):
        shutil.copy(d / f"{i:03d}.png", gen / f"copy-{i}.png")
    done = difflab(
        "diagnose", "--reference", d, "--train", d, gen, "--extractors", "pixels", "--resamples", 12
    )
    assert done.returncode == 0, done.stderr
    assert "nothing seen" not in done.stdout and "nothing lost" not in done.stdout
    told = " ".join(done.stdout.split())
    assert (
        "reference and train are the same images, pixel for pixel: near copies of training images cannot be "
        "told" in told
    )
    assert "all 40 samples are training images, pixel for pixel" in told and "overfitting" in told
    assert "generation 0 and train share images" in done.stderr


def test_half_a_reference_that_was_trained_on_leaves_the_other_half_as_control():
    reference, fresh = stack(120, 1), stack(60, 2)
    train = np.concatenate([reference[:60], stack(60, 3)])
    honest = diagnose(reference, [fresh], train=train, **HOW)
    assert "60 of 120 reference images are training images" in honest.doubts[0]
    assert not honest.findings[0].alarm and not honest.findings[0].copies_told
    copied = diagnose(reference, [train[60:]], train=train, **HOW)
    assert "overfitting" in copied.findings[0].instead and copied.findings[0].equal["training images"] == 60
    control = next(r for r in copied.findings[0].readings["copies"]).controls["real images"][0]
    assert control < 0.1, "reference images that were trained on would count as copies"


@pytest.mark.parametrize("share", [0, 20, 60])
def test_samples_that_are_reference_images_are_told(share):
    reference = stack(120, 1)
    gen = np.concatenate([reference[:share], stack(60, 2)[share:]])
    finding = diagnose(reference, [gen], **HOW).findings[0]
    assert finding.equal["reference images"] == share
    assert ("reference images" in finding.instead) == finding.alarm == (share > 0)
    assert len(finding.rows()) == 8 and finding.rows()[0]["equal_to_reference_images"] == share


def test_sets_without_anything_in_common_are_judged_as_before():
    result = diagnose(stack(120, 1), [stack(60, 2)], train=stack(60, 3), **HOW)
    assert (
        not result.doubts
        and not result.findings[0].alarm
        and result.findings[0].equal == {"training images": 0, "reference images": 0}
    )
    twice = np.concatenate([stack(30, 2), stack(30, 2)])
    assert len(set(contents_of(twice))) == 30


def test_a_generation_that_is_the_one_before_is_said():
    gen = stack(60, 2)
    notes = diagnose(stack(120, 1), [gen, gen], **HOW).notes
    assert any("generation 0 and generation 1 are the same images" in note for note in notes)
