"""Folders of images: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from image_files import folder, picture

from difflab.core.errors import DataError


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
    assert (source.size, source.channels, source.prompts) == ((8, 8), 3, None)
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
        DataError,
        match=r"no column 'colour', which data.label names .its columns: file_name, text, label, kind",
    ):
        folder(tmp_path, label="colour")


def test_reader_travels_to_worker_processes(tmp_path):
    picture(tmp_path / "1.png")
    source = folder(tmp_path)
    assert np.array_equal(pickle.loads(pickle.dumps(source.read))(0), source.read(0))


def test_empty_folder(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(DataError, match=r"contains no image; the suffixes of images are .apng, .bmp"):
        folder(tmp_path)


def test_empty_class_folder_is_named(tmp_path):
    picture(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"class folder .*dog contains no image"):
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
    with pytest.raises(DataError, match=r"2.heic: images of type .heic are not supported"):
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
        ("[1]", "line 2 has no 'file_name'"),
        ('{"text": "x"}', "line 2 has no 'file_name'"),
        ('{"file_name": "gone.png", "text": "x"}', "line 2: .*gone.png does not exist"),
        ('{"file_name": "../x.png", "text": "x"}', "line 2: file_name '../x.png' leads out"),
        ('{"file_name": "/etc/passwd", "text": "x"}', "line 2: file_name '/etc/passwd' leads out"),
        ('{"file_name": "a\\u0000.png", "text": "x"}', "line 2: file_name"),
        ('{"file_name": "./1.png", "text": "x"}', "line 2: 1.png is already listed in line 1"),
        ('{"file_name": "2.png"}', "line 2 has no 'text', but other images have one"),
        ('{"file_name": "2.png", "text": 3}', "'text' must be a string"),
    ],
)
def test_bad_lines_of_metadata(tmp_path, line, what):
    picture(tmp_path / "1.png")
    picture(tmp_path / "2.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "one"}\n' + line + "\n")
    with pytest.raises(DataError, match=what):
        folder(tmp_path)
