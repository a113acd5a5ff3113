from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from difflab.config import parse
from difflab.core.errors import StoreError
from difflab.core.files import write_json
from difflab.report import grid as grids
from difflab.report.grid import BETWEEN, CELL, GAP, arm_strip, caption, enlarge, font, grid, sheet, strip
from difflab.runs.run import Run
from difflab.studies.compare_runs import Arm

SIDE = 8
FACTOR = CELL // SIDE
PLAIN = ["a", "b", "c"]


def made(
    path: Path,
    classes: list[str] | None,
    per: int = 2,
    generations: int = 3,
    held: list[int] | None = None,
    channels: int = 1,
) -> Run:
    """A run of random pixels: a probe of `per` images per class (or eight of no class) in every generation, three held-out images a class."""
    rng = np.random.default_rng(0)
    conditional = classes is not None
    config = {
        "name": "made",
        "generations": generations - 1,
        "model": {"family": "pixel-mlp", "conditional": conditional},
        "probe": {"per_condition": per},
        "sample": {"count": 2},
    }
    run = Run(path, parse(config))
    record = (SIDE, SIDE, channels)
    labels = (held if held is not None else sorted([*range(len(classes))] * 3)) if classes else [None] * 6
    names = [None if label is None else classes[label] for label in labels]  # type: ignore[index]
    about = {
        "n_train": 2,
        "n_held_out": len(labels),
        "record": list(record),
        "shard_size": 1000,
        "classes": classes,
    }
    write_json(path / "real" / "about.json", about)
    first = [0 if classes else None, 0 if classes else None]
    columns = {"generation": -1, "label": [*first, *labels], "class": [*[classes and classes[0]] * 2, *names]}
    run.real.write(0, rng.integers(0, 256, (2 + len(labels), *record), dtype=np.uint8), columns)
    asked = [c for c in range(len(classes)) for _ in range(per)] if classes else [None] * (8 * per)
    for t in range(generations):
        pixels = rng.integers(0, 256, (len(asked), *record), dtype=np.uint8)
        own = {"label": asked, "class": [classes[c] for c in asked]} if classes else {}  # type: ignore[index]
        run.probe(t, len(asked)).write(0, pixels, {"generation": t, "seed": list(range(len(asked))), **own})
        run.samples(t).write(0, pixels[:2], {"generation": t, "seed": [0, 1]})
        write_json(run.gen(t) / "sampled.json", {"probe": len(asked)})
    return run


def beside(picture: Image.Image, row: int, column: int, per: int = 2) -> np.ndarray:
    """The same in a strip, whose rows have labels and whose columns stand in groups of `per`."""
    return cell(
        picture,
        row,
        column,
        left=16 + int(font(14).getlength("generation 0")) + (column // per * BETWEEN if per > 1 else 0),
    )


def cell(picture: Image.Image, row: int, column: int, channels: int = 1, left: int = 16) -> np.ndarray:
    """The image in one cell; rows are counted from below (-1 is the last), columns from `left`."""
    x, y = left + column * (CELL + GAP), picture.height - 12 + row * (CELL + GAP)
    shown = np.asarray(picture.crop((x, y, x + CELL, y + CELL)))
    small = shown[::FACTOR, ::FACTOR]
    assert (np.kron(small, np.ones((FACTOR, FACTOR, 1), np.uint8)) == shown).all()  # hard edges, whole pixels
    assert channels == 3 or (small[..., 0] == small[..., 2]).all()
    return small[..., :channels]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_labelled_grid_shows_exactly_the_probe_a_column_per_class(tmp_path, channels):
    run = made(tmp_path, PLAIN, channels=channels)
    probe = run.probe(1, 6).decode(0)
    picture = grid(run, 1)
    for column in range(3):
        for row in range(2):
            assert (cell(picture, row - 2, column, channels) == probe[2 * column + row]).all()


def test_an_unlabelled_grid_has_rows_of_eight(tmp_path):
    run = made(tmp_path, None)
    probe = run.probe(0, 16).decode(0)
    picture = grid(run, 0)
    for i in range(16):
        assert (cell(picture, i // 8 - 2, i % 8) == probe[i]).all()


def test_the_strip_has_a_row_of_held_out_images_and_one_per_generation(tmp_path):
    run = made(tmp_path, PLAIN)
    picture = strip(run)
    real = run.real.decode(0)[2:]  # of each class the first two of three
    for column, at in enumerate([0, 1, 3, 4, 6, 7]):
        assert (beside(picture, -4, column) == real[at]).all()
    for t in range(3):
        probe = run.probe(t, 6).decode(0)
        for column in range(6):
            assert (beside(picture, t - 3, column) == probe[column]).all()
    assert picture.height < 12 + 26 + 20 + 4 * (CELL + GAP) + 12 + 1


def test_the_strip_of_arms_has_a_row_for_each_below_what_the_first_began_with(tmp_path):
    one, two = made(tmp_path / "one", PLAIN), made(tmp_path / "two", PLAIN, generations=2)
    unseen = Run(tmp_path / "nothing here", one.config)  # of seeds that are not all arms' or not the smallest
    picture = arm_strip(
        [Arm("one", {2: unseen, 9: unseen, 5: one}), Arm("two\n", {9: unseen, 5: two})]
    )  # in generation 1, the last that both have
    real = one.real.decode(0)[2:]
    for column, at in enumerate([0, 1, 3, 4, 6, 7]):
        assert (beside(picture, -4, column) == real[at]).all()
    for row, (run, t) in enumerate([(one, 0), (one, 1), (two, 1)], start=-3):
        probe = run.probe(t, 6).decode(0)
        for column in range(6):
            assert (beside(picture, row, column) == probe[column]).all()
    arms = [Arm("one", {5: one}), Arm("two\n", {5: two})]
    assert (beside(arm_strip(arms, 0), -1, 0) == two.probe(0, 6).decode(0)[0]).all(), (
        "the generation asked for"
    )
    with pytest.raises(StoreError, match=r"two\s+has no pictures of generation 2; all have \[0, 1\]"):
        arm_strip(arms, 2)


@pytest.mark.parametrize(
    "arms",
    [[], [Arm("one", {}), Arm("two", {})], [Arm("one", {1: None, 2: None}), Arm("two", {3: None})]],
    ids=str,
)
def test_arms_without_a_seed_in_common_have_no_strip(arms):
    with pytest.raises(StoreError, match="no seed in common"):
        arm_strip(arms)


def test_arms_that_draw_different_things_have_no_strip(tmp_path):
    first = made(tmp_path / "a", PLAIN)
    for k, other in enumerate((["a", "b", "d"], ["a", "b"], None)):
        with pytest.raises(StoreError, match="other images than one"):
            arm_strip([Arm("one", {0: first}), Arm("two", {0: made(tmp_path / str(k), other)})])


def test_the_strip_of_an_unlabelled_run_shows_at_most_24_columns_evenly_spread(tmp_path):
    run = made(tmp_path, None, per=4, generations=2)
    picture = strip(run)
    probe = run.probe(1, 32).decode(0)
    for column in range(24):
        assert (beside(picture, -1, column, per=1) == probe[round(column * 31 / 23)]).all()


def test_a_strip_with_too_many_classes_shows_whole_classes(tmp_path):
    run = made(tmp_path, [str(c) for c in range(9)], per=6, generations=1)
    picture, probe = strip(run), run.probe(0, 54).decode(0)
    for group, shown in enumerate([0, 3, 5, 8]):
        for k in range(6):
            assert (beside(picture, -1, 6 * group + k, per=6) == probe[6 * shown + k]).all()


def test_a_class_that_was_not_held_out_has_a_white_place_instead_of_another_image(tmp_path):
    run = made(tmp_path, PLAIN, held=[0, 0, 2, 2])
    picture = strip(run)
    assert (beside(picture, -4, 2) == 255).all() and (beside(picture, -4, 3) == 255).all()
    assert (beside(picture, -4, 0) == run.real.decode(0)[2]).all() and (
        beside(picture, -4, 5) == run.real.decode(0)[5]
    ).all()


def test_a_class_with_fewer_held_out_images_than_columns_repeats_them(tmp_path):
    run = made(tmp_path, ["a"], held=[0])
    assert (beside(strip(run), -4, 0) == beside(strip(run), -4, 1)).all()


def test_large_images_are_not_enlarged():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (np.asarray(enlarge(image)) == image).all()
    assert enlarge(image[:20, :20]).size == (60, 60)


# --------------------------------------------------------------------------------------------------- names
HOSTILE = [
    "",
    "a\nb\tc\r",
    "\x00\x1b[31m\x07",
    "\u202egnp.exe",
    "x" * 5000,
    "日本語 عربى 🦊",
    "\ud83d",
    "%s {0} $x$",
]


def test_hostile_class_names_change_neither_pixels_nor_crash(tmp_path, monkeypatch):
    monkeypatch.setattr(
        grids, "_probe", lambda run, t: (images, [name for name in HOSTILE for _ in range(2)])
    )
    images = np.random.default_rng(1).integers(0, 256, (16, SIDE, SIDE, 1), dtype=np.uint8)
    picture = grid(made(tmp_path, PLAIN), 0)
    for i in range(16):
        assert (cell(picture, i % 2 - 2, i // 2) == images[i]).all()
    assert picture.height < 400


def ink(picture: Image.Image, box: tuple[int, int, int, int]) -> bool:
    return bool((np.asarray(picture.crop(box)) < 200).any())


def test_long_names_stand_upright_above_their_column_and_short_ones_lie():
    image = np.full((SIDE, SIDE, 1), 255, np.uint8)
    rows = [("", [image] * 3)]
    short, long = sheet(rows, ["cat", "", "dog"]), sheet(rows, ["Animals & Nature", "", "dog"])
    assert 60 < long.height - short.height < 140 and long.width == short.width
    left = 16
    for picture, reach in ((short, 16), (long, 100)):
        top = picture.height - 12 - CELL - GAP
        assert ink(
            picture, (left, top - reach, left + CELL, top)
        )  # the first and the third have a name, the second none
        assert not ink(picture, (left + CELL + GAP, 0, left + 2 * CELL + GAP, top))
        assert ink(picture, (left + 2 * (CELL + GAP), top - 20, left + 3 * CELL + 2 * GAP, top))
    assert ink(
        long, (left, long.height - 12 - CELL - GAP - 110, left + CELL, long.height - 12 - CELL - GAP - 90)
    )


def test_names_keep_to_their_column():
    image = np.full((SIDE, SIDE, 1), 255, np.uint8)
    for name in ("w" * 300, "wwwww", "MMMM"):
        picture = sheet([("", [image] * 3)], ["", name, ""])
        for column in (0, 2):
            left = 16 + column * (CELL + GAP)
            assert not ink(picture, (left, 0, left + CELL, picture.height))


def test_row_labels_and_titles_are_never_cut():
    image = np.full((SIDE, SIDE, 1), 255, np.uint8)
    picture = sheet(
        [("generation 1000000", [image])], title="a title that is much wider than the single image below it"
    )
    margin = np.asarray(picture)
    assert (margin[:, :4] == 255).all() and (margin[:, -4:] == 255).all() and picture.width > 300


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"family": "memoriser"}}, "memoriser, replace, start from scratch"),
        (
            {
                "model": {"family": "pixel-mlp"},
                "train": {"start_from": "previous"},
                "sample": {"guidance_scale": 2.5},
            },
            "pixel-mlp, replace, start from previous, guidance 2.5",
        ),
    ],
)
def test_the_caption_says_what_the_chain_is(tmp_path, changes: dict[str, Any], words):
    assert caption(Run(tmp_path, parse(changes))) == words
