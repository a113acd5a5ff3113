"""What the latent families share: latents, texts, LoRA, freezing, precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from difflab.config import Sample, Train
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.loop.training_loop import fit
from difflab.models.weights import fastest_layout, trainable
from difflab.pretraining.autoencoder import Memory
from difflab.runs.store import Shards

pytestmark = tiny.LIBRARIES
IMAGES = tiny.images(11)
PIXELS = torch.from_numpy(tiny.images(7))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    return {kind: tiny.make(kind, tmp_path_factory.mktemp("base") / kind) for kind in tiny.KINDS}


@pytest.fixture
def shards(tmp_path) -> Shards:
    """Eleven images in shards of four."""
    made = Shards(
        tmp_path / "images", tmp_path / "features", tmp_path / "cache", 11, 4, (tiny.SIDE, tiny.SIDE, 3)
    )
    for shard in made.shards:
        span = made.span(shard)
        made.write(shard, IMAGES[span.start : span.stop], {"generation": -1, "lab": 0, "kind": "real"})
    return made


def posterior(folder: Path, images: np.ndarray) -> Any:
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        return vae.encode(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 * 2 - 1).latent_dist


def state(net: Any) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in net.state_dict().items()}


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_what_is_kept_is_mean_and_std_of_the_posterior(kind, made, shards):
    model = tiny.model(kind, made[kind])
    encoder = model.encoder("cpu")
    assert shards.lacks(encoder.key) == [0, 1, 2]
    shards.encode(encoder, 1)
    assert shards.lacks(encoder.key) == [0, 2]
    shards.encode(encoder, 0, IMAGES[:4])  # from memory
    shards.encode(encoder, 2)
    at = np.array([10, 0, 3, 4, 10, 7])
    kept = shards.gather_encoded(encoder.key, at)
    theirs = posterior(made[kind], IMAGES[at])
    assert kept.dtype == np.float32 and kept.shape == (6, 8, 8, 8)
    torch.testing.assert_close(
        torch.from_numpy(kept), torch.cat([theirs.mean, theirs.std], 1), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(model.inputs(shards, at), kept)
    with pytest.raises(FileNotFoundError):
        shards.gather_encoded("latents-other", at)


@pytest.mark.parametrize(
    ("kind", "scale", "shift"), [("sd15", 0.18215, 0.0), ("sdxl", 0.13025, 0.0), ("sd3", 1.5305, 0.0609)]
)
def test_every_step_draws_afresh_from_the_posterior(kind, scale, shift, made):
    model, theirs = tiny.model(kind, made[kind]), posterior(made[kind], IMAGES[:2])
    inputs = torch.cat([theirs.mean, theirs.std], 1)
    rng = torch.Generator().manual_seed(0)
    draws = torch.stack([model.clean(inputs, slice(0, 2), 2, rng) for _ in range(3000)]).double()
    mean, std = (theirs.mean.double() - shift) * scale, theirs.std.double() * scale
    z = (draws.mean(0) - mean) / (std / 3000**0.5)
    assert float(z.abs().max()) < 5 and float((draws.std(0) / std - 1).abs().max()) < 0.08
    same = draws[0].flatten() - mean.flatten()
    assert (
        abs(
            float(
                torch.corrcoef(
                    torch.stack([same / std.flatten(), (draws[1].flatten() - mean.flatten()) / std.flatten()])
                )[0, 1]
            )
        )
        < 0.2
    )


def test_parts_of_a_batch_are_cut_from_the_whole(made):
    model, train = tiny.model("sd15", made["sd15"]), Train(condition_dropout=0.5)
    inputs = torch.rand((7, 8, 8, 8))
    conditions = torch.arange(7) % 7
    whole = model.draws(inputs, conditions, slice(0, 7), 7, train, torch.Generator().manual_seed(1))
    parts = [
        model.draws(inputs[r], conditions[r], r, 7, train, torch.Generator().manual_seed(1))
        for r in (slice(0, 2), slice(2, 7))
    ]
    for name, t in whole.items():
        assert torch.equal(torch.cat([p[name] for p in parts]), t), name


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_decoding_takes_back_what_scaling_did(kind, made):
    model = tiny.model(kind, made[kind])
    model.prepare_sampling(Sample(**tiny.sampler(kind)), "cpu")
    theirs = posterior(made[kind], IMAGES[:3])
    inputs = torch.cat([theirs.mean, torch.zeros_like(theirs.std)], 1)
    x = model.clean(inputs, slice(0, 3), 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        back = AutoencoderKL.from_pretrained(made[kind] / "vae").decode(theirs.mean).sample
    torch.testing.assert_close(model.finish(x), back, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------------ texts
@torch.no_grad()
def test_dropped_conditions_become_the_empty_prompt(made):
    model, train = tiny.model("sd15", made["sd15"]), Train(condition_dropout=1.0)
    model.prepare_training(train, "cpu")
    drawn = model.draws(
        torch.rand(5, 8, 8, 8),
        torch.tensor([0, 3, 2, 1, 6]),
        slice(0, 5),
        5,
        train,
        torch.Generator().manual_seed(0),
    )
    assert (drawn["conditions"] == len(tiny.CAPTIONS)).all()
    pipe = StableDiffusionPipeline.from_pretrained(made["sd15"], local_files_only=True)
    ids = pipe.tokenizer(
        ["", "noto seal"], padding="max_length", max_length=tiny.LENGTH, return_tensors="pt"
    ).input_ids
    empty, seal = pipe.text_encoder(ids)[0]
    x = torch.zeros(2, 1)
    torch.testing.assert_close(
        model.texts(drawn["conditions"], 5, x)["states"], empty.expand(5, -1, -1), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        model.texts(None, 2, x)["states"], empty.expand(2, -1, -1), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        model.texts(torch.tensor([2, 7]), 2, x)["states"], torch.stack([seal, empty]), rtol=1e-4, atol=1e-5
    )


def test_none_are_dropped_without_dropout(made):
    model = tiny.model("sd15", made["sd15"])
    conditions = torch.arange(7)
    drawn = model.draws(
        torch.rand(7, 8, 8, 8),
        conditions,
        slice(0, 7),
        7,
        Train(condition_dropout=0.0),
        torch.Generator().manual_seed(0),
    )
    assert torch.equal(drawn["conditions"], conditions)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_tables_that_do_not_fit_beside_the_network_are_read_row_by_row(kind, made, monkeypatch):
    from difflab.models import latent

    how = Sample(**tiny.sampler(kind), guidance_scale=2.0, batch_size=4)
    conditions, seeds = np.array([0, 5, 2]), [1, 2, 3]
    out = []
    for limit in (2**29, 0):
        monkeypatch.setattr(latent, "KEPT", limit)
        model = tiny.model(kind, made[kind])
        model.prepare_sampling(how, "cpu")
        assert {in_a_file(t) for t in model.tables.values()} == {not limit}
        out.append(model.sample(conditions, seeds, how))
    assert (out[0] == out[1]).all()


def in_a_file(table: torch.Tensor) -> bool:
    """Whether the memory of a tensor is a map of a file of embeddings."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= table.data_ptr() < last:
            return name.endswith(".safetensors")
    return False


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_size_of_the_embeddings_is_known_from_one_caption(kind, made):
    model = tiny.model(kind, made[kind])
    model.prepare_sampling(Sample(**tiny.sampler(kind)), "cpu")
    assert model.text_bytes() == sum(t.nbytes for t in model.tables.values())


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_an_image_depends_on_its_seed_and_its_prompt(kind, made):
    model, how = tiny.model(kind, made[kind]), Sample(**tiny.sampler(kind), guidance_scale=5.0, batch_size=2)
    model.prepare_sampling(how, "cpu")
    a = model.sample(np.array([0, 1, 0, 0]), [7, 7, 8, 7], how)
    assert a.shape == (4, 16, 16, 3) and a.dtype == np.uint8
    assert (a[0] != a[1]).any() and (a[0] != a[2]).any() and (a[0] == a[3]).all()
    b = model.sample(np.array([0, 0]), [8, 7], how)
    assert (b[0] == a[2]).all() and (b[1] == a[3]).all()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_coarser_numbers_paint_nearly_the_same(kind, made):
    """bfloat16 has 8 bits: a few levels, not another picture."""
    out = []
    for precision in ("no", "bf16"):
        model, how = tiny.model(kind, made[kind]), Sample(**tiny.sampler(kind), precision=precision)
        model.prepare_sampling(how, "cpu")
        assert {p.dtype for p in model.net.parameters()} == {
            torch.float32 if precision == "no" else torch.bfloat16
        }
        out.append(model.sample(np.array([0, 5, 2]), [1, 2, 3], how).astype(int))
    assert 0 < np.abs(out[0] - out[1]).mean() < 5


# --------------------------------------------------------------------------------- what is trained, what is not
def trained(
    kind: str, folder: Path, out: Path, changes: dict[str, Any], **how: Any
) -> tuple[Any, dict[str, torch.Tensor]]:
    """A family object after four steps, and its weights before."""
    train = Train(images_seen=24, batch_size=6, learning_rate=3e-3, ema_decay=0.5, **how)
    model = tiny.model(kind, folder, **changes)
    before = state(model.backbone)
    model.prepare_training(train, "cpu")
    values = np.random.default_rng(0).random((9, 8, 8, 8)).astype(np.float32)
    accelerator = Accelerator(cpu=True)
    fit(model, Memory(values, np.arange(9) % 7), train, (0, 0), out, accelerator, lambda n: None)
    return model, before


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_all_weights_of_the_network_are_trained(kind, made, tmp_path):
    model, before = trained(kind, made[kind], tmp_path, {})
    after = model.backbone.state_dict()
    # Attention to a text needs no gradient where all prompts give the same weights; buffers and unused parts have none.
    moved = [
        name for name, p in model.backbone.named_parameters() if not torch.equal(before[name], after[name])
    ]
    still = [name for name, p in model.backbone.named_parameters() if torch.equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(before), still


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_lora_moves_its_own_layers_alone(kind, rank, made, tmp_path):
    model, before = trained(kind, made[kind], tmp_path, {"lora_rank": rank})
    for name, t in model.backbone.state_dict().items():
        if "lora_" in name:
            assert t.shape[0 if "lora_A" in name else 1] == rank
            assert not torch.equal(before[name], t), name
        else:
            assert torch.equal(before[name], t), name
    assert all("lora_" in name for name in trainable(model.net))


def test_lora_targets_are_chosen_by_the_end_of_their_names(made):
    model = tiny.model("sd15", made["sd15"], lora_rank=2, lora_targets=["ff.net.2", "to_q"])
    homes = {name.split(".lora_")[0] for name in state(model.backbone) if "lora_" in name}
    assert homes and all(home.endswith(("ff.net.2", "to_q")) for home in homes)
    assert {home.rsplit(".", 1)[1] for home in homes} == {"2", "to_q"}


def test_a_lora_starts_as_nothing_and_from_the_seed(made):
    def layers(seed: int) -> dict[str, torch.Tensor]:
        model = tiny.model("sd15", made["sd15"], lora_rank=2)
        model.initialise(seed)
        return {n: t for n, t in state(model.backbone).items() if "lora_" in n}

    a, b = layers(1), layers(1)
    assert tiny.equal(a, b) and not tiny.equal(a, layers(2))
    assert all((t == 0).all() for n, t in a.items() if "lora_B" in n)


@torch.no_grad()
@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2, 1.0), (6, 3.0), (1, 0.5)])
def test_a_lora_is_scaled_by_alpha_over_rank(alpha, scale, made):
    model = tiny.model("sd15", made["sd15"], lora_rank=2, lora_alpha=alpha)
    name, layer = next((n, m) for n, m in model.backbone.named_modules() if n.endswith("attn2.to_k"))
    x = torch.rand(3, tiny.WIDTH)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    up.copy_(torch.rand(up.shape))
    weight = tiny.tensors(made["sd15"])[f"{name}.weight"]
    torch.testing.assert_close(layer(x), x @ (weight + scale * up @ down).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_frozen_weights_need_no_float32_copy(kind, made):
    model = tiny.model(kind, made[kind], lora_rank=2)
    model.prepare_training(Train(precision="bf16"), "cpu")
    kinds = {(p.requires_grad, p.dtype) for p in model.net.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    full = tiny.model(kind, made[kind])
    full.prepare_training(Train(precision="bf16"), "cpu")
    assert {(p.requires_grad, p.dtype) for p in full.net.parameters()} == {(True, torch.float32)}


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}])
def test_recomputed_activations_and_parts_of_batches_change_nothing(kind, changes, made, tmp_path):
    plain, _ = trained(kind, made[kind], tmp_path / "a", changes)
    frugal, _ = trained(
        kind, made[kind], tmp_path / "b", changes, gradient_checkpointing=True, micro_batch_size=2
    )
    assert any(getattr(m, "gradient_checkpointing", False) for m in frugal.backbone.modules())
    other = frugal.backbone.state_dict()
    far = [n for n, t in plain.backbone.state_dict().items() if not torch.allclose(t, other[n], atol=2e-4)]
    assert len(far) <= 0.02 * len(other), far


def test_scratch_is_fresh_weights_of_the_same_architecture(made):
    model, again, other = (tiny.model("sd15", made["sd15"]) for _ in range(3))
    model.initialise(1, scratch=True)
    again.initialise(1, scratch=True)
    other.initialise(2, scratch=True)
    a, b, c, base = (
        state(model.backbone),
        state(again.backbone),
        state(other.backbone),
        tiny.tensors(made["sd15"]),
    )
    assert tiny.equal(a, b) and a.keys() == base.keys()
    for name, t in base.items():
        assert a[name].shape == t.shape
        if t.ndim > 1:
            assert not torch.equal(a[name], t) and not torch.equal(a[name], c[name])


def test_initialising_leaves_the_global_generator_alone(made):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    tiny.model("sd15", made["sd15"], lora_rank=2).initialise(3, scratch=True)
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------- shapes
def test_geometry(made):
    assert [tiny.model(k, made[k]).architecture.multiple for k in tiny.KINDS] == [2, 2, 2, 4]
    assert tiny.model("sd15", made["sd15"]).drawn == (4, 8, 8)
    assert tiny.model("sd3", made["sd3"], Shape((32, 32, 3), 0, tiny.CAPTIONS)).drawn == (4, 16, 16)


@pytest.mark.parametrize(("side", "near"), [(15, 16), (1, 2), (17, 16), (19, 20)])
def test_sides_that_do_not_divide(side, near, made):
    with pytest.raises(
        ConfigError,
        match=rf"data\.image_size={side} is not a multiple of 2, which this base needs; use data\.image_size={near}$",
    ):
        tiny.model("sd15", made["sd15"], Shape((side, side, 3), 0, tiny.CAPTIONS))


def test_grey_images_are_refused(made):
    with pytest.raises(ConfigError, match=r"takes images of 3 channels; set data\.color=RGB"):
        tiny.model("sd15", made["sd15"], Shape((16, 16, 1), 0, tiny.CAPTIONS))


# -------------------------------------------------------------------------------------------------- files
LORA = "pytorch_lora_weights.safetensors"


def saved(model: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder)
    return folder


def loaded(model: Any, folder: Path, **changes: Any) -> Any:
    spec = model.spec.model_copy(update=changes)
    return type(model).load(spec, model.shape, folder)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2, "lora_alpha": 5}], ids=str)
@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_saving_and_loading_keeps_every_bit_and_training_goes_on(kind, changes, made, tmp_path):
    model, _ = trained(kind, made[kind], tmp_path / "t", changes)
    read = loaded(model, saved(model, tmp_path / "model"))
    before = state(read.backbone)
    assert tiny.equal(state(model.backbone), before)
    train = Train(images_seen=6, batch_size=6, learning_rate=3e-3, ema_decay=0.0)
    read.prepare_training(train, "cpu")
    fit(
        read,
        Memory(np.zeros((6, 8, 8, 8), np.float32), np.arange(6)),
        train,
        (0, 1),
        tmp_path / "u",
        Accelerator(cpu=True),
        lambda n: None,
    )
    moved = {name for name, t in state(read.backbone).items() if not torch.equal(t, before[name])}
    assert moved and (not changes or all("lora_" in name for name in moved))


@pytest.mark.parametrize(
    "damage", ["gone", "empty", "cut", "a layer less", "a layer more", "no base.json", "cut base.json"]
)
@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_damaged_lora_is_named(kind, damage, made, tmp_path):
    model = tiny.model(kind, made[kind], lora_rank=2)
    home = saved(model, tmp_path / "model")
    loaded(model, home)
    file = home / LORA
    content = load_file(file)
    name = sorted(content)[0]
    if damage == "gone":
        file.unlink()
    elif damage in ("empty", "cut"):
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else 300])
    elif damage in ("a layer less", "a layer more"):
        layer = content.pop(name)
        if damage == "a layer more":
            content |= {name: layer, name.replace("blocks.0", "blocks.7", 1): layer.clone()}
            assert len(content) == 1 + len(load_file(file))
        save_file(content, file, {"format": "pt"})
    elif damage == "no base.json":
        (home / "base.json").unlink()
    else:
        (home / "base.json").write_text("{")
    with pytest.raises(StoreError, match=str(home)):
        loaded(model, home)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lora_rank": 2}, {"lora_rank": 3}),
        ({}, {"lora_targets": ["to_k"]}),
        ({"lora_targets": ["to_k"]}, {"lora_targets": ["to_q"]}),
    ],
)
def test_a_lora_of_other_settings_is_refused(one, other, made, tmp_path):
    model = tiny.model("sd15", made["sd15"], **{"lora_rank": 2, **one})
    with pytest.raises(StoreError, match=r"LoRA layers do not match model\.lora_rank and lora_targets"):
        loaded(model, saved(model, tmp_path / "model"), **other)


@pytest.mark.parametrize("damage", ["gone", "cut", "a tensor less", "another shape"])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_damaged_generation_is_named_and_never_filled_up(part, damage, made, tmp_path):
    model = tiny.model("sd15", made["sd15"], train_text_encoder=True)
    home = saved(model, tmp_path / "model")
    loaded(model, home)
    file = next((home / part).glob("*.safetensors"))
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    else:
        content = load_file(file)
        name = sorted(content)[-1]
        content.pop(name) if damage == "a tensor less" else content.update(
            {name: torch.zeros([n + 1 for n in content[name].shape])}
        )
        save_file(content, file, {"format": "pt"})
    with pytest.raises(StoreError, match=rf"{home}/{part}.*again"):
        loaded(model, home)


def test_files_of_a_generation_are_never_written_through_to_the_base(made, tmp_path):
    """Frozen components are hard links. Saving over a generation, and training from it, must leave the base's bytes alone."""
    before = {p: p.read_bytes() for p in made["sd15"].rglob("*") if p.is_file()}
    model, _ = trained("sd15", made["sd15"], tmp_path / "t", {"train_text_encoder": True})
    home = saved(model, tmp_path / "model")
    again = tiny.model("sd15", home, train_text_encoder=True)  # a generation as the base of another run
    again.backbone.conv_in.weight.data.fill_(1.0)
    next(iter(again.text_encoder.parameters())).data.fill_(1.0)
    saved(again, tmp_path / "next")
    assert {p: p.read_bytes() for p in made["sd15"].rglob("*") if p.is_file()} == before
    assert (tiny.tensors(tmp_path / "next")["conv_in.weight"] == 1).all() and not (
        tiny.tensors(home)["conv_in.weight"] == 1
    ).all()


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"train_text_encoder": True}], ids=str)
def test_whole_weights_take_the_place_of_sharded_ones(changes, made, tmp_path):
    """As train.fit does after training over several processes: the state of what was trained, under its names."""
    model, _ = trained("sd15", made["sd15"], tmp_path / "t", changes)
    before = state(model.net)
    model.unshard(state(model.net))
    assert tiny.equal(state(model.net), before)
    how = Sample(**tiny.sampler("sd15"))
    out = []
    for own in (model, loaded(model, saved(model, tmp_path / "model"))):
        own.prepare_sampling(how, "cpu")
        out.append(own.sample(np.array([0, 1]), [1, 2], how))
    assert (out[0] == out[1]).all()


def test_a_model_that_is_not_prepared_says_what_to_call(made):
    model = tiny.model("sd15", made["sd15"])
    with pytest.raises(RuntimeError, match="prepare_training or prepare_sampling"):
        model.texts(None, 1, torch.zeros(1))


def test_other_captions_share_the_networks(made, tmp_path):
    model = tiny.model("sd15", made["sd15"], train_text_encoder=True)
    model.prepare_training(Train(), "cpu")
    other = model.with_prompts(("a new caption", "another"), "cpu")
    assert other.net is model.net and other.null == 2 and model.null == len(tiny.CAPTIONS)
    assert len(other.tables["ids"]) == 3


@pytest.mark.parametrize(("device", "kind", "last"), [
    ("cpu", torch.bfloat16, False), ("cpu", torch.float32, True), ("cuda", torch.bfloat16, True),
])  # fmt: skip
def test_channels_are_last_except_in_bf16_on_a_cpu(device, kind, last):
    assert (fastest_layout(device, kind) == torch.channels_last) == last


def test_a_model_keeps_its_layout_when_it_is_saved_during_training(made, tmp_path):
    for precision, last in (("bf16", False), ("no", True)):
        model = tiny.model("sd15", made["sd15"])
        model.prepare_training(Train(precision=precision), "cpu")
        model.save(tmp_path / precision)
        weight = model.backbone.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
