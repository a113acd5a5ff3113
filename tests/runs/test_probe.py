from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probes import PLAIN, SIDE, beside, cell, made

from difflab.config import parse
from difflab.plots.sheet import CELL, GAP
from difflab.runs import probe
from difflab.runs.probe import caption, grid, strip
from difflab.runs.run import Run


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
        probe, "probe_images", lambda run, t: (images, [name for name in HOSTILE for _ in range(2)])
    )
    images = np.random.default_rng(1).integers(0, 256, (16, SIDE, SIDE, 1), dtype=np.uint8)
    picture = grid(made(tmp_path, PLAIN), 0)
    for i in range(16):
        assert (cell(picture, i % 2 - 2, i // 2) == images[i]).all()
    assert picture.height < 400


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
