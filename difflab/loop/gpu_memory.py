"""Estimate the peak GPU memory of each stage of a text-to-image run, without weights and without a GPU.

The networks are built from the configs of the base, and one pass of each is computed with tensors that have
shapes and types but no memory (``FakeTensorMode`` of torch). The bytes of all live tensors are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from accelerate import init_empty_weights
from torch._subclasses.fake_tensor import FakeTensorMode

from difflab.config import Config
from difflab.core.errors import ConfigError
from difflab.core.precision import TYPES
from difflab.core.shape import Shape
from difflab.core.tensor_bytes import TensorBytes
from difflab.loop import passes
from difflab.models import family_of, lora
from difflab.models.latent_encoder import DECODED_PIXELS
from difflab.models.pretrained import Base
from difflab.models.quantised import BYTES, Int8Linear, quantise
from difflab.models.weights import cast, trainable

GIB = 2**30
RESERVE = 1.5 * GIB
"""Bytes that are added to the peak of a stage: for CUDA and its libraries, memory that torch's allocator
cannot use, and the embeddings of captions (at most 0.5 GiB). It was not measured on a GPU.
"""


@dataclass(frozen=True)
class StageMemory:
    """The GPU memory of one stage, in bytes.

    Attributes:
        stage: ``texts`` = encoding of the captions; ``train``; ``sample`` = denoising; ``encode`` = encoding
            of the samples for later generations; ``decode`` = decoding of the samples.
        weights: weights of all networks on the GPU.
        optimiser: state of the optimiser and EMA.
        gradients: gradients of the trained weights.
        activations: the rest of the peak.
        note: what the estimate does not contain; "" = nothing.
    """

    stage: str
    weights: float
    optimiser: float = 0.0
    gradients: float = 0.0
    activations: float = 0.0
    note: str = ""

    @property
    def peak(self) -> float:
        """The sum of all parts."""
        return self.weights + self.optimiser + self.gradients + self.activations

    @property
    def needed(self) -> float:
        """Bytes of memory that a GPU must have."""
        return self.peak + RESERVE


def stages(config: Config) -> list[StageMemory]:
    """The memory of every stage of a text-to-image run, in the order of the stages.

    Raises ConfigError if the config is not one of a text-to-image family, or if its base cannot be opened.
    """
    if not config.text:
        raise ConfigError(
            f"--gpu estimates text-to-image runs; model.family={config.model.family} has no pretrained base: "
            "leave --gpu out"
        )
    model = model_of(config)
    found = []
    if not config.model.trains_text_encoder:
        found.append(_texts(model.base, TYPES[config.train.precision]))
    if config.generations or not config.model.starts_as_base:
        found.append(_train(config))
    return [*found, *_sample(config)]


def shape_of(config: Config) -> Shape:
    """The shape of an image. The source of the images is opened only if data.image_size is null."""
    if config.data.size is None:
        return passes.shape_of(config)
    return Shape((*config.data.size, 3), 0, ("a photograph",) if config.conditional else ())


@contextmanager
def counted() -> Iterator[TensorBytes]:
    """Tensors of the block have no memory. Yields the count of the bytes that they would have."""
    with (
        torch.random.fork_rng(devices=[]),
        FakeTensorMode(allow_non_fake_inputs=True),
        TensorBytes() as count,
    ):
        yield count


def peak_of(count: TensorBytes, work: Callable[[], Any]) -> int:
    """Bytes that `work` needs at its peak, on top of what is in memory before."""
    count.reset()
    before = count.now
    work()
    return count.peak - before


def model_of(config: Config) -> Any:
    """The model of a config, without networks."""
    model: Any = family_of(config.model)(config.model, shape_of(config))
    # Some architectures read statistics from the weights. They keep them, so that none is read in `counted`.
    model.architecture.denormalise(torch.zeros(1, *model.drawn))
    return model


def build(model: Any) -> None:
    """Set the network of a model, with its LoRA layers, on the meta device."""
    kind = model.backbone_class()
    with init_empty_weights(include_buffers=True), torch.random.fork_rng(devices=[]):
        model.backbone = kind.from_config(kind.load_config(model.base.path / model.component))
        if model.spec.trains_text_encoder:
            from transformers import CLIPTextConfig, CLIPTextModel

            settings = CLIPTextConfig.from_pretrained(model.base.path / "text_encoder")
            model.text_encoder = CLIPTextModel(settings)
    if model.spec.trains_lora:
        lora.add(model.backbone, model.spec, 0)


def without_values(network: Any) -> Any:
    """Replace the tensors of a network on the meta device by ones of the CPU. Call it in `counted`.

    Operations on the meta device use other kernels than a GPU, such as an attention that stores its matrix.
    """
    for layer in network.modules():
        for tensors in (layer._parameters, layer._buffers, vars(layer)):
            for name, tensor in tensors.items():
                if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                    tensors[name] = _on_cpu(tensor)
    return network


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def bytes_of(network: Any) -> float:
    """Bytes of the parameters and buffers of a network."""
    return float(sum(t.nbytes for t in (*network.parameters(), *network.buffers())))


# ------------------------------------------------------------------------------------------------- the stages
def _train(config: Config) -> StageMemory:
    settings = config.train.model_copy(update={"compile": False})
    model = model_of(config)
    embeddings = embeddings_of(model.base)
    build(model)
    saved = _freeze(model, settings)
    with counted() as count:
        without_values(model.net)
        model.tables = _tables(model, embeddings, settings.precision)
        model.net.train()
        weights = bytes_of(model.net) - saved
        images = settings.micro_batch_size or settings.batch_size
        peak = peak_of(count, partial(_training_pass, model, settings, images))
        trained = sum(p.numel() for p in trainable(model.net).values())
        gradients = 4.0 * trained
    states = 2 if settings.optimizer == "adamw8bit" else 8
    optimiser = trained * (states + (4 if settings.ema_decay else 0))
    return StageMemory("train", weights, optimiser, gradients, max(0.0, peak - gradients))


def _training_pass(model: Any, settings: Any, images: int) -> None:
    """One forward and backward pass. Attention is the fused one, as on a GPU."""
    with passes.autocast(settings, "cpu"):
        prediction = model.predict(model.net, *passes.batch(model, images, "cpu"))
    prediction.float().square().mean().backward()


def _freeze(model: Any, settings: Any) -> float:
    """Freeze, cast and quantise as `Latent.prepare_training` does. Returns the bytes that nf4 saves."""
    saved = 0.0
    if model.spec.trains_lora:
        for parameter in model.backbone.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(TYPES[settings.precision])
        saved = _quantise(model, TYPES[settings.precision])
    else:
        model.backbone.requires_grad_(True)
    if settings.gradient_checkpointing:
        model.backbone.enable_gradient_checkpointing()
    model.net = model.network()
    return saved


def _quantise(model: Any, kind: torch.dtype) -> float:
    """Quantise the network to int8. Returns the bytes that nf4 needs less, if it is asked for.

    bitsandbytes cannot compute without values, so layers in nf4 are counted as int8 ones first.
    """
    if model.spec.quantized == "none":
        return 0.0
    quantise(model.backbone, "int8", kind, "meta")
    return _saved_by_nf4(model.backbone) if model.spec.quantized == "nf4" else 0.0


def _saved_by_nf4(backbone: Any) -> float:
    layers = [layer for layer in backbone.modules() if isinstance(layer, Int8Linear)]
    numbers = sum(layer.weight.numel() for layer in layers)
    return numbers * (BYTES["int8"] - BYTES["nf4"]) + sum(layer.scale.nbytes for layer in layers)


def _sample(config: Config) -> list[StageMemory]:
    settings, kind = config.sample, TYPES[config.sample.precision]
    model = model_of(config)
    embeddings = embeddings_of(model.base)
    build(model)
    saved = _quantise(model, kind)
    vae = _vae(model)
    upcast = model.architecture.vae_config.get("force_upcast") and settings.precision == "fp16"
    with counted() as count, torch.no_grad():
        model.net = without_values(cast(model.backbone, "meta", kind)).eval()
        model.tables = _tables(model, embeddings, settings.precision)
        model.vae = without_values(cast(vae, "meta", torch.float32 if upcast else kind))
        weights = bytes_of(model.net) + bytes_of(model.vae) - saved
        encoder = model.vae
        if config.generations and model.vae.dtype != torch.float32:  # later generations train on the samples
            encoder = without_values(_vae(model))
            weights += bytes_of(encoder)
        encoding = _encoding(count, model, encoder, config.sample.shard_size)
        images = settings.batch_size * model.passes(settings)
        work = passes.sampling_pass(model, "cpu", settings.precision)
        denoising = peak_of(count, partial(work, images))
        decoding = peak_of(count, partial(model.finish, torch.empty(settings.batch_size, *model.drawn)))
    note = "" if model.text_encoder is None else "without the text encoder"
    return [
        StageMemory("sample", weights, activations=denoising, note=note),
        StageMemory("encode", weights, activations=encoding),
        StageMemory("decode", weights, activations=decoding),
    ]


def _encoding(count: TensorBytes, model: Any, vae: Any, most: int) -> int:
    """Bytes of one pass of the encoder on at most `most` images."""
    height, width, channels = model.shape.record
    images = min(most, max(1, DECODED_PIXELS // (height * width)))
    pixels = torch.empty(images, channels, height, width, dtype=vae.dtype)
    return peak_of(count, lambda: model.architecture.encode(vae, pixels))


def _vae(model: Any) -> Any:
    """The autoencoder on the meta device."""
    kind = model.vae_class()
    with init_empty_weights(include_buffers=True), torch.random.fork_rng(devices=[]):
        vae = kind.from_config(kind.load_config(model.base.path / "vae"))
    return vae.eval().requires_grad_(False)


@lru_cache(maxsize=8)
def _texts(base: Base, kind: torch.dtype) -> StageMemory:
    """Encoding of one batch of captions."""
    try:
        pipe = text_pipeline(base, kind)
        with counted() as count, torch.no_grad():
            parts = [without_values(getattr(pipe, name)) for name in base.text_encoders()]
            weights = sum(map(bytes_of, parts))
            prompts = ["a photograph"] * base.prompts_per_pass
            peak = peak_of(count, lambda: base.architecture.texts(pipe, prompts, "cpu"))
        return StageMemory("texts", weights, activations=peak)
    except Exception:  # some encoders choose tokens by their values, which tensors without memory do not have
        files = [file for name in base.text_encoders() for file in base.files(name)]
        size = float(sum(file.stat().st_size for file in files if file.suffix == ".safetensors"))
        return StageMemory("texts", size, note="only the size of the weight files: the pass was not computed")


def text_pipeline(base: Base, kind: torch.dtype) -> Any:
    """The pipeline with its text encoders on the meta device."""
    import transformers

    encoders = {}
    for name in base.text_encoders():
        cls = getattr(transformers, base.index[name][1])
        with init_empty_weights(include_buffers=True), torch.random.fork_rng(devices=[]):
            encoders[name] = cls(cls.config_class.from_pretrained(base.path / name)).eval().to(kind)
    absent = {name: None for name in base.components if name in ("unet", "transformer", "vae")}
    return base.pipeline(kind, **encoders, **absent)


@lru_cache(maxsize=8)
def embeddings_of(base: Base) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of the embeddings of one caption by name, from encoders without values.

    If the encoders cannot compute without values, they are loaded and encode the empty caption.
    """
    try:
        pipe = text_pipeline(base, torch.float32)
        with counted(), torch.no_grad():
            for name in base.text_encoders():
                without_values(getattr(pipe, name))
            tables = base.architecture.texts(pipe, ["a photograph"], "cpu")
            return {name: (t.dtype, tuple(t.shape[1:])) for name, t in tables.items()}
    except Exception:
        tables = base.texts([None], "cpu")
        return {name: (t.dtype, tuple(t.shape[1:])) for name, t in tables.items()}


def _tables(model: Any, embeddings: Any, precision: str) -> Any:
    """Embeddings without values for all prompts of a model, or token ids if the text encoder is trained."""
    rows = model.null + 1
    if model.text_encoder is not None and model.net is not model.backbone:
        length = model.text_encoder.config.max_position_embeddings
        return {"ids": torch.zeros(rows, length, dtype=torch.int64)}
    tables = {}
    for name, (dtype, shape) in embeddings.items():
        kind = TYPES[precision] if dtype.is_floating_point else dtype
        tables[name] = torch.ones(rows, *shape, dtype=kind)
    return tables
