"""Counts of layers from lines of a record, by hand."""

from __future__ import annotations

import numpy as np

from difflab.data.image_sets import listing_of
from difflab.evaluation.audit.copies import EMPTY, Known, Thumbnails
from difflab.evaluation.audit.layers import Counts, Tally
from difflab.evaluation.audit.record import Line

LINES = [
    Line(
        0, "k0", "aa", size=(300, 300), format="png", found={"synthetic": "iptc", "size": "1 x 1"}, score=0.9
    ),
    Line(1, "k1", "bb", size=(10, 20), format="jpeg", found={"real": "iptc"}, score=0.1),
    Line(2, "k2", failed=True),
    Line(3, "k3", "aa", size=(300, 300), format="png", found={"synthetic": "generator X"}, score=0.0),
    Line(4, "k4", "cc", size=(30, 30), format="png", found={"synthetic": "iptc", "c2pa": "manifest present"}),
]


def counts() -> Counts:
    return Counts(Tally.of(LINES, 5), [f"{i}.png" for i in range(5)])


def test_columns_of_a_record() -> None:
    tally = counts().tally
    assert tally.readable.tolist() == [True, True, False, True, True]
    assert tally.copies().tolist() == [False, False, False, True, False]  # no hash is no content
    assert tally.equal_to(["bb", "cc", "dd"]).tolist() == [False, True, False, False, True]
    assert tally.mask("synthetic").tolist() == [True, False, False, True, True]
    assert tally.looks.lossy == 0.25 and tally.looks.side == 165


def test_layers_and_their_kinds() -> None:
    made = counts()
    made.add_readable()
    listing = listing_of(np.zeros((5, 8, 8), np.uint8), "set", [])
    compared = made.add_copies(Thumbnails(listing, frozenset()))
    made.add_known(Known("known real", frozenset(("bb",)), EMPTY), *compared)
    made.add_of_one_image(True, True)
    made.add_probe(0.5)
    layers = {layer.name: layer for layer in made.layers}
    assert {name: layer.count for name, layer in layers.items()} == {
        "cannot be read": 1,
        "exact copies": 1,
        "near copies": 0,
        "known real": 1,
        "declared synthetic": 3,
        "declared real": 1,
        "C2PA manifest": 1,
        "file name": 0,
        "size": 1,
        "hidden text": 0,
        "watermark": 0,
        "probe": 1,
    }
    kinds = layers["declared synthetic"].kinds
    assert [(kind.name, kind.count, kind.example.key) for kind in kinds] == [
        ("iptc", 2, "0.png"),
        ("generator X", 1, "3.png"),
    ]
    assert (layers["watermark"].of, layers["probe"].of, layers["size"].of) == (2, 3, 4)
    assert made.masks["probe"].tolist() == [True, False, False, False, False]
