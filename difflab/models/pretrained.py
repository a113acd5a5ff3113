"""Opens a pretrained base model, which is a diffusers folder or a hub id.

Every component is checked before it is read. Only safetensors weights are read, never pickles. Code in the
folder is never run. Missing weights are an error; they are never replaced by random ones.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from difflab.core.errors import ConfigError, StoreError, reading
from difflab.core.files import ASSETS, cache_home, read_json, write_json
from difflab.core.hashing import digest, file_hash
from difflab.models import text_table
from difflab.models.base_files import TOKENIZERS, WEIGHTS, check_component, check_config, variant_of
from difflab.models.loading import load_model
from difflab.models.text_table import Reader
from difflab.models.text_to_image.architecture import Architecture, Texts, joined
from difflab.models.text_to_image.registry import architectures

BUNDLED = {"tiny-sd": ASSETS / "tiny-sd"}
# Optional components that are never loaded. The safety checker would put black images into a training set.
NOT_COPIED = ("safety_checker", "feature_extractor", "image_encoder")
# A component of any other library would need code from the folder.
LIBRARIES = ("diffusers", "transformers")
LARGE_ENCODERS = 4 * 2**30
"""Text encoders whose weight files have at least this size in bytes encode fewer prompts at once."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
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
        encoders and the prompts. Masks are bool, token ids are integers, all others have the type `dtype`.

        Args:
            prompts: n texts; None = the null condition of classifier-free guidance.
            device: the torch device that runs the encoders.
            dtype: type of the embeddings. The encoders compute in it, too, but on a CPU in float32, which is
                faster there. (The T5 encoder of SD3 takes 19 GB in float32.)
        """
        path = self.texts_file(prompts, device, dtype)
        if not path.exists():
            self.encode_texts(prompts, device, dtype)
            text_table.join(path, len(prompts), self.prompts_per_pass)
        return text_table.mapped(path)

    def texts_file(self, prompts: Sequence[str | None], device: Any, dtype: torch.dtype) -> Path:
        """The file of the embeddings in the cache."""
        parts = [name for name in self.components if name.startswith(("text_encoder", *TOKENIZERS))]
        flags = {name: value for name, value in self.index.items() if name[0] != "_"}
        types = dict.fromkeys([str(encoder_type(device, dtype)), str(dtype)])
        key = digest([self.kind, flags, self.hash(*parts), " to ".join(types), list(prompts)])
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
        path = self.texts_file(prompts, device, dtype)
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

        computed = encoder_type(device, dtype)
        # The pipeline would replace missing weights by random ones, so each encoder is loaded separately.
        encoders = {
            name: self.load(name, getattr(transformers, self.index[name][1]), computed)
            for name in self.text_encoders()
        }
        not_needed = {name: None for name in self.components if name in ("unet", "transformer", "vae")}
        pipe = self.pipeline(computed, **encoders, **not_needed).to(device)

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
            in_order = {name: table[rows.to(table.device)] for name, table in tables.items()}
            return {name: t.to(dtype) if t.is_floating_point() else t for name, t in in_order.items()}

        return read

    def tokenizer(self, name: str = "tokenizer") -> Any:
        """The tokenizer in the folder `name`. Raises StoreError if it cannot be read."""
        from transformers import AutoTokenizer

        with reading(self.path / name, StoreError):
            return AutoTokenizer.from_pretrained(self.path / name, local_files_only=True)

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


def encoder_type(device: Any, kind: torch.dtype) -> torch.dtype:
    """The type of the text encoders' weights for embeddings of type `kind`: float32 on a CPU."""
    return kind if torch.device(device).type == "cuda" else torch.float32


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
        if not HUB_ID.fullmatch(name):
            raise ConfigError(
                f"model.base '{name}' is neither a folder nor a hub id; give a diffusers folder, an id like "
                f"org/name, or {', '.join(BUNDLED)}"
            )
        folder = _download(name, revision, variant)
    if not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"model.base {folder} is not a diffusers folder, because it has no model_index.json; for a "
            "checkpoint in a single file give the path of the .safetensors file"
        )
    with reading(f"model.base {folder}", ConfigError):
        return _opened(folder, kinds, family, variant)


def unguided_scale(spec: Any) -> float:
    """See `difflab.models.registry.unguided_scale`. `spec` is that of a text-to-image family."""
    name = spec.base_config or spec.base
    folder = BUNDLED.get(name) or Path(name).expanduser()
    index = folder / "model_index.json" if folder.is_dir() else _cached_index(name, spec.revision)
    kind = read_json(index).get("_class_name") if index is not None and index.is_file() else None
    return architectures()[kind].unguided if kind in architectures() else Architecture.unguided


def _cached_index(name: str, revision: str | None) -> Path | None:
    """The model_index.json of a hub id, if it was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    if not HUB_ID.fullmatch(name):
        return None
    found = try_to_load_from_cache(name, "model_index.json", revision=revision)
    return Path(found) if isinstance(found, str) else None


def open_configs(
    folder: Path, kinds: tuple[str, ...], family: str, variant: str | None, replaced: Collection[str]
) -> Base:
    """Open a folder whose components `replaced` need a config, but no weights. The others must be complete.

    Raises ConfigError as `open_base`.
    """
    with reading(f"model.base_config {folder}", ConfigError):
        return _opened(folder, kinds, family, variant, replaced)


def _opened(
    folder: Path, kinds: tuple[str, ...], family: str, variant: str | None, replaced: Collection[str] = ()
) -> Base:
    where = f"model.base_config {folder}" if replaced else f"model.base {folder}"
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
            f"{where} is a {kind or 'pipeline without a class name'}, which "
            f"model.family={family} does not support; {hint}"
        )
    base = Base(folder, kind, variant)
    for component in base.components:
        library = index[component][0]
        if library not in LIBRARIES:
            raise ConfigError(
                f"{where}: component '{component}' needs code of {library}, which difflab does not run"
            )
        if component in replaced:
            check_config(folder / component)
        else:
            check_component(folder, component, variant)
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
