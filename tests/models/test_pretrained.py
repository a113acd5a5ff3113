"""A pretrained base: whatever is wrong with a folder is said in one sentence, nothing in it is run, nothing is filled up."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from difflab.core.errors import ConfigError, StoreError
from difflab.models import pretrained
from difflab.models.pretrained import Base, open_base
from difflab.models.text_to_image.registry import pipelines_of

pytestmark = tiny.LIBRARIES
SD = pipelines_of("stable-diffusion")


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    """The tests use an empty hub cache and no network, so that no hub id can be downloaded."""
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    pretrained._download.cache_clear()
    Base.hash.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    return {kind: tiny.make(kind, tmp_path_factory.mktemp("base") / kind) for kind in tiny.KINDS}


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of SD 1.5's folder to damage."""
    return Path(shutil.copytree(made["sd15"], tmp_path / "sd15"))


def opened(folder: Path | str, **how: Any) -> Base:
    return open_base(str(folder), SD, "stable-diffusion", **how)


def plain(folder: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)


# --------------------------------------------------------------------------------------------- opening
def test_what_is_in_a_folder(made):
    assert opened(made["sd15"]).kind == opened(made["sd21"]).kind == "StableDiffusionPipeline"
    assert opened(made["sdxl"]).kind == "StableDiffusionXLPipeline" and opened(
        made["sdxl"]
    ).text_encoders() == ["text_encoder", "text_encoder_2"]
    sd3 = open_base(str(made["sd3"]), pipelines_of("flow"), "flow")
    assert set(sd3.components) == {
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "transformer",
        "vae",
    }
    assert (
        opened(made["sd15"]).scheduler_config()["beta_end"] == 0.012
        and opened(made["sd15"]).scheduler_config()["clip_sample"] is False
    )


def test_a_home_is_expanded(made, monkeypatch):
    monkeypatch.setenv("HOME", str(made["sd15"].parent))
    assert opened("~/sd15").path == made["sd15"]


@pytest.mark.parametrize("name", ["no/such/folder/at all", "/nowhere/sd15", "sd15", "../x/y", "nobody/"])
def test_a_place_that_is_none(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"is neither a folder nor a hub id; give a diffusers folder, an id like org/name, or tiny-sd",
    ):
        opened(name)


def test_a_hub_id_without_a_hub():
    with pytest.raises(
        ConfigError,
        match=r"model\.base 'nobody/nothing' cannot be downloaded from the hub \(\w+: .*\); without a network connection give a local diffusers folder",
    ):
        opened("nobody/nothing")


def test_a_hub_id_that_was_fetched_before_needs_no_hub(made, tmp_path):
    """The hub's cache holds links to blobs; a generation's folder must hold the files themselves."""
    home, commit = tmp_path / "hub" / "models--org--name", "a" * 40
    (home / "blobs").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    for i, file in enumerate(sorted(p for p in made["sd15"].rglob("*") if p.is_file())):
        blob, link = home / "blobs" / str(i), home / "snapshots" / commit / file.relative_to(made["sd15"])
        shutil.copy(file, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    base = opened("org/name")
    assert base.hash("unet", "vae") == opened(made["sd15"]).hash("unet", "vae")
    base.copy_to(tmp_path / "copy", leave=())
    assert not any(p.is_symlink() for p in (tmp_path / "copy").rglob("*"))
    shutil.rmtree(tmp_path / "hub")
    assert tiny.equal(dict(plain(tmp_path / "copy").unet.state_dict()), tiny.tensors(made["sd15"]))


FILES = [f"{component}/{name}" for component in ("transformer", "vae", "text_encoder", "text_encoder_3") for name in (
    "config.json", "model.safetensors", "model.fp16.safetensors", "model.bin", "model.fp16.bin", "model.safetensors.index.json",
    "model.safetensors.index.fp16.json", "model-00001-of-00002.safetensors", "model.fp16-00001-of-00002.safetensors")]  # fmt: skip
OTHERS = ["model_index.json", "sd3_medium.safetensors", "sd3_medium.ckpt", "README.md", "tokenizer/merges.txt", "tokenizer/vocab.json",
          "scheduler/scheduler_config.json", "safety_checker/model.safetensors", "unet/evil.py", "demo.png"]  # fmt: skip


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_what_is_fetched_from_a_hub(monkeypatch, tmp_path, variant):
    """All that is needed, no pickles, no code, no checker, no second copy of the weights in a variant that nobody asked for."""
    asked: dict[str, Any] = {}

    def snapshot(name: str, **how: Any) -> str:
        asked.update(how)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    pretrained._download("org/name", "main", variant)
    patterns = {"allow_patterns": asked["allow_patterns"], "ignore_patterns": asked["ignore_patterns"]}
    got = set(filter_repo_objects([*FILES, *OTHERS], **patterns))
    assert got >= {
        "model_index.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
    }
    assert not got & {
        "sd3_medium.safetensors",
        "sd3_medium.ckpt",
        "safety_checker/model.safetensors",
        "unet/evil.py",
    }
    assert not any(name.endswith(".bin") for name in got)
    weights = {name for name in got if name.startswith("text_encoder_3/") and name.endswith(".safetensors")}
    wanted = (
        {"model.safetensors", "model-00001-of-00002.safetensors"}
        if variant is None
        else {"model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors"}
    )
    assert weights >= {f"text_encoder_3/{name}" for name in wanted}
    if variant is None:
        assert not [name for name in weights if "fp16" in name]
    assert asked["revision"] == "main"


def test_a_folder_that_holds_no_pipeline(tmp_path):
    (tmp_path / "v1-5.safetensors").write_bytes(b"x")
    with pytest.raises(
        ConfigError,
        match=r"is not a diffusers folder, because it has no model_index\.json; for a checkpoint in a single file give the path",
    ):
        opened(tmp_path)


@pytest.mark.parametrize("content", ["{", "", "[1]", '"text"'])
def test_a_damaged_index_is_named(folder, content):
    (folder / "model_index.json").write_text(content)
    with pytest.raises((ConfigError, StoreError), match=r"model_index\.json"):
        opened(folder)


def test_pipelines_of_other_classes_are_refused_with_the_right_family(made, folder):
    with pytest.raises(
        ConfigError,
        match=r"StableDiffusion3Pipeline, which model\.family=stable-diffusion does not support; use model\.family=flow",
    ):
        opened(made["sd3"])
    with pytest.raises(
        ConfigError,
        match=r"StableDiffusionPipeline, which model\.family=flow does not support; use model\.family=stable-diffusion",
    ):
        open_base(str(folder), pipelines_of("flow"), "flow")
    tiny.amend(folder / "model_index.json", _class_name="KolorsPipeline")
    with pytest.raises(
        ConfigError,
        match=r"KolorsPipeline.*difflab knows .*StableDiffusionPipeline, ",
    ):
        opened(folder)
    tiny.amend(folder / "model_index.json", _class_name="")
    with pytest.raises(ConfigError, match="pipeline without a class name"):
        opened(folder)


# ------------------------------------------------------------------------------------- what may be missing
@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_component_without_folder(folder, component):
    shutil.rmtree(folder / component)
    with pytest.raises(
        ConfigError, match=rf"lacks its component '{component}'; the download is not complete: fetch it again"
    ):
        opened(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("unet/config.json", r"unet holds no config\.json"),
        ("vae/config.json", r"vae holds no config\.json"),
        ("scheduler/scheduler_config.json", r"scheduler holds no scheduler_config\.json"),
        ("tokenizer/*", "tokenizer holds no tokenizer files"),
        ("unet/*.safetensors", "unet has no safetensors weights$"),
        ("text_encoder/*.safetensors", "text_encoder has no safetensors weights$"),
    ],
)
def test_a_file_less(folder, file, message):
    for path in folder.glob(file):
        path.unlink()
    with pytest.raises(ConfigError, match=message):
        opened(folder)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("left", [0, 5, 400, -1])
def test_half_downloaded_weights(folder, component, left):
    file = next((folder / component).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ConfigError, match=rf"{file.name} is damaged or half-downloaded .*; fetch it again"):
        opened(folder)


def test_weights_that_are_another_file(folder):
    (folder / "unet" / tiny.WEIGHTS).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(ConfigError, match="damaged or half-downloaded"):
        opened(folder)


def test_pickles_are_not_read(folder):
    (folder / "vae" / tiny.WEIGHTS).unlink()
    torch.save({}, folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(
        ConfigError,
        match=r"vae has no safetensors weights; pickled \.bin weights are not read, since they can run code",
    ):
        opened(folder)


def test_nothing_in_a_folder_is_run(folder, tmp_path):
    """A component whose class the folder brings along as Python code."""
    mark = tmp_path / "was-run"
    (folder / "text_encoder" / "evil.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom transformers import CLIPTextModel\n\nclass Evil(CLIPTextModel):\n    pass\n"
    )
    tiny.amend(folder / "model_index.json", text_encoder=["evil", "Evil"])
    try:
        opened(folder).texts(["noto seal"], "cpu")
    except Exception as error:
        assert isinstance(error, ConfigError | StoreError), error
    assert not mark.exists()


def test_only_a_variant_is_there(tmp_path):
    folder = tiny.make("sd15", tmp_path / "half", variant="fp16")
    with pytest.raises(
        ConfigError,
        match=r"has only weights of variant fp16; set model\.variant=fp16",
    ):
        opened(folder)
    base = opened(folder, variant="fp16")
    assert tiny.equal(dict(base.load("unet", UNet2DConditionModel).state_dict()), tiny.tensors(folder))
    assert base.texts(["noto seal"], "cpu")["states"].shape == (1, tiny.LENGTH, tiny.WIDTH)
    with pytest.raises(ConfigError, match="has only weights of variant fp16"):
        opened(folder, variant="bf16")


def test_a_variant_beside_the_plain_weights(folder, tmp_path):
    """The plain ones are read without, the variant's with model.variant; neither is taken for the other."""
    tiny.make("sd15", tmp_path / "other", seed=1, variant="fp16")
    for component in ("unet", "vae", "text_encoder"):
        for file in (tmp_path / "other" / component).glob("*.safetensors"):
            shutil.copy(file, folder / component)
    plain_ones, halves = opened(folder), opened(folder, variant="fp16")
    a, b = (base.load("unet", UNet2DConditionModel).state_dict() for base in (plain_ones, halves))
    assert torch.equal(a["conv_in.weight"], load_file(folder / "unet" / tiny.WEIGHTS)["conv_in.weight"])
    assert torch.equal(
        b["conv_in.weight"], tiny.tensors(tmp_path / "other")["conv_in.weight"]
    ) and not torch.equal(a["conv_in.weight"], b["conv_in.weight"])
    # What their outputs are kept under must differ too, or latents and texts of one were taken for those of the other.
    assert plain_ones.hash("vae") != halves.hash("vae")
    texts = [base.texts(["noto seal"], "cpu")["states"] for base in (plain_ones, halves)]
    assert not torch.equal(*texts)


def sharded(folder: Path, variant: str | None = None) -> Path:
    return tiny.make("sd15", folder, max_shard_size="10KB", variant=variant)


def test_weights_in_several_files(tmp_path):
    folder = sharded(tmp_path / "parts")
    parts = sorted((folder / "unet").glob("*.safetensors"))
    assert len(parts) > 2 and list((folder / "text_encoder").glob("*.index.json"))
    base = opened(folder)
    assert tiny.equal(dict(base.load("unet", UNet2DConditionModel).state_dict()), tiny.tensors(folder))
    parts[1].unlink()
    with pytest.raises(ConfigError, match=rf"unet lacks {parts[1].name} \(1 of {len(parts)} weight files\)"):
        opened(folder)


def test_a_variant_in_several_files(tmp_path):
    """stabilityai/stable-diffusion-3-medium-diffusers has its T5 so: model.fp16-00001-of-00002.safetensors."""
    folder = sharded(tmp_path / "parts", "fp16")
    parts = sorted((folder / "unet").glob("*.safetensors"))
    assert len(parts) > 2 and ".fp16" in parts[0].name
    base = opened(folder, variant="fp16")
    assert tiny.equal(dict(base.load("unet", UNet2DConditionModel).state_dict()), tiny.tensors(folder))
    with pytest.raises(ConfigError, match="has only weights of variant fp16"):
        opened(folder)
    parts[1].unlink()
    with pytest.raises(ConfigError, match=rf"unet lacks {parts[1].name}"):
        opened(folder, variant="fp16")


def test_a_damaged_shard_index_is_named(tmp_path):
    folder = sharded(tmp_path / "parts")
    next((folder / "unet").glob("*.index.json")).write_text("{")
    with pytest.raises((ConfigError, StoreError), match=r"index\.json"):
        opened(folder)


# ---------------------------------------------------------------------------------------------- loading
@pytest.mark.parametrize(
    ("component", "kind"),
    [("unet", UNet2DConditionModel), ("vae", AutoencoderKL), ("text_encoder", CLIPTextModel)],
)
@pytest.mark.parametrize("damage", ["a tensor less", "another shape", "cut config"])
def test_weights_that_do_not_fit_are_never_filled_up(folder, component, kind, damage):
    file = next((folder / component).glob("*.safetensors"))
    content = load_file(file)
    name = sorted(content)[-1]
    if damage == "a tensor less":
        del content[name]
        save_file(content, file, {"format": "pt"})
    elif damage == "another shape":
        content[name] = torch.zeros([n + 1 for n in content[name].shape])
        save_file(content, file, {"format": "pt"})
    else:
        (folder / component / "config.json").write_text("{")
    with pytest.raises(StoreError, match=rf"{component}.*fetch or make it again"):
        opened(folder).load(component, kind)


def test_weights_of_half_precision_are_read_into_float32(folder):
    for file in (folder / "unet").glob("*.safetensors"):
        save_file({n: t.half() for n, t in load_file(file).items()}, file, {"format": "pt"})
    net = opened(folder).load("unet", UNet2DConditionModel)
    assert net.dtype == torch.float32 and not net.training
    assert torch.equal(net.state_dict()["conv_in.weight"], tiny.tensors(folder)["conv_in.weight"].float())
    assert opened(folder).load("unet", UNet2DConditionModel, torch.bfloat16).dtype == torch.bfloat16
    for file in (folder / "text_encoder").glob("*.safetensors"):
        save_file({n: t.half() for n, t in load_file(file).items()}, file, {"format": "pt"})
    assert opened(folder).load("text_encoder", CLIPTextModel).dtype == torch.float32
    assert opened(folder).texts(["noto seal"], "cpu")["states"].dtype == torch.float32


def test_names_of_older_folders_are_understood(folder, made):
    """The published autoencoder of SD 1.5 calls its attention query, key, value, proj_attn; the text encoder keeps position_ids."""
    file = folder / "vae" / tiny.WEIGHTS
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    content = {}
    for name, t in load_file(file).items():
        for new, former in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        content[name] = t
    assert any("proj_attn" in name for name in content)
    save_file(content, file, {"format": "pt"})
    text = next((folder / "text_encoder").glob("*.safetensors"))
    prefix = "text_model." if any(n.startswith("text_model.") for n in load_file(text)) else ""
    save_file(
        {**load_file(text), f"{prefix}embeddings.position_ids": torch.arange(tiny.LENGTH)[None]},
        text,
        {"format": "pt"},
    )
    ours, theirs = opened(folder), opened(made["sd15"])
    assert tiny.equal(
        dict(ours.load("vae", AutoencoderKL).state_dict()),
        dict(theirs.load("vae", AutoencoderKL).state_dict()),
    )
    assert torch.equal(
        ours.texts(["noto seal"], "cpu")["states"], theirs.texts(["noto seal"], "cpu")["states"]
    )


# ------------------------------------------------------------------------------------------------- hash
def test_the_hash_is_of_the_content(made, folder, tmp_path):
    def now(at: Path, *parts: str) -> str:
        Base.hash.cache_clear()
        return opened(at).hash(*parts)

    assert now(folder, "vae") == now(made["sd15"], "vae") != now(folder, "unet")
    assert now(tiny.make("sd15", tmp_path / "again"), "unet", "vae") == now(
        folder, "unet", "vae"
    )  # wherever it lies
    before = now(folder, "vae"), now(folder, "unet")
    tiny.spoil(folder / "vae" / tiny.WEIGHTS, "decoder.conv_out.bias", 7.0)
    assert now(folder, "vae") != before[0] and now(folder, "unet") == before[1]
    before = now(folder, "vae"), now(folder, "unet")
    tiny.amend(folder / "vae" / "config.json", scaling_factor=0.5)
    assert now(folder, "vae") != before[0]


# ------------------------------------------------------------------------------------------------ texts
PROMPTS = [*tiny.CAPTIONS, "", "noto seal", "a text that nobody has ever seen", "ÄÖÜ 猫 \U0001f63a"]


@torch.no_grad()
def test_texts_are_those_of_the_plain_pipelines(made):
    ours = opened(made["sd15"]).texts(PROMPTS, "cpu")
    pipe = plain(made["sd15"])
    ids = pipe.tokenizer(
        PROMPTS, padding="max_length", max_length=tiny.LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    assert set(ours) == {"states"} and ours["states"].shape == (len(PROMPTS), tiny.LENGTH, tiny.WIDTH)
    torch.testing.assert_close(ours["states"], pipe.text_encoder(ids)[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(ours["states"][2], ours["states"][PROMPTS.index("noto seal", 3)])
    assert not torch.allclose(ours["states"][0], ours["states"][1], atol=1e-2)

    ours = opened(made["sdxl"]).texts(PROMPTS, "cpu")
    xl = StableDiffusionXLPipeline.from_pretrained(made["sdxl"], local_files_only=True)
    other = xl.tokenizer_2(
        PROMPTS, padding="max_length", max_length=tiny.LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    assert not torch.equal(ids, other)  # the second tokenizer pads with another token
    one, two = (
        xl.text_encoder(ids, output_hidden_states=True),
        xl.text_encoder_2(other, output_hidden_states=True),
    )
    torch.testing.assert_close(
        ours["states"], torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(ours["pooled"], two[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_texts_of_sd3_without_its_third_encoder(made):
    """Published advice for less memory: leave T5 out. Its part of the sequence is then zeros."""
    base = open_base(str(made["sd3"]), pipelines_of("flow"), "flow")
    ours = base.texts(list(tiny.CAPTIONS), "cpu")
    pipe = tiny.plain_sd3(made["sd3"])
    states, _, pooled, _ = pipe.encode_prompt(
        list(tiny.CAPTIONS), None, None, do_classifier_free_guidance=False
    )
    assert states.shape[2] == 2 * tiny.WIDTH + 4 and (states[..., 2 * tiny.WIDTH :] == 0).all()
    torch.testing.assert_close(ours["states"], states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours["pooled"], pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("damage", ["a tensor less", "another shape"])
def test_a_text_encoder_that_does_not_fit_is_never_filled_up(folder, damage):
    """transformers would give the missing weights random values and say so in a log; every caption would mean noise."""
    file = next((folder / "text_encoder").glob("*.safetensors"))
    content = load_file(file)
    name = next(n for n in content if n.endswith("layers.0.mlp.fc1.weight"))
    if damage == "a tensor less":
        del content[name]
    else:
        content[name] = torch.zeros(3, 3)
    save_file(content, file, {"format": "pt"})
    with pytest.raises(StoreError, match="text_encoder"):
        opened(folder).texts(["noto seal"], "cpu")


def test_texts_are_encoded_once(made, folder, monkeypatch):
    first = opened(made["sd15"]).texts(PROMPTS, "cpu")

    def gone(*args: Any, **how: Any) -> Any:
        raise AssertionError("the text encoder was opened")

    with monkeypatch.context() as patch:
        patch.setattr(Base, "pipeline", gone)
        assert torch.equal(
            opened(folder).texts(PROMPTS, "cpu")["states"], first["states"]
        )  # the same content elsewhere
        for other in (PROMPTS[:-1], PROMPTS[::-1]):
            with pytest.raises(AssertionError):
                opened(folder).texts(other, "cpu")
        with pytest.raises(AssertionError):
            opened(folder).texts(PROMPTS, "cpu", torch.bfloat16)
        text = next((folder / "text_encoder").glob("*.safetensors"))
        tiny.spoil(text, sorted(load_file(text))[0], 3.0)
        Base.hash.cache_clear()
        with pytest.raises(AssertionError):
            opened(folder).texts(PROMPTS, "cpu")


def test_a_damaged_text_cache_is_named(made, tmp_path):
    opened(made["sd15"]).texts(PROMPTS, "cpu")
    file = next((tmp_path / "cache" / "texts").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(StoreError, match=rf"{file.name} cannot be read"):
        opened(made["sd15"]).texts(PROMPTS, "cpu")


def test_a_tokenizer_of_the_older_kind(folder):
    """The published folders hold vocab.json and merges.txt and no tokenizer.json."""
    home, tokens = folder / "tokenizer", tiny.tokenizer()
    content = json.loads((home / "tokenizer.json").read_text())["model"]
    (home / "vocab.json").write_text(json.dumps(content["vocab"]))
    merges = [" ".join(m) if isinstance(m, list) else m for m in content["merges"]]
    (home / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (home / "tokenizer.json").unlink()
    tiny.amend(home / "tokenizer_config.json", tokenizer_class="CLIPTokenizer", model_max_length=tiny.LENGTH)
    ours = opened(folder).tokenizer()
    assert isinstance(ours, CLIPTokenizer) and ours.model_max_length == tiny.LENGTH
    assert ours(PROMPTS[:8]).input_ids == tokens(PROMPTS[:8]).input_ids


# ------------------------------------------------------------------------------------------------- copies
def with_checker(folder: Path) -> Path:
    """As the published folder: with a safety checker that paints images black."""
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"never read")
    tiny.amend(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    return folder


@pytest.mark.parametrize("linked", [True, False])
def test_a_copy_is_a_whole_folder_without_a_checker(folder, tmp_path, monkeypatch, linked):
    def refuse(*args: Any) -> None:
        raise OSError("Invalid cross-device link")

    if not linked:
        monkeypatch.setattr(os, "link", refuse)
    base = opened(with_checker(folder))
    assert "safety_checker" not in base.components
    assert base.texts(["noto seal"], "cpu")["states"].shape[0] == 1
    copy = tmp_path / "copy"
    base.copy_to(copy, leave=())
    assert not (copy / "safety_checker").exists() and not (copy / "feature_extractor").exists()
    pipe = plain(copy)
    assert pipe.safety_checker is None and pipe.config.requires_safety_checker is False
    for component in ("unet", "vae", "text_encoder"):
        assert tiny.equal(tiny.tensors(copy, component), tiny.tensors(folder, component))
    same = {os.path.samefile(p, folder / p.relative_to(copy)) for p in copy.rglob("*.safetensors")}
    assert same == {linked}
    base.copy_to(tmp_path / "part", leave=("unet",))
    assert not (tmp_path / "part" / "unet").exists() and (tmp_path / "part" / "vae").is_dir()
    assert json.loads((tmp_path / "part" / "model_index.json").read_text())["unet"] == [
        "diffusers",
        "UNet2DConditionModel",
    ]


def test_a_copy_of_a_variant_opens_without_it(tmp_path):
    """docs/stable-diffusion.md: a generation's folder opens with from_pretrained(folder)."""
    base = opened(tiny.make("sd15", tmp_path / "half", variant="fp16"), variant="fp16")
    base.copy_to(tmp_path / "copy", leave=("unet",))
    base.load("unet", UNet2DConditionModel).save_pretrained(tmp_path / "copy" / "unet")
    pipe = plain(tmp_path / "copy")
    assert tiny.equal(dict(pipe.vae.state_dict()), tiny.tensors(base.path, "vae"))
    assert opened(tmp_path / "copy").hash("unet")  # and can be the base of another run


def test_embeddings_of_a_bf16_run_on_a_cpu(folder):
    """The encoders compute in float32, and the result is stored rounded to bf16, in half of the space."""
    base, prompts = opened(folder), ["noto seal", None]
    exact, rounded = base.texts(prompts, "cpu"), base.texts(prompts, "cpu", torch.bfloat16)
    assert exact["states"].dtype == torch.float32
    assert rounded["states"].dtype == torch.bfloat16
    assert torch.equal(rounded["states"], exact["states"].to(torch.bfloat16))
    files = [base.texts_file(prompts, device, torch.bfloat16) for device in ("cpu", "cuda")]
    assert files[0].exists() and files[0] != files[1]  # on a GPU the encoders compute in bf16
    assert base.texts_file(prompts, "cpu", torch.float32) not in files
