"""Captions and labels beside the images: every form that people have, and what each refusal says."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import folder as pictures_in

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.registry import open_source

TEXTS = [
    "a cat",
    "line\u2028separator",
    "next\x85line",
    "tab\x0bfeed, \"quoted\" and 'so'",
    "two\nlines",
    "\ufeffmark",
]


def opened(root, **options):
    return open_source(Data(source=f"imagefolder:{root}", **options), 0)


def rows(n=6, **columns):
    return [
        {"file_name": f"{i:03d}.png", **{name: values[i] for name, values in columns.items()}}
        for i in range(n)
    ]


def as_jsonl(root, listed, mark=b""):
    lines = [
        json.dumps(row, ensure_ascii=False).replace("\\u000b", "\x0b") for row in listed
    ]  # unescaped, as other tools write it
    (root / "metadata.jsonl").write_bytes(mark + ("\n".join(lines) + "\n").encode())


def as_csv(root, listed, mark=b""):
    with open(root / "metadata.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, listed[0])
        writer.writeheader()
        writer.writerows(listed)
    (root / "metadata.csv").write_bytes(mark + (root / "metadata.csv").read_bytes())


def as_parquet(root, listed, mark=b""):
    pq.write_table(pa.Table.from_pylist(listed), root / "metadata.parquet")


FORMS = {"jsonl": as_jsonl, "csv": as_csv, "parquet": as_parquet}
MARKS = {"none": b"", "utf-8": b"\xef\xbb\xbf"}


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("form", FORMS)
def test_captions_come_through_every_table_as_they_are(form, mark, tmp_path):
    root = pictures_in(tmp_path / "set", 6, 8)
    FORMS[form](root, rows(text=TEXTS, label=[3, 3, 10, 10, 3, 3], caption=list("abcdef")), MARKS[mark])
    source = opened(root)
    assert (
        source.prompts == TEXTS
        and source.classes == ["3", "10"]
        and source.labels.tolist() == [0, 0, 1, 1, 0, 0]
    )
    assert source.account.ignored == {} and source.columns == ("file_name", "text", "label", "caption")
    assert opened(root, caption_column="caption").prompts == list("abcdef")
    with pytest.raises(
        DataError,
        match=r"no column 'title', which data.caption_column names "
        r"\(its columns: file_name, text, label, caption\)",
    ):
        opened(root, caption_column="title")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("column", "field"), [("caption", None), ("prompt", None), ("description", "description")]
)
def test_the_caption_may_be_in_another_column(form, column, field, tmp_path):
    root = pictures_in(tmp_path / "set", 6, 8)
    FORMS[form](root, rows(**{column: TEXTS}))
    assert opened(root, caption_column=field).prompts == TEXTS


def test_a_column_that_nobody_asked_for_is_named_where_captions_are_wanted(tmp_path):
    root = pictures_in(tmp_path / "set", 6, 8)
    as_jsonl(root, rows(title=TEXTS))
    assert opened(root).prompts is None
    with pytest.raises(
        DataError, match=r"known fields: none; columns that data.caption_column may name: file_name, title"
    ):
        opened(root, caption="{prompt}, a photo")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_encodings_with_a_mark_are_read(encoding, tmp_path):
    root = pictures_in(tmp_path / "set", 6, 8)
    (root / "metadata.jsonl").write_bytes(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows(text=TEXTS)).encode(encoding)
    )
    assert opened(root).prompts == TEXTS


def test_columns_of_csv_that_look_like_numbers_and_are_names(tmp_path):
    root = pictures_in(tmp_path / "set", 6, 8)
    as_csv(root, rows(label=["007", "007", "010", "010", "007", "007"]))
    assert opened(root).classes == ["007", "010"]


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        (
            "metadata.jsonl",
            b'{"file_name": "000.png", "text": "a"}\n{"file_name": "001.png", "text": "half \\ud83d"}',
            "line 2: .*half of a surrogate pair",
        ),
        (
            "metadata.jsonl",
            b'{"file_name": "000.png", "label": "\\udc00"}',
            "line 1: .*half of a surrogate pair",
        ),
        (
            "metadata.jsonl",
            b'{"file_name": "\\udc00.png", "text": "a"}',
            "line 1: .*half of a surrogate pair",
        ),
        (
            "metadata.jsonl",
            b'{"file_name": "000.png", "text": "a"}\n{"file_name": "001.png", "text": "\xff"}',
            "line 2: cannot be read as UTF-8",
        ),
        ("metadata.jsonl", b"[" * 100_000, "line 1: not valid JSON"),
        (
            "metadata.jsonl",
            b'{"file_name": "000.png", "text": ["a", "b"]}',
            "line 1: 'text' must be a string, not list; set data.caption_column to another column",
        ),
        ("metadata.csv", b'file_name,text\n000.png,"a\nb"\n001.png,\xff', "line 4: cannot be read as UTF-8"),
        (
            "metadata.csv",
            b"file_name,text\n000.png,a\n001.png,b,c",
            "line 3 has 3 cells, but the first line has 2",
        ),
        ("metadata.csv", b"file_name,text,text\n000.png,a,b", "line 1: there are two columns 'text'"),
        ("metadata.csv", b'file_name,text\n000.png,"a', "line 2: not valid CSV"),
        (
            "metadata.csv",
            b"file_name,text\n000.png,a\n001.png,",
            "line 3 has no 'text', but other images have one",
        ),
        ("metadata.csv", b"image,text\n000.png,a", "line 2 has no 'file_name'"),
        ("metadata.csv", b"", "lists no image"),
        ("metadata.parquet", b"PAR1", "cannot be read as a parquet file"),
    ],
)
def test_refusals_name_file_and_line(name, raw, said, tmp_path):
    root = pictures_in(tmp_path / "set", 4, 8)
    (root / name).write_bytes(raw)
    with pytest.raises(DataError, match=rf"{name}.*{said}") as refused:
        opened(root)
    assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match=said):  # captions are errors whatever becomes of bad images
        opened(root, bad_images="skip")


def test_two_tables_and_one_deeper_down_are_refused(tmp_path):
    root = pictures_in(tmp_path / "set", 6, 8)
    as_jsonl(root, rows(text=TEXTS))
    as_csv(root, rows(text=TEXTS))
    with pytest.raises(DataError, match=r"metadata.csv and metadata.jsonl; keep one"):
        opened(root)
    deep = pictures_in(tmp_path / "deep" / "cat", 6, 8)
    as_jsonl(deep, rows(text=TEXTS))
    with pytest.raises(
        DataError, match=r"cat/metadata.jsonl is not read: the metadata file must be at the top"
    ):
        opened(tmp_path / "deep")


# ------------------------------------------------------------------------------------------------- sidecars
def with_sidecars(root, texts, suffix=".txt", mark=b""):
    for i, text in enumerate(texts):
        (root / f"{i:03d}{suffix}").write_bytes(mark + text.encode() + b"\n")
    return root


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".caption"])
@pytest.mark.parametrize("mark", MARKS)
def test_text_files_beside_the_images_are_captions(suffix, mark, tmp_path):
    root = with_sidecars(pictures_in(tmp_path / "set", 5, 8), TEXTS[:5], suffix, MARKS[mark])
    (root / "readme.txt").write_text("not of an image")
    source = opened(root)
    assert source.prompts == TEXTS[:5] and source.labels is None and source.account.ignored == {".txt": 1}


def test_images_without_a_text_file_are_named_when_others_have_one(tmp_path):
    root = with_sidecars(pictures_in(tmp_path / "set", 5, 8), TEXTS[:3])
    with pytest.raises(
        DataError, match=r"003.png has no 003.txt beside it, but other images have such a file"
    ):
        opened(root)


def test_a_text_file_that_is_no_text(tmp_path):
    root = with_sidecars(pictures_in(tmp_path / "set", 2, 8), ["a", "b"])
    (root / "001.txt").write_bytes(b"one\n\xfftwo")
    with pytest.raises(DataError, match=r"001.txt, line 2: cannot be read as UTF-8"):
        opened(root, bad_images="skip")


def test_which_captions_are_taken_can_be_said(tmp_path):
    root = with_sidecars(pictures_in(tmp_path / "set", 6, 8), list("abcdef"))
    with_sidecars(root, list("ghijkl"), ".caption")
    assert opened(root).prompts == list("abcdef")
    assert opened(root, caption_column=".caption").prompts == list("ghijkl")
    as_jsonl(
        root, rows(label=[0, 0, 1, 1, 0, 1])
    )  # labels alone: the captions are still those beside the images
    assert opened(root).prompts == list("abcdef") and opened(root).classes == ["0", "1"]
    as_jsonl(root, rows(text=TEXTS))
    assert opened(root).prompts == TEXTS and opened(root, caption_column=".txt").prompts == list("abcdef")
    with pytest.raises(DataError, match=r"its columns: file_name, text, .txt, .caption"):
        opened(root, caption_column="prompt")


# ------------------------------------------------------------------------------------- folders with repeats
def test_folders_with_repeats_give_class_and_caption(tmp_path):
    for name, n in (("10_sks dog", 2), ("5_sks dog", 1), ("1_a cat_tabby", 2)):
        pictures_in(tmp_path / name, n, 8, seed=n)
    source = opened(tmp_path)
    assert (
        source.classes == ["a cat_tabby", "sks dog"]
        and source.labels.tolist() == [1, 1, 0, 0, 1]
        and len(source) == 5
    )
    assert source.prompts == ["sks dog", "sks dog", "a cat_tabby", "a cat_tabby", "sks dog"]
    assert (
        "the 3 folders are 2 classes; the class is NAME" in source.account.lines()[1]
        and "REPEATS is ignored" in source.account.lines()[1]
    )
    with_sidecars(tmp_path / "10_sks dog", ["x", "y"])
    with_sidecars(tmp_path / "5_sks dog", ["z"])
    with_sidecars(tmp_path / "1_a cat_tabby", ["v", "w"])
    assert (
        opened(tmp_path).prompts == ["x", "y", "v", "w", "z"] and opened(tmp_path).classes == source.classes
    )


@pytest.mark.parametrize(
    "names", [("10_dog", "cat"), ("001_dog", "002_cat"), ("0_dog", "1_cat"), ("10-dog", "11-cat"), ("3", "4")]
)
def test_other_folders_are_classes_by_their_whole_name(names, tmp_path):
    for name in names:
        pictures_in(tmp_path / name, 2, 8)
    source = opened(tmp_path)
    assert source.classes == sorted(names) and source.prompts is None and not source.account.notes


# ------------------------------------------------------------------------------------- labels that are none
@pytest.mark.parametrize("form", [*FORMS, "rows"])
@pytest.mark.parametrize("label", [list(range(6)), list("uvwxyz")])
def test_a_label_that_is_a_row_number_is_refused_and_can_be_switched_off(form, label, tmp_path):
    root = pictures_in(tmp_path / "set", 6, 8)
    if form == "rows":
        pq.write_table(
            pa.table({"image": [(root / f"{i:03d}.png").read_bytes() for i in range(6)], "label": label}),
            tmp_path / "a.parquet",
        )
        source = f"parquet:{tmp_path / 'a.parquet'}"
    else:
        FORMS[form](root, rows(label=label))
        source = f"imagefolder:{root}"
    with pytest.raises(DataError, match=r"each of the 6 images has a different label .*data.label=none"):
        open_source(Data(source=source), 0)
    opened = open_source(Data(source=source, label="none"), 0)
    assert opened.labels is None and opened.classes is None and len(opened) == 6


@pytest.mark.parametrize("name", ["digits", "emoji"])
def test_labels_of_other_sources_can_be_switched_off(name, tmp_path):
    source = open_source(Data(source=name, label="none", limit=20), 0)
    assert source.labels is None and source.classes is None and len(source.prompts) == 20
    for folder in ("cat", "dog"):
        pictures_in(tmp_path / folder, 2, 8)
    assert opened(tmp_path, label="none").labels is None


def test_labels_of_other_types_say_how_to_go_on(tmp_path):
    root = pictures_in(tmp_path / "set", 6, 8)
    as_jsonl(root, rows(label=[0.5, 0.5, 1.5, 1.5, 0.5, 1.5]))
    with pytest.raises(DataError, match=r"not float; .*data.label=none"):
        opened(root)
    assert opened(root, label="none").labels is None
