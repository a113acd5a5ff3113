"""Labels and the readers of arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from image_files import folder, picture

from difflab.core.errors import DataError
from difflab.data.source import ArrayReader, encode_labels, labels_of_kept


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ((1, "a"), "all be whole numbers or all be strings"),
        ((1.5, 2.5), "not float"),
        (([1], [2]), "not list"),
    ],
)
def test_bad_labels(tmp_path, labels, what):
    for i, _ in enumerate(labels):
        picture(tmp_path / f"{i}.png")
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{i}.png", "label": label}) for i, label in enumerate(labels))
    )
    with pytest.raises(DataError, match=what):
        folder(tmp_path)


def test_classes_are_in_ascending_order_whatever_the_images_are_in():
    labels, classes = encode_labels([10, 2, 10], "here")
    assert labels.tolist() == [1, 0, 1] and labels.dtype == np.int64 and classes == ["2", "10"]
    assert encode_labels(["10", "2"], "here")[1] == ["10", "2"]


def test_a_missing_label_is_counted_and_the_first_is_named():
    with pytest.raises(DataError, match="here: 2 of 3 images have no label, the first is image 1"):
        encode_labels(["a", None, None], "here")


def test_labels_of_the_kept_images_keep_their_classes():
    labels, classes = labels_of_kept(["a", "b", "a", "b"], [1, 2], "here")
    assert labels is not None and labels.tolist() == [1, 0] and classes == ["a", "b"]
    assert labels_of_kept(None, [0], "here") == (None, None)
    with pytest.raises(DataError, match="no image of class 'b' can be read"):
        labels_of_kept(["a", "b", "a"], [0, 2], "here")


def test_what_is_read_can_be_changed_without_changing_the_source():
    read = ArrayReader(np.zeros((2, 2, 2, 1), np.uint8))
    read(1)[:] = 9
    assert read(1).max() == 0
