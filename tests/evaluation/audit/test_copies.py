"""Copies: what is compared, and in how many images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audited import write
from PIL import Image

from difflab.data.image_sets import listing_of
from difflab.evaluation.audit.copies import EMPTY, Thumbnails, drawn, near_each_other, near_known, read_known
from difflab.evaluation.audit.stream import Options, stream


def test_a_part_of_a_large_set_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difflab.evaluation.audit.copies.MOST", 10)
    assert drawn(10, 0, "a") == frozenset(range(10))
    assert len(drawn(1000, 0, "a")) == 10 and drawn(1000, 0, "a") == drawn(1000, 0, "a") != drawn(
        1000, 1, "a"
    )


def test_near_copies_of_each_other_and_of_known_images(tmp_path: Path, emoji: list[np.ndarray]) -> None:
    folder = write(tmp_path / "set", emoji[:20])
    Image.fromarray(emoji[3]).save(folder / "x.jpg", quality=92, subsampling=0)
    listing = listing_of(folder, "set", [])
    small = np.stack([view.thumbnail for part in stream(listing, range(21), Options()) for view in part])  # type: ignore[misc]
    assert np.flatnonzero(near_each_other(small)).tolist() == [3, 20]
    notes: list[str] = []
    known_folder = write(tmp_path / "known", emoji[3:5])
    (known_folder / "bad.png").touch()
    known = read_known(known_folder, "known real", 0, notes)
    assert len(known.contents) == len(known.thumbnails) == 2
    assert notes == ["known real: 1 of 3 images cannot be read"]
    assert np.flatnonzero(near_known(small, known)).tolist() == [3, 4, 20]
    assert not near_known(small, type(known)("nothing", frozenset(), EMPTY)).any()


def test_missing_thumbnails_are_made_again(tmp_path: Path, emoji: list[np.ndarray]) -> None:
    listing = listing_of(write(tmp_path, emoji[:5]), "set", [])
    whole = Thumbnails(listing, frozenset((0, 2, 4))).complete([0, 1, 2])
    assert whole[0] == [0, 2] and np.array_equal(whole[1], np.stack([emoji[0], emoji[2]]))
    assert Thumbnails(listing, frozenset()).complete([0, 1])[1].shape == (0, 32, 32, 3)
