"""The chain of the latent families: resuming, where generations start, what stays frozen, what is cached, what plain diffusers makes of it."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from difflab.config import Config
from difflab.core.errors import ConfigError, DataError, MemoryShort, StoreError, TrainingError
from difflab.core.files import cache_home
from difflab.core.progress import Reporter
from difflab.loop import chain
from difflab.loop import train as training
from difflab.loop.chain import run_chain
from difflab.loop.conditions import probe_conditions, sample_conditions
from difflab.loop.train import starting_model
from difflab.models.latent import Encoder
from difflab.models.pretrained import Base
from difflab.runs.run import Run, open_run
from difflab.runs.store import Shards
from difflab.runs.verify import verify

pytestmark = tiny.LIBRARIES
STILL = {
    "images_seen": 8,
    "learning_rate": 1e-30,
    "ema_decay": 0,
    "checkpoint_every": 0,
}  # a training that changes nothing
NOT_COMPARED = {"timings.jsonl", "strip.png", "curves.png", "run.yaml"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    return {kind: tiny.make(kind, tmp_path_factory.mktemp("base") / kind) for kind in tiny.KINDS}


@pytest.fixture(scope="module")
def runs(made, tmp_path_factory) -> Any:
    """(kind, rank) -> the run that nobody disturbed, made when it is first asked for."""
    known: dict[tuple[str, int], Run] = {}

    def run(kind: str, rank: int) -> Run:
        if (kind, rank) not in known:
            path = tmp_path_factory.mktemp("whole") / f"{kind}-{rank}"
            known[kind, rank] = run_chain(tiny.config(kind, made[kind], model={"lora_rank": rank}), path)
        return known[kind, rank]

    return run


def content(path: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name not in NOT_COMPARED and not p.name.startswith(".lease-")
    }


def apart(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference in levels of 0..255."""
    return int(np.abs(a - b).max())


def pictures(run: Run, generation: int) -> np.ndarray:
    shards = run.samples(generation)
    return shards.gather(np.arange(len(shards))).astype(int)


class Stop(Exception):
    pass


class Stopper(Reporter):
    """Raises when so many images of a training were seen."""

    def __init__(self, generation: int, after: int):
        super().__init__(quiet=True)
        self.at, self.after = (generation, "train"), after

    @contextmanager
    def stage(self, generation: int, stage: str, total: int, unit: str = "images") -> Any:
        with super().stage(generation, stage, total, unit) as advance:
            seen = 0

            def told(n: int) -> None:
                nonlocal seen
                advance(n)
                seen += n
                if (generation, stage) == self.at and seen >= self.after:
                    raise Stop

            yield told


# --------------------------------------------------------------------------------------------- resuming
@pytest.mark.parametrize(("kind", "rank"), [("sd15", 0), ("sdxl", 2)])  # test_chains.py kills the others
def test_a_chain_stopped_in_the_middle_of_training_goes_on_to_the_same_bytes(
    kind, rank, made, runs, tmp_path
):
    whole = runs(kind, rank)
    config = tiny.config(kind, made[kind], model={"lora_rank": rank})
    for generation, after in ((0, 24), (1, 40)):
        with pytest.raises(Stop):
            run_chain(config, tmp_path / "cut", Stopper(generation, after))
        assert (tmp_path / "cut" / f"gen-00{generation}" / "checkpoint.safetensors").exists()
    cut = run_chain(config, tmp_path / "cut")
    assert [cut.samples(t).hash() for t in (0, 1)] == [whole.samples(t).hash() for t in (0, 1)]
    assert content(cut.path) == content(whole.path)
    assert (
        cut.samples(0).hash() != cut.samples(1).hash() and pictures(cut, 1).std() > 5
    )  # pictures that could differ


def test_two_runs_of_one_recipe_are_the_same_bytes(made, runs, tmp_path):
    """The hash of the weights goes into the ledger, so the files must not depend on anything but the weights (of a full network: see above)."""
    again = run_chain(tiny.config("sd15", made["sd15"], model={"lora_rank": 2}), tmp_path / "again")
    assert content(again.path) == content(runs("sd15", 2).path)


def test_lost_samples_are_drawn_again(runs, made, tmp_path):
    whole = runs("sd15", 2)
    shutil.copytree(whole.path, tmp_path / "run")
    for name in ("gen-000/samples/00001.parquet", "gen-001/model/pytorch_lora_weights.safetensors"):
        (tmp_path / "run" / name).unlink()
    for name in ("gen-000/sampled.json", "gen-001/model/hash.json", "gen-001/sampled.json"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "run" / "gen-001" / "samples")
    again = run_chain(whole.config, tmp_path / "run")
    assert [again.samples(t).hash() for t in (0, 1)] == [whole.samples(t).hash() for t in (0, 1)]


# ------------------------------------------------------------------------------- plain diffusers pipelines
def plain(kind: str, folder: Path) -> Any:
    import diffusers

    if kind == "sd3":
        return tiny.plain_sd3(folder)
    name = "StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline"
    return getattr(diffusers, name).from_pretrained(folder, local_files_only=True)


def by_hand(
    kind: str, pipe: Any, run: Run, generation: int, guidance: float = 3.0, shard: int = 0, **how: Any
) -> np.ndarray:
    """What a plain pipeline makes of prompts and seeds that the ledger holds: int [n, H, W, 3]."""
    import diffusers

    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = getattr(diffusers, run.config.sample.scheduler).from_config(pipe.scheduler.config)
    rows = run.samples(generation).table(shard, ["prompt", "seed"])
    generators = [torch.Generator().manual_seed(seed) for seed in rows["seed"].to_pylist()]
    out = pipe(
        prompt=rows["prompt"].to_pylist(),
        generator=generators,
        num_inference_steps=run.config.sample.steps,
        guidance_scale=guidance,
        height=tiny.SIDE,
        width=tiny.SIDE,
        output_type="np",
        **how,
    )
    return (out.images * 255).round().astype(int)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_generations_folder_is_a_pipeline_that_paints_the_same(kind, runs):
    run = runs(kind, 0)
    theirs = by_hand(kind, plain(kind, run.gen(1) / "model"), run, 1)
    assert apart(theirs, run.samples(1).decode(0)) <= 2
    assert (
        apart(theirs, by_hand(kind, plain(kind, run.gen(0) / "model"), run, 1)) > 2
    )  # generation 0's weights paint something else


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_lora_of_a_generation_loads_on_the_base_and_paints_the_same(kind, made, runs):
    run = runs(kind, 2)
    pipe = plain(kind, made[kind])
    before = by_hand(kind, pipe, run, 1)
    pipe.load_lora_weights(run.gen(1) / "model")
    theirs = by_hand(kind, pipe, run, 1)
    assert apart(theirs, run.samples(1).decode(0)) <= 2
    assert apart(theirs, before) > 2


def test_the_scale_of_a_lora_is_kept_in_its_file(made, tmp_path):
    run = run_chain(
        tiny.config(
            "sd15",
            made["sd15"],
            generations=0,
            model={"lora_rank": 2, "lora_alpha": 8, "lora_targets": ["to_q", "ff.net.2"]},
        ),
        tmp_path / "run",
    )
    pipe = plain("sd15", made["sd15"])
    pipe.load_lora_weights(run.gen(0) / "model")
    assert apart(by_hand("sd15", pipe, run, 0), run.samples(0).decode(0)) <= 2


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_guidance_of_at_most_one_is_the_plain_prediction(guidance, made, tmp_path):
    config = tiny.config(
        "sd15",
        made["sd15"],
        generations=0,
        model={"generation_0": "base"},
        sample={"guidance_scale": guidance},
    )
    run = run_chain(config, tmp_path / "run")
    pipe = plain("sd15", made["sd15"])
    assert apart(by_hand("sd15", pipe, run, 0, 1.0), run.samples(0).decode(0)) <= 2


def test_a_text_encoder_that_is_trained_is_saved_and_used(made, tmp_path):
    config = tiny.config(
        "sd15", made["sd15"], model={"train_text_encoder": True}, train={"start_from": "previous"}
    )
    whole = run_chain(config, tmp_path / "whole")
    texts = [
        tiny.tensors(p, "text_encoder")
        for p in (made["sd15"], whole.gen(0) / "model", whole.gen(1) / "model")
    ]
    assert not tiny.equal(texts[0], texts[1]) and not tiny.equal(texts[1], texts[2])
    assert not names_itself(whole)
    assert tiny.equal(tiny.tensors(whole.gen(1) / "model", "vae"), tiny.tensors(made["sd15"], "vae"))
    assert (
        apart(by_hand("sd15", plain("sd15", whole.gen(1) / "model"), whole, 1), whole.samples(1).decode(0))
        <= 2
    )
    with pytest.raises(Stop):
        run_chain(config, tmp_path / "cut", Stopper(1, 24))
    cut = run_chain(config, tmp_path / "cut")
    assert [cut.samples(t).hash() for t in (0, 1)] == [whole.samples(t).hash() for t in (0, 1)]


@pytest.fixture(scope="module")
def from_previous(made, tmp_path_factory) -> Run:
    """LoRA layers that go on from those of the generation before."""
    config = tiny.config("sd15", made["sd15"], model={"lora_rank": 2}, train={"start_from": "previous"})
    return run_chain(config, tmp_path_factory.mktemp("previous") / "run")


def names_itself(run: Run) -> list[Path]:
    """Files of weights that say where the run lies: diffusers writes the folder that a model came from into its config."""
    return [
        p
        for p in (run.gen(1) / "model").rglob("*")
        if p.is_file() and str(run.path.parent).encode() in p.read_bytes()
    ]


def test_where_a_run_lies_is_in_none_of_its_weights_folders(from_previous):
    """Two runs would differ by nothing but their names (of a full network: see above)."""
    assert not names_itself(from_previous)


# ------------------------------------------------------------------------------------- what stays frozen
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_only_the_denoising_network_changes(kind, made, runs):
    backbone = tiny.BACKBONE[kind]
    before = {p: p.read_bytes() for p in made[kind].rglob("*") if p.is_file()}
    full, lora = runs(kind, 0), runs(kind, 2)
    assert {
        p: p.read_bytes() for p in made[kind].rglob("*") if p.is_file()
    } == before  # files that generations link are not written to
    frozen = [p.parent.name for p in made[kind].rglob("*.safetensors") if p.parent.name != backbone]
    assert len(frozen) == (2 if kind in ("sd15", "sd21") else 3)
    for component in frozen:
        assert tiny.equal(tiny.tensors(full.gen(1) / "model", component), tiny.tensors(made[kind], component))
    own = [tiny.tensors(p, backbone) for p in (made[kind], full.gen(0) / "model", full.gen(1) / "model")]
    assert all(
        not torch.equal(own[i][name], own[j][name])
        for i, j in ((0, 1), (1, 2))
        for name in own[0]
        if name.endswith("to_q.weight")
    )
    assert {p.name for p in (lora.gen(1) / "model").iterdir()} == {
        "base.json",
        "hash.json",
        "pytorch_lora_weights.safetensors",
    }
    layers = load_file(lora.gen(1) / "model" / "pytorch_lora_weights.safetensors")
    assert layers and all(name.startswith(f"{backbone}.") for name in layers)
    for name, t in layers.items():
        down = any(mark in name for mark in ("lora.down", "lora_A"))
        assert t.shape[0 if down else 1] == 2, (name, t.shape)
        assert t.abs().max() > 0  # both halves were trained


def run_with(run: Run, **train: Any) -> Run:
    """The same folder, seen with another config."""
    return Run(run.path, run.config.model_copy(update={"train": run.config.train.model_copy(update=train)}))


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
@pytest.mark.parametrize("rank", [0, 2])
def test_start_from_says_where_the_weights_start(kind, rank, made, runs):
    run, backbone = runs(kind, rank), tiny.BACKBONE[kind]
    base = tiny.tensors(made[kind], backbone)

    def state(start: str, generation: int = 2) -> dict[str, torch.Tensor]:
        model = starting_model(run_with(run, start_from=start), generation)
        return {n.replace(".base_layer", ""): t for n, t in model.backbone.state_dict().items()}

    fresh, previous = state("base"), state("previous")
    assert all(torch.equal(fresh[n], t) for n, t in base.items())
    if rank:
        assert all(torch.equal(previous[n], t) for n, t in base.items())  # the base's weights under both
        ups = [n for n in fresh if "lora_B" in n]
        assert ups and all((fresh[n] == 0).all() for n in ups)
        saved = load_file(run.gen(1) / "model" / "pytorch_lora_weights.safetensors")
        total = sum(float(t.double().abs().sum()) for t in saved.values())
        assert sum(
            float(t.double().abs().sum()) for n, t in previous.items() if "lora_" in n
        ) == pytest.approx(total, rel=1e-9)
        assert any(bool((previous[n] != 0).any()) for n in ups)
    else:
        assert tiny.equal(previous, tiny.tensors(run.gen(1) / "model", backbone))
    scratch = state("scratch")
    name = next(n for n in base if n.endswith("to_q.weight"))
    assert not torch.equal(scratch[name], fresh[name]) and not torch.equal(scratch[name], previous[name])
    assert tiny.equal(scratch, state("scratch")) and not torch.equal(scratch[name], state("scratch", 1)[name])


@pytest.mark.parametrize("start", ["base", "previous"])
def test_a_training_that_changes_nothing_leaves_what_it_started_from(start, made, tmp_path):
    config = tiny.config("sd15", made["sd15"], generations=2, train={**STILL, "start_from": start})
    run = run_chain(config.model_copy(update={"generations": 1}), tmp_path / "run")
    file = run.gen(1) / "model" / "unet" / tiny.WEIGHTS
    name = "conv_in.weight"
    tiny.spoil(file, name, 2.5)
    run = run_chain(config, tmp_path / "run")
    assert float(tiny.tensors(run.gen(2) / "model")[name].flatten()[0]) == pytest.approx(
        2.5 if start == "previous" else float(tiny.tensors(made["sd15"])[name].flatten()[0]), abs=1e-6
    )


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_generation_0_may_be_the_base_as_it_is(kind, made, tmp_path):
    full, lora = (
        run_chain(
            tiny.config(kind, made[kind], model={"generation_0": "base", "lora_rank": rank}, generations=0),
            tmp_path / str(rank),
        )
        for rank in (0, 2)
    )
    backbone = tiny.BACKBONE[kind]
    assert tiny.equal(tiny.tensors(full.gen(0) / "model", backbone), tiny.tensors(made[kind], backbone))
    assert not (full.gen(0) / "training.json").exists()
    assert full.samples(0).hash() == lora.samples(0).hash()  # a LoRA that nothing trained changes nothing
    assert apart(by_hand(kind, plain(kind, made[kind]), full, 0), full.samples(0).decode(0)) <= 2


# ------------------------------------------------------------------------------------------ cached latents
@pytest.fixture
def counted(monkeypatch, tmp_path) -> list[int]:
    """Images that an encoder is given; the cache is empty."""
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "empty"))
    given: list[int] = []
    call = Encoder.__call__

    def watched(self: Encoder, images: torch.Tensor) -> torch.Tensor:
        given.append(len(images))
        return call(self, images)

    monkeypatch.setattr(Encoder, "__call__", watched)
    return given


def test_every_image_is_encoded_once_and_the_real_ones_once_for_all_runs(counted, made, tmp_path):
    loss = {"measure": {"metrics": [], "held_out_loss": 8}}
    config = tiny.config("sd15", made["sd15"], train=STILL, **loss)
    run_chain(config, tmp_path / "a")
    real = sum(counted) - 10  # generation 0's samples; those of the last generation train nothing
    assert real == 40
    counted.clear()
    run_chain(config.model_copy(update={"name": "b"}), tmp_path / "b")
    assert sum(counted) == 10
    counted.clear()
    run_chain(
        tiny.config("sd15", made["sd15"], train=STILL, data={"limit": 44}, generations=0, **loss),
        tmp_path / "c",
    )  # other images
    assert sum(counted) == 44
    counted.clear()
    run_chain(
        tiny.config("sdxl", made["sdxl"], train=STILL, generations=0, **loss), tmp_path / "d"
    )  # another autoencoder
    assert sum(counted) == 40
    counted.clear()
    shutil.rmtree(cache_home() / "latents")  # may be deleted at any time
    run_chain(config, tmp_path / "a")
    assert counted == []  # a finished run reads none
    shutil.rmtree(tmp_path / "a" / "gen-001")
    before = run_chain(config.model_copy(update={"name": "b"}), tmp_path / "b")
    again = run_chain(config, tmp_path / "a")
    assert (
        again.samples(1).hash() == before.samples(1).hash() and sum(counted) == 10 + 40
    )  # samples, and real images for the loss on them


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_samples_are_encoded_as_they_will_be_read_from_disk(kind, made, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "drop_cache", lambda self: None)
    run = run_chain(tiny.config(kind, made[kind], train=STILL), tmp_path / "run")
    model = starting_model(run, 1)
    kept = run.samples(0).gather_encoded(model.encoder_key, np.arange(10))
    vae = AutoencoderKL.from_pretrained(made[kind] / "vae")
    for shard in (0, 1):
        pixels = torch.from_numpy(run.samples(0).decode(shard)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            posterior = vae.encode(pixels).latent_dist
        own = torch.from_numpy(kept[5 * shard : 5 * shard + 5])
        torch.testing.assert_close(own, torch.cat([posterior.mean, posterior.std], 1), rtol=1e-4, atol=1e-5)
    assert run.samples(1).lacks(model.encoder_key) == [0, 1]  # the last generation's train nothing


def test_another_autoencoder_gives_another_key(made, tmp_path):
    other = Path(shutil.copytree(made["sd15"], tmp_path / "other"))
    before = tiny.model("sd15", other).encoder_key
    assert before == tiny.model("sd21", made["sd15"]).encoder_key  # the same folder
    tiny.spoil(other / "vae" / tiny.WEIGHTS, "encoder.conv_in.bias", 0.5)
    Base.hash.cache_clear()
    assert tiny.model("sd15", other).encoder_key != before
    assert tiny.model("sd15", made["sd15"]).encoder_key == before


# -------------------------------------------------------------------------------------------- what is asked
@pytest.mark.parametrize("count", [8, 12, 20, 33, 100])
def test_captions_asked_are_those_of_training_set_0_in_class_quotas(count, made, tmp_path):
    config = tiny.config(
        "sd15",
        made["sd15"],
        generations=0,
        train=STILL,
        model={"generation_0": "base"},
        data={"train_size": 12},
        sample={"count": count, "steps": 1},
    )
    run = run_chain(config, tmp_path / "run")
    real = run.real.table(0)
    first = list(zip(real["prompt"].to_pylist(), real["label"].to_pylist(), strict=True))[:12]
    classes = [label for _, label in first]
    seen = []
    for generation in (0, 1, 5):
        wanted = sample_conditions(run, generation, count)
        assert wanted.prompts is not None and wanted.labels is not None
        pairs = list(zip(wanted.prompts, wanted.labels.tolist(), strict=True))
        assert set(pairs) <= set(first) and [run.prompts[c] for c in wanted.conditions] == wanted.prompts
        for label in set(classes):
            own = [p for p in pairs if p[1] == label]
            assert abs(len(own) - count * classes.count(label) / 12) < 1
            times = [sum(p == q for q in own) / first.count(p) for p in set(first) if p[1] == label]
            assert max(times) - min(times) <= 1  # every image's caption as often as the next one's
        seen.append(pairs)
    assert sorted(seen[0]) == sorted(seen[1]) == sorted(seen[2])
    assert seen[0] != seen[1] or count < 4


def test_the_probe_shows_the_captions_that_were_asked_for(made, runs, tmp_path):
    prompts = runs("sd15", 0).prompts
    chosen = [prompts[5], prompts[2]]
    config = tiny.config(
        "sd15",
        made["sd15"],
        generations=0,
        model={"generation_0": "base"},
        probe={"prompts": chosen, "per_condition": 3},
    )
    run = run_chain(config, tmp_path / "run")
    wanted = probe_conditions(run)
    assert wanted is not None and wanted.prompts == [c for c in chosen for _ in range(3)]
    shards = run.probe(0, 6)
    assert shards.column("prompt") == wanted.prompts and len(set(shards.column("seed"))) == 6
    real = {p: k for p, k in zip(run.real.column("prompt"), run.real.column("class"), strict=True)}
    assert shards.column("class") == [real[p] for p in wanted.prompts]
    assert (run.path / "strip.png").exists()
    with pytest.raises(
        ConfigError, match=r"probe\.prompts: no image of the real set has the caption 'a dragon'"
    ):
        run_chain(
            tiny.config(
                "sd15",
                made["sd15"],
                generations=0,
                probe={"prompts": [prompts[0], "a dragon"], "per_condition": 1},
            ),
            tmp_path / "no",
        )


def test_an_unconditional_run_uses_the_empty_prompt(made, tmp_path):
    config = tiny.config(
        "sd15",
        made["sd15"],
        generations=0,
        model={"conditional": False, "generation_0": "base"},
        sample={"guidance_scale": 1.0},
        data={"source": "digits", "color": "RGB", "label": None},
    )
    run = run_chain(config, tmp_path / "run")
    assert run.samples(0).column("prompt") == [None] * 10 and run.prompts == []
    pipe = plain("sd15", made["sd15"])
    import diffusers

    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in run.samples(0).column("seed")[:5]]
    theirs = pipe(
        prompt=[""] * 5,
        generator=generators,
        num_inference_steps=3,
        guidance_scale=1.0,
        height=16,
        width=16,
        output_type="np",
    ).images
    assert apart((theirs * 255).round(), run.samples(0).decode(0)) <= 2


# ------------------------------------------------------------------------------------------------ bad input
DIGITS: dict[str, Any] = {"source": "digits", "color": "RGB", "image_size": tiny.SIDE, "label": None}


class Said(Reporter):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def refused(error: type[Exception], message: str, config: Config, path: Path) -> None:
    """The run is refused before anything was fitted."""
    with pytest.raises(error, match=message):
        run_chain(config, path)
    assert not list(path.glob("gen-*"))


@pytest.fixture
def nameless(tmp_path) -> str:
    """A folder of pictures in classes, without captions."""
    for i, picture in enumerate(tiny.images(24)):
        path = tmp_path / "pictures" / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return f"imagefolder:{tmp_path / 'pictures'}"


def test_captions_that_are_missing_can_be_made(made, nameless, tmp_path):
    def config(**data: Any) -> Config:
        return tiny.config(
            "sd15",
            made["sd15"],
            generations=0,
            model={"generation_0": "base"},
            data={"source": nameless, "limit": None, "label": None, **data},
        )

    path = tmp_path / "run"
    missing = r"is conditioned on captions and .* has none; make them from the classes with data\.caption='a photo of a \{class\}', or set model\.conditional=false"
    refused(ConfigError, missing, config(), path)
    refused(
        DataError,
        r"data\.caption 'a \{name\}': these images have no field 'name'; known fields: .*\{class\}",
        config(caption="a {name}"),
        path,
    )
    refused(DataError, r"data\.caption 'a \{prompt\}'", config(caption="a {prompt}"), path)
    for broken in ("a {class", "a {}", "a {0}", "a {class.mro}", "a {class[name]}"):
        refused(DataError, r"data\.caption", config(caption=broken), path)
    run = run_chain(config(caption="the kind {class}"), path)  # the mended config may have the folder
    assert run.prompts == ["the kind a", "the kind b", "the kind c"]
    for prompt, name in zip(run.samples(0).column("prompt"), run.samples(0).column("class"), strict=True):
        assert prompt == f"the kind {name}"


def test_captions_may_be_made_from_captions(made, tmp_path):
    config = tiny.config(
        "sd15",
        made["sd15"],
        generations=0,
        model={"generation_0": "base"},
        data={"caption": "an emoji: {prompt} ({class})"},
    )
    run = run_chain(config, tmp_path / "run")
    for prompt, name in zip(run.real.column("prompt"), run.real.column("class"), strict=True):
        assert prompt.startswith("an emoji: ") and prompt.endswith(f"({name})")


def test_sizes_that_do_not_divide_are_refused_with_the_nearest_that_does(made, tmp_path):
    refused(
        ConfigError,
        r"data\.image_size=15 is not a multiple of 2, .* use data\.image_size=1[46]",
        tiny.config("sd15", made["sd15"], data={"image_size": 15}),
        tmp_path / "a",
    )
    refused(
        ConfigError,
        r"data\.image_size=18 is not a multiple of 4, .* use data\.image_size=(16|20)",
        tiny.config("sd3", made["sd3"], data={"image_size": 18}),
        tmp_path / "b",
    )
    refused(
        ConfigError,
        r"takes images of 3 channels; set data\.color=RGB",
        tiny.config("sd15", made["sd15"], data={"color": "L"}),
        tmp_path / "c",
    )


def test_schedulers_of_the_other_kind_are_refused(made, tmp_path):
    refused(
        ConfigError,
        r"'FlowMatchEulerDiscreteScheduler' does not denoise what this family is trained on; for example DDIMScheduler does",
        tiny.config("sd15", made["sd15"], sample={"scheduler": "FlowMatchEulerDiscreteScheduler"}),
        tmp_path / "a",
    )
    refused(
        ConfigError,
        r"'DDIMScheduler' does not denoise what this family is trained on; for example FlowMatchEulerDiscreteScheduler does",
        tiny.config("sd3", made["sd3"], sample={"scheduler": "DDIMScheduler"}),
        tmp_path / "b",
    )


def test_a_base_of_another_class_is_refused_before_anything_is_fitted(made, tmp_path):
    refused(ConfigError, r"use model\.family=flow", tiny.config("sd15", made["sd3"]), tmp_path / "a")
    refused(
        ConfigError, r"use model\.family=stable-diffusion", tiny.config("sd3", made["sd15"]), tmp_path / "b"
    )
    refused(
        ConfigError,
        r"is neither a folder nor a hub id",
        tiny.config("sd15", tmp_path / "nothing"),
        tmp_path / "c",
    )


def test_settings_that_contradict_each_other(made, tmp_path):
    with pytest.raises(ConfigError, match="lora_alpha has no effect without lora_rank"):
        tiny.config("sd15", made["sd15"], model={"lora_alpha": 4})
    with pytest.raises(
        ConfigError, match=r"train_text_encoder works only with full fine-tuning; set lora_rank=0"
    ):
        tiny.config("sd15", made["sd15"], model={"lora_rank": 2, "train_text_encoder": True})
    with pytest.raises(ConfigError, match="train_text_encoder"):
        tiny.config("sd3", made["sd3"], model={"train_text_encoder": True})
    refused(
        ConfigError,
        r"model\.train_text_encoder needs a base with one text encoder",
        tiny.config("sdxl", made["sdxl"], model={"train_text_encoder": True}),
        tmp_path / "a",
    )
    for part in ("train", "sample"):
        refused(
            ConfigError,
            r"fp16 need a GPU; use bf16 or no",
            tiny.config("sd15", made["sd15"], **{part: {"precision": "fp16"}}),
            tmp_path / "b",
        )


def test_a_base_that_predicts_something_else_is_refused(made, tmp_path):
    other = Path(shutil.copytree(made["sd15"], tmp_path / "other"))
    tiny.amend(other / "scheduler" / "scheduler_config.json", prediction_type="sample")
    refused(
        ConfigError,
        r"predicts 'sample', but difflab supports only epsilon and v_prediction",
        tiny.config("sd15", other),
        tmp_path / "run",
    )


def test_lora_targets_that_no_layer_has_are_refused(made, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.lora_targets.*nowhere"):
        run_chain(
            tiny.config("sd15", made["sd15"], model={"lora_rank": 2, "lora_targets": ["nowhere"]}),
            tmp_path / "run",
        )


def test_captions_that_are_cut_are_reported(made, tmp_path):
    said = Said()
    config = tiny.config(
        "sd15",
        made["sd15"],
        generations=0,
        model={"generation_0": "base"},
        sample={"count": 20},
        data={**DIGITS, "caption": "{class}" + " ~" * 80},
    )
    run_chain(config, tmp_path / "run", said)
    assert (
        said.lines[0]
        == "10 of 10 captions are longer than the limit of the text encoders: the model reads only their beginning"
    )
    said = Said()
    run_chain(
        tiny.config("sd15", made["sd15"], generations=0, model={"generation_0": "base"}),
        tmp_path / "short",
        said,
    )
    assert not [line for line in said.lines if "tokenizer" in line]


def test_a_cpu_that_only_emulates_bf16_is_named_at_the_start(made, tmp_path, monkeypatch):
    config = tiny.config(
        "sd15", made["sd15"], generations=0, model={"generation_0": "base"}, sample={"precision": "bf16"}
    )
    lines = []
    for emulated in (True, False):
        monkeypatch.setattr("difflab.loop.checks.emulates_bf16", lambda emulated=emulated: emulated)
        said = Said()
        run_chain(config, tmp_path / str(emulated), said)
        lines.append([line for line in said.lines if "bf16" in line])
    assert lines == [
        ["this CPU has no instructions for bf16, so bf16 is many times slower here than precision=no"],
        [],
    ]


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_broken_weight_is_found_in_its_layer(kind, made, tmp_path):
    other, backbone = Path(shutil.copytree(made[kind], tmp_path / "other")), tiny.BACKBONE[kind]
    layer = {"sd15": "mid_block.resnets.0.conv2", "sd3": "transformer_blocks.1.attn.to_k"}[kind]
    tiny.spoil(other / backbone / tiny.WEIGHTS, f"{layer}.weight")
    with pytest.raises(
        TrainingError,
        match=rf"the loss is nan in gen-000 after 8 images, first in layer {layer}; nothing was written",
    ):
        run_chain(tiny.config(kind, other), tmp_path / "run")
    with pytest.raises(
        StoreError,
        match=rf"sampling produced non-finite pixels, first in layer {layer}; .* so nothing was written",
    ):
        run_chain(tiny.config(kind, other, model={"generation_0": "base"}), tmp_path / "sampled")
    assert not list((tmp_path / "sampled").rglob("samples/*.parquet"))


def test_a_broken_autoencoder_is_found_in_its_layer(made, tmp_path):
    other = Path(shutil.copytree(made["sd15"], tmp_path / "other"))
    tiny.spoil(other / "vae" / tiny.WEIGHTS, "decoder.mid_block.resnets.0.conv1.weight")
    with pytest.raises(
        StoreError, match=r"non-finite pixels, first in layer decoder\.mid_block\.resnets\.0\.conv1"
    ):
        run_chain(tiny.config("sd15", other, model={"generation_0": "base"}), tmp_path / "run")


@pytest.mark.parametrize("component", ["unet"])
def test_a_lora_of_another_base_is_not_loaded(component, runs, made, tmp_path):
    whole, other = runs("sd15", 2), Path(shutil.copytree(made["sd15"], tmp_path / "base"))
    config = tiny.config("sd15", other, model={"lora_rank": 2}, train={"start_from": "previous"})
    path = run_chain(config.model_copy(update={"generations": 0}), tmp_path / "run").path
    assert whole.path != path
    tiny.spoil(other / component / tiny.WEIGHTS, "conv_in.weight", 0.25)
    Base.hash.cache_clear()
    with pytest.raises(
        StoreError,
        match=r"was trained on other weights than those of .*base; restore the base, or start a new run with --out",
    ):
        run_chain(config, path)


@pytest.mark.parametrize("damage", ["cut", "another rank", "gone"])
def test_a_damaged_lora_is_named(damage, from_previous, tmp_path):
    run = Path(shutil.copytree(from_previous.path, tmp_path / "run"))
    file = run / "gen-001" / "model" / "pytorch_lora_weights.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:300])
    elif damage == "gone":
        file.unlink()
    else:
        from safetensors.torch import save_file

        content = load_file(file)
        del content[sorted(content)[0]]
        save_file(content, file, {"format": "pt"})
    with pytest.raises(StoreError, match=r"gen-001/model"):
        run_chain(from_previous.config.model_copy(update={"generations": 2}), run)


@pytest.mark.parametrize(
    ("stage", "advice"), [("train", r"train\.micro_batch_size"), ("sample", r"sample\.batch_size")]
)
def test_too_little_memory_says_what_to_lower_and_the_run_goes_on(
    stage, advice, runs, made, tmp_path, monkeypatch
):
    whole = runs("sd15", 0)
    config = whole.config.model_copy(update={"generations": 0})

    def short(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setitem(chain.RUN_STAGE, stage, short)
        with pytest.raises(MemoryShort, match=rf"not enough memory in stage {stage}: set {advice}"):
            run_chain(config, tmp_path / "run")
    assert content(run_chain(config, tmp_path / "run").gen(0)) == content(whole.gen(0))


def test_what_a_run_records_of_its_training(runs):
    times = [t for t in runs("sd15", 0).timings() if t["stage"] == "train"]
    assert all(t["images"] == 48 and t["peak_gb"] > 0 and 0 < t["mfu"] < 1 for t in times)
    assert json.loads((runs("sd15", 0).gen(1) / "training.json").read_text())["images_seen"] == 48


# ------------------------------------------------------------------------------- what must not depend on luck
def test_processes_that_look_at_different_moments_leave_no_shard_out(made, tmp_path, monkeypatch):
    """The second process looks for missing latents when the first one has already made some."""
    config = tiny.config("sd15", made["sd15"], generations=0, train=STILL)
    run = run_chain(config.model_copy(update={"generations": 0}), tmp_path / "run")
    model = starting_model(run, 0)
    real = run.real
    shards = Shards(real.folder, real.derived, tmp_path / "pixels", 40, 40, real.record, tmp_path / "latents")
    monkeypatch.setattr(
        Shards, "shards", property(lambda self: range(6))
    )  # six shards of the same forty images
    monkeypatch.setattr(Shards, "decode", lambda self, shard: tiny.images(4, seed=shard))
    barrier, first = threading.Barrier(2), threading.Event()

    def process(rank: int) -> None:
        def encoder(device: Any) -> Encoder:
            if rank:
                first.wait(20)  # it takes longer to load its autoencoder
            return plain(device)

        own = starting_model(run, 0)
        plain = own.encoder
        own.encoder = encoder
        accelerator = SimpleNamespace(device="cpu", process_index=rank, num_processes=2)
        work: Any = SimpleNamespace(run=run, accelerator=accelerator, wait=lambda: barrier.wait(20))
        encode = Shards.encode

        def watched(self: Shards, *args: Any) -> None:
            encode(self, *args)
            if not rank:
                first.set()

        own_shards = Shards(
            real.folder, real.derived, tmp_path / "pixels", 40, 40, real.record, tmp_path / "latents"
        )
        own_shards.encode = watched.__get__(own_shards)  # type: ignore[method-assign]
        training.encode([(own_shards, own_shards.shards)], own, work)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(process, rank) for rank in (0, 1)]:
            done.result(60)
    assert shards.lacks(model.encoder_key) == []


@pytest.mark.parametrize(
    ("start", "rank"), [("scratch", 0), ("base", 0), ("previous", 0), ("base", 2), ("previous", 2)]
)
def test_a_base_that_is_generation_0_is_the_base_wherever_later_ones_start(start, rank, made, tmp_path):
    model = {"generation_0": "base", "lora_rank": rank}
    config = tiny.config("sd15", made["sd15"], generations=0, model=model, train={"start_from": start})
    run = run_chain(config, tmp_path / "run")
    direct = tiny.model("sd15", made["sd15"], run.shape)
    direct.prepare_sampling(config.sample, "cpu")
    wanted = sample_conditions(run, 0, 10)
    seeds = run.samples(0).column("seed")
    for part in (slice(0, 5), slice(5, 10)):
        assert (
            direct.sample(wanted.conditions[part], seeds[part], config.sample)
            == run.samples(0).gather(np.arange(10))[part]
        ).all()


def test_layers_on_fresh_weights_are_refused(made, tmp_path):
    """A LoRA's file names its base; fresh weights under it would be lost with the process, and samples come from layers on the base."""
    with pytest.raises(ConfigError, match=r"lora_rank .* train.start_from=scratch does not use them"):
        run_chain(
            tiny.config(
                "sd15", made["sd15"], generations=0, model={"lora_rank": 2}, train={"start_from": "scratch"}
            ),
            tmp_path / "run",
        )


@pytest.mark.parametrize("start", ["base", "previous"])
def test_a_trained_text_encoder_starts_where_the_network_starts(start, made, tmp_path):
    config = tiny.config(
        "sd15", made["sd15"], generations=0, model={"train_text_encoder": True}, train={"start_from": start}
    )
    run = run_chain(config, tmp_path / "run")
    home = run.gen(0) / "model" if start == "previous" else made["sd15"]
    model = starting_model(run, 1)
    assert tiny.equal(dict(model.text_encoder.state_dict()), tiny.tensors(home, "text_encoder"))
    assert not tiny.equal(
        tiny.tensors(made["sd15"], "text_encoder"), tiny.tensors(run.gen(0) / "model", "text_encoder")
    )


@pytest.mark.parametrize(("kind", "rank"), [("sd15", 0), ("sd3", 2)])
def test_bfloat16_trains_samples_and_resumes(kind, rank, made, tmp_path):
    AcceleratorState._reset_state(True)
    train = {
        "precision": "bf16",
        "images_seen": 6,
        "batch_size": 2,
        "checkpoint_every": 2,
    }  # convolutions of bfloat16 are slow here
    sample = {"precision": "bf16", "count": 4, "steps": 1, "shard_size": 2, "batch_size": 2}
    config = tiny.config(
        kind, made[kind], generations=0, model={"lora_rank": rank}, train=train, sample=sample
    )
    try:
        whole = run_chain(config, tmp_path / "whole")
        with pytest.raises(Stop):
            run_chain(config, tmp_path / "cut", Stopper(0, 4))
        cut = run_chain(config, tmp_path / "cut")
    finally:
        AcceleratorState._reset_state(True)
    assert cut.samples(0).hash() == whole.samples(0).hash() and cut.training(0) == whole.training(0)
    weights = [t for p in (whole.gen(0) / "model").rglob("*.safetensors") for t in load_file(p).values()]
    assert {t.dtype for t in weights if t.is_floating_point()} == {torch.float32} and all(
        t.isfinite().all() for t in weights
    )


@pytest.mark.parametrize("count", [4, 9, 30])
def test_captions_of_a_set_without_classes_go_round(count, made, tmp_path):
    """12 images, of which 3 share a caption: each image's caption as often as the next one's, the same ones in every generation."""
    home = tmp_path / "pictures"
    home.mkdir()
    texts = [f"picture {i if i < 9 else 0}" for i in range(24)]
    for i, picture in enumerate(tiny.images(24)):
        Image.fromarray(picture).save(home / f"{i:02d}.png")
    (home / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"{i:02d}.png", "text": t}) + "\n" for i, t in enumerate(texts))
    )
    data = {"source": f"imagefolder:{home}", "limit": None, "label": None, "train_size": 12}
    config = tiny.config(
        "sd15",
        made["sd15"],
        generations=0,
        model={"generation_0": "base"},
        data=data,
        sample={"count": count},
    )
    run = run_chain(config, tmp_path / "run")
    first = run.real.column("prompt")[:12]
    seen = [sample_conditions(run, generation, count) for generation in (0, 1, 2)]
    for wanted in seen:
        assert (
            wanted.labels is None
            and wanted.classes is None
            and wanted.prompts is not None
            and len(wanted.prompts) == count
        )
        for caption in set(first):  # whole rounds, and of the last one a part
            assert (
                count // 12 * first.count(caption)
                <= wanted.prompts.count(caption)
                <= -(-count // 12) * first.count(caption)
            )
        assert (
            set(wanted.prompts) <= set(first)
            and [run.prompts[c] for c in wanted.conditions] == wanted.prompts
        )
    assert sorted(seen[0].prompts or []) == sorted(seen[1].prompts or []) == sorted(seen[2].prompts or [])
    assert count < 9 or seen[0].prompts != seen[1].prompts
    assert run.samples(0).column("prompt") == seen[0].prompts and run.samples(0).labels() is None


def test_a_finished_run_has_no_fault_and_a_damaged_model_is_one(runs, tmp_path):
    for rank in (0, 2):
        run = runs("sd15", rank)
        assert list(verify(run)) == []
        copy = Path(shutil.copytree(run.path, tmp_path / str(rank)))
        file = next((copy / "gen-001" / "model").rglob("*.safetensors"))
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert [line for line in verify(open_run(copy)) if file.name in line]


# ------------------------------------------------------------------------------------- regimes, precision, data
def test_an_extended_run_is_the_long_one(made, tmp_path):
    """The latents of earlier generations were dropped with the cache and are made again."""
    config = tiny.config(
        "sd15",
        made["sd15"],
        regime={"name": "accumulate"},
        generations=2,
        train={"images_seen": 24, "start_from": "previous"},
        model={"lora_rank": 2},
    )
    at_once = run_chain(config, tmp_path / "long")
    run_chain(config.model_copy(update={"generations": 1}), tmp_path / "short")
    extended = run_chain(config, tmp_path / "short")
    assert [extended.samples(t).hash() for t in range(3)] == [at_once.samples(t).hash() for t in range(3)]


def test_too_few_samples_for_the_classes_are_refused(made, tmp_path):
    refused(
        ConfigError,
        r"sample\.count 2 is too small to ask for class '\w+' even once",
        tiny.config("sd15", made["sd15"], sample={"count": [10, 2]}),
        tmp_path / "run",
    )


def test_prompt_diversity_of_captions_groups_by_caption(made, tmp_path):
    measure = {
        "extractors": ["pixels"],
        "metrics": ["prompt_diversity", "within_class_ratio"],
        "resamples": 0,
    }
    run = run_chain(
        tiny.config("sd15", made["sd15"], generations=0, sample={"count": 40}, measure=measure),
        tmp_path / "run",
    )
    r = next(r for r in run.rows() if r["metric"] == "prompt_diversity")
    prompts, n = run.samples(0).column("prompt")[: r["n"]], r["n"]
    assert 1 < len(set(prompts)) < n and len(set(run.real.column("prompt"))) == len(run.real)
    x = torch.from_numpy(run.samples(0).gather(np.arange(n))).flatten(1).double() / 255
    apart = torch.cdist(x, x).square()
    same = [[i for i in range(n) if prompts[i] == p] for p in sorted(set(prompts))]
    own = [apart[g][:, g].sum() / (len(g) * (len(g) - 1)) for g in same if len(g) > 1]
    assert r["value"] == pytest.approx(
        float(torch.stack(own).mean() / (apart.sum() / (n * (n - 1)))), rel=1e-6
    )
    assert r["floor"] is None and "its floor: " in r["reason"] and "a prompt of its own" in r["reason"]
