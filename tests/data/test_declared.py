"""The first layer that says real or synthetic decides; nothing in a file stops the reading."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from difflab.data.declared import EVIDENCE, LAYERS, NOTHING, Declared, decided, declarations, declared
from tests.helpers.declaring import (
    C2PA_BOX,
    SETTINGS,
    picture,
    png,
    source_type,
    with_chunk,
    with_segment,
    xmp,
)

EXPORTED = {"generation": 5, "seed": 3, "sha256": "0f" * 32}


@pytest.mark.parametrize(
    ("row", "origin", "depth"),
    [
        ({"origin": "synthetic", "depth": 3, "generation": 2}, "synthetic", 3),
        ({"origin": "synthetic", "depth": "3", "generation": "2"}, "synthetic", 3),  # cells of a CSV file
        ({"kind": "synthetic", "generation": 4}, "synthetic", 5),
        (EXPORTED, "synthetic", 6),  # an export before there were depths
        ({**EXPORTED, "generation": "5"}, "synthetic", 6),
        ({"kind": "real", "generation": -1}, "real", 0),
        ({"origin": "real", "depth": 0}, "real", 0),
        ({"origin": "synthetic"}, "synthetic", 1),
        ({"origin": "unknown"}, "unknown", None),
        ({"origin": "real", "depth": 2}, "synthetic", 2),  # a contradiction
        ({"origin": "real", "kind": "synthetic"}, "synthetic", 1),
        ({"origin": "synthetic", "depth": 0}, "synthetic", 1),
    ],
)
def test_columns_of_ours(row: dict[str, Any], origin: str, depth: int | None) -> None:
    found = declared(None, row)
    assert (found.origin, found.depth, found.declared_by) == (origin, depth, "table")
    assert found.evidence


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"file_name": "a.png", "text": "a cat"},
        {"generation": 1, "name": "Bulbasaur"},  # another meaning of the word
        {"kind": "dog", "origin": "Paris", "depth": 3},
        {"depth": 3},
        {"origin": 1, "kind": ["real"], "generation": {"a": 1}, "depth": None},
        {"generation": True, "seed": 1, "sha256": "0f" * 32},
        {"generation": 10**9, "seed": 1, "sha256": "0f" * 32},
        {"generation": "1" * 5000, "seed": 1, "sha256": "0f" * 32},
        {"generation": 5, "seed": 1, "sha256": "short"},
    ],
)
def test_columns_of_others_say_nothing(row: dict[str, Any]) -> None:
    assert declared(None, row) == NOTHING


def test_the_chunk_of_ours() -> None:
    found = declared(png(itxt={"difflab": json.dumps({"origin": "synthetic", "depth": 4})}))
    assert found == Declared("synthetic", 4, "difflab", "origin=synthetic, depth=4")


@pytest.mark.parametrize(
    "text", ["", "x", "[" * 10**5, "[]", "1", '{"a": 1}', '{"origin": {"a": 1}}', "\0\0"]
)
def test_a_damaged_chunk_of_ours_is_unknown(text: str) -> None:
    found = declared(with_chunk(b"iTXt", b"difflab\0\0\0\0\0" + text.encode()))
    assert (found.origin, found.declared_by) == ("unknown", "difflab")


def test_a_manifest_counts_only_if_it_is_validated() -> None:
    data = with_segment(0xEB, C2PA_BOX)
    assert declared(data) == Declared("unknown", None, "c2pa", "a C2PA manifest that was not validated")
    assert declared(data, None, lambda item: None).origin == "unknown"
    real = Declared("real", 0, "c2pa", "signed by a camera")
    assert declared(data, None, lambda item: real) == real
    assert declared(png(), None, lambda item: real) == NOTHING  # no manifest, so nothing is validated


@pytest.mark.parametrize(
    ("code", "origin"),
    [
        ("trainedAlgorithmicMedia", "synthetic"),
        ("compositeWithTrainedAlgorithmicMedia", "synthetic"),
        ("algorithmicMedia", "synthetic"),
        ("digitalCapture", "real"),
        ("negativeFilm", "real"),
        ("positiveFilm", "real"),
        ("print", "real"),
        ("screenCapture", "unknown"),
        ("<script>alert(1)", "unknown"),
    ],
)
def test_source_types(code: str, origin: str) -> None:
    found = declared(picture("JPEG", xmp=source_type(code)))
    assert (found.origin, found.declared_by) == (origin, "iptc")
    assert found.depth == {"synthetic": 1, "real": 0, "unknown": None}[origin]


def test_one_synthetic_source_type_among_several_decides() -> None:
    element = "<Iptc4xmpExt:DigitalSourceType>digsrctype:{}</Iptc4xmpExt:DigitalSourceType>"
    both = element.format("digitalCapture") + element.format("trainedAlgorithmicMedia")
    assert declared(picture("WEBP", xmp=xmp("", both))).origin == "synthetic"


def test_a_generator() -> None:
    found = declared(png({"parameters": SETTINGS}))
    assert (found.origin, found.depth, found.declared_by) == ("synthetic", 1, "generator")
    assert found.evidence.startswith("A1111 or Forge: parameters = ")


def test_nothing() -> None:
    for item in (png(), b"", np.zeros((4, 4, 3), np.uint8), Image.new("L", (4, 4)), None, Path("absent.png")):
        assert declared(item) == NOTHING
    assert declarations(png()) == []


def test_layers_come_in_order_and_the_first_that_says_something_decides() -> None:
    packet = source_type("digitalCapture").decode()
    chunks = {"difflab": '{"origin": "unknown"}', "XML:com.adobe.xmp": packet}
    data = png({"parameters": SETTINGS}, chunks)
    data = data[:33] + with_chunk(b"caBX", b"x")[33 : -len(png()) + 33] + data[33:]
    layers = declarations(data, {"origin": "unknown"})
    assert tuple(layer.declared_by for layer in layers) == LAYERS
    assert [layer.origin for layer in layers] == ["unknown", "unknown", "unknown", "real", "synthetic"]
    assert decided(layers) == layers[3]
    assert declared(data, {"origin": "synthetic"}).declared_by == "table"
    assert decided(layers[:3]) == layers[0]


def test_evidence_is_one_short_printable_line() -> None:
    hostile = "<script>\x1b[31m\u202e\n" + "Steps: 1, Sampler: " + "y" * 10**6
    evidence = declared(png({"parameters": "Steps: 1, Sampler: \x1b[31m\n<b>" + "x" * 10**5})).evidence
    assert len(evidence) == EVIDENCE and evidence.isprintable() and "\x1b" not in evidence
    evidence = declared(png(itxt={"parameters": hostile})).evidence
    assert len(evidence) <= EVIDENCE and evidence.isprintable()


def test_it_is_fast(tmp_path: Path) -> None:
    """At least 2,000 PNG files of 256 px per second of one core; here with a margin for slow machines."""
    rng = np.random.default_rng(0)
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", SETTINGS)
    for i in range(100):
        pixels = rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png", compress_level=1, pnginfo=info if i % 2 else None)
    started = time.process_time()
    origins = [declared(tmp_path / f"{i}.png").origin for i in range(100)]
    seconds = time.process_time() - started
    assert origins == ["unknown", "synthetic"] * 50
    assert 100 / seconds > 1000
