"""Metadata is read from files that Pillow wrote; hostile files cost little and raise nothing."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from difflab.data.declared import declared
from difflab.data.embedded import BLOCK, TOTAL, Embedded, read_embedded
from tests.helpers.declaring import (
    C2PA_BOX,
    IPTC,
    PNG,
    chunk,
    exif,
    picture,
    png,
    with_chunk,
    with_segment,
    with_webp_chunk,
    xmp,
)


def test_text_chunks_of_all_three_kinds() -> None:
    found = read_embedded(png({"Title": "caf\xe9"}, {"difflab": "ein Bär, 猫"}))
    assert found.texts == {"Title": "café", "difflab": "ein Bär, 猫"}
    compressed = with_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"steps" * 9))
    assert read_embedded(compressed).texts == {"Comment": "steps" * 9}
    inflated = with_chunk(b"iTXt", b"a\0\1\0en\0\0" + zlib.compress("ä".encode()))
    assert read_embedded(inflated).texts == {"a": "ä"}


def test_texts_after_the_pixels_are_read_too() -> None:
    plain = png()
    assert read_embedded(plain[:-12] + chunk(b"tEXt", b"late\0x") + plain[-12:]).texts == {"late": "x"}


def test_text_chunks_are_those_of_pillow() -> None:
    data = png({"parameters": "Steps: 1", "Author": "x" * 3000}, {"prompt": "{}"})
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert read_embedded(data).texts == {k: str(v) for k, v in image.info.items()}


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_exif_of_every_format(form: str) -> None:
    tags = exif({305: "a program", 271: "Canon"}, b"ASCII\0\0\0Steps: 3")
    data = picture(form, exif=tags)
    with Image.open(io.BytesIO(data)) as image:
        comment = image.getexif().get_ifd(0x8769).get(0x9286)
    wanted = {"Software": "a program", "Make": "Canon"} | ({"UserComment": "Steps: 3"} if comment else {})
    assert read_embedded(data).exif == wanted
    assert form == "TIFF" or "UserComment" in wanted  # Pillow writes no EXIF directory into TIFF files


def test_short_texts_are_inside_their_entry() -> None:
    assert read_embedded(picture("JPEG", exif=exif({305: "abc"}))).exif == {"Software": "abc"}


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_a_unicode_comment_in_either_byte_order(order: str) -> None:
    comment = b"UNICODE\0" + "Steps: 20, ä".encode(order)
    assert read_embedded(picture("JPEG", exif=exif(comment=comment))).exif["UserComment"] == "Steps: 20, ä"


def test_xmp_of_every_format(tmp_path: Path) -> None:
    packet = xmp('xmp:CreatorTool="x"')
    for form in ("JPEG", "WEBP"):
        assert read_embedded(picture(form, xmp=packet)).xmp == packet.decode()
    assert read_embedded(png(itxt={"XML:com.adobe.xmp": packet.decode()})).xmp == packet.decode()
    tiff = tmp_path / "a.tif"
    Image.new("RGB", (8, 8)).save(tiff, tiffinfo={700: packet})
    assert read_embedded(tiff).xmp == packet.decode()
    assert read_embedded(picture("WEBP", xmp=packet.decode().encode("utf-16"))).xmp == packet.decode()


def test_a_manifest_is_found_in_every_format() -> None:
    assert read_embedded(with_chunk(b"caBX", b"\0\0\0\x10jumb")).c2pa
    assert read_embedded(with_segment(0xEB, C2PA_BOX)).c2pa
    assert read_embedded(with_webp_chunk(b"C2PA", b"\0\0\0\x10jumb")).c2pa
    assert not read_embedded(png()).c2pa
    other = C2PA_BOX.replace(b"c2pa", b"j360")  # another kind of JUMBF: a picture of 360 degrees
    assert not read_embedded(with_segment(0xEB, other)).c2pa


def test_other_files_have_none(tmp_path: Path) -> None:
    for data in (
        b"",
        b"text",
        picture("BMP"),
        picture("GIF"),
        png()[:20],
        PNG,
        b"\xff\xd8",
        b"RIFF\0\0\0\0WEBP",
    ):
        found = read_embedded(data)
        assert (found.texts, found.exif, found.xmp, found.c2pa) == ({}, {}, "", False)
    assert read_embedded(tmp_path / "absent.png").texts == {}
    assert read_embedded(tmp_path).texts == {}  # a folder


def test_blocks_are_cut() -> None:
    found = read_embedded(with_chunk(b"tEXt", b"a\0" + b"x" * (3 * BLOCK)))
    assert len(found.texts["a"]) == BLOCK - 2
    bomb = with_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * (20 * BLOCK)))
    assert len(read_embedded(bomb).texts["a"]) == BLOCK
    many = PNG + b"".join(chunk(b"tEXt", f"{i}\0".encode() + b"x" * BLOCK) for i in range(9))
    assert sum(map(len, read_embedded(many).texts.values())) <= TOTAL


def test_a_file_of_many_blocks_is_not_read_to_its_end() -> None:
    hostile = PNG + chunk(b"tEXt", b"a\0b") * 10**6 + chunk(b"caBX", b"")
    started = time.process_time()
    assert not read_embedded(hostile).c2pa
    assert time.process_time() - started < 5


def test_exif_that_points_anywhere() -> None:
    """Directories that point at themselves, past the end, and tags of any length."""
    loop = b"II*\0\x08\0\0\0" + struct.pack("<H HHII I", 1, 0x8769, 4, 1, 8, 8)
    beyond = b"MM\0*\xff\xff\xff\xff"
    huge = b"II*\0\x08\0\0\0" + struct.pack("<H HHII I", 1, 305, 2, 0xFFFFFFFF, 8, 0)
    for data in (loop, beyond, huge, b"II*\0", b"\0" * 40):
        for file in (data, with_chunk(b"eXIf", data), with_segment(0xE1, b"Exif\0\0" + data)):
            assert len(str(read_embedded(file))) < 200 + len(file)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_damaged_files_raise_nothing(form: str) -> None:
    tags = exif({305: "x" * 40}, b"UNICODE\0" + b"\0a" * 30)
    data = png({"a": "b" * 50}, exif=tags) if form == "PNG" else picture(form, exif=tags)
    rng = random.Random(form)
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 12)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        found = read_embedded(bytes(damaged[: rng.randint(1, len(damaged))]))
        assert isinstance(found, Embedded) and len(repr(found)) < 5 * len(data) + 200


GUID = b"0123456789ABCDEF0123456789abcdef"


def extended(text: bytes, portion: int = 65_000, guid: bytes = GUID) -> list[bytes]:
    """The segments of extended XMP, as XMP specification part 3, 1.1.3.1 describes them."""
    starts = range(0, len(text), portion)
    head = b"http://ns.adobe.com/xmp/extension/\0" + guid + struct.pack(">I", len(text))
    return [head + struct.pack(">I", start) + text[start : start + portion] for start in starts]


def with_extended_xmp(segments: list[bytes], note: str = GUID.decode()) -> bytes:
    """A JPEG file whose main packet names the GUID of its extended XMP."""
    data = picture("JPEG", xmp=xmp(f'xmpNote:HasExtendedXMP="{note.upper()}"'))
    for segment in reversed(segments):
        data = with_segment(0xE1, segment, data)
    return data


def test_extended_xmp_is_read_in_any_order() -> None:
    text = xmp(elements=f"<a:b>{'x' * 150_000}</a:b>", attributes='Iptc4xmpExt:DigitalSourceType="late"')
    segments = extended(text)
    assert len(segments) == 3
    for order in (segments, segments[::-1]):
        found = read_embedded(with_extended_xmp(order)).xmp
        assert found.endswith(text.decode()) and "HasExtendedXMP" in found
    late = IPTC + "trainedAlgorithmicMedia"
    declared_there = extended(
        xmp(f'Iptc4xmpExt:DigitalSourceType="{late}"', "<a:b>" + "x" * 70_000 + "</a:b>")
    )
    found_origin = declared(with_extended_xmp(declared_there))
    assert (found_origin.origin, found_origin.declared_by) == ("synthetic", "iptc")


def test_extended_xmp_of_another_packet_or_of_any_size_costs_little() -> None:
    text = b"%" * 100
    assert "%" not in read_embedded(with_extended_xmp(extended(text), note="F" * 32)).xmp
    assert "%" not in read_embedded(with_segment(0xE1, extended(text)[0])).xmp  # no main packet
    far = extended(text)[0][:71] + struct.pack(">I", 2**32 - 1) + text
    assert "%" not in read_embedded(with_extended_xmp([far])).xmp
    gap = extended(text)[0][:71] + struct.pack(">I", BLOCK - 50) + text
    found = read_embedded(with_extended_xmp([gap])).xmp
    assert found.endswith("%" * 50) and len(found) < BLOCK + 1000
    many = read_embedded(with_extended_xmp(extended(b"~" * (3 * BLOCK)))).xmp
    assert BLOCK / 2 < many.count("~") <= BLOCK
    assert read_embedded(with_extended_xmp([extended(text)[0][:60]])).xmp  # cut off
