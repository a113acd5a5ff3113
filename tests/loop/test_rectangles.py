"""Chains over images that are not square."""

from __future__ import annotations

import io
from itertools import product
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from sized_folders import CLASSES, folder

from difflab.config import Data, Sample, parse
from difflab.core.errors import ConfigError, DataError
from difflab.core.shape import Shape
from difflab.data.registry import open_source
from difflab.evaluation.compare import compare
from difflab.evaluation.diagnose import diagnose_run
from difflab.loop import chain
from difflab.loop.chain import run_chain
from difflab.loop.ingest import divided
from difflab.loop.plan import costs_of
from difflab.models.latent import Latent
from difflab.report.detail import detail
from difflab.runs.export import export
from difflab.runs.run import Run
from difflab.runs.verify import verify

pytestmark = tiny.LIBRARIES
MODELS: dict[str, dict[str, Any]] = {
    "pixel-mlp": {"family": "pixel-mlp", "width": 96, "depth": 2},
    "pixel-unet": {
        "family": "pixel-unet",
        "channels": [8, 8],
        "layers_per_block": 1,
        "norm_groups": 4,
        "attention": [False, True],
    },
}


def settings(images: Any, model: str, size: Any = None, **data: Any) -> Any:
    return parse(
        {
            "name": "rectangles",
            "generations": 2,
            "data": {"source": f"imagefolder:{images}", "image_size": size, **data},
            "model": MODELS[model],
            "train": {"images_seen": 2400, "batch_size": 32, "learning_rate": 5e-3, "ema_decay": 0.9},
            "sample": {"count": 32, "steps": 10, "batch_size": 16, "shard_size": 16},
            "measure": {
                "extractors": ["pixels", "texture", "artefacts", "fitted"],
                "metrics": ["fd", "recall", "class_accuracy", "sharpness_shift", "blocking_shift"],
                "resamples": 0,
                "held_out_loss": 8,
            },
        }
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """140 pictures of 12 x 8 pixels."""
    return folder(tmp_path_factory.mktemp("wide"), [(8, 12)], 70)


@pytest.fixture(scope="module")
def runs(wide, tmp_path_factory) -> dict[str, Run]:
    made = {}
    for name in MODELS:
        size = [8, 12] if name == "pixel-mlp" else None  # null: the images' own size, which is the same
        made[name] = run_chain(settings(wide, name, size), tmp_path_factory.mktemp("runs") / name)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_a_chain_draws_stores_and_measures_rectangles(name, runs, tmp_path):
    run = runs[name]
    assert run.about["record"] == [8, 12, 3] and run.shape.size == (8, 12)
    assert list(verify(run)) == [] and run.generations == [0, 1, 2]
    for t in range(3):
        shards = run.samples(t)
        assert shards.gather(np.array([0, 31])).shape == (2, 8, 12, 3)
        assert shards.column("flag") == [None] * 32
        with Image.open(io.BytesIO(shards.table(0)["image"][3]["bytes"].as_py())) as image:
            assert image.size == (12, 8)
    measured = {(row["metric"], row["extractor"]) for row in run.numbers() if row["generation"] == 2}
    wanted = {*product(["fd", "recall", "class_accuracy"], ["pixels"]), ("sharpness_shift", "texture")}
    assert wanted <= measured and ("held_out_loss", "training") in measured
    assert export(run, 2, tmp_path / "out") == 32
    with Image.open(tmp_path / "out" / "000003.png") as image:
        assert image.size == (12, 8)


@pytest.mark.parametrize("name", MODELS)
def test_the_model_learns_which_way_the_ramps_run(name, runs):
    """Height and width are not exchanged anywhere: the brightness of samples changes along the width alone."""
    run = runs[name]
    x = run.samples(0).gather(np.arange(32)).astype(float).mean(3)
    labels = np.array(run.samples(0).labels())
    slope = x[:, :, 6:].mean((1, 2)) - x[:, :, :6].mean((1, 2))
    rising = CLASSES.index("rising")
    names = run.about["classes"]
    sign = np.where(np.array([names[label] for label in labels]) == CLASSES[rising], 1, -1)
    assert (slope * sign > 20).mean() > 0.9, slope * sign
    down = np.abs(x[:, 4:].mean((1, 2)) - x[:, :4].mean((1, 2)))
    assert np.median(down) < 15


def test_pictures_of_the_run_have_cells_of_the_aspect_ratio(runs):
    grid, strip = runs["pixel-mlp"].grid(1), runs["pixel-mlp"].strip()
    # Cells of 8 x 12 pixels are enlarged 6 times. The grid has two of them in a column.
    cells = np.asarray(grid)[-2 * 51 - 12 : -12]
    assert cells.shape[0] == 102 and grid.width >= 2 * (72 + 3)
    assert strip.height > 4 * 51


def test_the_report_and_a_diagnosis_take_them(runs):
    shown = detail("one", runs["pixel-mlp"], 1, None)
    assert shown["pictures"]["side"] == 12 and "12 x 8 px" in dict(shown["asked"])["real images"]
    assert len(shown["spectra"]["real"]) == len(shown["spectra"]["frequency"]) == 3
    found = diagnose_run(runs["pixel-mlp"], resamples=20)
    assert len(found.findings) == 3


def test_images_that_all_have_one_size_are_compared_as_they_are(wide, runs, tmp_path):
    export(runs["pixel-mlp"], 0, tmp_path / "out")
    result = compare(wide, tmp_path / "out", extractors=["pixels"], metrics=["fd"], resamples=0)
    assert not any("resized" in note or "cropped" in note for note in result.notes)
    square = compare(wide, tmp_path / "out", extractors=["pixels"], metrics=["fd"], resamples=0, image_size=8)
    assert any("12 x 8 px; the central square of each is resized to 8 px" in note for note in square.notes)
    half = compare(
        wide, tmp_path / "out", extractors=["pixels"], metrics=["fd"], resamples=0, image_size=[4, 6]
    )
    assert any("each is cropped around its centre and is resized to 6 x 4 px" in note for note in half.notes)
    assert len({r["fd"]["value"] for r in (result, square, half)}) == 3
    with pytest.raises(DataError, match=r"image_size must be one number of pixels for a square, or \[H, W\]"):
        compare(wide, tmp_path / "out", image_size=[4, 6, 8])


@pytest.mark.parametrize("size", [[8, 12], [12, 8], [8, 16]])
def test_the_plan_opens_and_measures_such_a_network(size, wide):
    data = {"source": "photos"} if size == [12, 8] else {}
    config = settings(wide, "pixel-unet", size, **data)
    notes: list[str] = []
    costs = costs_of(config, [], notes)
    assert {cost.stage for cost in costs} >= {"train", "sample"}
    assert divided(config)[0].size == tuple(size)


@pytest.mark.parametrize("source", ["digits", "emoji", "photos"])
def test_bundled_sets_can_be_cropped_to_rectangles(source):
    opened = open_source(Data(source=source, image_size=[8, 6]), 0)
    assert opened.read(0).shape[:2] == (8, 6) == opened.size


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            [9, 12],
            r"data\.image_size=\[9,12\] is not a multiple of 2, .*; use data\.image_size=\[8,12\]",
        ),
        ([8, 13], r"data\.image_size=\[8,13\] is not a multiple of 2, .*; use data\.image_size=\[8,1[24]\]"),
    ],
)
def test_a_size_that_the_network_cannot_halve(size, message, wide, tmp_path, monkeypatch):
    monkeypatch.setattr(chain, "open_extractors", lambda work: pytest.fail("an extractor is fitted first"))
    with pytest.raises(ConfigError, match=message):
        run_chain(settings(wide, "pixel-unet", size), tmp_path / "run")


@pytest.mark.parametrize(
    "size", [[8], [8, 12, 3], [0, 8], [8, -8], ["8", "8"], [8.0, 8], "8x12", {}, [[8, 8]]]
)
def test_values_that_are_no_size(size):
    with pytest.raises(
        ConfigError, match=r"'data.image_size': must be one number of pixels for a square, or"
    ):
        parse({"data": {"image_size": size}, "model": MODELS["pixel-mlp"]})


def test_equal_sides_are_the_same_recipe_as_one_number():
    assert Data(image_size=[16, 16]) == Data(image_size=16)


# -------------------------------------------------------------------------------------- pretrained bases
@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {kind: tiny.make(kind, root / kind) for kind in ("sd15", "sdxl", "sd3")}


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_pictures_are_those_of_the_plain_pipeline_at_that_height_and_width(kind, guidance, bases):
    """At most one level of 255 off. With height and width exchanged they would have another shape."""
    how = Sample(**tiny.sampler(kind), guidance_scale=guidance)
    seeds, asked = [20, 21, 22], [4, 0, 2]
    model: Latent = tiny.model(kind, bases[kind], Shape((16, 24, 3), 0, tiny.CAPTIONS))
    model.prepare_sampling(how, "cpu")
    ours = model.sample(np.array(asked), seeds, how).astype(int)
    pipe = tiny.pipeline(kind, bases[kind])
    prompts = [tiny.CAPTIONS[i] for i in asked]
    theirs = tiny.pictures(pipe, prompts, seeds, how, size=(16, 24)).astype(int)
    assert ours.shape == (3, 16, 24, 3) and np.abs(ours - theirs).max() <= 1


def test_sdxl_is_told_height_before_width(bases):
    model = tiny.model("sdxl", bases["sdxl"], Shape((16, 24, 3), 0, tiny.CAPTIONS))
    model.prepare_sampling(Sample(**tiny.sampler("sdxl")), "cpu")
    told = []
    forward = model.net.forward

    def listen(*args, added_cond_kwargs, **more):
        told.append(added_cond_kwargs["time_ids"])
        return forward(*args, added_cond_kwargs=added_cond_kwargs, **more)

    model.net.forward = listen
    with torch.no_grad():
        model.predict(model.net, torch.zeros(2, *model.drawn), torch.zeros(2, dtype=torch.long), None)
    assert told[0].tolist() == [[16, 24, 0, 0, 16, 24]] * 2
    pipe = tiny.pipeline("sdxl", bases["sdxl"])
    theirs = pipe._get_add_time_ids((16, 24), (0, 0), (16, 24), torch.float32, tiny.WIDTH)
    assert torch.equal(told[0][:1], theirs)


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_a_chain_of_a_pretrained_base(kind, bases, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    source = folder(tmp_path / "set", [(16, 24)], 12, captions=True)
    config = tiny.config(
        kind,
        bases[kind],
        generations=2,
        data={"source": f"imagefolder:{source}", "image_size": [16, 24], "limit": None, "label": None},
        probe={"per_condition": 2},
    )
    run = run_chain(config, tmp_path / "run")
    assert run.samples(2).gather(np.arange(10)).shape == (10, 16, 24, 3) and list(verify(run)) == []
    rows = run.samples(2).table(0, ["prompt", "seed"])
    pipe = tiny.pipeline(kind, run.gen(2) / "model")
    theirs = tiny.pictures(
        pipe, rows["prompt"].to_pylist(), rows["seed"].to_pylist(), config.sample, size=(16, 24)
    )
    assert np.abs(theirs.astype(int) - run.samples(2).decode(0)).max() <= 2
    assert run.grid(2).size == (178, 244)  # two rows of two cells of 72 x 48


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        (
            "sd15",
            [15, 24],
            r"data\.image_size=\[15,24\] is not a multiple of 2, .*use data\.image_size=\[1[46],24\]",
        ),
        (
            "sd3",
            [16, 26],
            r"data\.image_size=\[16,26\] is not a multiple of 4, .*use data\.image_size=\[16,2[48]\]",
        ),
        ("sd3", [16, 40], "do not fit together|pos_embed|exceed|Height"),
    ],
)
def test_a_size_that_the_base_cannot_pack(kind, size, message, bases, tmp_path):
    source = folder(tmp_path / "set", [(16, 32)], 12, captions=True)
    config = tiny.config(
        kind,
        bases[kind],
        data={"source": f"imagefolder:{source}", "image_size": size, "limit": None, "label": None},
    )
    with pytest.raises((ConfigError, DataError), match=message):
        run_chain(config, tmp_path / "run")
