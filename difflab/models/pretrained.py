"""A pretrained base: a diffusers folder or hub id, which is checked and read component by component.

Weights are safetensors, never pickles; no code from the folder is run; nothing that is missing is replaced by
random weights.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from difflab.core.errors import ConfigError, StoreError, reading
from difflab.core.files import ASSETS, cache_home, read_json, read_tensors, write_json, write_tensors
from difflab.core.hashing import digest, file_hash

BUNDLED = {"tiny-sd": ASSETS / "tiny-sd"}
NOT_COPIED = (
    "safety_checker",
    "feature_extractor",
    "image_encoder",
)  # a checker that paints images black has no place in a training set
LIBRARIES = (
    "diffusers",
    "transformers",
)  # a component of any other would be code that the folder brings along
WEIGHTS = re.compile(
    r"[^.]+(\.(?P<own>\w+?))?(-\d{5}-of-\d{5})?\.safetensors(?P<index>\.index(\.(?P<index_own>\w+))?\.json)?"
    # model.fp16.safetensors, model.fp16-00001-of-00002.safetensors, model.safetensors.index.fp16.json; all of
    # them without fp16
)
HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.safetensors.index.json"]


@dataclass(frozen=True)
class Base:
    """A diffusers folder. `kind` is the class of its pipeline, for example StableDiffusionPipeline."""

    path: Path
    kind: str
    variant: str | None = None

    @cached_property
    def index(self) -> dict[str, Any]:
        return read_json(self.path / "model_index.json")

    @property
    def components(self) -> list[str]:
        """Names of the components that a run needs."""
        return [
            n
            for n, v in self.index.items()
            if isinstance(v, list) and v[0] is not None and n not in NOT_COPIED
        ]

    def text_encoders(self) -> list[str]:
        return [n for n in self.components if n.startswith("text_encoder")]

    @lru_cache(maxsize=32)  # noqa: B019 (bases are few and live as long as the process)
    def hash(self, *components: str) -> str:
        """Hash of the weights of some components: what their outputs depend on."""
        hashes = {}
        for path in chain.from_iterable(self.files(name) for name in components):
            if path.suffix in (".safetensors", ".json", ".txt", ".model"):
                hashes[str(path.relative_to(self.path))] = file_hash(path)
        return digest(hashes)

    def files(self, component: str) -> list[Path]:
        """All files of a component, of its weights only those of this variant."""
        found = sorted(p for p in (self.path / component).rglob("*") if p.is_file())
        return [p for p in found if not WEIGHTS.fullmatch(p.name) or variant_of(p) == self.variant]

    def load(self, component: str, kind: Any, dtype: torch.dtype = torch.float32) -> Any:
        """One component with its weights. Raises StoreError when they do not fit its config."""
        return load_model(kind, self.path / component, dtype, self.variant)

    def scheduler_config(self) -> dict[str, Any]:
        return read_json(self.path / "scheduler" / "scheduler_config.json")

    def pipeline(self, dtype: torch.dtype = torch.float32, **parts: Any) -> Any:
        """The pipeline of this folder without the components that `parts` sets to None."""
        import diffusers

        diffusers.utils.logging.disable_progress_bar()
        absent = {n: None for n, v in self.index.items() if n in NOT_COPIED or v == [None, None]}
        kind = getattr(diffusers, self.kind)
        with reading(self.path, StoreError):
            pipe = kind.from_pretrained(
                self.path,
                variant=self.variant,
                use_safetensors=True,
                local_files_only=True,
                torch_dtype=dtype,
                **absent,
                **parts,
            )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @torch.no_grad()
    def texts(
        self, prompts: list[str], device: Any, dtype: torch.dtype = torch.float32, batch: int = 64
    ) -> dict[str, torch.Tensor]:
        """Embeddings of prompts as the pipeline computes them.

        They are ``states`` [n, L, D] and, where the pipeline has them, ``pooled`` [n, P].

        `dtype` is that of the text encoders while they work: SD3's T5 alone is 19 GB in float32.

        Kept in the cache by the content of encoders and prompts, so that every distinct prompt is encoded
        once for all arms.
        """
        parts = [n for n in self.components if n.startswith(("text_encoder", "tokenizer"))]
        path = cache_home() / "texts" / f"{digest([self.hash(*parts), str(dtype), prompts])}.safetensors"
        if path.exists():
            return read_tensors(path)
        read = self.text_reader(device, dtype)
        out = [read(prompts[i : i + batch]) for i in range(0, len(prompts), batch)]
        tables = {name: torch.cat([part[name] for part in out]).cpu() for name in out[0]}
        write_tensors(path, tables)
        return tables

    def text_reader(
        self, device: Any, dtype: torch.dtype = torch.float32
    ) -> Callable[[list[str]], dict[str, torch.Tensor]]:
        """The base's text encoders, loaded: prompts -> what `texts` says of them, float32 on the device."""
        import transformers

        # Read one by one, because the pipeline fills what is missing with random weights and only warns.
        encoders = {
            n: self.load(n, getattr(transformers, self.index[n][1]), dtype) for n in self.text_encoders()
        }
        pipe = self.pipeline(
            dtype, **encoders, **{n: None for n in self.components if n in ("unet", "transformer", "vae")}
        ).to(device)
        if (
            self.kind == "StableDiffusion3Pipeline" and pipe.transformer is None
        ):  # it asks the transformer for a width
            pipe.transformer = SimpleNamespace(
                config=SimpleNamespace(**read_json(self.path / "transformer" / "config.json"))
            )

        @torch.no_grad()
        def read(prompts: list[str]) -> dict[str, torch.Tensor]:
            with reading(f"{self.path}: its tokenizers and text encoders", StoreError):
                if self.kind == "StableDiffusion3Pipeline":
                    given = pipe.encode_prompt(
                        prompts, prompts, prompts, device=device, do_classifier_free_guidance=False
                    )
                else:
                    given = pipe.encode_prompt(
                        prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
                    )
            states, pooled = (given[0], None) if len(given) == 2 else (given[0], given[2])
            return {"states": states.float()} | ({} if pooled is None else {"pooled": pooled.float()})

        return read

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with reading(self.path / "tokenizer", StoreError):
            return AutoTokenizer.from_pretrained(self.path / "tokenizer", local_files_only=True)

    def too_long(self, prompts: list[str]) -> int:
        """How many prompts are longer than the tokenizer takes: the model reads only their beginning."""
        if not prompts or "tokenizer" not in self.components:
            return 0
        tokenizer = self.tokenizer()
        lengths = [len(ids) for ids in tokenizer(prompts, truncation=False, verbose=False).input_ids]
        return sum(n > tokenizer.model_max_length for n in lengths)

    def copy_to(self, folder: Path, leave: tuple[str, ...]) -> None:
        """Copy the index and all components but those in `leave` to `folder`.

        Files on the same disk are hard-linked.

        The weights of a variant lose its name, so that the folder opens without it.
        """
        index = {
            n: ([None, None] if n in NOT_COPIED else v) for n, v in self.index.items() if n != "_name_or_path"
        }
        if "requires_safety_checker" in index:
            index["requires_safety_checker"] = False
        for name in self.components:
            if name in leave:
                continue
            for file in self.files(name):
                target = folder / name / file.relative_to(self.path / name)
                match = self.variant and WEIGHTS.fullmatch(file.name)
                if not match:
                    link_or_copy(file.resolve(), target)
                elif match["index"]:
                    index_of_parts = read_json(file)
                    renamed = {
                        tensor: self._plain(part) for tensor, part in index_of_parts["weight_map"].items()
                    }
                    write_json(
                        target.with_name(self._plain(file.name)), index_of_parts | {"weight_map": renamed}
                    )
                else:
                    link_or_copy(file.resolve(), target.with_name(self._plain(file.name)))
        write_json(folder / "model_index.json", index)

    def _plain(self, name: str) -> str:
        """The name of a file of weights without its variant."""
        return name.replace(f".{self.variant}", "", 1)


def variant_of(file: Path) -> str | None:
    """The variant in the name of a file of weights or of an index of such files; None where it has none."""
    match = WEIGHTS.fullmatch(file.name)
    return (match["own"] or match["index_own"]) if match else None


def weight_bytes(folder: Path, variant: str | None = None) -> int:
    """Bytes of the weights of a diffusers folder, of all components and of this variant."""
    return sum(p.stat().st_size for p in folder.glob("*/*.safetensors") if variant_of(p) == variant)


def link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def load_model(
    kind: Any, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> Any:
    """A diffusers or transformers model from its own folder.

    Raises StoreError where weights and config do not match.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            folder,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            torch_dtype=dtype,
            low_cpu_mem_usage=False,
        )
    except Exception as error:  # damaged files raise nearly every type there is
        raise StoreError(
            f"{folder} holds no readable model ({' '.join(str(error).split())[:160]}); fetch or make it again"
        ) from error
    wrong = {
        n: sorted(k) for n, k in info.items() if k and n in ("missing_keys", "mismatched_keys", "error_msgs")
    }
    if wrong:  # the library would fill the gaps with random weights
        raise StoreError(
            f"{folder}: weights do not match its config: {str(wrong)[:200]}; fetch or make it again"
        )
    return model.eval()


def open_base(
    name: str, kinds: tuple[str, ...], family: str, revision: str | None = None, variant: str | None = None
) -> Base:
    """The base of this name: bundled (tiny-sd), a local folder, or a hub id; checked before anything is run.

    Raises ConfigError: no such folder, hub out of reach, half-downloaded, missing component, pickled weights,
    or a pipeline of a class that `family` does not run.
    """
    folder = BUNDLED.get(name) or Path(name).expanduser()
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise ConfigError(
                f"model.base '{name}' is no folder and no hub id; give a diffusers folder, an id like "
                f"org/name, or {', '.join(BUNDLED)}"
            )
        folder = _download(name, revision, variant)
    if not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"model.base {folder} is no diffusers folder: it has no model_index.json; a single "
            ".safetensors or .ckpt file must be converted first"
        )
    with reading(f"model.base {folder}", ConfigError):
        return _opened(folder, kinds, family, variant)


def _opened(folder: Path, kinds: tuple[str, ...], family: str, variant: str | None) -> Base:
    index = read_json(folder / "model_index.json")
    if not isinstance(index, dict):
        raise ConfigError(f"{folder / 'model_index.json'} is damaged: it holds no components; fetch it again")
    kind = index.get("_class_name", "")
    if kind not in kinds:
        other = {
            "StableDiffusionPipeline": "stable-diffusion",
            "StableDiffusionXLPipeline": "stable-diffusion",
            "StableDiffusion3Pipeline": "flow",
        }.get(kind)
        hint = f"use model.family={other}" if other else f"this family runs {', '.join(kinds)}"
        raise ConfigError(
            f"model.base {folder} is a {kind or 'pipeline of no class'}, which model.family={family} does "
            f"not run; {hint}"
        )
    base = Base(folder, kind, variant)
    for component in base.components:
        library = index[component][0]
        if library not in LIBRARIES:
            raise ConfigError(
                f"model.base {folder}: component '{component}' is of {library}, code of its own that "
                "difflab does not run"
            )
        _check(folder, component, variant)
    return base


@lru_cache(maxsize=8)
def _download(name: str, revision: str | None, variant: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        wanted = [f"*/{p}" for p in HUB_FILES] + ["model_index.json"]
        others = [f"*/*.{v}*.safetensors*" for v in ("fp16", "bf16", "non_ema") if v != variant]
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=wanted, ignore_patterns=[*others, "safety_checker/*"]
            )
        )
    except Exception as error:  # the hub's client raises a dozen kinds
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"model.base '{name}' cannot be had from the hub ({type(error).__name__}: {reason}); offline, "
            "give a local diffusers folder"
        ) from error


def _check(folder: Path, component: str, variant: str | None) -> None:
    """Raise ConfigError unless a component is all there."""
    home = folder / component
    if not home.is_dir():
        raise ConfigError(
            f"model.base {folder} lacks its component '{component}'; the download is not complete: fetch "
            "it again"
        )
    if component.startswith("tokenizer"):
        if not list(home.glob("*.json")):
            raise ConfigError(f"{home} holds no tokenizer files; fetch it again")
        return
    if component == "scheduler":
        if not (home / "scheduler_config.json").is_file():
            raise ConfigError(f"{home} holds no scheduler_config.json; fetch it again")
        return
    if not (home / "config.json").is_file():
        raise ConfigError(f"{home} holds no config.json; the download is not complete: fetch it again")
    found = [p for p in home.iterdir() if WEIGHTS.fullmatch(p.name)]
    own = [p for p in found if variant_of(p) == variant]
    files = [p for p in own if p.suffix == ".safetensors"]
    indexes = [read_json(index)["weight_map"] for index in own if index.suffix == ".json"]
    wanted = set(chain.from_iterable(index.values() for index in indexes))
    missing = sorted(wanted - {p.name for p in files})
    if missing:
        raise ConfigError(
            f"{home} lacks {missing[0]} ({len(missing)} of {len(wanted)} weight files); the download is "
            "not complete: fetch it again"
        )
    if not files:
        others = sorted({v for p in found if (v := variant_of(p))})
        if others:
            raise ConfigError(
                f"{home} has weights of variant {', '.join(others)} only; set model.variant={others[0]}"
            )
        pickled = (
            "; pickled .bin weights are not read, since they can run code: fetch the safetensors"
            if list(home.glob("*.bin"))
            else ""
        )
        raise ConfigError(f"{home} has no safetensors weights{pickled}")
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{file} is damaged or half-downloaded ({error}); fetch it again") from error
