"""The bundled emoji: complete, aligned across styles, licensed, readable by `datasets`."""

import importlib.util
import io
from collections import Counter, defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.content import joined
from difflab.data.emoji import FOLDER
from difflab.data.registry import open_source


@pytest.fixture(scope="module")
def emoji():
    return open_source(Data(source="emoji"), 0)


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_emoji", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_counts(emoji):
    assert Counter(emoji.attributes["style"]) == {"noto": 1905, "twemoji": 1906, "fluent": 1852}
    assert len(set(emoji.attributes["concept"])) == 1906
    assert len(emoji.classes) == 9 and "Component" not in emoji.classes
    assert len(set(emoji.keys)) == len(emoji) == 5663


def test_file_sizes():
    sizes = [path.stat().st_size for path in FOLDER.glob("*.parquet")]
    assert max(sizes) <= 2 * 2**20 and sum(sizes) <= 8 * 2**20


def test_every_image_decodes_to_an_opaque_square(emoji):
    for index in range(0, len(emoji), 7):
        image = emoji.read(index)
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        assert image.std() > 1, f"{emoji.keys[index]} is blank"


def test_pictures_of_one_concept_agree_across_styles(emoji):
    """Names alone cannot show a shifted table: the colours of a concept must be nearer than those of another
    concept.
    """
    places = defaultdict(dict)
    for index, (style, concept) in enumerate(
        zip(emoji.attributes["style"], emoji.attributes["concept"], strict=True)
    ):
        places[concept][style] = index
    complete = [place for place in places.values() if len(place) == 3][::6]
    mean = {
        s: np.array([emoji.read(p[s]).reshape(4, 8, 4, 8, 3).mean((1, 3)).ravel() for p in complete])
        for s in ("noto", "twemoji", "fluent")
    }
    for style in ("twemoji", "fluent"):
        distance = np.linalg.norm(mean["noto"][:, None] - mean[style][None], axis=2)
        rank = (distance < distance.diagonal()[:, None]).mean(1)
        assert np.median(rank) < 0.02, style


def test_known_pictures(emoji):
    flag = emoji.read(emoji.prompts.index("twemoji flag of France")).astype(int)
    left, right = flag[16, 4], flag[16, 27]
    assert left[2] > left[0] + 50 and right[0] > right[2] + 50, "blue on the left, red on the right"
    apple = emoji.read(emoji.prompts.index("noto red apple")).astype(int)
    assert apple[20, 16, 0] > apple[20, 16, 1] + 80


def test_captions(emoji):
    assert "noto grinning face" in emoji.prompts and "fluent flag of Japan" in emoji.prompts
    assert not any(
        prompt.lower().endswith(" flag") and emoji.attributes["subcategory"][i] == "country-flag"
        for i, prompt in enumerate(emoji.prompts)
    )
    assert len(set(emoji.prompts)) == len(emoji)


def test_groups_hold_concepts_and_identical_pictures(emoji):
    group = dict(
        zip(
            zip(emoji.attributes["style"], emoji.attributes["concept"], strict=True),
            emoji.groups.tolist(),
            strict=True,
        )
    )
    assert group["noto", "red apple"] == group["fluent", "red apple"] != group["noto", "green apple"]
    assert group["twemoji", "flag of Norway"] == group["noto", "flag of Bouvet Island"]
    assert emoji.groups.dtype == np.int64


def test_joined_is_transitive():
    assert joined(["a", "a", "b", "c"], [1, 2, 2, 3]).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(("label", "classes"), [("style", 3), ("subcategory", 98), ("concept", 1906)])
def test_labels(label, classes):
    source = open_source(Data(source="emoji", label=label), 0)
    assert len(source.classes) == classes
    assert [source.classes[i] for i in source.labels[:50]] == source.attributes[label][:50]


def test_styles_size_and_colour():
    source = open_source(Data(source="emoji", styles=["fluent"], image_size=16, color="L"), 0)
    assert (
        set(source.attributes["style"]) == {"fluent"}
        and "MIT" in source.licence
        and "CC BY" not in source.licence
    )
    assert source.read(3).shape == (16, 16, 1)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"label": "colour"}, "use one of style, category, subcategory, concept"),
        ({"image_size": 64}, "at most data.image_size=32"),
        ({"styles": ["apple"]}, "'apple' is not among noto, twemoji, fluent"),
        ({"styles": ["openmoji"]}, "make.py --openmoji"),
        ({"styles": []}, "selects no image"),
    ],
)
def test_bad_options(options, what):
    with pytest.raises(DataError, match=what):
        open_source(Data(source="emoji", **options), 0)


def test_missing_asset(monkeypatch, tmp_path):
    monkeypatch.setattr("difflab.data.emoji.FOLDER", tmp_path)
    with pytest.raises(DataError, match=r"contains no emoji; reinstall difflab"):
        open_source(Data(source="emoji"), 0)


def test_schema_tells_datasets_that_it_holds_images():
    datasets = pytest.importorskip("datasets")
    from datasets import Features

    schema = pq.read_schema(FOLDER / "twemoji-0.parquet")
    features = Features.from_arrow_schema(schema)
    assert isinstance(features["image"], datasets.Image)
    assert features["text"].dtype == "string"


def test_notice_covers_every_style():
    notice = (FOLDER / "NOTICE").read_text()
    for path in FOLDER.glob("*.parquet"):
        assert f"{path.stem.split('-')[0]}-*.parquet" in notice
    for words in (
        "Apache License",
        "CC BY 4.0",
        "Cal Henderson",
        "Microsoft",
        "openmoji-*.parquet  NOT bundled",
    ):
        assert words in notice


# -------------------------------------------------------------------------------------------------- make.py
def test_transparent_pixels_do_not_bleed(make):
    """A red disc whose transparent surround is black inside: no dark rim, and plain white outside."""
    pixels = np.zeros((64, 48, 4), np.uint8)
    pixels[16:48, 16:32] = (255, 0, 0, 255)
    image = np.array(make.square_on_white(Image.fromarray(pixels), 32))
    assert image.shape == (32, 32, 3)
    assert image[..., 0].min() == 255, "white to red passes through no dark colour"
    assert np.all(image[:, :10] == 255) and np.all(image[16, 14:18] == (255, 0, 0))


def test_webp_is_lossless(make):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(
        np.array(Image.open(io.BytesIO(make.lossless_webp(Image.fromarray(pixels))))), pixels
    )


def test_shards_are_even_and_reproducible(make, tmp_path, monkeypatch):
    monkeypatch.setattr(make, "SHARD_BYTES", 400)
    row = {"category": "c", "subcategory": "s", "concept": "x", "codepoints": "1f600"}
    rows = [make.record("noto", row, Image.new("RGB", (8, 8), (i, 0, 0))) for i in range(20)]
    first = [(path.name, path.read_bytes()) for path in make.write_shards(rows, "noto", tmp_path)]
    again = [(path.name, path.read_bytes()) for path in make.write_shards(rows, "noto", tmp_path)]
    assert first == again and len(first) > 1
    counts = [pq.read_metadata(tmp_path / name).num_rows for name, _ in first]
    assert sum(counts) == 20 and max(counts) - min(counts) <= 2


def test_wrong_or_missing_archive(make, tmp_path):
    with pytest.raises(SystemExit, match="npm pack"):
        make.main(["--archives", str(tmp_path), "--out", str(tmp_path)])
    (tmp_path / make.ARCHIVES["noto"][0]).write_bytes(b"something else")
    with pytest.raises(SystemExit, match="not the pinned version"):
        make.main(["--archives", str(tmp_path), "--out", str(tmp_path)])
