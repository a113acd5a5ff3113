"""Views of single images: content, size, what was found, failures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from audited import A1111, write
from PIL import Image

from difflab.core.hashing import content_hash
from difflab.data.image_sets import listing_of
from difflab.data.manifest import Signer
from difflab.data.near_copies import square_thumbnail
from difflab.data.signing_key import new_key
from difflab.data.watermark import MESSAGES
from difflab.evaluation.audit.stream import CHUNK, Options, stream, view_of


def test_the_content_is_that_of_the_pixels_in_any_lossless_format(
    tmp_path: Path, emoji: list[np.ndarray]
) -> None:
    write(tmp_path, emoji[:1])
    Image.fromarray(emoji[0]).save(tmp_path / "same.bmp")
    listing = listing_of(tmp_path, "set", [])
    first, second = (view_of(listing, i, Options()) for i in (0, 1))
    assert first.content == second.content == content_hash(emoji[0])[:16]
    assert (first.format, second.format) == ("png", "bmp")
    grey = listing_of(np.full((1, 8, 8), 9, np.uint8), "set", [])
    colour = listing_of(np.full((1, 8, 8, 3), 9, np.uint8), "set", [])
    assert view_of(grey, 0, Options()).content == view_of(colour, 0, Options()).content


def test_what_is_found_in_one_image(tmp_path: Path) -> None:
    flat = np.full((512, 512, 3), 90, np.uint8)
    write(tmp_path, [flat], "ComfyUI_", A1111)
    (tmp_path / "ComfyUI_00000.png").rename(tmp_path / "ComfyUI_00000_.png")
    listing = listing_of(tmp_path, "set", [])
    view = view_of(listing, 0, Options(small=(16, 16), channels=1))
    assert view.found == {
        "synthetic": "generator A1111 or Forge",
        "file name": "ComfyUI",
        "size": "512 x 512",
    }
    assert view.evidence.startswith("A1111 or Forge") and view.size == (512, 512)
    assert view.small is not None and view.small.shape == (16, 16, 1)
    assert view.thumbnail is not None and view.thumbnail.shape == (32, 32, 3)
    assert view_of(listing, 0, Options(), thumbnail=False).thumbnail is None


def test_a_watermark_is_found_if_it_is_asked_for() -> None:
    """A picture whose blue chroma carries the bits of Stable Diffusion XL, written here by hand."""
    blue = np.zeros((64, 64), int)
    bits = MESSAGES[-1].bits
    for block in range(32 * 32 // 1):
        row, column = divmod(block, 32)
        if row < 32:
            blue[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = bits[block % 48]
    # of each block of 8 x 8 pixels: U = 137 or 146 gives the low band 274 = 7 * 36 + 22 or 292 = 8 * 36 + 4
    chroma = np.kron(blue[::2, ::2], np.ones((8, 8), int))
    image = np.full((256, 256, 3), 100, np.uint8)
    image[..., 2] = 100 + np.where(chroma, 20, 41)
    listing = listing_of(image[None], "set", [])
    assert view_of(listing, 0, Options()).found == {"watermark": "Stable Diffusion XL"}
    assert view_of(listing, 0, Options(marks=False)).found == {}


def test_failures_are_views(tmp_path: Path, emoji: list[np.ndarray]) -> None:
    write(tmp_path, emoji[:1], "a", A1111)
    good = (tmp_path / "a00000.png").read_bytes()
    (tmp_path / "b.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "c.png").symlink_to(tmp_path / "a00000.png")
    listing = listing_of(tmp_path, "set", [])
    (tmp_path / "c.png").unlink()
    views = [view for part in stream(listing, range(3), Options()) for view in part]
    assert [bool(view.failure) for view in views] == [False, True, True]
    assert views[1].found["synthetic"] == "generator A1111 or Forge"
    assert [bool(view.failure) for view in next(stream(listing, [1], Options(pixels=False)))] == [False]


def test_parts_are_in_order_and_bounded() -> None:
    listing = listing_of(np.zeros((CHUNK + 5, 4, 4), np.uint8), "set", [])
    parts = list(stream(listing, range(len(listing.keys)), Options(), frozenset((2,))))
    assert [len(part) for part in parts] == [CHUNK, 5]
    views = [view for part in parts for view in part]
    assert [view.position for view in views] == list(range(CHUNK + 5))
    assert [view.position for view in views if view.thumbnail is not None] == [2]


def test_thumbnails_of_squares_are_those_of_other_sizes() -> None:
    random = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((128, 128)))
    view = view_of(listing_of(image[None], "set", []), 0, Options())
    assert view.thumbnail is not None
    assert abs(view.thumbnail.astype(int) - square_thumbnail(image)).max() <= 1


def test_a_manifest_counts_only_if_its_signature_holds(tmp_path: Path) -> None:
    signer = Signer(new_key(tmp_path / "key"))
    write(tmp_path / "set", [np.full((16, 16, 3), 90, np.uint8)] * 2)
    for file in sorted((tmp_path / "set").iterdir()):
        file.write_bytes(signer.sign(file.read_bytes(), file.name, {"generation": 0, "depth": 1}))
    broken = bytearray(file.read_bytes())
    broken[-20] ^= 1
    file.write_bytes(broken)
    listing = listing_of(tmp_path / "set", "set", [])
    first, second = (view_of(listing, i, Options(pixels=False)) for i in (0, 1))
    assert first.found["synthetic"].startswith("c2pa") and "synthetic" not in second.found
