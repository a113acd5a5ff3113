from __future__ import annotations

from typing import Any

import pytest
import tiny
from declaring import SETTINGS
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sized_folders import folder

from difflab.config import Config, parse
from difflab.core.errors import ConfigError, DataError
from difflab.core.files import write_json
from difflab.core.shape import Shape
from difflab.loop import passes
from difflab.loop.plan import Cost, costs_of, plan, stage_weights, where_embeddings_are
from difflab.models.latent import KEPT

pytestmark = tiny.LIBRARIES
DIGITS = Shape((8, 8, 1), 10)
WIDTH, DEPTH, PIXELS = 32, 2, 64
# Multiply-adds of one image: two layers of the time embedding, into, per block modulate (w -> 2w) and two layers, out.
FORWARD = 2 * (2 * WIDTH**2 + PIXELS * WIDTH + DEPTH * 4 * WIDTH**2 + WIDTH * PIXELS)


def config(**changes: Any) -> Config:
    base: dict[str, Any] = {
        "generations": 3,
        "data": {"train_size": 100},
        "model": {"family": "pixel-mlp", "width": WIDTH, "depth": DEPTH},
        "train": {"images_seen": 1000, "batch_size": 50},
        "sample": {"count": [40, 30, 20], "steps": 7, "shard_size": 10, "batch_size": 10},
    }
    for key, value in changes.items():
        base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) and key != "model" else value
    return parse(base)


def costs(stage: str, shape: Shape = DIGITS, n_train: int = 500, **changes: Any) -> list[Cost]:
    return [c for c in plan(config(**changes), shape, n_train) if c.stage == stage]


def test_training_is_three_forward_passes_per_image_seen():
    assert [(c.generation, c.images, c.flops) for c in costs("train")] == [
        (t, 1000, 3 * FORWARD * 1000) for t in range(4)
    ]


def test_sampling_is_one_forward_pass_per_image_and_step():
    assert [(c.images, c.flops) for c in costs("sample")] == [(n, FORWARD * 7 * n) for n in (40, 30, 20, 20)]


@pytest.mark.parametrize(("scale", "factor"), [(0.0, 1), (1.0, 1), (3.0, 2)])
def test_guidance_doubles_sampling_alone(scale, factor):
    assert [c.flops for c in costs("sample", sample={"guidance_scale": scale})] == [
        factor * c.flops for c in costs("sample")
    ]
    assert [c.flops for c in costs("train", sample={"guidance_scale": scale})] == [
        c.flops for c in costs("train")
    ]


# diffusers turns tensors into arrays in a way that numpy 2 deprecates.
@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
def test_a_second_order_scheduler_takes_its_extra_passes():
    how = {"scheduler": "HeunDiscreteScheduler", "scheduler_options": {"timestep_spacing": "leading"}}
    heun = costs("sample", sample=how)
    assert [c.flops for c in heun] == [FORWARD * (2 * 7 - 1) * n for n in (40, 30, 20, 20)]


def test_an_unknown_scheduler_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'DDIMScheduler'"):
        costs("sample", sample={"scheduler": "DDIMSchedulr"})


@pytest.mark.parametrize(
    ("regime", "sizes"),
    [
        ({"name": "replace"}, [100, 40, 30, 20]),
        ({"name": "replace", "set_size": 15}, [100, 15, 15, 15]),
        ({"name": "replace", "synthetic_from": "all"}, [100, 40, 70, 90]),
        ({"name": "accumulate"}, [100, 140, 170, 190]),
        ({"name": "accumulate_subsample", "set_size": 120}, [100, 120, 120, 120]),
        ({"name": "accumulate_subsample"}, [100, 100, 100, 100]),
        ({"name": "fixed_real", "real_fraction": 0.5, "set_size": 40}, [100, 40, 40, 40]),
        ({"name": "fresh_real", "real_fraction": 0.5, "set_size": 40}, [100, 40, 40, 40]),
    ],
    ids=str,
)
def test_training_sets_have_the_sizes_that_the_regime_gives_them(regime, sizes):
    assert [c.images for c in costs("mix", regime=regime)] == sizes


def test_the_whole_train_split_is_the_first_set_when_no_size_is_asked():
    assert costs("mix", data={"train_size": None}, n_train=321)[0].images == 321


def test_weights_are_on_the_disk_of_every_generation():
    from difflab.models.pixel_mlp import DenoisingMLP

    size = 4 * sum(p.numel() for p in DenoisingMLP(8, 1, WIDTH, DEPTH, 10).parameters())
    assert [c.disk_bytes for c in costs("train")] == [size] * 4


def test_samples_take_space_in_proportion_to_images_and_pixels():
    small, large = costs("sample")[0], costs("sample", sample={"count": 80})[0]
    assert large.disk_bytes == 2 * small.disk_bytes > 40 * 64 * 0.5
    wide = costs("sample", Shape((16, 16, 1), 10))[0]
    assert wide.disk_bytes - small.disk_bytes == pytest.approx(
        (0.7 + 4) * (256 - 64) * 40
    )  # PNG, and the float32 features of `pixels`


@pytest.mark.parametrize(
    ("model", "record"),
    [
        ({"family": "gaussian", "dim": 2, "replicates": 5}, (5, 2)),
        ({"family": "categorical", "replicates": 5}, (5, 1)),
    ],
    ids=["gaussian", "categorical"],
)
def test_exact_families_take_numbers_and_no_flops(model, record):
    found = plan(config(model=model, data={"source": "exact", "train_size": 100}), Shape(record), 100)
    assert sum(c.flops for c in found) == 0 and all(c.seconds < 1 for c in found)
    assert [c.disk_bytes for c in found if c.stage == "sample"] == [
        8 * record[0] * record[1] * n for n in (40, 30, 20, 20)
    ]


def test_the_memoriser_takes_no_flops_either():
    found = plan(config(model={"family": "memoriser"}), DIGITS, 500)
    assert sum(c.flops for c in found) == 0
    assert [c.images for c in found if c.stage == "train"] == [100, 40, 30, 20]


def test_every_stage_of_every_generation_has_a_time():
    found = plan(config(), DIGITS, 500)
    assert len({(c.generation, c.stage) for c in found}) == len(found) == 20
    assert all(0 < c.seconds < 60 for c in found)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}], ids=str)
def test_a_text_to_image_model_is_planned_at_16_bits(changes, monkeypatch, tmp_path):
    def once(work, most, device, patience=4):
        work(1)
        return 0.5

    monkeypatch.setattr(passes, "per_image", once)
    tiny.make("sd15", tmp_path / "sd15")
    given = {"model": changes, "train": {"precision": "bf16"}, "sample": {"precision": "bf16"}}
    found = plan(tiny.config("sd15", tmp_path / "sd15", **given), Shape((tiny.SIDE, tiny.SIDE, 3), 3), 40)
    assert all(c.flops > 0 and c.seconds > 0 for c in found if c.stage in ("train", "sample"))


@pytest.mark.parametrize("kind", ["sd3", "sdxl"])
def test_the_embeddings_of_captions_are_counted(kind, monkeypatch, tmp_path):
    """Per distinct caption 77 tokens (SD 3 without T5: 77 of CLIP and 256 of zeros) of the width that attention reads, and the pooled vector, in float32."""
    monkeypatch.setattr(passes, "per_image", lambda work, most, device, patience=4: 0.5)
    base = tiny.make(kind, tmp_path / kind)
    model = tiny.model(kind, base)
    per = sum(t[0].nbytes for t in model.base.texts(["one"], "cpu").values())
    shape = Shape((tiny.SIDE, tiny.SIDE, 3), 3)
    first = plan(tiny.config(kind, base), shape, 40, captions=3000)[0]
    assert (first.stage, first.images, first.disk_bytes, first.seconds) == (
        "captions",
        3000,
        per * 3001,
        1500,
    )

    assert plan(tiny.config(kind, base), shape, 40)[0].stage == "mix"


def test_the_place_of_the_embeddings_is_said():
    assert "the text encoder is trained" in where_embeddings_are(0)
    small, large = where_embeddings_are(KEPT), where_embeddings_are(KEPT + 2**20)
    assert "512.0 MiB, which are kept in the memory of the device (at most 512 MiB are)" in small
    assert "513.0 MiB; more than 512 MiB are not kept in memory: every batch is read from disk" in large


def test_the_estimate_counts_two_passes_where_the_base_is_guided(tmp_path):
    write_json(tmp_path / "model_index.json", {"_class_name": "ZImagePipeline"})

    def seconds(scale: float, base: str) -> float:
        model = {"family": "flow", "base": base}
        drawn = {"count": 10, "steps": 10, "guidance_scale": scale}
        config = parse({"data": {"source": "emoji"}, "model": model, "sample": drawn, "generations": 1})
        return stage_weights(config)[1, "sample"]

    z_image = str(tmp_path)
    assert (
        seconds(1, z_image)
        == 2 * seconds(0, z_image)
        == seconds(2, "nobody/here")
        == 2 * seconds(1, "nobody/here")
    )


def test_a_plan_says_what_images_declare_and_refuses_what_a_run_would_refuse(tmp_path):
    files = folder(tmp_path / "set", [(8, 8)], 10)
    sample = sorted(files.rglob("*.png"))[0]
    info = PngInfo()
    info.add_text("parameters", SETTINGS)
    with Image.open(sample) as image:
        image.save(sample, pnginfo=info)

    def planned(provenance: str) -> list[str]:
        notes: list[str] = []
        data = {"source": f"imagefolder:{files}", "provenance": provenance}
        model = {"family": "memoriser"}
        costs_of(parse({"data": data, "model": model, "sample": {"count": 8}, "generations": 1}), [], notes)
        return notes

    said = "1 of 20 images (5%) declare that they are synthetic"
    assert any(said in note for note in planned("declared"))
    assert not any(said in note for note in planned("trust"))
    with pytest.raises(DataError, match=r"data.provenance=require: 20 of 20 images of .* have no evidence"):
        planned("require")
