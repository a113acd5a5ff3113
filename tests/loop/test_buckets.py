"""Chains over images of several aspect ratios (data.buckets)."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from bucket_runs import BUCKETS, SIZES, UNET, settings
from PIL import Image
from sized_folders import folder

from difflab.config import parse
from difflab.core.errors import ConfigError, DataError, MeasureError
from difflab.evaluation.diagnose import diagnose_run
from difflab.loop.chain import run_chain
from difflab.loop.conditions import sample_conditions, sample_sizes
from difflab.loop.plan import costs_of
from difflab.loop.sample import draw_sizes
from difflab.models import family_of
from difflab.models.pixel_unet import PixelUNet
from difflab.report.detail import detail
from difflab.runs.export import export
from difflab.runs.run import Run
from difflab.runs.verify import verify

pytestmark = tiny.LIBRARIES


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("set"), SIZES, 30)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory) -> Run:
    return run_chain(settings(images), tmp_path_factory.mktemp("runs") / "run", plots=False)


def shapes(pixels: np.ndarray) -> list[tuple[int, ...]]:
    return [image.shape[:2] for image in pixels]


def test_the_real_set_is_stored_in_its_buckets(run, images):
    about = run.about
    assert about["sizes"] == [[12, 8], [8, 8], [8, 12]] and about["record"] == [8, 12, 3]
    real = run.real
    every = real.gather(np.arange(len(real)))
    assert every.dtype == object and len(every) == 60
    assert np.array_equal(np.bincount(real.bucket), [12, 12, 36])
    for i in (0, 17, 59):
        with Image.open(images / real.column("key")[i]) as file:
            wanted = np.asarray(file.convert("RGB").resize(every[i].shape[1::-1], Image.Resampling.LANCZOS))
        assert np.array_equal(every[i], wanted), "pictures of these aspect ratios are not cropped"
    assert [(h, w) for h, w in zip(real.column("height"), real.column("width"), strict=True)] == shapes(every)
    assert any("8 x 12: 12, 8 x 8: 12, 12 x 8: 36" in line for line in run.came_in)


def test_samples_have_the_sizes_of_the_training_set_in_every_generation(run):
    n0 = run.about["n_train"]
    share = np.bincount(run.real.bucket[:n0], minlength=3) / n0
    for t in range(3):
        shards = run.samples(t)
        counts = np.bincount(shards.bucket, minlength=3)
        assert counts.sum() == 30 and np.abs(counts - 30 * share).max() <= 2
        assert shapes(shards.gather(np.arange(30))) == [shards.sizes[b] for b in shards.bucket]
        labels, real_labels = shards.labels(), run.real.labels()[:n0]
        for label in (0, 1):  # also within every class
            of_class = np.bincount(shards.bucket[labels == label], minlength=3) / (labels == label).sum()
            real = (
                np.bincount(run.real.bucket[:n0][real_labels == label], minlength=3)
                / (real_labels == label).sum()
            )
            assert np.abs(of_class - real).max() < 0.15
    assert not np.array_equal(run.samples(1).bucket, run.samples(2).bucket)


def test_verify_export_grid_and_report_take_them(run, tmp_path):
    assert list(verify(run)) == []
    assert export(run, 2, tmp_path / "out") == 30
    sizes = []
    for path in sorted((tmp_path / "out").glob("*.png")):
        with Image.open(path) as image:
            sizes.append(image.size[::-1])
    assert sizes == shapes(run.samples(2).gather(np.arange(30)))
    assert run.grid(2).size[0] >= 2 * 72 and run.strip().height > 4 * 72
    shown = detail("one", run, 1, None)
    assert shown["pictures"]["side"] == 12 and shown["spectra"] is None
    assert "3 sizes" in dict(shown["asked"])["real images"]
    rows = {(row["metric"], row["generation"]): row["value"] for row in run.numbers()}
    assert {("texture_distance", 2), ("blocking_shift", 0), ("held_out_loss", 1)} <= rows.keys()


def test_verify_finds_a_sample_of_another_size(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "copy")
    copy = Run.open(tmp_path / "copy")
    table = copy.samples(1).table(0)
    out = io.BytesIO()
    Image.new("RGB", (9, 9)).save(out, "PNG")
    cells = table["image"].to_pylist()
    cells[2] = {"bytes": out.getvalue(), "path": None}
    changed = table.set_column(
        0, table.schema.field("image"), pa.array(cells, table.schema.field("image").type)
    )
    pq.write_table(changed, copy.samples(1).path(0), compression="zstd", write_page_checksum=True)
    assert any("image 2 differs from its content hash" in fault for fault in verify(copy))


def files(path: Path) -> dict[str, bytes]:
    kept = {"samples", "model", "probe", "features"}
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file()
        and "cache" not in p.parts
        and (kept & set(p.relative_to(path).parts) or p.name == "metrics.jsonl")
    }


def test_the_order_of_the_buckets_in_the_config_has_no_meaning(run, images, tmp_path):
    config = settings(images, data={"buckets": BUCKETS[::-1]})
    assert config == run.config
    again = run_chain(config, tmp_path / "again", plots=False)
    assert files(again.path) == files(run.path)


def test_an_image_depends_on_its_seed_and_size_alone(run):
    """Another bucket beside it, another place in a batch or another batch do not change it."""
    model = family_of(run.config.model).load(run.config.model, run.shape, run.gen(1) / "model")
    how = run.config.sample
    model.prepare_sampling(how, "cpu")
    seeds, sizes = list(range(100, 112)), [(8, 12), (12, 8), (8, 8)] * 4
    conditions = np.arange(12) % 2
    whole = draw_sizes(model, conditions, seeds, how, sizes, lambda n: None)
    order = np.random.default_rng(0).permutation(12)
    mixed = draw_sizes(
        model, conditions[order], [seeds[i] for i in order], how, [sizes[i] for i in order], lambda n: None
    )
    for place, i in enumerate(order):
        assert np.array_equal(mixed[place], whole[i])
    alone = [i for i in range(12) if sizes[i] == (12, 8)]
    one = model.at((12, 8)).sample(conditions[alone], [seeds[i] for i in alone], how)
    assert all(np.array_equal(a, whole[i]) for a, i in zip(one, alone, strict=True))


def test_the_plan_counts_the_images_of_each_bucket(images):
    notes: list[str] = []
    costs_of(settings(images), [], notes)
    assert any(
        "buckets in pixels, and their images: 8 x 12: 12, 8 x 8: 12, 12 x 8: 36" in note for note in notes
    ), notes


def test_buckets_without_images_are_left_out_and_one_alone_is_a_size(images, tmp_path):
    config = settings(images, data={"buckets": [[8, 32], *BUCKETS, [32, 8]]}, generations=0)
    assert run_chain(config, tmp_path / "more", plots=False).about["sizes"] == [[12, 8], [8, 8], [8, 12]]
    wide = folder(tmp_path / "wide", [(24, 36)], 20)
    one = run_chain(settings(wide, generations=0), tmp_path / "one", plots=False)
    assert one.sizes == () and one.samples(0).gather(np.arange(5)).shape == (5, 8, 12, 3)


def test_an_unconditional_model_has_them_too(images, tmp_path):
    best = {"policy": "top_share", "share": 0.5, "reward": "sharpness"}
    config = settings(images, model={**UNET, "conditional": False}, generations=1, policies=[best])
    made = run_chain(config, tmp_path / "run", plots=False)
    assert len(made.kept(0)) == 15  # of every size
    trained = made.real.bucket[: made.about["n_train"]]  # as many images as samples
    assert np.array_equal(np.bincount(made.samples(1).bucket), np.bincount(trained))
    assert made.grid(1).width > 200


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_a_pretrained_base_is_trained_and_sampled_in_buckets(kind, tmp_path, monkeypatch):
    """Pictures of each size are those of the plain pipeline at that height and width."""
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    source = folder(tmp_path / "set", SIZES, 20, captions=True)
    config = tiny.config(
        kind,
        tiny.make(kind, tmp_path / "base"),
        generations=1,
        data={
            "source": f"imagefolder:{source}",
            "image_size": None,
            "buckets": [[16, 24], [16, 16], [24, 16]],
            "limit": None,
            "label": None,
        },
        measure={"extractors": ["texture"]},
        probe={"per_condition": 2},
    )
    made = run_chain(config, tmp_path / "run", plots=False)
    assert list(verify(made)) == [] and len(set(made.samples(1).bucket)) == 3
    pixels, prompts = made.samples(1).gather(np.arange(10)), made.samples(1).column("prompt")
    seeds = made.samples(1).column("seed")
    pipe = tiny.pipeline(kind, made.gen(1) / "model")
    for size in made.sizes:
        rows = [i for i in range(10) if pixels[i].shape[:2] == size]
        theirs = tiny.pictures(
            pipe, [prompts[i] for i in rows], [seeds[i] for i in rows], config.sample, size=size
        )
        ours = np.stack([pixels[i] for i in rows]).astype(int)
        assert np.abs(theirs.astype(int) - ours).max() <= 2
    # A caption comes with the size of an image that has it.
    conditions = sample_conditions(made, 1, 10)
    sizes = sample_sizes(made, 1, 10, conditions)
    known = {
        (prompt, size)
        for prompt, size in zip(
            made.real.column("prompt"), [made.sizes[b] for b in made.real.bucket], strict=True
        )
    }
    assert sizes is not None and set(zip(conditions.prompts or [], sizes, strict=True)) <= known


# ------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ([], r"must be a list of sizes \[\[H, W\], \.\.\.\], or"),
        ([8, 12], r"must be a list of sizes \[\[H, W\], \.\.\.\], or"),
        ("SDXL", r"must be a list of sizes"),
        (5, r"must be a list of sizes"),
        ([[8, 12], [8]], r"must be one number of pixels for a square, or \[H, W\]"),
        ([[8, 12], [0, 8]], r"must be one number of pixels"),
        (
            [[8, 12], [16, 24]],
            r"\[8, 12\] and \[16, 24\] have the same aspect ratio|\[16, 24\] and \[8, 12\] have",
        ),
        ({"size": 64, "step": 24}, r"size 64 is not a multiple of step 24"),
        ({"step": 64}, r"size: Field required; its keys are size, step, max_ratio"),
        ({"size": 64, "stp": 8}, r"stp: Extra inputs are not permitted; its keys"),
        ({"size": 8, "step": 2, "max_ratio": 16}, r"sides are not from 4 to 4096"),
        ({"size": 64, "step": 8, "max_ratio": 0.5}, r"max_ratio: Input should be greater than or equal to 1"),
    ],
)
def test_values_that_are_no_buckets(buckets, message, images):
    with pytest.raises(ConfigError, match=f"'data.buckets': .*({message})"):
        settings(images, data={"buckets": buckets})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"image_size": 8}}, "image_size and buckets are two ways to set the size; remove one"),
        (
            {"model": {"family": "pixel-mlp"}},
            "data.buckets needs a network that takes images of several sizes",
        ),
        (
            {"model": {"family": "memoriser"}},
            "data.buckets needs a network that takes images of several sizes",
        ),
        ({"measure": {"extractors": ["pixels"], "metrics": []}}, "'pixels' compares images of one size"),
        ({"measure": {"extractors": ["fitted"], "metrics": []}}, "'fitted' compares images of one size"),
        (
            {"policies": [{"policy": "early_stop", "count": 10, "every": 160}]},
            "early_stop needs images of one size",
        ),
        (
            {"data": {"buckets": [[8, 12], [9, 8]]}},
            r"data\.buckets: \[9, 8\] is not a multiple of 2, .*use \[8, 8\]",
        ),
    ],
)
def test_what_needs_images_of_one_size_refuses_buckets(changes, message, images, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run_chain(settings(images, **changes), tmp_path / "run")


@pytest.mark.parametrize("source", ["digits", "emoji", "photos"])
def test_bundled_sets_have_one_size(source, tmp_path):
    config = parse(
        {"data": {"source": source, "buckets": BUCKETS}, "model": UNET, "measure": {"extractors": []}}
    )
    with pytest.raises(DataError, match=r"data\.buckets applies only to your own images"):
        run_chain(config, tmp_path / "run")


def test_a_diagnosis_says_that_it_compares_one_size(run):
    with pytest.raises(MeasureError, match="has images of several sizes"):
        diagnose_run(run)


def test_training_batches_have_one_size(run, monkeypatch, tmp_path):
    """What torch gets is one array per batch, of every size in turn."""
    seen: list[tuple[int, ...]] = []
    draws = PixelUNet.draws
    monkeypatch.setattr(
        PixelUNet,
        "draws",
        lambda self, inputs, *rest: seen.append(inputs.shape) or draws(self, inputs, *rest),
    )
    run_chain(run.config.model_copy(update={"generations": 0}), tmp_path / "run", plots=False)
    assert len(seen) == 40 and {shape[0] for shape in seen} == {16}
    share = np.array([sum(shape[1:3] == size for shape in seen) for size in run.sizes]) / 40
    real = np.bincount(run.real.bucket[: run.about["n_train"]], minlength=3) / run.about["n_train"]
    assert np.abs(share - real).max() < 0.1
