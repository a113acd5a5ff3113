"""The base class of the latent text-to-image families: a pretrained base, latents, text embeddings, LoRA.

The autoencoder is frozen. The text encoders are frozen unless model.train_text_encoder is set. Each image is
encoded once, to the mean and standard deviation of its posterior. Each training step draws a latent from that
posterior. Each distinct prompt is encoded once.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from torch import nn

from difflab.config import Sample, Train
from difflab.core.errors import ConfigError, reading
from difflab.core.files import read_json
from difflab.core.precision import TYPES
from difflab.core.shape import Shape
from difflab.models import lora
from difflab.models.base_settings import check_base, latent_scale
from difflab.models.compiled import compile_network
from difflab.models.converted_base import open_start
from difflab.models.denoiser import Denoiser, to_pixels
from difflab.models.pretrained import Base, load_model
from difflab.runs.store import Shards

DECODED_PIXELS = 2**21
"""Pixels in one pass of the decoder: 8 images of 512 px."""
ON_DEVICE = 2**29
"""Largest total size in bytes of text embeddings that are stored in the memory of the device."""
KEPT = 2**33
"""Largest total size in bytes of text embeddings that are stored. Above it each batch computes its own."""


def fastest_layout(device: Any, kind: torch.dtype) -> torch.memory_format:
    """The memory layout in which convolutions of `kind` are fastest: channels_last, except bfloat16 on a CPU.

    Without channels_last the sampling of tiny-sd took 0.77 of the time there.
    """
    on_cpu = torch.device(device).type == "cpu"
    return torch.contiguous_format if on_cpu and kind == torch.bfloat16 else torch.channels_last


class WithText(nn.Module):
    """The backbone and its trained text encoder: (noisy latents, t, token ids [n, L]) -> prediction."""

    def __init__(self, backbone: Any, text_encoder: Any):
        super().__init__()
        self.backbone, self.text_encoder = backbone, text_encoder

    def forward(self, x: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.backbone(x, t, encoder_hidden_states=self.text_encoder(ids)[0]).sample


class Encoder:
    """Encodes images uint8 [n, H, W, C] as mean and standard deviation of latents, float32 [n, 2c, h, w].

    Args:
        vae: the AutoencoderKL.
        key: identifies the weights of the autoencoder.
    """

    def __init__(self, vae: Any, key: str):
        self.vae, self.key = vae, key

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return moments(self.vae, images, max(1, DECODED_PIXELS // (images.shape[1] * images.shape[2])))


@torch.no_grad()
def moments(vae: Any, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Mean and standard deviation of the autoencoder's posterior, stacked along the channels.

    Args:
        images: uint8 [n, H, W, C].
        batch: number of images in one pass.

    Returns float32 [n, 2c, h, w] on the CPU.
    """
    device, kind = vae.device, vae.dtype
    out = []
    for part in images.split(batch):
        posterior = vae.encode(to_pixels(part.to(device)).to(kind)).latent_dist
        out.append(torch.cat([posterior.mean, posterior.std], 1).float().cpu())
    return torch.cat(out)


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The entries of a state dict whose names begin with `prefix`. The prefix is removed."""
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


class Latent(Denoiser):
    """Base of the latent families.

    `backbone` is the denoising network. `net` is the trained module: the backbone, or WithText.
    """

    pipelines: tuple[str, ...]
    """The pipeline classes of diffusers that the family opens."""
    component: str
    """The subfolder of the backbone in a diffusers folder."""
    backbone: Any

    def __init__(self, spec: Any, shape: Shape):
        super().__init__(spec, shape)
        self.base: Base = open_start(spec, self.pipelines)
        with reading(f"model.base {self.base.path}", ConfigError):
            self._read_configs(spec, shape)
        self.layout = torch.channels_last
        self.text_encoder: Any = None
        # The embeddings (or token ids) of all prompts; set by prepare_training and prepare_sampling.
        self.tables: dict[str, torch.Tensor] | None = None
        # The text encoders. They are used instead of the tables if those would be larger than KEPT.
        self.reader: Callable[[list[str]], dict[str, torch.Tensor]] | None = None

    def _read_configs(self, spec: Any, shape: Shape) -> None:
        """Read the configs of the base. Raises ConfigError if the base does not support the images."""
        side, factor = shape.record[0], self.factor
        if side % factor:
            near = max(factor, round(side / factor) * factor)
            raise ConfigError(
                f"data.image_size {side} is not a multiple of {factor}, which this base needs; use "
                f"data.image_size={near}"
            )
        if shape.record[2] != self.vae_config["in_channels"]:
            raise ConfigError(
                f"the autoencoder of {spec.base} takes images of {self.vae_config['in_channels']} "
                "channels; set data.color=RGB"
            )
        check_base(self.base, self.component, self.backbone_class(), AutoencoderKL)
        self.scale = latent_scale(self.base)
        self.noise = self.training_noise()

    # -------------------------------------------------------------------------- to be defined by a family
    @abstractmethod
    def training_noise(self) -> Any:
        """The forward process of training, from the base's scheduler."""

    @classmethod
    @abstractmethod
    def backbone_class(cls) -> Any:
        """The diffusers class of the denoising network."""

    # ------------------------------------------------------------------------------------------- geometry
    @property
    def vae_config(self) -> dict[str, Any]:
        return read_json(self.base.path / "vae" / "config.json")

    @property
    def factor(self) -> int:
        """Side of an image divided by the side of the backbone's grid of patches."""
        patch = read_json(self.base.path / self.component / "config.json").get("patch_size", 1) or 1
        halvings = len(self.vae_config["block_out_channels"]) - 1
        return 2**halvings * patch

    @property
    def drawn(self) -> tuple[int, int, int]:
        side = self.shape.record[0] // 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        return self.vae_config["latent_channels"], side, side

    @property
    def null(self) -> int:
        return len(self.shape.prompts)

    def check_sampling(self, sampling: Sample) -> None:
        super().check_sampling(sampling)
        self._check_networks()

    def _check_networks(self) -> None:
        """Pass one image through copies of the networks on the meta device, which computes only shapes.

        Raises ConfigError if the components of the base do not fit together.
        """
        texts = self.base.texts([""], "cpu")
        with reading(
            f"the networks of model.base {self.base.path}, with images of {self.shape.record[0]} px,",
            ConfigError,
        ):
            with init_empty_weights(include_buffers=True), torch.random.fork_rng(devices=[]):
                vae = AutoencoderKL.from_config(AutoencoderKL.load_config(self.base.path / "vae"))
                kind = self.backbone_class()
                empty = copy.copy(self)
                empty.backbone = empty.net = kind.from_config(
                    kind.load_config(self.base.path / self.component)
                ).eval()
            h, w, c = self.shape.record
            z = vae.encode(torch.empty(1, c, h, w, device="meta")).latent_dist.mean
            empty.tables = {name: t.expand(self.null + 1, *t.shape[1:]) for name, t in texts.items()}
            empty.reader = None
            out = empty.predict(empty.net, z, torch.zeros(1, device="meta"), None)
            decoded = vae.decode(z).sample
        if z.shape[1:] != self.drawn or out.shape != z.shape or decoded.shape[2:] != (h, w):
            shapes = (
                f"latents {tuple(z.shape[1:])}, prediction {tuple(out.shape[1:])}, "
                f"image {tuple(decoded.shape[1:])}"
            )
            raise ConfigError(
                f"the networks of model.base {self.base.path} do not fit together for images of {h} px "
                f"({shapes}); use another base"
            )

    # -------------------------------------------------------------------------------------------- weights
    def initialise(self, seed: int, scratch: bool = False) -> None:
        """Load the base's weights. With `scratch`, set random weights that are a pure function of `seed`."""
        kind = self.backbone_class()
        if scratch:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.backbone = kind.from_config(kind.load_config(self.base.path / self.component))
        else:
            self.backbone = self.base.load(self.component, kind)
        if self.spec.train_text_encoder:
            self.text_encoder = self._open_text_encoder(self.base.path / "text_encoder")
        if self.spec.lora_rank:
            lora.add(self.backbone, self.spec, seed)

    def _open_text_encoder(self, folder: Path) -> Any:
        from transformers import CLIPTextModel

        return load_model(CLIPTextModel, folder)

    def prepare_training(self, train: Train, device: Any) -> None:
        """Freeze all other weights, move everything to the device and set `net` to the trained module."""
        kind = TYPES[train.precision]
        if not self.spec.lora_rank:
            self.backbone.requires_grad_(True)
        elif train.precision != "no":  # frozen weights need no float32 copy
            for parameter in self.backbone.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(kind)
        if train.gradient_checkpointing:
            self.backbone.enable_gradient_checkpointing()
        if train.compile is True:
            compile_network(self.backbone, device)
        if self.spec.train_text_encoder:
            self.text_encoder.requires_grad_(True)
        self.net = self.network()
        self.net.to(device)
        self.layout = fastest_layout(device, kind)
        self.backbone.to(memory_format=self.layout)
        self.tables = self._ids(device) if self.spec.train_text_encoder else self._texts(device, kind)

    def network(self) -> Any:
        """The backbone, or the backbone and the trained text encoder (see WithText)."""
        if self.text_encoder is None:
            return self.backbone
        return WithText(self.backbone, self.text_encoder)

    def unshard(self, state: dict[str, torch.Tensor]) -> None:
        """Replace networks that were sharded over processes by unsharded ones with the weights `state`."""
        kind = self.backbone_class()
        backbone = kind.from_config(self.backbone.config)
        if self.spec.lora_rank:
            backbone.add_adapter(self.backbone.peft_config["default"])
        if self.spec.train_text_encoder:
            from transformers import CLIPTextModel

            self.text_encoder = CLIPTextModel(self.text_encoder.config)
            self.text_encoder.load_state_dict(_part(state, "text_encoder."))
            state = _part(state, "backbone.")
        backbone.load_state_dict(state)
        self.backbone = backbone
        self.net = self.network()

    def prepare_sampling(self, sampling: Sample, device: Any) -> None:
        """Load the autoencoder and move everything that sampling needs to the device, in its precision."""
        kind = TYPES[sampling.precision]
        self.tables = self._texts(device, kind)
        self.net = self.backbone.to(device, kind).eval()
        self.backbone.to(memory_format=fastest_layout(device, kind))
        # An autoencoder with force_upcast overflows in float16 and is loaded in float32.
        upcast = self.vae_config.get("force_upcast") and sampling.precision == "fp16"
        self.vae = self.base.load("vae", AutoencoderKL, torch.float32 if upcast else kind).to(device)
        if sampling.compile is True:
            compile_network(self.backbone, device)

    # ------------------------------------------------------------------------------------ text and latents
    def _prompts(self) -> list[str]:
        return [*self.shape.prompts, ""]  # the last one is the null condition

    def with_prompts(self, prompts: tuple[str, ...], device: Any) -> Latent:
        """This model with other captions, for evaluation.

        The copy shares the networks. model.train_text_encoder must be true.
        """
        model = type(self)(self.spec, Shape(self.shape.record, 0, prompts))
        model.backbone, model.text_encoder, model.net = self.backbone, self.text_encoder, self.net.eval()
        model.tables = model._ids(device)
        return model

    def _ids(self, device: Any) -> dict[str, torch.Tensor]:
        tokenizer = self.base.tokenizer()
        ids = tokenizer(
            self._prompts(),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return {"ids": ids.to(device)}

    @torch.no_grad()
    def _texts(self, device: Any, kind: torch.dtype) -> dict[str, torch.Tensor]:
        if self.text_encoder is None:
            coarse = kind if torch.device(device).type == "cuda" else torch.float32
            if self.text_bytes(device, coarse) > KEPT:
                self.reader = self.base.text_reader(device, coarse)
                return {}
            tables = self.base.texts(self._prompts(), device, coarse)
        else:  # a trained text encoder changes in every generation, so its embeddings are not cached
            encoder, ids = self.text_encoder.to(device).eval(), self._ids(device)["ids"]
            tables = {"states": torch.cat([encoder(part)[0] for part in ids.split(256)])}
        if self.base.index.get("force_zeros_for_empty_prompt"):  # the null condition of SDXL
            for table in tables.values():
                table[-1] = 0
        small = sum(t.nbytes for t in tables.values()) < ON_DEVICE
        return {name: t.to(device) if small else t for name, t in tables.items()}

    def text_bytes(self, device: Any = "cpu", kind: torch.dtype = torch.float32) -> int:
        """Size in bytes of the embeddings of all captions, computed from those of the empty prompt."""
        embeddings = self.base.texts([""], device, kind)
        return sum(t.nbytes for t in embeddings.values()) * len(self._prompts())

    def _read(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode the prompts at positions int64 [n]. Each distinct prompt is encoded once."""
        assert self.reader is not None
        distinct, inverse = rows.unique(return_inverse=True)
        prompts = self._prompts()
        tables = self.reader([prompts[i] for i in distinct.tolist()])
        if self.base.index.get("force_zeros_for_empty_prompt"):
            for table in tables.values():
                table[(distinct == self.null).to(table.device)] = 0
        return {name: t[inverse.to(t.device)] for name, t in tables.items()}

    def texts(self, conditions: torch.Tensor | None, n: int, like: torch.Tensor) -> dict[str, torch.Tensor]:
        """Embeddings (or token ids) for conditions int64 [n], with the type and device of `like`.

        None as `conditions` means the null condition for all. Raises RuntimeError if neither prepare_training
        nor prepare_sampling was called.
        """
        rows = torch.full((n,), self.null) if conditions is None else conditions
        if self.reader is not None:
            embeddings = self._read(rows)
        elif self.tables is not None:
            embeddings = {name: t[rows.to(t.device)] for name, t in self.tables.items()}
        else:
            raise RuntimeError("call prepare_training or prepare_sampling before predict")
        texts = {}
        for name, t in embeddings.items():
            dtype = t.dtype if t.dtype == torch.int64 else like.dtype
            texts[name] = self.embedding_change(t.to(like.device, dtype))
        return texts

    def encoder(self, device: Any) -> Encoder:
        """The encoder of images to latents, in float32."""
        if self.vae is None or self.vae.dtype != torch.float32:
            return Encoder(self.base.load("vae", AutoencoderKL).to(device), self.encoder_key)
        return Encoder(self.vae, self.encoder_key)

    @property
    def encoder_key(self) -> str:
        return f"latents-{self.base.hash('vae')[:8]}"

    def inputs(self, shards: Shards, indices: np.ndarray) -> np.ndarray:
        return shards.gather_encoded(self.encoder_key, indices)

    def clean(self, inputs: torch.Tensor, rows: slice, total: int, rng: torch.Generator) -> torch.Tensor:
        """Draw a latent from the posterior of each image and normalise it (2112.10752, app. G)."""
        mean, std = inputs.chunk(2, dim=1)
        noise = torch.randn((total, *mean.shape[1:]), generator=rng)[rows].to(mean.device)
        return self.scale.normalise(mean + std * noise)

    @torch.inference_mode()
    def finish(self, x: torch.Tensor) -> torch.Tensor:
        z = self.scale.denormalise(x).to(self.vae.dtype)
        batch = max(1, DECODED_PIXELS // (self.shape.record[0] * self.shape.record[1]))
        return torch.cat([self.vae.decode(part).sample.float() for part in z.split(batch)])

    # ---------------------------------------------------------------------------------------------- files
    def save(self, folder: Path) -> None:
        """Write a complete diffusers folder. Its frozen components are hard links to those of the base.

        With LoRA, write only the layers (in the layout of diffusers) and the name of the base.
        """
        if self.spec.lora_rank:
            lora.save(self.backbone, self.component, self.spec, self.base, folder)
            return
        self.backbone.register_to_config(_name_or_path="")  # the file should not contain a local path
        self.backbone.to(memory_format=torch.contiguous_format).save_pretrained(
            folder / self.component, safe_serialization=True
        )
        self.backbone.to(memory_format=self.layout)  # training may continue
        if self.spec.train_text_encoder:
            self.text_encoder.save_pretrained(folder / "text_encoder")
        self.base.copy_to(folder, leave=self.trained)

    def check_saved(self, folder: Path) -> None:
        if self.spec.lora_rank:
            lora.check_saved(self.backbone, self.component, self.base, folder)

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the components that full fine-tuning trains."""
        return (self.component, "text_encoder") if self.spec.train_text_encoder else (self.component,)

    def trained_files(self, folder: Path) -> list[Path]:
        if self.spec.lora_rank:
            return [folder / lora.FILE]
        return list(
            chain.from_iterable(sorted((folder / part).glob("*.safetensors")) for part in self.trained)
        )

    def base_files(self) -> list[Path]:
        if self.spec.lora_rank:
            return []
        files = chain.from_iterable(self.base.files(part) for part in self.trained)
        return [file for file in files if file.suffix == ".safetensors"]

    @classmethod
    def load(cls, spec: Any, shape: Shape, folder: Path) -> Latent:
        model = cls(spec, shape)
        if spec.lora_rank:
            model.initialise(0)
            lora.load(model.backbone, model.component, spec, model.base, folder)
            return model
        model.backbone = load_model(model.backbone_class(), folder / model.component)
        if spec.train_text_encoder:
            model.text_encoder = model._open_text_encoder(folder / "text_encoder")
        return model
