"""Opens a pretrained base model, which is a diffusers folder or a hub id.

Every component is checked before it is read. Only safetensors weights are read, never pickles. Code in the
folder is never run. Missing weights are an error; they are never replaced by random ones.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from difflab.core.errors import ConfigError, StoreError, reading
from difflab.core.files import ASSETS, cache_home, read_json, write_json
from difflab.core.hashing import digest, file_hash
from difflab.models import text_table
from difflab.models.text_table import Reader
from difflab.models.text_to_image.architecture import Architecture, Texts, joined
from difflab.models.text_to_image.registry import architectures

BUNDLED = {"tiny-sd": ASSETS / "tiny-sd"}
# Optional components that are never loaded. The safety checker would put black images into a training set.
NOT_COPIED = ("safety_checker", "feature_extractor", "image_encoder")
# A component of any other library would need code from the folder.
LIBRARIES = ("diffusers", "transformers")
# The names of weight files and of their indexes, for example model.fp16.safetensors,
# model.fp16-00001-of-00002.safetensors and model.safetensors.index.fp16.json. "fp16" is the variant, which
# may be absent.
WEIGHTS = re.compile(
    r"[^.]+(\.(?P<variant>\w+?))?(-\d{5}-of-\d{5})?\.safetensors"
    r"(?P<index>\.index(\.(?P<index_variant>\w+))?\.json)?"
)
LARGE_ENCODERS = 4 * 2**30
"""Text encoders whose weight files have at least this size in bytes encode fewer prompts at once."""
HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.safetensors.index.json"]


@dataclass(frozen=True)
class Base:
    """A diffusers folder.

    Attributes:
        path: the folder.
        kind: the class name of its pipeline, for example "StableDiffusionPipeline".
        variant: the variant of the weight files, for example "fp16"; None = the files without a variant.
    """

    path: Path
    kind: str
    variant: str | None = None

    @cached_property
    def index(self) -> dict[str, Any]:
        """The content of model_index.json."""
        return read_json(self.path / "model_index.json")

    @cached_property
    def architecture(self) -> Architecture:
        """What difflab knows of this pipeline class."""
        return architectures()[self.kind](self.path, self.index)

    @property
    def components(self) -> list[str]:
        """The names of the components that a run needs."""
        return [name for name, value in self.index.items() if _is_component(value) and name not in NOT_COPIED]

    def text_encoders(self) -> list[str]:
        """The names of the text encoders."""
        return [name for name in self.components if name.startswith("text_encoder")]

    @lru_cache(maxsize=32)  # noqa: B019 (bases are few and live as long as the process)
    def hash(self, *components: str) -> str:
        """Hash of the weights, configs and vocabularies of `components`."""
        hashes = {}
        for path in chain.from_iterable(self.files(name) for name in components):
            if path.suffix in (".safetensors", ".json", ".txt", ".model"):
                hashes[str(path.relative_to(self.path))] = file_hash(path)
        return digest(hashes)

    def files(self, component: str) -> list[Path]:
        """All files of a component. Weight files of other variants are left out."""
        paths = sorted(path for path in (self.path / component).rglob("*") if path.is_file())
        return [
            path for path in paths if not WEIGHTS.fullmatch(path.name) or variant_of(path) == self.variant
        ]

    def load(self, component: str, kind: Any, dtype: torch.dtype = torch.float32) -> Any:
        """Load one component as class `kind`. Raises StoreError if its weights do not match its config."""
        return load_model(kind, self.path / component, dtype, self.variant)

    def scheduler_config(self) -> dict[str, Any]:
        """The content of scheduler_config.json."""
        return read_json(self.path / "scheduler" / "scheduler_config.json")

    def pipeline(self, dtype: torch.dtype = torch.float32, **parts: Any) -> Any:
        """The diffusers pipeline of this folder.

        Args:
            dtype: type of the weights.
            parts: component name -> the object to use instead of the stored one, or None to load no such
                component.
        """
        import diffusers

        diffusers.utils.logging.disable_progress_bar()
        absent = {
            name: None for name, value in self.index.items() if name in NOT_COPIED or value == [None, None]
        }
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

    def texts(self, prompts: Sequence[str | None], device: Any, dtype: torch.dtype = torch.float32) -> Texts:
        """Embeddings of prompts as the pipeline computes them, as memory maps of a file in the cache.

        The encoders are loaded only if the file does not exist. The key of the cache is the content of the
        encoders and the prompts. Masks are bool, all others have the type of the encoders' outputs.

        Args:
            prompts: n texts; None = the null condition of classifier-free guidance.
            device: the torch device that runs the encoders.
            dtype: type of the encoders' weights. (The T5 encoder of SD3 takes 19 GB in float32.)
        """
        path = self.texts_file(prompts, dtype)
        if not path.exists():
            self.encode_texts(prompts, device, dtype)
            text_table.join(path, len(prompts), self.prompts_per_pass)
        return text_table.mapped(path)

    def texts_file(self, prompts: Sequence[str | None], dtype: torch.dtype) -> Path:
        """The file of the embeddings in the cache."""
        parts = [name for name in self.components if name.startswith(("text_encoder", "tokenizer"))]
        flags = {name: value for name, value in self.index.items() if name[0] != "_"}
        key = digest([self.kind, flags, self.hash(*parts), str(dtype), list(prompts)])
        return cache_home() / "texts" / f"{key}.safetensors"

    def encode_texts(
        self,
        prompts: Sequence[str | None],
        device: Any,
        dtype: torch.dtype = torch.float32,
        part: int = 0,
        parts: int = 1,
    ) -> None:
        """Write a part of the embeddings to disk and free the encoders. See text_table.encode."""
        path = self.texts_file(prompts, dtype)
        encoders = partial(self.text_reader, device, dtype)
        text_table.encode(path, prompts, self.prompts_per_pass, encoders, part, parts)

    @cached_property
    def prompts_per_pass(self) -> int:
        """The number of prompts in one pass of the text encoders: fewer for large ones, to save memory."""
        files = chain.from_iterable(self.files(name) for name in self.text_encoders())
        size = sum(file.stat().st_size for file in files if file.suffix == ".safetensors")
        return 64 if size < LARGE_ENCODERS else 8

    def text_reader(self, device: Any, dtype: torch.dtype = torch.float32) -> Reader:
        """Load the text encoders. Returns a function from prompts to the embeddings of `texts`."""
        import transformers

        # The pipeline would replace missing weights by random ones, so each encoder is loaded separately.
        encoders = {
            name: self.load(name, getattr(transformers, self.index[name][1]), dtype)
            for name in self.text_encoders()
        }
        not_needed = {name: None for name in self.components if name in ("unet", "transformer", "vae")}
        pipe = self.pipeline(dtype, **encoders, **not_needed).to(device)

        @torch.no_grad()
        def read(prompts: Sequence[str | None]) -> Texts:
            texts = [prompt for prompt in prompts if prompt is not None]
            with reading(f"the tokenizers and text encoders of {self.path}", StoreError):
                parts = [self.architecture.texts(pipe, texts, device)] if texts else []
                if None in prompts:
                    parts.append(self.architecture.null_text(pipe, device))
            tables = joined(parts)
            # The rows of the texts come first, then the one of the null condition.
            places = iter(range(len(texts)))
            rows = torch.tensor([len(texts) if prompt is None else next(places) for prompt in prompts])
            return {name: table[rows.to(table.device)] for name, table in tables.items()}

        return read

    def tokenizer(self) -> Any:
        """The first tokenizer of the base. Raises StoreError if it cannot be read."""
        from transformers import AutoTokenizer

        with reading(self.path / "tokenizer", StoreError):
            return AutoTokenizer.from_pretrained(self.path / "tokenizer", local_files_only=True)

    def too_long(self, prompts: list[str]) -> int:
        """The number of prompts that have more tokens than the model reads. They are truncated."""
        if not prompts or "tokenizer" not in self.components:
            return 0
        tokenizer = self.tokenizer()
        lengths = [len(ids) for ids in tokenizer(prompts, truncation=False, verbose=False).input_ids]
        return sum(n > tokenizer.model_max_length for n in lengths)

    def copy_to(self, folder: Path, leave: tuple[str, ...]) -> None:
        """Copy model_index.json and all components except those in `leave` to `folder`.

        Files on the same disk are hard-linked. The variant is removed from the names of weight files, so that
        the copy can be opened without naming the variant.
        """
        index = {}
        for name, value in self.index.items():
            if name != "_name_or_path":
                index[name] = [None, None] if name in NOT_COPIED else value
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
        """The name of a weight file without its variant."""
        return name.replace(f".{self.variant}", "", 1)


def _is_component(value: Any) -> bool:
    """Whether an entry of model_index.json is [library, class]. Other lists are settings of the pipeline."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def variant_of(file: Path) -> str | None:
    """The variant in the name of a weight file or of an index of weight files; None = no variant."""
    match = WEIGHTS.fullmatch(file.name)
    return (match["variant"] or match["index_variant"]) if match else None


def weight_bytes(folder: Path, variant: str | None = None) -> int:
    """Total size in bytes of a diffusers folder's weight files of this variant, over all components."""
    files = folder.glob("*/*.safetensors")
    return sum(file.stat().st_size for file in files if variant_of(file) == variant)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link `target` to `source`, or copy it where the file system allows no link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def load_model(
    kind: Any, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> Any:
    """Load a diffusers or transformers model of class `kind` from its folder.

    Raises StoreError if a file is damaged or the weights do not match the config.
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
            low_cpu_mem_usage=_needs_low_memory(kind),
        )
    except Exception as error:  # damaged files raise errors of many types
        raise StoreError(
            f"{folder} holds no readable model ({' '.join(str(error).split())[:160]}); fetch or make it again"
        ) from error
    wrong = {
        name: sorted(keys)
        for name, keys in info.items()
        if keys and name in ("missing_keys", "mismatched_keys", "error_msgs")
    }
    if wrong:  # the library would replace missing weights by random ones
        raise StoreError(
            f"{folder}: weights do not match its config: {str(wrong)[:200]}; fetch or make it again"
        )
    return model.eval()


def _needs_low_memory(kind: Any) -> bool:
    """Whether diffusers loads a class with low_cpu_mem_usage only: it keeps some layers in float32."""
    return kind.__module__.startswith("diffusers.") and bool(kind._keep_in_fp32_modules)


def open_base(
    name: str, kinds: tuple[str, ...], family: str, revision: str | None = None, variant: str | None = None
) -> Base:
    """Open a base and check that it is complete.

    Args:
        name: a bundled base (tiny-sd), a local diffusers folder, or a hub id.
        kinds: the pipeline classes that the model family supports.
        family: the name of the model family, for error messages.
        revision: branch, tag or commit of a hub id.
        variant: the variant of the weight files, for example "fp16".

    Raises ConfigError if the folder does not exist, the hub cannot be reached, a component is missing or
    incomplete, the weights are pickled, or the pipeline class is not one of `kinds`.
    """
    folder = BUNDLED.get(name) or Path(name).expanduser()
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise ConfigError(
                f"model.base '{name}' is neither a folder nor a hub id; give a diffusers folder, an id like "
                f"org/name, or {', '.join(BUNDLED)}"
            )
        folder = _download(name, revision, variant)
    if not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"model.base {folder} is not a diffusers folder, because it has no model_index.json. Convert a "
            "single .safetensors or .ckpt file to a diffusers folder first"
        )
    with reading(f"model.base {folder}", ConfigError):
        return _opened(folder, kinds, family, variant)


def _opened(folder: Path, kinds: tuple[str, ...], family: str, variant: str | None) -> Base:
    index = read_json(folder / "model_index.json")
    if not isinstance(index, dict):
        raise ConfigError(f"{folder / 'model_index.json'} is damaged: it lists no components; fetch it again")
    kind = index.get("_class_name", "")
    if kind not in kinds:
        known = architectures()
        hint = f"difflab knows {', '.join(known)}"
        if kind in known:
            hint = f"use model.family={known[kind].family}"
        raise ConfigError(
            f"model.base {folder} is a {kind or 'pipeline without a class name'}, which "
            f"model.family={family} does not support; {hint}"
        )
    base = Base(folder, kind, variant)
    for component in base.components:
        library = index[component][0]
        if library not in LIBRARIES:
            raise ConfigError(
                f"model.base {folder}: component '{component}' needs code of {library}, which difflab does "
                "not run"
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
    except Exception as error:  # the hub's client raises errors of many types
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"model.base '{name}' cannot be downloaded from the hub ({type(error).__name__}: {reason}); "
            "without a network connection give a local diffusers folder"
        ) from error


def _check(folder: Path, component: str, variant: str | None) -> None:
    """Raise ConfigError unless all files of a component are there."""
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
    all_variants = [path for path in home.iterdir() if WEIGHTS.fullmatch(path.name)]
    of_variant = [path for path in all_variants if variant_of(path) == variant]
    files = [path for path in of_variant if path.suffix == ".safetensors"]
    indexes = [read_json(path)["weight_map"] for path in of_variant if path.suffix == ".json"]
    wanted = set(chain.from_iterable(index.values() for index in indexes))
    missing = sorted(wanted - {path.name for path in files})
    if missing:
        raise ConfigError(
            f"{home} lacks {missing[0]} ({len(missing)} of {len(wanted)} weight files); the download is "
            "not complete: fetch it again"
        )
    if not files:
        others = sorted({name for path in all_variants if (name := variant_of(path))})
        if others:
            raise ConfigError(
                f"{home} has only weights of variant {', '.join(others)}; set model.variant={others[0]}"
            )
        raise ConfigError(f"{home} has no safetensors weights{_pickle_hint(home)}")
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{file} is damaged or half-downloaded ({error}); fetch it again") from error


def _pickle_hint(home: Path) -> str:
    """The end of an error message about missing weights, if the folder has pickled ones; else ""."""
    if not list(home.glob("*.bin")):
        return ""
    return "; pickled .bin weights are not read, since they can run code: fetch the safetensors"
