"""Bases from files: one complete diffusers folder per content, made once, and a chain runs from it as from the folder of a user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import lora_files
import pytest
import single_files
import tiny
import torch
import yaml
from commands import difflab as run_command
from empty_hub import put_into_cache
from forks import pair
from safetensors.torch import load_file

import difflab
from difflab.config import parse
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.loop.chain import run_chain
from difflab.models import converted_base, fused_lora, single_file
from difflab.models.converted_base import open_start
from difflab.models.pretrained import Base, open_base
from difflab.models.stable_diffusion import StableDiffusion
from difflab.models.text_to_image.registry import pipelines_of

pytestmark = tiny.LIBRARIES
SD = pipelines_of("stable-diffusion")
PARTS = ("unet", "vae", "text_encoder")
ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    converted_base._download.cache_clear()
    Base.hash.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    return {kind: tiny.make(kind, root / kind) for kind in ("sd15", "sdxl", "sd3")}


@pytest.fixture(scope="module")
def files(made, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("files")
    found = {
        kind: single_files.write(single_files.whole(kind, made[kind]), root / f"{kind}.safetensors")
        for kind in ("sd15", "sdxl")
    }
    found["sd3"] = single_files.write(single_files.mmdit(made["sd3"]), root / "sd3.safetensors")
    return found


def lora(folder: Path, file: Path, seed: int = 0) -> Path:
    found = lora_files.layers(folder, "unet", ATTENTION, seed)
    return lora_files.write(lora_files.kohya(found, "lora_unet", 4.0), file)


def opened(kind: str, base: Path | str, **fields: Any) -> Base:
    return open_start(tiny.spec(kind, base, **fields))


def kept(cache: Path) -> list[str]:
    """What a cache of bases holds, without the files of the locks."""
    return sorted(path.name for path in (cache / "bases").iterdir() if not path.name.endswith(".lock"))


# ------------------------------------------------------------------------------------------------- opening
@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_a_file_opens_as_the_folder_it_was_written_from(kind, made, files, tmp_path):
    base = opened(kind, files[kind], base_config=str(made[kind]))
    theirs = open_base(str(made[kind]), pipelines_of(tiny.family(kind)), tiny.family(kind))
    assert base.path.parent == tmp_path / "cache" / "bases" and base.kind == theirs.kind
    assert base.components == theirs.components
    assert base.hash(*base.components) == theirs.hash(*theirs.components)
    assert torch.equal(
        base.texts(["noto seal"], "cpu")["states"], theirs.texts(["noto seal"], "cpu")["states"]
    )
    about = json.loads((base.path / "source.json").read_text())
    assert about["name"] == files[kind].name and len(about["file"]) == 64
    assert about["components"] == (
        ["transformer"] if kind == "sd3" else sorted([*base.text_encoders(), "unet", "vae"])
    )


def test_a_folder_is_opened_where_it_is(made, tmp_path):
    assert opened("sd15", made["sd15"]).path == made["sd15"]
    assert not (tmp_path / "cache" / "bases").exists()


def test_a_gguf_file_opens_with_the_other_components_of_the_configs(made, tmp_path):
    file = single_files.gguf(single_files.mmdit(made["sd3"]), tmp_path / "sd3.gguf", "Q8_0")
    base = opened("sd3", file, base_config=str(made["sd3"]))
    assert single_files.same_weights(base.path, made["sd3"], ("vae", "text_encoder", "text_encoder_2"))
    ours, theirs = (tiny.tensors(folder, "transformer") for folder in (base.path, made["sd3"]))
    differences = [float((t - theirs[name]).abs().max()) for name, t in ours.items()]
    assert 0 < max(differences) < 0.01 and {t.dtype for t in ours.values()} == {torch.float32}


def test_variants_of_the_configs_folder(files, tmp_path):
    """Components that come from base_config can have a variant."""
    folder = tiny.make("sd3", tmp_path / "half", variant="fp16")
    base = opened("sd3", files["sd3"], base_config=str(folder), variant="fp16")
    assert tiny.equal(tiny.tensors(base.path, "vae"), tiny.tensors(folder, "vae"))
    with pytest.raises(ConfigError, match=r"has only weights of variant fp16; set model\.variant=fp16"):
        opened("sd3", files["sd3"], base_config=str(folder))


def test_configs_from_the_hubs_cache(made, files, tmp_path):
    """A hub id as base_config; a whole checkpoint needs no weights from there."""
    bare = single_files.configs_only(made["sd15"], tmp_path / "bare", PARTS)
    put_into_cache(bare, "org/configs")
    base = opened("sd15", files["sd15"], base_config="org/configs")
    assert single_files.same_weights(base.path, made["sd15"], PARTS)


def test_without_base_config_the_repository_is_inferred(made, files, tmp_path):
    bare = single_files.configs_only(made["sd15"], tmp_path / "bare", PARTS)
    put_into_cache(bare, "stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert single_files.same_weights(opened("sd15", files["sd15"]).path, made["sd15"], PARTS)


# ---------------------------------------------------------------------------------------------------- LoRA
def test_a_lora_on_a_folder_on_a_file_and_on_the_bundled_base(made, files, tmp_path):
    file = lora(made["sd15"], tmp_path / "lora.safetensors")
    wanted = lora_files.added(made["sd15"], "unet", lora_files.layers(made["sd15"], "unet", ATTENTION), 0.5)
    for base, more in ((made["sd15"], {}), (files["sd15"], {"base_config": str(made["sd15"])})):
        opened_base = opened("sd15", base, base_lora=str(file), base_lora_scale=0.5, **more)
        ours = tiny.tensors(opened_base.path)
        assert all(torch.allclose(t, wanted[name], atol=1e-6) for name, t in ours.items())
        assert single_files.same_weights(opened_base.path, made["sd15"], ("vae", "text_encoder"))
    on_tiny_sd = lora(difflab.core.files.ASSETS / "tiny-sd", tmp_path / "other.safetensors")
    base = opened("sd15", "tiny-sd", base_lora=str(on_tiny_sd))
    assert base.path.parent == tmp_path / "cache" / "bases"


def test_every_source_and_setting_has_its_own_folder(made, files, tmp_path):
    one, two = (
        lora(made["sd15"], tmp_path / "1.safetensors"),
        lora(made["sd15"], tmp_path / "2.safetensors", 1),
    )
    changed = Path(shutil.copytree(made["sd15"], tmp_path / "changed"))
    tiny.amend(changed / "scheduler" / "scheduler_config.json", beta_end=0.013)
    other = dict(load_file(files["sd15"]))
    other["model.diffusion_model.out.2.bias"] = other["model.diffusion_model.out.2.bias"] + 1
    other_file = single_files.write(other, tmp_path / "other.safetensors")
    cases = [
        (files["sd15"], {"base_config": str(made["sd15"])}),
        (other_file, {"base_config": str(made["sd15"])}),
        (files["sd15"], {"base_config": str(changed)}),
        (made["sd15"], {"base_lora": str(one)}),
        (made["sd15"], {"base_lora": str(two)}),
        (made["sd15"], {"base_lora": str(one), "base_lora_scale": 0.5}),
    ]
    paths = [opened("sd15", base, **fields).path for base, fields in cases]
    assert len(set(paths)) == len(cases) and kept(tmp_path / "cache") == sorted(path.name for path in paths)
    copy = shutil.copy(files["sd15"], tmp_path / "renamed.safetensors")
    assert opened("sd15", copy, base_config=str(made["sd15"])).path == paths[0]  # the content counts


# ----------------------------------------------------------------------------------- whole or absent, once
def test_it_is_made_once(made, files, monkeypatch):
    first = opened("sd15", files["sd15"], base_config=str(made["sd15"])).path
    stamp = (first / "unet" / tiny.WEIGHTS).stat()

    def again(*args: Any) -> Any:
        raise AssertionError("it was converted again")

    monkeypatch.setattr(single_file, "write_component", again)
    monkeypatch.setattr(single_file, "read", again)
    assert opened("sd15", files["sd15"], base_config=str(made["sd15"])).path == first
    assert (first / "unet" / tiny.WEIGHTS).stat() == stamp


def test_a_failure_leaves_nothing(made, files, tmp_path, monkeypatch):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(converted_base, "write_json", full)
        with pytest.raises(OSError, match="No space left"):
            opened("sd15", files["sd15"], base_config=str(made["sd15"]))
    assert kept(tmp_path / "cache") == []
    stray = tmp_path / "cache" / "bases"  # of a process that was killed
    base = opened("sd15", files["sd15"], base_config=str(made["sd15"])).path
    shutil.rmtree(base)
    (stray / f".{base.name}.tmp" / "unet").mkdir(parents=True)
    assert opened("sd15", files["sd15"], base_config=str(made["sd15"])).path == base
    assert kept(tmp_path / "cache") == [base.name]


OPEN = """
import tiny
from difflab.models import single_file
from difflab.models.converted_base import open_start

def main(rank, file, configs, out):
    write, written = single_file.write_component, []
    single_file.write_component = lambda *args: (written.append(1), write(*args))
    path = open_start(tiny.spec("sd15", file, base_config=configs)).path
    open(f"{out}-{rank}", "w").write(f"{path} {len(written)}")
"""


def test_two_processes_ask_at_once(made, files, tmp_path, monkeypatch):
    """One converts, the other waits for it."""
    paths = [str(Path(difflab.__file__).parents[1]), str(Path(single_files.__file__).parent)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    pair(OPEN, files["sd15"], made["sd15"], tmp_path / "answer")
    answers = [(tmp_path / f"answer-{rank}").read_text().split() for rank in (0, 1)]
    (path,) = {path for path, _ in answers}
    assert sorted(count for _, count in answers) == ["0", "3"]
    assert single_files.same_weights(Path(path), made["sd15"], PARTS)


def test_a_cache_that_cannot_be_written(made, files, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "bases").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write to .*bases: .*; set DIFFLAB_CACHE to another folder"):
        opened("sd15", files["sd15"], base_config=str(made["sd15"]))


# ------------------------------------------------------------------------------------------------ bad input
def test_a_file_without_configs_and_without_a_hub(files):
    with pytest.raises(
        ConfigError,
        match=r"needs configs; 'stable-diffusion-v1-5/stable-diffusion-v1-5', which has those for its kind of file, "
        r"cannot be downloaded from the hub \(.*\); set model\.base_config to a local diffusers folder",
    ):
        opened("sd15", files["sd15"])


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("sd15", "nowhere/at/all", r"model\.base_config 'nowhere/at/all' cannot be downloaded from the hub"),
        ("sd15", "{root}", r"model\.base_config .* is not a diffusers folder, because it has no model_index\.json"),
        ("sd15", "{sd3}", r"model\.base_config .* is a StableDiffusion3Pipeline, which model\.family=stable-diffusion does not support; use model\.family=flow"),
        ("sd3", "{sd15}", r"is a StableDiffusionPipeline, which model\.family=flow does not support"),
        ("sd15", "{sdxl}", r"use the model\.base_config that it was made for$"),
        ("sdxl", "{sd15}", r"use the model\.base_config that it was made for$"),
    ],
)  # fmt: skip
def test_the_wrong_configs(kind, config, message, made, files, tmp_path):
    (tmp_path / "empty").mkdir()
    config = config.format(root=tmp_path / "empty", **made)
    with pytest.raises(ConfigError, match=message):
        opened(kind, files[kind], base_config=config)


def test_a_component_that_neither_has(made, files, tmp_path):
    """A transformer alone, with configs that have no weights for the autoencoder."""
    bare = single_files.configs_only(made["sd3"], tmp_path / "bare", ("vae",))
    with pytest.raises(ConfigError, match=r"vae has no safetensors weights$"):
        opened("sd3", files["sd3"], base_config=str(bare))


def test_pickles_and_missing_files(made, tmp_path):
    for name in ("model.ckpt", "lora.pt"):
        (tmp_path / name).write_bytes(b"never read")
    with pytest.raises(
        ConfigError, match=r"model\.ckpt holds pickled weights, which are not read, since they can run"
    ):
        opened("sd15", tmp_path / "model.ckpt")
    with pytest.raises(ConfigError, match=r"lora\.pt holds pickled weights"):
        opened("sd15", made["sd15"], base_lora=str(tmp_path / "lora.pt"))
    with pytest.raises(ConfigError, match=r"model\.base_lora .*no\.safetensors does not exist"):
        opened("sd15", made["sd15"], base_lora=str(tmp_path / "no.safetensors"))
    with pytest.raises(ConfigError, match=r"model\.base .*no\.safetensors does not exist"):
        opened("sd15", tmp_path / "no.safetensors", base_config=str(made["sd15"]))


def test_files_of_another_content_than_the_config_says(made, files, tmp_path):
    file = Path(shutil.copy(files["sd15"], tmp_path / "model.safetensors"))
    spec = tiny.spec("sd15", file, base_config=str(made["sd15"]))
    open_start(spec)
    changed = dict(load_file(file)) | {"betas": torch.zeros(1000)}
    single_files.write(changed, file)
    with pytest.raises(
        ConfigError, match=r"model\.base_content is \w{12}, but the content of the files is \w{12}: put back"
    ):
        open_start(spec)
    assert tiny.spec("sd15", file, base_config=str(made["sd15"])).base_content != spec.base_content


def test_a_lora_of_another_base_fails_before_anything_is_trained(made, tmp_path):
    file = lora(made["sdxl"], tmp_path / "lora.safetensors")
    config = tiny.config("sd15", made["sd15"], model={"base_lora": str(file)})
    with pytest.raises(ConfigError, match=r"was made for another base$"):
        run_chain(config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("gen-*")) and kept(tmp_path / "cache") == []


# --------------------------------------------------------------------------------------------------- chains
def written(config: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return folder / "config.yaml"


def small(kind: str, base: Path | str, **model: Any) -> Any:
    config = tiny.config(
        kind,
        base,
        model=model,
        train={"images_seen": 16, "checkpoint_every": 0},
        sample={"count": 4, "shard_size": 4, "batch_size": 4},
    )
    assert config.generations == 1  # generations 0 and 1
    return config


def test_a_chain_from_a_file_is_the_chain_from_its_folder(made, files, tmp_path):
    """As a real command, which is resumed in this process."""
    config = written(small("sd15", files["sd15"], base_config=str(made["sd15"])), tmp_path / "file")
    line = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "difflab",
        "run",
        config,
        "--out",
        tmp_path / "file" / "run",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    run = difflab.open_run(tmp_path / "file" / "run")
    theirs = run_chain(small("sd15", made["sd15"]), tmp_path / "folder", plots=False)
    for t in (0, 1):
        assert run.samples(t).hash() == theirs.samples(t).hash()
        assert tiny.equal(tiny.tensors(run.gen(t) / "model"), tiny.tensors(theirs.gen(t) / "model"))
    assert run.config.model.base_content is not None and run.config.model.shown_name == "sd15.safetensors"
    assert run_command("run", config, "--out", run.path).returncode == 0


def test_a_chain_with_a_lora_in_the_base_that_trains_another_one(made, tmp_path):
    """The base of the trained LoRA is the fused one; the run resumes, and says so if the fused LoRA has changed."""
    file = lora(made["sd15"], tmp_path / "lora.safetensors")
    config = small("sd15", made["sd15"], base_lora=str(file), lora_rank=2)
    run = run_chain(config, tmp_path / "run", plots=False)
    plain = run_chain(small("sd15", made["sd15"], lora_rank=2), tmp_path / "plain", plots=False)
    assert run.samples(0).hash() != plain.samples(0).hash() and run.recipe != plain.recipe
    about = json.loads((run.gen(1) / "model" / "base.json").read_text())
    assert (about["base_lora"], about["base_lora_scale"]) == (str(file), 1.0)
    fused = open_start(config.model)
    assert about["weights"] == fused.hash("unet") != open_base(str(made["sd15"]), SD, "x").hash("unet")
    shutil.rmtree(tmp_path / "cache" / "bases")  # a cache may be deleted
    shutil.rmtree(run.gen(1))
    before = run.samples(0).hash()
    again = run_chain(config, tmp_path / "run", plots=False)
    assert again.samples(0).hash() == before and again.done(1, "sample")
    lora(made["sd15"], file, seed=5)
    other = small("sd15", made["sd15"], base_lora=str(file), lora_rank=2)
    with pytest.raises(StoreError, match=r"another recipe \(model\.base_content: '\w+' there, '\w+' asked\)"):
        run_chain(other, tmp_path / "run", plots=False)


def test_a_chain_of_a_transformer_alone(made, files, tmp_path):
    run = run_chain(small("sd3", files["sd3"], base_config=str(made["sd3"])), tmp_path / "run", plots=False)
    theirs = run_chain(small("sd3", made["sd3"]), tmp_path / "folder", plots=False)
    assert run.samples(1).hash() == theirs.samples(1).hash()


@pytest.mark.parametrize("case", ["half a file", "a pickle", "no configs", "another family", "not a layer"])
def test_the_command_says_in_one_line_what_is_wrong_and_trains_nothing(case, made, files, tmp_path):
    file, fields = tmp_path / "model.safetensors", {"base_config": str(made["sd15"])}
    shutil.copy(files["sd15"], file)
    if case == "half a file":
        file.write_bytes(file.read_bytes()[:5000])
    elif case == "a pickle":
        file, fields = tmp_path / "model.ckpt", {}
        file.write_bytes(b"x")
    elif case == "no configs":
        fields = {}
    elif case == "another family":
        fields = {"base_config": str(made["sd3"])}
    else:
        fields["base_lora"] = str(lora(made["sdxl"], tmp_path / "lora.safetensors"))
    config = written(small("sd15", file, **fields), tmp_path)
    done = run_command("run", config, "--out", tmp_path / "run")
    message = {"half a file": "damaged or half-downloaded", "a pickle": "pickled", "no configs": "set model.base_config",
               "another family": "use model.family=flow", "not a layer": "made for another base"}[case]  # fmt: skip
    assert done.returncode == 2 and message in done.stderr
    assert (
        sum(line.startswith("difflab: ") for line in done.stderr.splitlines()) == 1
        and "Traceback" not in done.stderr
    )
    assert not list((tmp_path / "run").rglob("gen-*"))


def test_a_model_of_the_library_with_other_weights_is_the_models_own(made, tmp_path):
    """The weights that a family object starts from are the fused ones."""
    file = lora(made["sd15"], tmp_path / "lora.safetensors")
    spec = tiny.spec("sd15", made["sd15"], base_lora=str(file))
    model = StableDiffusion(spec, Shape((tiny.SIDE, tiny.SIDE, 3), 0, tiny.CAPTIONS))
    model.initialise(0)
    layers = fused_lora.read(open_base(str(made["sd15"]), SD, "x"), file)
    weight = tiny.tensors(made["sd15"])[f"{layers[0].name}.weight"]
    ours = model.backbone.get_parameter(f"{layers[0].name}.weight")
    torch.testing.assert_close(ours.detach(), weight + layers[0].delta())
    assert parse({"model": spec.model_dump(mode="json"), "train": {"start_from": "base"}}).model == spec
