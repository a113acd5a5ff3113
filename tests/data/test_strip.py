"""Without its metadata an image has the same pixels, and less in its file."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pictures import pictures
from PIL import Image, PngImagePlugin

from difflab.data.strip import png_chunks, without_metadata

COMMENT = b"a long comment " * 20


def encoded(kind: str) -> bytes:
    """A picture with a comment and an EXIF orientation in a file of this format."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict = {"exif": exif, "format": kind}
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("comment", COMMENT.decode())
    elif kind == "JPEG":
        options["comment"] = COMMENT
    elif kind == "WEBP":
        options |= {"lossless": True, "xmp": COMMENT}
    else:
        options["description"] = COMMENT.decode()
    out = io.BytesIO()
    pictures(1, 12)[0].save(out, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pixels_and_orientation_stay_and_texts_go(kind, tmp_path):
    whole = encoded(kind)
    bare = without_metadata(whole)
    assert bare is not None
    before, after = Image.open(io.BytesIO(whole)), Image.open(io.BytesIO(bare))
    assert before.getexif()[0x0112] == after.getexif()[0x0112] == 6
    assert np.array_equal(np.asarray(before), np.asarray(after))
    if kind == "TIFF":  # the texts stay in the file, and no tag points at them
        assert 270 in before.tag_v2 and 270 not in after.tag_v2
    else:
        assert COMMENT in whole and COMMENT not in bare
    (tmp_path / "a").write_bytes(whole)
    assert without_metadata(tmp_path / "a") == bare


def test_chunks_of_png_are_found_where_they_are():
    whole = encoded("PNG")
    chunks = {kind: (start, length) for kind, start, length in png_chunks(io.BytesIO(whole))}
    start, length = chunks[b"tEXt"]
    assert whole[start : start + length] == b"comment\0" + COMMENT
    assert [*chunks][:1] == [b"IHDR"] and [*chunks][-1:] == [b"IEND"]


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"no image at all", b"II*\0\xff\xff\xff\xff"])
def test_other_files_are_left_alone(content):
    assert without_metadata(content) is None
