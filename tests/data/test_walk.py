"""What of a folder is read: splits are told apart, and links of the hub's cache are followed into its blobs
alone.
"""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import difflab
from pictures import folder as pictures_in

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.image_sets import open_sides
from difflab.data.registry import open_source


def parquet(path: Path, n: int = 4, seed: int = 0) -> Path:
    images = pictures_in(path.with_suffix(".pictures"), n, 8, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [file.read_bytes() for file in sorted(images.iterdir())]}), path)
    shutil.rmtree(images)
    return path


@pytest.mark.parametrize(
    ("names", "typed"),
    [
        (
            ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
            "data/train-00000-of-00001.parquet",
        ),
        (
            (
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet",
                "data/validation-0.parquet",
            ),
            "data/train-0000*.parquet",
        ),
        (("train/0000.parquet", "test/0000.parquet"), "train/0000.parquet"),
        (("train.parquet", "validation.parquet"), "train.parquet"),
        (("test.parquet", "dev.parquet"), "test.parquet"),
        (("my_train_set.parquet", "my_eval_set.parquet"), "my_train_set.parquet"),
    ],
)
@pytest.mark.parametrize("by", ["run", "compare"])
def test_parquet_files_of_several_splits_are_refused_and_named(names, typed, by, tmp_path):
    for i, name in enumerate(names):
        parquet(tmp_path / name, seed=i)

    def opened(path):
        return (
            open_source(Data(source=f"parquet:{path}"), 0)
            if by == "run"
            else open_sides({"real": path}, None, 0.0, [])["real"]
        )

    with pytest.raises(DataError, match="contains several splits") as refused:
        opened(tmp_path)
    message = str(refused.value)
    assert (
        message.endswith(f"for example {tmp_path / typed}" if "*" in typed or typed in message else "?")
        and "\n" not in message
    )
    assert all(name in message or "train-00001" in name for name in names)
    wanted = 8 if "*" in typed else 4
    assert len(opened(tmp_path / typed)) == wanted


@pytest.mark.parametrize(
    "names",
    [
        ("a.parquet", "b.parquet"),
        ("train-0.parquet", "train-1.parquet"),
        ("latest.parquet", "contest.parquet", "trainer.parquet"),
    ],
)
def test_files_of_one_split_are_one_set(names, tmp_path):
    for i, name in enumerate(names):
        parquet(tmp_path / name, seed=i)
    assert len(open_source(Data(source=f"parquet:{tmp_path}"), 0)) == 4 * len(names)


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("train", "test"), "test, train"),
        (("train2017/a", "val2017/a"), "train2017, val2017"),
        (("images/train", "images/val"), "images: train, val"),
        (("bottle/train/good", "bottle/test/good", "bottle/test/bad"), "bottle: test, train"),
        (("train", "test", "extra"), "test, train"),
        (("Training_set/cat", "Test_Set/cat"), "Test_Set, Training_set"),
        (("train/cat",), "train"),
    ],
)
def test_folders_of_several_splits_are_refused_and_named(names, named, tmp_path):
    for i, name in enumerate(names):
        pictures_in(tmp_path / name, 2, 8, i)
    for opened in (
        lambda: open_source(Data(source=f"imagefolder:{tmp_path}"), 0),
        lambda: open_sides({"real": tmp_path}, None, 0.0, []),
    ):
        with pytest.raises(DataError, match=f"{named} look like splits.*for example {tmp_path}"):
            opened()


@pytest.mark.parametrize(
    "names", [("train station", "test tube"), ("bus", "train"), ("latest", "training wheels")]
)
def test_classes_that_only_sound_like_splits_are_classes(names, tmp_path):
    for i, name in enumerate(names):
        pictures_in(tmp_path / name, 2, 8, i)
    assert open_source(Data(source=f"imagefolder:{tmp_path}"), 0).classes == sorted(names)


def test_a_list_over_several_splits_is_one_set_and_that_is_said(tmp_path):
    for name in ("train", "test"):
        pictures_in(tmp_path / name, 2, 8)
    names = [f"{folder}/{i:03d}.png" for folder in ("train", "test") for i in range(2)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name", *names]))
    source = open_source(Data(source=f"imagefolder:{tmp_path}"), 0)
    assert (
        source.keys == names
        and "lists images in test and train, which look like splits" in source.account.lines()[1]
    )


# ------------------------------------------------------------------------------------------ the hub's cache
def cached(cache: Path, files: dict[str, Path], revision: str = "abc") -> Path:
    """A snapshot as huggingface_hub lays it out: links to blobs that are called by their hashes."""
    snapshot = cache / "snapshots" / revision
    (cache / "blobs").mkdir(parents=True, exist_ok=True)
    for i, (name, file) in enumerate(files.items()):
        blob = cache / "blobs" / f"{revision}{i}"
        shutil.move(file, blob)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(Path(*[".."] * (len(Path(name).parts) + 1), "blobs", blob.name))
    return snapshot


def test_parquet_and_images_of_a_snapshot_are_read(tmp_path):
    snapshot = cached(
        tmp_path / "tables",
        {
            "data/train-0.parquet": parquet(tmp_path / "a.parquet"),
            "data/train-1.parquet": parquet(tmp_path / "b.parquet", seed=1),
        },
    )
    images = pictures_in(tmp_path / "pictures", 4, 8)
    (images / "metadata.csv").write_text(
        "file_name,text\n" + "".join(f"x/{i:03d}.png,{i}\n" for i in range(4))
    )
    files = {"metadata.csv": images / "metadata.csv"} | {
        f"x/{i:03d}.png": images / f"{i:03d}.png" for i in range(4)
    }
    pictures = cached(tmp_path / "images", files)
    for path in (
        snapshot,
        snapshot / "data",
        tmp_path / "tables",
    ):  # the repository's folder itself has one snapshot
        assert (
            len(open_source(Data(source=f"parquet:{path}"), 0))
            == 8
            == len(open_sides({"real": path}, None, 0.0, [])["real"])
        )
    for path in (pictures, tmp_path / "images"):
        source = open_source(Data(source=f"imagefolder:{path}"), 0)
        assert (
            source.keys[3] == "x/003.png"
            and source.prompts == list("0123")
            and source.read(3).shape == (8, 8, 3)
        )


def test_a_cache_with_several_snapshots_is_not_one_set(tmp_path):
    for revision in ("abc", "def"):
        cached(tmp_path / "cache", {"a.parquet": parquet(tmp_path / "a.parquet")}, revision)
    with pytest.raises(DataError, match="cache with 2 snapshots; give one of them"):
        open_source(Data(source=f"parquet:{tmp_path / 'cache'}"), 0)


@pytest.mark.parametrize(
    "kind", ["beside blobs", "blobs of another cache", "blobs that are a link", "no snapshot"]
)
def test_links_that_leave_the_cache_are_refused(kind, tmp_path):
    outside = parquet(tmp_path / "outside" / "blobs" / "secret.parquet")
    snapshot = cached(tmp_path / "cache", {"a.parquet": parquet(tmp_path / "a.parquet")})
    if kind == "beside blobs":
        shutil.move(outside, tmp_path / "cache" / "secret.parquet")
        (snapshot / "b.parquet").symlink_to(tmp_path / "cache" / "secret.parquet")
    elif kind == "blobs of another cache":
        (snapshot / "b.parquet").symlink_to(outside)
    elif kind == "blobs that are a link":
        shutil.rmtree(tmp_path / "cache" / "blobs")
        (tmp_path / "cache" / "blobs").symlink_to(outside.parent)
        (snapshot / "b.parquet").symlink_to(tmp_path / "cache" / "blobs" / "secret.parquet")
    else:
        snapshot = snapshot.rename(tmp_path / "cache" / "plain")
        (snapshot / "b.parquet").symlink_to(tmp_path / "cache" / "blobs" / "abc0")
    with pytest.raises(DataError, match="leads out of"):
        open_source(Data(source=f"parquet:{snapshot}"), 0)


def test_a_file_whose_name_is_no_text(tmp_path):
    pictures_in(tmp_path / "set", 2, 8)
    (tmp_path / "set" / "000.png").rename(str(tmp_path / "set") + "/\udcff.png")
    with pytest.raises(DataError, match="the name of this file is not UTF-8"):
        open_source(Data(source=f"imagefolder:{tmp_path / 'set'}"), 0)


def test_the_command_says_which_split_to_give(tmp_path):
    for i, name in enumerate(("train", "test")):
        parquet(tmp_path / "data" / f"{name}-0.parquet", seed=i)
    told = difflab("compare", tmp_path, tmp_path)
    assert told.returncode == 2 and told.stderr.count("\n") == 1 and "data/train-0.parquet" in told.stderr
