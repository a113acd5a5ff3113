"""What `difflab doctor` finds on this machine, on one that lacks parts, and in a cache of the hub that was made for it. No network."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from empty_hub import empty_caches, put_into_cache
from huggingface_hub import constants

from difflab.cli import doctor
from difflab.cli.main import main
from difflab.core.errors import ConfigError
from difflab.loop import missing

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SD15 = CONFIGS / "sd15-lora.yaml"


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Empty caches, and a network that answers nobody."""
    monkeypatch.chdir(ROOT)
    empty_caches(monkeypatch, tmp_path)
    monkeypatch.setattr("difflab.loop.precision.measured", lambda *given: {"no": 2.0, "bf16": 1.0})
    monkeypatch.setattr("difflab.loop.precision.faster_precisions", lambda device: ("bf16",))


@pytest.fixture
def rows(capsys) -> Any:
    """The command with --json: (exit code, rows by part)."""

    def call(*argv: Any) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        code = main(["doctor", "--json", *(str(word) for word in argv)])
        parts: dict[str, list[dict[str, Any]]] = {}
        for line in capsys.readouterr().out.splitlines():
            row = json.loads(line)
            parts.setdefault(row["part"], []).append(row)
        return code, parts

    return call


def test_a_working_machine_has_every_part_and_says_what_runs(rows):
    code, parts = rows()
    assert code == 0 and set(parts) == {"setting", "package", "trial", "device", "weights", "preset"}
    required = {row["name"] for row in parts["package"] if row["required"]}
    assert {
        "torch",
        "diffusers",
        "accelerate",
        "torchmetrics",
        "open-clip-torch",
        "transformers",
        "peft",
    } <= required
    assert all(row["state"] == "ok" and row["version"] for row in parts["package"] if row["required"])
    assert {row["name"]: row["state"] for row in parts["weights"]}.items() >= {
        "tiny-sd": "bundled",
        "emoji": "bundled",
        "DINOv2": "missing",
    }.items()
    assert {Path(row["path"]).name for row in parts["preset"]} == {
        path.name for path in CONFIGS.glob("*.yaml")
    }
    runs = {Path(row["path"]).stem for row in parts["preset"] if row["runs"]}
    assert {"digits", "emoji", "ecosystem"} <= runs and "sd15-lora" not in runs
    settings = {row["name"]: row["value"] for row in parts["setting"]}
    for name in ("train.precision=auto in digits", "sample.precision=auto in emoji"):
        assert settings[name] == "bf16: measured 2.00 times as fast as float32"
    assert settings["difflab"] == version("difflab") and settings["python"] == platform.python_version()
    assert {"platform", "HF_HUB_OFFLINE", "HF_HOME", "Hugging Face hub", "CUDA of torch"} <= settings.keys()
    assert Path(settings["difflab is in"]) == Path(doctor.__file__).parents[1]
    cpu, *_, disk = parts["device"]
    assert cpu["memory"] >= cpu["free"] > 0 and "cores" in cpu["name"] and disk["free"] > 0


def test_a_precision_that_cannot_be_measured_says_why(rows, monkeypatch):
    def choices(config):
        raise ConfigError("the base is gone")

    monkeypatch.setattr("difflab.loop.auto.choices", choices)
    settings = {row["name"]: row["value"] for row in rows(SD15)[1]["setting"]}
    assert settings["precision=auto in digits"] == settings["precision=auto in emoji"] == "the base is gone"


def test_a_preset_that_would_not_run_names_everything_that_it_lacks(rows, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _, parts = rows(SD15, CONFIGS / "gone.yaml")
    said = parts["preset"][0]["why"]
    for words in (
        "images of your own are needed",
        "a GPU",
        "is not in the hub's cache: a run downloads it, but HF_HUB_OFFLINE is set",
        "Inception",
        "ViT-B-32",
    ):
        assert any(words in reason for reason in said), words
    assert "cannot be read" in parts["preset"][1]["why"][0]


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_local_base_is_judged_by_its_weights(kind, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    base = tiny.make(kind, tmp_path / "base")
    config = tmp_path / "own.yaml"
    scheduler = "FlowMatchEulerDiscreteScheduler" if kind == "sd3" else "DDIMScheduler"
    config.write_text(
        f"data: {{source: emoji}}\nmodel: {{family: {tiny.family(kind)}, base: '{base}'}}\ntrain: {{start_from: base}}\nsample: {{scheduler: {scheduler}}}\n"
    )
    row = rows(config)[1]["preset"][0]
    size = sum(file.stat().st_size for file in base.glob("*/*.safetensors"))
    assert row["runs"] and row["base_bytes"] == size
    assert f"base of {size / 2**20:,.1f} MiB" in doctor._cells("preset", row)[2].plain
    monkeypatch.setattr(missing, "SLOW", size)
    row = rows(config)[1]["preset"][0]
    assert not row["runs"] and any("torch finds none: the weights of" in reason for reason in row["why"])
    tiny.amend(base / tiny.BACKBONE[kind] / "config.json", in_channels=9)
    assert any("in_channels is 9" in reason for reason in rows(config)[1]["preset"][0]["why"])


def test_weights_in_the_caches_are_found(rows, tmp_path):
    base = tiny.make("sd15", tmp_path / "base")
    put_into_cache(base, "stable-diffusion-v1-5/stable-diffusion-v1-5")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_model.safetensors").write_bytes(b"")
    put_into_cache(tmp_path / "clip", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    inception = tmp_path / "torch" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    inception.parent.mkdir(parents=True)
    inception.write_bytes(b"")
    _, parts = rows(SD15)
    states = {row["name"]: row["state"] for row in parts["weights"]}
    assert (states["Stable Diffusion 1.5"], states["CLIP ViT-B-32"], states["Inception (FID)"]) == (
        "cached",
        "cached",
        "there",
    )
    assert not any("cache" in reason or "Inception" in reason for reason in parts["preset"][0]["why"])


@pytest.mark.parametrize("state", ["missing", "old", "broken"])
def test_a_required_package_that_is_not_right_is_exit_code_1(state, rows, monkeypatch, capsys):
    installed, module = doctor.version, doctor.import_module

    def versions(name: str) -> str:
        if name == "peft" and state == "missing":
            raise PackageNotFoundError(name)
        return "0.0.1" if name == "peft" and state == "old" else installed(name)

    def imported(name: str) -> Any:
        if name == "peft" and state == "broken":
            raise ImportError("no [bold]symbol[/bold] of that name")
        return module(name)

    monkeypatch.setattr(doctor, "version", versions)
    monkeypatch.setattr(doctor, "import_module", imported)
    code, parts = rows()
    assert code == 1 and set(parts) == {"setting", "package"}
    (wrong,) = [row for row in parts["package"] if row["name"] == "peft"]
    assert wrong["state"] == state and ("pip install" in wrong["about"] or state == "broken")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "the core does not work" in out and ("[bold]symbol" in out or state != "broken")


def test_the_state_of_the_hub_is_that_of_its_client(rows, monkeypatch):
    for offline, words in ((True, "offline: nothing is downloaded"), (False, "online")):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        settings = {row["name"]: row["value"] for row in rows(CONFIGS / "digits.yaml")[1]["setting"]}
        assert settings["Hugging Face hub"] == words
        assert settings["cache of the hub"] == constants.HF_HUB_CACHE


def test_an_engine_that_does_not_run_is_exit_code_1(rows, monkeypatch):
    from difflab.loop import chain

    monkeypatch.setattr(chain, "run_chain", lambda *_: 1 / 0)
    code, parts = rows(CONFIGS / "digits.yaml")
    assert code == 1 and parts["trial"][0]["about"].startswith("ZeroDivisionError")


def test_colours_are_for_terminals_that_want_them(monkeypatch, capsys):
    wanted = [
        {"part": "package", "name": "x[red]", "version": "1", "required": True, "state": "ok", "about": "a"}
    ]
    monkeypatch.setattr(doctor, "examine", lambda _: wanted)
    seen = {}
    for name, env in {
        "file": {},
        "terminal": {"FORCE_COLOR": "1"},
        "none": {"FORCE_COLOR": "1", "NO_COLOR": "1"},
    }.items():
        with monkeypatch.context() as patched:
            for key in ("FORCE_COLOR", "NO_COLOR"):
                patched.delenv(key, raising=False)
            patched.setenv("TERM", "xterm")
            for key, value in env.items():
                patched.setenv(key, value)
            assert main(["doctor"]) == 0
        seen[name] = capsys.readouterr().out
    assert "\x1b" not in seen["file"] and "\x1b[32m" in seen["terminal"] and "\x1b[32m" not in seen["none"]
    assert all("x[red]" in text for text in seen.values())
