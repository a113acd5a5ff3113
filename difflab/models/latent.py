"""The base class of the latent text-to-image families: a pretrained base, latents, text embeddings, LoRA.

The autoencoder is frozen. The text encoders are frozen unless model.train_text_encoder is set. Each image is
encoded once, to the mean and standard deviation of its posterior. Each training step draws a latent from that
posterior. Each distinct prompt is encoded once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab.config import Sample, Train
from difflab.core.errors import ConfigError, reading
from difflab.core.precision import TYPES
from difflab.core.shape import Shape
from difflab.models import lora
from difflab.models.base_settings import check_base
from difflab.models.compiled import compile_network
from difflab.models.converted_base import open_start
from difflab.models.denoiser import Denoiser
from difflab.models.family import check_divisible
from difflab.models.guidance import conditional_prediction
from difflab.models.latent_encoder import DECODED_PIXELS, Encoder
from difflab.models.loading import load_model
from difflab.models.network_check import check_networks
from difflab.models.pretrained import Base
from difflab.models.quantised import quantise
from difflab.models.steer import Step
from difflab.models.text_to_image.architecture import Architecture, Texts
from difflab.models.weights import cast, fastest_layout
from difflab.models.with_text import WithText
from difflab.runs.store import Shards

KEPT = 2**29
"""Largest total size in bytes of text embeddings that are kept in the memory of the device. Larger ones are
read from disk for every batch.
"""


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The entries of a state dict whose names begin with `prefix`. The prefix is removed."""
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


class Latent(Denoiser):
    """Base of the latent families.

    `backbone` is the denoising network. `net` is the trained module: the backbone, or WithText.
    """

    backbone: Any

    def __init__(self, spec: Any, shape: Shape):
        super().__init__(spec, shape)
        self.base: Base = open_start(spec)
        self.architecture: Architecture = self.base.architecture
        with reading(f"model.base {self.base.path}", ConfigError):
            self._read_configs(spec, shape)
        self.layout = torch.channels_last
        self.text_encoder: Any = None
        # The embeddings (or token ids) of all prompts; set by prepare_training and prepare_sampling.
        self.tables: Texts | None = None

    def _read_configs(self, spec: Any, shape: Shape) -> None:
        """Read the configs of the base. Raises ConfigError if the base does not support the images."""
        check_divisible(shape, self.architecture.multiple, "which this base needs")
        channels = self.architecture.image_channels
        if shape.record[2] != channels:
            raise ConfigError(
                f"the autoencoder of {spec.base} takes images of {channels} channels; set data.color=RGB"
            )
        check_base(self.base)
        if spec.lora_rank and not self.architecture.has_lora_loader():
            raise ConfigError(
                f"diffusers has no LoRA loader for {self.base.kind}; set model.lora_rank=0 to train all "
                "weights"
            )
        self.noise = self.training_noise()

    # -------------------------------------------------------------------------- to be defined by a family
    @abstractmethod
    def training_noise(self) -> Any:
        """The forward process of training, from the base's scheduler."""

    # ---------------------------------------------------------------------------- the base's architecture
    @property
    def component(self) -> str:
        """The subfolder of the backbone in a diffusers folder."""
        return self.architecture.component

    def backbone_class(self) -> Any:
        """The diffusers class of the denoising network."""
        import diffusers

        return getattr(diffusers, self.architecture.backbone)

    def vae_class(self) -> Any:
        """The diffusers class of the autoencoder."""
        import diffusers

        return getattr(diffusers, self.architecture.autoencoder)

    @property
    def training_guidance(self) -> float:
        """The guidance scale in training, for a network that has it as an input."""
        return 1.0

    @property
    def drawn(self) -> tuple[int, int, int]:
        return self.architecture.drawn(*self.shape.size)

    @property
    def null(self) -> int:
        return len(self.shape.prompts)

    def check_sampling(self, sampling: Sample) -> None:
        super().check_sampling(sampling)
        if self.architecture.guidance == "none" and sampling.guidance_scale > self.unguided:
            raise ConfigError(
                f"model.base {self.base.path} is distilled and takes no guidance; set "
                f"sample.guidance_scale={self.unguided:g}"
            )
        for size in self.shape.all_sizes:
            check_networks(self.at(size), sampling)

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
        elif kind != torch.float32:  # frozen weights need no float32 copy
            for parameter in self.backbone.parameters():
                if not parameter.requires_grad and parameter.is_floating_point():
                    parameter.data = parameter.data.to(kind)
        quantise(self.backbone, self.spec.quantize, kind, device)
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
        quantise(self.backbone, self.spec.quantize, kind, device)
        self.net = cast(self.backbone, device, kind).eval()
        self.backbone.to(memory_format=fastest_layout(device, kind))
        # An autoencoder with force_upcast overflows in float16 and is loaded in float32.
        upcast = self.architecture.vae_config.get("force_upcast") and sampling.precision == "fp16"
        self.vae = self.base.load("vae", self.vae_class(), torch.float32 if upcast else kind).to(device)
        if sampling.compile is True:
            compile_network(self.backbone, device)

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Let the base's network draw the samples while the block runs. Call `prepare_sampling` before."""
        trained = self.net
        if self.spec.lora_rank:
            self.backbone.disable_adapters()
        else:
            base = self.base.load(self.component, self.backbone_class(), trained.dtype)
            self.net = base.to(trained.device)
        try:
            yield
        finally:
            self.net = trained
            if self.spec.lora_rank:
                self.backbone.enable_adapters()

    # ------------------------------------------------------------------------------------ text and latents
    def _prompts(self) -> list[str | None]:
        return [*self.shape.prompts, None]  # the last one is the null condition

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
            [prompt or "" for prompt in self._prompts()],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return {"ids": ids.to(device)}

    def encode_texts(self, settings: Train | Sample, device: Any, part: int = 0, parts: int = 1) -> None:
        """See Denoiser. Each distinct prompt is encoded once."""
        if not self.spec.train_text_encoder:
            self.base.encode_texts(self._prompts(), device, TYPES[settings.precision], part, parts)

    def join_texts(self, settings: Train | Sample, device: Any) -> None:
        if not self.spec.train_text_encoder:
            self.base.texts(self._prompts(), device, TYPES[settings.precision])

    @torch.no_grad()
    def _texts(self, device: Any, kind: torch.dtype) -> Texts:
        """The embeddings of all prompts: in the memory of the device, or memory maps if they are large."""
        if self.text_encoder is None:
            tables = self.base.texts(self._prompts(), device, kind)
        else:  # a trained text encoder changes in every generation, so its embeddings are not cached
            encoder, ids = self.text_encoder.to(device).eval(), self._ids(device)["ids"]
            tables = {"states": torch.cat([encoder(part)[0] for part in ids.split(256)])}
        if sum(t.nbytes for t in tables.values()) > KEPT:
            return tables
        return {name: t.to(device, copy=True) for name, t in tables.items()}

    def text_bytes(self, device: Any = "cpu", kind: torch.dtype = torch.float32) -> int:
        """Size in bytes of the embeddings of all captions, computed from those of the longest one."""
        longest = max(self.shape.prompts, key=len, default="")
        embeddings = self.base.texts([longest], device, kind)
        return sum(t.nbytes for t in embeddings.values()) * len(self._prompts())

    def texts(self, conditions: torch.Tensor | None, n: int, like: torch.Tensor) -> dict[str, torch.Tensor]:
        """Embeddings (or token ids) for conditions int64 [n], with the type and device of `like`.

        None as `conditions` means the null condition for all. Raises RuntimeError if neither prepare_training
        nor prepare_sampling was called.
        """
        rows = torch.full((n,), self.null) if conditions is None else conditions
        if self.tables is None:
            raise RuntimeError("call prepare_training or prepare_sampling before predict")
        embeddings = {name: t[rows.to(t.device)] for name, t in self.tables.items()}
        texts = {}
        for name, t in embeddings.items():
            if t.is_floating_point():
                texts[name] = self.embedding_change(t.to(like.device, like.dtype))
            else:  # token ids and masks
                texts[name] = t.to(like.device)
        return texts

    def predict(
        self,
        net: Any,
        x: torch.Tensor,
        t: torch.Tensor,
        conditions: torch.Tensor | None,
        guidance: float | None = None,
    ) -> torch.Tensor:
        """See Denoiser. `guidance` is an input of some networks; None = the value of training."""
        x = x if self.backbone.training else x.to(self.backbone.dtype)
        texts = self.texts(conditions, len(x), x)
        if "ids" in texts:  # the text encoder is trained
            return net(x, t, texts["ids"])
        scale = self.training_guidance if guidance is None else guidance
        return self.architecture.predict(net, x, t, texts, scale)

    def guided(self, step: Step) -> torch.Tensor:
        if self.architecture.guidance != "embedded":
            return super().guided(step)
        predict = partial(self.predict, self.net, guidance=step.scale)
        return conditional_prediction(predict, step, self.steers, self.embedding_change)

    @property
    def unguided(self) -> float:
        return self.architecture.unguided

    def passes(self, sampling: Sample) -> int:
        return 1 if self.architecture.guidance == "embedded" else super().passes(sampling)

    def combine(self, unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
        return self.architecture.combine(unconditional, conditional, scale)

    def encoder(self, device: Any) -> Encoder:
        """The encoder of images to latents, in float32."""
        if self.vae is None or self.vae.dtype != torch.float32:
            vae = self.base.load("vae", self.vae_class()).to(device)
            return Encoder(vae, self.encoder_key, self.architecture)
        return Encoder(self.vae, self.encoder_key, self.architecture)

    @property
    def encoder_key(self) -> str:
        return f"latents-{self.base.hash('vae')[:8]}"

    def inputs(self, shards: Shards, indices: np.ndarray) -> np.ndarray:
        return shards.gather_encoded(self.encoder_key, indices)

    def clean(self, inputs: torch.Tensor, rows: slice, total: int, rng: torch.Generator) -> torch.Tensor:
        """Draw a latent from the posterior of each image and normalise it (2112.10752, app. G).

        Architectures that are trained on the mode of the posterior use its mean.
        """
        mean, std = inputs.chunk(2, dim=1)
        if self.architecture.posterior == "mode":
            return self.architecture.normalise(mean)
        noise = torch.randn((total, *mean.shape[1:]), generator=rng)[rows].to(mean.device)
        return self.architecture.normalise(mean + std * noise)

    @torch.inference_mode()
    def finish(self, x: torch.Tensor) -> torch.Tensor:
        z = self.architecture.denormalise(x).to(self.vae.dtype)
        batch = max(1, DECODED_PIXELS // (self.shape.record[0] * self.shape.record[1]))
        return torch.cat([self.architecture.decode(self.vae, part).float() for part in z.split(batch)])

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
