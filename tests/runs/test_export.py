from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difflab.config import Data, parse
from difflab.core.errors import ConfigError, DataError
from difflab.core.files import write_json
from difflab.core.hashing import content_hash
from difflab.data.registry import open_source
from difflab.runs.export import export
from difflab.runs.run import Run

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)


@pytest.fixture
def run(tmp_path) -> Run:
    """A run of which generation 1 has been sampled."""
    config = parse(
        {
            "model": {"family": "memoriser"},
            "generations": 2,
            "sample": {"count": 5, "shard_size": 3, "batch_size": 3},
        }
    )
    run = Run.create(tmp_path / "run", config)
    write_json(
        run.path / "real" / "about.json",
        {"n_train": 5, "n_held_out": 5, "record": [6, 6, 3], "shard_size": 5, "classes": ["a", "b"]},
    )
    shards = run.samples(1)
    for k in shards.shards:
        span = shards.span(k)
        own = {"class": ["ä", None][k], "prompt": [None, "a red cat"][k], "label": [0, None][k]}
        shards.write(
            k, PIXELS[span.start : span.stop], {"generation": 1, "seed": [10 + i for i in span], **own}
        )
    write_json(run.gen(1) / "sampled.json", {"hash": shards.hash(), "depth": 2, "mean_depth": 1.5})
    run.close()
    return run


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_pictures_and_metadata_agree(run, tmp_path):
    assert export(run, 1, tmp_path / "deep" / "out") == 5
    folder = tmp_path / "deep" / "out"
    assert sorted(p.name for p in folder.iterdir()) == [f"{i:06d}.png" for i in range(5)] + ["metadata.jsonl"]
    for i, line in enumerate(lines(folder)):
        pixels = np.asarray(Image.open(folder / line["file_name"]))
        assert (pixels == PIXELS[i]).all() and line["sha256"] == content_hash(pixels)
        assert line["seed"] == 10 + i and line["generation"] == 1
    assert [line["text"] for line in lines(folder)] == ["ä"] * 3 + ["a red cat"] * 2
    assert not list(tmp_path.glob("**/.*tmp"))


def test_hugging_face_datasets_reads_the_folder(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    export(run, 1, tmp_path / "out")
    read = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert (np.asarray(read[4]["image"]) == PIXELS[4]).all()
    assert read[4]["text"] == "a red cat"


def test_an_empty_folder_may_be_the_target(run, tmp_path):
    (tmp_path / "out").mkdir()
    assert export(run, 1, tmp_path / "out") == 5


@pytest.mark.parametrize("what", ["file", "full folder"])
def test_nothing_of_others_is_overwritten(run, tmp_path, what):
    target = tmp_path / "out"
    if what == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    with pytest.raises(DataError, match="exists and is not empty"):
        export(run, 1, target)
    assert (target if what == "file" else target / "mine").read_text() == "mine"


@pytest.mark.parametrize("generation", [0, 2, 3, -1])
def test_a_generation_without_samples_is_refused_and_the_others_are_named(run, tmp_path, generation):
    with pytest.raises(ConfigError, match=rf"no samples of generation {generation}; it has \[1\]"):
        export(run, generation, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_shard_leaves_no_half_folder(run, tmp_path):
    run.samples(1).path(1).unlink()
    with pytest.raises(Exception, match=r"00001\.parquet is missing"):
        export(run, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_are_no_pictures(tmp_path):
    config = parse({"data": {"source": "exact", "train_size": 5}, "model": {"family": "gaussian"}})
    with pytest.raises(ConfigError, match="nothing to export as pictures"):
        export(Run(tmp_path, config), 0, tmp_path / "out")


@pytest.mark.parametrize("classes", [True, False])
def test_difflab_reads_what_it_has_exported(tmp_path, classes):
    """Every line end of Unicode in a caption, which JSON may write as it is."""
    texts = ["u\u2028v", "u\u2029v\x85w", 'v\x0bt\x0c "quoted"\t\\', "two\r\nlines", "\ufeffé 🙂"]
    run = Run.create(
        tmp_path / "run",
        parse({"model": {"family": "memoriser"}, "sample": {"count": 5, "shard_size": 5, "batch_size": 5}}),
    )
    write_json(
        run.path / "real" / "about.json",
        {"n_train": 5, "n_held_out": 5, "record": [6, 6, 3], "shard_size": 5, "classes": ["a", "b"]},
    )
    own = {"prompt": texts, **({"class": list("aabba"), "label": [0, 0, 1, 1, 0]} if classes else {})}
    run.samples(0).write(0, PIXELS, {"generation": 0, "seed": list(range(5)), **own})
    write_json(run.gen(0) / "sampled.json", {"depth": 1, "mean_depth": 1.0})
    run.close()
    export(run, 0, tmp_path / "out")
    source = open_source(Data(source=f"imagefolder:{tmp_path / 'out'}"), 0)
    assert source.prompts == texts and all((source.read(i) == PIXELS[i]).all() for i in range(5))
    assert (source.classes, None if source.labels is None else source.labels.tolist()) == (
        (["0", "1"], [0, 0, 1, 1, 0]) if classes else (None, None)
    )
    assert source.account.lines() == ["all 5 images are read"]


@pytest.mark.parametrize("with_prompts", [False, True])
def test_what_is_signed_about_each_sample(run, tmp_path, with_prompts):
    """The prompt is stated only if that was asked for; its hash is always stated."""
    stated = {}

    def sign(image: bytes, name: str, statement: dict, inputs: object = None) -> bytes:
        stated[name] = statement
        return image

    export(run, 1, tmp_path / "out", sign, with_prompts)
    first, last = stated["000000.png"], stated["000004.png"]
    assert (last["generation"], last["depth"], last["seed"]) == (1, 2, 14)
    assert last["sha256_of_pixels"] == content_hash(PIXELS[4])
    assert last["sha256_of_prompt"] == hashlib.sha256(b"a red cat").hexdigest()
    assert last.get("prompt") == ("a red cat" if with_prompts else None)
    assert not {"prompt", "sha256_of_prompt"} & first.keys()  # it has none
