"""One picture gives one array however it comes in; what its metadata are like is of no matter, and is
counted.
"""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from image_files import picture
from pictures import pictures
from PIL import Image, ImageOps, PngImagePlugin

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.decode import decode, look
from difflab.data.image_sets import open_sides
from difflab.data.registry import open_source


def photo(side=12, seed=0):
    return pictures(1, side, seed)[0]


def encode(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_chunk(png, kind, data, before=b"IDAT"):
    at = png.index(before) - 4
    return (
        png[:at]
        + struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        + png[at:]
    )


def opened(root, files, **options):
    root.mkdir(exist_ok=True)
    for name, raw in files.items():
        (root / name).write_bytes(raw)
    return open_source(Data(source=f"imagefolder:{root}", **options), 0)


# ------------------------------------------------------------------------------------------------- one way in
def odd_pictures():
    picture = photo()
    pixels = np.asarray(picture)
    turned = Image.Exif()
    yield "plain.png", encode(picture, "PNG")
    for orientation in (2, 5, 6, 8):
        turned[0x0112] = orientation
        yield f"turned{orientation}.jpg", encode(picture, "JPEG", exif=turned)
    turned[0x0112] = 6
    yield "turned.png", encode(picture, "PNG", exif=turned)
    yield "turned.webp", encode(picture, "WEBP", exif=turned, lossless=True)
    yield "turned.tif", encode(picture, "TIFF", exif=turned)
    yield "palette.png", encode(picture.quantize(16), "PNG", transparency=3)
    yield "palette.gif", encode(picture.quantize(16), "GIF", transparency=2)
    yield "alpha.png", encode(Image.fromarray(np.dstack([pixels, pixels[..., :1]])), "PNG")
    yield "greyalpha.png", encode(Image.fromarray(np.ascontiguousarray(pixels[..., :2])).convert("LA"), "PNG")
    yield "deep.png", encode(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG")
    yield "deep.tif", encode(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "TIFF")
    yield "bits.png", encode(picture.convert("1"), "PNG")
    yield "cmyk.jpg", encode(picture.convert("CMYK"), "JPEG")
    yield "wide.png", encode(picture.resize((20, 12)), "PNG")


def test_files_bytes_paths_pil_images_and_datasets_are_the_same_pictures(tmp_path):
    datasets = pytest.importorskip("datasets")
    files = dict(sorted(odd_pictures()))
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
    paths = [tmp_path / name for name in files]
    cells = [{"bytes": raw, "path": None} for raw in files.values()]
    given = {
        "folder": tmp_path,
        "paths": paths,
        "strings": list(map(str, paths)),
        "bytes": list(files.values()),
        "pil": [Image.open(io.BytesIO(raw)) for raw in files.values()],
        "loaded": [Image.open(io.BytesIO(raw)).copy() for raw in files.values()],
        "dataset": datasets.Dataset.from_dict(
            {"picture": cells}, features=datasets.Features({"picture": datasets.Image()})
        ),
    }
    sides = open_sides(given, 12, 0.0, [])
    wanted = [sides["folder"].read(i) for i in range(len(files))]
    for side, source in sides.items():
        for i, name in enumerate(files):
            assert np.array_equal(source.read(i), wanted[i]), (side, name)
    for i, name in enumerate(files):  # and they are upright
        if name in ("turned6.jpg", "turned.png", "turned.webp", "turned.tif"):
            assert np.abs(wanted[i].astype(int) - np.rot90(np.asarray(photo()), -1)).mean() < 25, name


def test_numbers_beyond_16_bit_have_no_white_in_pil_either():
    image = Image.fromarray(np.array([[0, 70_000]] * 2, np.int32))
    with pytest.raises(
        DataError, match=r"1 of 2 images are left out, the first: 0 .*no standard white value"
    ):
        open_sides({"real": [image, photo()]}, 8, 0.0, [])


# -------------------------------------------------------------------------------------------------- metadata
BIG = zlib.compress(bytes(2 << 20))
SOUND = encode(photo(), "PNG")
JPEG = encode(photo(), "JPEG")


def segment(marker, data):
    return JPEG[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + JPEG[2:]


def tiff(tag, kind, count, value):
    """A TIFF file with one more tag."""
    raw = encode(photo(), "TIFF")
    start = struct.unpack("<I", raw[4:8])[0]
    n = struct.unpack("<H", raw[start : start + 2])[0]
    entries = [raw[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(n)] + [
        struct.pack("<HHII", tag, kind, count, value)
    ]
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2])[0])
    return (
        raw[:4]
        + struct.pack("<I", len(raw))
        + raw[8:]
        + struct.pack("<H", n + 1)
        + b"".join(entries)
        + bytes(4)
    )


def webp_with_a_cut_chunk():
    raw = encode(photo(), "WEBP", lossless=True, xmp=b"x" * 8)
    at = raw.index(b"XMP ")
    return raw[: at + 4] + b"\xff\xff\xff\x7f" + raw[at + 8 :]


HOSTILE = {
    "itxt.png": with_chunk(SOUND, b"iTXt", b"workflow\0\1\0\0\0" + BIG),
    "ztxt.png": with_chunk(SOUND, b"zTXt", b"k\0\0" + BIG),
    "late.png": with_chunk(SOUND, b"zTXt", b"k\0\0" + BIG, before=b"IEND"),
    "icc.png": with_chunk(SOUND, b"iCCP", b"k\0\0" + BIG),
    "method.png": with_chunk(SOUND, b"iCCP", b"k\0\1" + BIG),
    "phys.png": with_chunk(SOUND, b"pHYs", b"12"),
    "exif.png": with_chunk(SOUND, b"eXIf", b"junk"),
    "lateexif.png": with_chunk(SOUND, b"eXIf", b"junk", before=b"IEND"),
    "crc.png": with_chunk(SOUND, b"tEXt", b"k\0value").replace(b"value", b"vague"),
    "icc.jpg": segment(0xE2, b"ICC_PROFILE\0"),
    "photoshop.jpg": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "adobe.jpg": segment(0xEE, b"Adobe"),
    "jfif.jpg": segment(0xE0, b"JFIF"),
    "exif.jpg": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "exif.webp": encode(photo(), "WEBP", lossless=True, exif=b"Exif\0\0junk"),
    "cut.webp": webp_with_a_cut_chunk(),
    "far.tif": tiff(270, 2, 1000, 2**31 - 1),
}


@pytest.mark.parametrize("bad_images", ["error", "skip"])
def test_hostile_metadata_cost_no_picture_and_are_counted(tmp_path, bad_images):
    source = opened(tmp_path / "set", HOSTILE, bad_images=bad_images)
    assert (
        source.account.count("metadata") == len(HOSTILE) == len(source)
        and source.account.count("skipped") == 0
    )
    for key, image in zip(source.keys, map(source.read, range(len(source))), strict=True):
        wanted = np.asarray(Image.open(io.BytesIO(JPEG)) if key.endswith("jpg") else photo())
        assert np.array_equal(image, wanted), key
    assert "have damaged or oversized metadata, which is ignored" in source.account.lines()[1]
    assert " object at 0x" not in str(source.account)


@pytest.mark.parametrize("name", ["adobe.png", "text.jpg"])
def test_sound_metadata_are_no_damage(tmp_path, name):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 50_000, zip=True)
    raw = encode(photo(), "PNG", pnginfo=info) if name.endswith("png") else segment(0xFE, b"x" * 60_000)
    assert not opened(tmp_path / "set", {name: raw}).account.entries


def test_texts_beyond_what_pillow_holds_of_one_file(tmp_path):
    raw = SOUND
    for i in range(70):
        raw = with_chunk(raw, b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(1_000_000)))
    source = opened(tmp_path / "set", {"a.png": raw})
    assert np.array_equal(source.read(0), np.asarray(photo())) and source.account.count("metadata") == 1


def test_an_orientation_survives_beside_metadata_that_do_not(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 3
    raw = with_chunk(encode(photo(), "PNG", exif=turned), b"iTXt", b"k\0\1\0\0\0" + BIG)
    assert np.array_equal(opened(tmp_path / "png", {"a.png": raw}).read(0), np.asarray(photo())[::-1, ::-1])
    lossy = encode(photo(), "JPEG", exif=turned)
    lossy = lossy[:2] + b"\xff\xe2\x00\x0eICC_PROFILE\0" + lossy[2:]
    assert np.array_equal(
        opened(tmp_path / "jpg", {"a.jpg": lossy}).read(0),
        np.asarray(Image.open(io.BytesIO(encode(photo(), "JPEG"))))[::-1, ::-1],
    )


@pytest.mark.parametrize("bad_images", ["error", "skip"])
def test_a_bomb_behind_hostile_metadata_is_still_refused(tmp_path, bad_images):
    raw = with_chunk(encode(Image.new("1", (3000, 3000)), "PNG"), b"iTXt", b"k\0\1\0\0\0" + BIG)
    with pytest.raises(DataError, match=r"3000 x 3000 pixels exceed data.max_pixels=1000000"):
        opened(tmp_path / "set", {"a.png": raw}, max_pixels=1_000_000, bad_images=bad_images)


def test_damaged_pixels_are_not_taken_for_damaged_metadata(tmp_path):
    whole = encode(pictures(1, 64)[0], "PNG")
    cut = with_chunk(whole, b"iTXt", b"k\0\1\0\0\0" + BIG)[:-200]
    source = opened(tmp_path / "set", {"a.png": cut, "b.png": whole}, bad_images="skip")
    assert (
        source.keys == ["b.png"]
        and source.account.count("skipped") == 1
        and source.account.count("metadata") == 0
    )


def test_a_pil_image_with_texts_behind_its_pixels():
    raw = HOSTILE["late.png"]
    source = open_sides({"real": [Image.open(io.BytesIO(raw)), photo()]}, None, 0.0, [])["real"]
    assert np.array_equal(source.read(0), source.read(1)) and source.account.count("metadata") == 1


def test_limits_of_pillow_are_left_as_they_are(tmp_path):
    before = (
        PngImagePlugin.MAX_TEXT_CHUNK,
        PngImagePlugin.MAX_TEXT_MEMORY,
        Image.MAX_IMAGE_PIXELS,
        list(warnings.filters),
    )
    seen = set()
    thread = threading.Thread(
        target=lambda: seen.add((PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY))
    )
    opened(tmp_path / "set", {"a.png": HOSTILE["itxt.png"]}).read(0)
    thread.start()
    thread.join()
    assert seen == {before[:2]} and before == (
        PngImagePlugin.MAX_TEXT_CHUNK,
        PngImagePlugin.MAX_TEXT_MEMORY,
        Image.MAX_IMAGE_PIXELS,
        list(warnings.filters),
    )


# -------------------------------------------------------------------------------------- frames and suffixes
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.gif", "GIF"),
        ("a.webp", "WEBP"),
        ("a.png", "PNG"),
        ("a.apng", "PNG"),
        ("a.tif", "TIFF"),
        ("a.mpo", "MPO"),
    ],
)
@pytest.mark.parametrize("bad_images", ["error", "skip"])
def test_the_first_of_several_frames_is_read_and_that_is_said(tmp_path, name, kind, bad_images):
    first, *others = pictures(3, 12)
    options = {"lossless": True} if kind == "WEBP" else {}
    raw = encode(first, kind, save_all=True, append_images=others, **options)
    source = opened(tmp_path / "set", {name: raw, "still.png": SOUND}, bad_images=bad_images)
    assert (
        source.account.entries["frames"].first == [(name, "3 frames")]
        and source.account.count("metadata") == 0
    )
    wanted = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
    assert (
        np.array_equal(source.read(0), wanted) and np.abs(wanted.astype(int) - np.asarray(first)).mean() < 25
    )


ALIASES = {
    "JPEG": ("jfif", "jpe", "jif", "JPG"),
    "PPM": ("pnm", "ppm"),
    "BMP": ("dib", "bmp"),
    "PNG": ("apng",),
    "TIFF": ("tif",),
}


def test_files_are_read_under_every_name_of_their_format(tmp_path):
    files = {
        f"{i}.{suffix}": encode(photo(seed=i), kind)
        for i, (kind, own) in enumerate(ALIASES.items())
        for suffix in own
    }
    files |= {
        "grey.pgm": encode(photo().convert("L"), "PPM"),
        "bits.pbm": encode(photo().convert("1"), "PPM"),
    }
    source = opened(tmp_path / "set", files)
    assert sorted(source.keys) == sorted(files) and source.account.ignored == {}


def test_files_that_were_not_looked_at_are_counted_by_suffix(tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("notes.md", "b.MD", "data.csv", "README", "sub.tar.gz", ".hidden"):
        (tmp_path / "set" / name).write_text("x")
    source = opened(tmp_path / "set", {"a.png": SOUND})
    assert source.account.ignored == {".md": 2, ".csv": 1, "": 1, ".gz": 1}
    assert "1 without suffix, 1 .csv, 1 .gz, 2 .md" in source.account.lines()[1]


@pytest.mark.parametrize("name", ["a.avif", "a.j2k", "a.CR2"])
def test_images_of_other_formats_do_not_vanish(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: images of type .* are not supported"):
        opened(tmp_path / "set", {"a.png": SOUND, name: b"x"})


# ---------------------------------------------------------------------------------------------- conversions
def read_one(path, size=4, channels=3):
    return decode(path, str(path), 20_000, (size, size) if isinstance(size, int) else size, channels)


def test_alpha_is_flattened_on_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_one(tmp_path / "a.png")
    assert image[0, 0].tolist() == [255, 0, 0] and image[3, 3].tolist() == [255, 255, 255]


def test_transparent_palette(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert read_one(tmp_path / "a.png")[0, 0].tolist() == [0, 255, 0]
    assert read_one(tmp_path / "a.png")[2, 2].tolist() == [255, 255, 255]


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    values = np.array([[0, 257, 32896, 65535]] * 4, dtype=np.uint16)
    for name in ("a.png", "a.tif", "a.pgm"):
        Image.fromarray(values).save(tmp_path / name)
        assert read_one(tmp_path / name, channels=1)[0, :, 0].tolist() == [0, 1, 128, 255], name
    assert look(tmp_path / "a.png", "x", 100).grey


def test_float_image_is_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="no standard white value"):
        read_one(tmp_path / "a.tif")


def test_cmyk(tmp_path):
    picture(tmp_path / "a.jpg", mode="CMYK", colour=(0, 255, 255, 0), quality=100)
    red = read_one(tmp_path / "a.jpg")[0, 0]
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


def test_black_and_white_and_grey_with_alpha(tmp_path):
    picture(tmp_path / "a.png", mode="1", colour=1)
    assert read_one(tmp_path / "a.png", channels=1).max() == 255
    picture(tmp_path / "b.png", mode="LA", colour=(0, 0))
    assert read_one(tmp_path / "b.png", channels=1).min() == 255


def test_exif_orientation(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = read_one(tmp_path / "a.png", size=8)
    assert image[:, 7].min() == 255 and image[:, 0].max() == 0


def test_a_rectangle_is_cropped_around_the_centre_and_resized_as_pillow_does(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for size, box in {
        (8, 12): (12, 0, 147, 90),
        (12, 8): (50, 0, 110, 90),
        (10, 40): (0, 25, 160, 65),
    }.items():
        wanted = Image.fromarray(pixels).crop(box).resize(size[::-1], Image.Resampling.LANCZOS)
        assert np.array_equal(read_one(tmp_path / "a.png", size=size), np.asarray(wanted)), size
        as_array = decode(pixels, "a", 10**6, size, 3)
        assert np.array_equal(as_array, np.asarray(wanted)), size


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_in_the_header_is_that_of_the_upright_image(tmp_path, orientation, kind, whole):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a.{kind}"
    Image.new("RGB", (12, 8)).save(file, exif=exif)
    header = look(file, "a", 10_000, whole)
    assert (header.width, header.height) == ((8, 12) if orientation >= 5 else (12, 8))
    upright = ImageOps.exif_transpose(Image.open(file))
    assert (header.width, header.height) == upright.size


def test_centre_crop_and_antialiased_resize(tmp_path):
    stripes = np.zeros((64, 128), np.uint8)
    stripes[:, ::2] = 255
    stripes[:, :32] = stripes[:, 96:] = 7  # cropped away
    Image.fromarray(stripes).save(tmp_path / "a.png")
    image = read_one(tmp_path / "a.png", size=8, channels=1).astype(int)
    assert np.all(np.abs(image[2:6, 2:6] - 127) < 12), "fine stripes become even grey, not moire"
