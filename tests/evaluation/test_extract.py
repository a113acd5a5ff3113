"""Features of image sets, and the notes on copies."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from difflab.core.errors import DataError
from difflab.data.near_copies import thumbnails
from difflab.evaluation import extract
from difflab.evaluation.extract import (
    features,
    notes_on_copies,
    rows_at,
    with_consequences,
)


@dataclass
class Source:
    images: np.ndarray

    def read(self, index: int) -> np.ndarray:
        if index == 99:
            raise DataError("99.png is damaged")
        return self.images[index]


def test_every_extractor_sees_each_image_once_in_the_order_of_the_rows(monkeypatch):
    monkeypatch.setattr(extract, "BATCH", 3)  # so that the last batch is not full
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    images[5] = images[2]
    seen: list[int] = []

    def pixels(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return batch.flatten(1).float()

    rows, notes = np.array([5, 0, 2, 7, 1]), []
    hashes, (flat, means) = features(
        Source(images), rows, [pixels, lambda batch: batch.float().mean((1, 2))], "real", notes
    )
    assert seen == [3, 2]
    assert torch.equal(flat, torch.from_numpy(images[rows]).flatten(1).float())
    assert torch.allclose(means, torch.from_numpy(images[rows]).float().mean((1, 2)))
    assert hashes[0] == hashes[2] and len(set(hashes)) == 4
    assert notes == ["real: 1 of 5 images are exact copies of another; they are measured as they are"]
    with pytest.raises(DataError, match=r"99\.png"):
        features(Source(images), np.array([99]), [pixels], "real", [])


def test_one_batch_is_decoded_ahead_and_no_more(monkeypatch):
    """While the network reads batch i, batch i + 1 is decoded."""
    monkeypatch.setattr(extract, "BATCH", 2)
    read: list[int] = []
    ahead = threading.Event()

    class Counted(Source):
        def read(self, index: int) -> np.ndarray:
            read.append(index)
            if index == 3:
                ahead.set()
            return super().read(index)

    def network(batch: torch.Tensor) -> torch.Tensor:
        assert ahead.wait(10), "the second batch is not decoded while the first one is read"
        assert len(read) <= 2 * (len(passes) + 2), "more than one batch was decoded ahead"
        passes.append(len(batch))
        return batch.flatten(1).float()

    passes: list[int] = []
    features(Counted(np.zeros((9, 2, 2, 1), np.uint8)), np.arange(9), [network], "real", [])
    assert passes == [2, 2, 2, 2, 1] and read == list(range(9))


def test_no_rows_are_no_features_and_a_late_damage_is_named(monkeypatch):
    monkeypatch.setattr(extract, "BATCH", 2)
    source = Source(np.zeros((5, 2, 2, 1), np.uint8))
    assert features(source, np.arange(0), [torch.clone], "real", []) == ([], [])
    with pytest.raises(DataError, match=r"real cannot be read .IndexError"):
        features(source, np.array([0, 1, 2, 7]), [lambda x: x.flatten(1).float()], "real", [])


def test_consecutive_rows_are_a_view_and_others_a_copy():
    tensor = torch.arange(12.0).reshape(6, 2)
    view, copy = rows_at(tensor, np.array([2, 3, 4])), rows_at(tensor, np.array([4, 0]))
    assert view.data_ptr() == tensor[2].data_ptr() and view.tolist() == tensor[2:5].tolist()
    assert copy.tolist() == [[8, 9], [0, 1]]
    assert (
        rows_at(tensor, np.array([], dtype=np.int64)).shape == (0, 2) and rows_at(None, np.arange(2)) is None
    )


def test_thumbnails_of_all_batches_are_kept_if_asked_for(monkeypatch):
    monkeypatch.setattr(extract, "BATCH", 4)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    small: list[np.ndarray] = []
    features(Source(pixels), np.arange(10)[::-1], [], "real", [], small)
    assert len(small) == 3
    assert np.array_equal(np.concatenate(small), thumbnails(pixels)[::-1])


def test_notes_name_what_shared_images_make_meaningless():
    assert notes_on_copies("real", ["a", "b"]) == []
    generated = with_consequences(["real and generated share images", "other"])
    assert generated[0].endswith("; these samples are compared with themselves") and generated[1] == "other"
    shared = ["real and train share images", "generated and train share images"]
    assert with_consequences(shared, left_out=True) == shared
    assert with_consequences(shared)[0].endswith("their floor is not valid here")
