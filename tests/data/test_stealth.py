"""Hidden text is recognised in files that are written as its two programs describe it."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import difflab
from difflab.data.decode import in_colour
from difflab.data.stealth import hidden_text

LARGEST = 10**6


def hidden(marker: bytes, height: int = 40, width: int = 32, channels: int = 4) -> Image.Image:
    """An image with text in the lowest bits, bit by bit, column by column: of alpha, or of all three colours."""
    payload = gzip.compress(json.dumps({"Software": "NovelAI", "Comment": "{}"}).encode())
    content = marker + (8 * len(payload)).to_bytes(4, "big") + payload
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    used = [3] if channels == 4 else [0, 1, 2]
    pixels[..., used] |= 1
    for number in range(8 * len(content)):
        bit = content[number // 8] >> (7 - number % 8) & 1
        place, channel = divmod(number, len(used))
        column, row = divmod(place, height)
        pixels[row, column, used[channel]] &= 0xFE | bit
    return Image.fromarray(pixels)


def saved(image: Image.Image, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def found(image: Image.Image, data: bytes | None = None) -> str | None:
    rgb = in_colour(np.asarray(image.convert("RGB")))
    return hidden_text(saved(image) if data is None else data, rgb, LARGEST)


@pytest.mark.parametrize("height", [7, 40, 200])
@pytest.mark.parametrize(
    ("marker", "channels", "who"),
    [
        (b"stealth_pngcomp", 4, "NovelAI or stealth-pnginfo"),
        (b"stealth_pnginfo", 4, "stealth-pnginfo"),
        (b"stealth_rgbcomp", 3, "stealth-pnginfo"),
        (b"stealth_rgbinfo", 3, "stealth-pnginfo"),
        (b"stealth_pngcomp", 3, None),  # in the wrong place
        (b"stealth_rgbinfo", 4, None),
        (b"stealth_pngcomq", 4, None),
    ],
)
def test_markers(marker: bytes, channels: int, who: str | None, height: int) -> None:
    image = hidden(marker, height, 240, channels)
    assert found(image) == who
    assert hidden_text(image, in_colour(np.asarray(image.convert("RGB"))), LARGEST) == who  # a PIL image


def test_images_without_it() -> None:
    image = hidden(b"stealth_pngcomp")
    assert found(image.convert("RGB")) is None
    assert found(image, saved(image.convert("RGB"), "JPEG")) is None
    assert found(image.resize((16, 20))) is None
    for size in ((1, 1), (1, 200), (200, 1)):
        assert found(Image.new("RGBA", size)) is None and found(Image.new("L", size)) is None
    assert hidden_text(saved(image), in_colour(np.zeros((4, 4), np.uint8)), 10) is None  # too many pixels
    cut = saved(image)[:-40]
    assert hidden_text(cut, in_colour(np.zeros((4, 4), np.uint8)), LARGEST) is None
    assert hidden_text(b"", in_colour(np.zeros((4, 4), np.uint8)), LARGEST) is None


def test_the_audit_counts_and_leaves_them_out(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{i}.png")
    (tmp_path / "set" / "n.png").write_bytes(saved(hidden(b"stealth_pngcomp")))
    result = difflab.audit(tmp_path / "set", write=tmp_path / "clean", out=tmp_path / "out")
    layer = result["hidden text"]
    assert (layer.count, layer.of, layer.kinds[0].name) == (1, 4, "NovelAI or stealth-pnginfo")
    assert "n.png,hidden text" in (tmp_path / "clean" / "left_out.csv").read_text()
    assert "NovelAI" in (tmp_path / "out" / "images.jsonl").read_text()
