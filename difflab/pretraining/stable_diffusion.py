"""Trains a small latent text-to-image model from scratch. It can be the base of a chain without a model hub.

    real images --> autoencoder --> latents --+--> UNet and text encoder --> a diffusers folder
       captions --> tokenizer ----------------+

Both trainings use the loop in difflab/loop/training_loop.py. Every part writes its result under `out`. The
same command resumes a pretraining that was stopped.
"""

from __future__ import annotations

import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from pydantic import Field, model_validator

from difflab import config as configs
from difflab.config import Data, Spec, Train
from difflab.core.errors import ConfigError
from difflab.core.files import read_json, read_tensors, to_disk, write_json, write_tensors
from difflab.core.progress import Reporter
from difflab.core.seeds import seed_of
from difflab.core.shape import Shape
from difflab.data.content import contents, kept_together
from difflab.data.registry import open_source
from difflab.data.split import split
from difflab.loop.precision import accelerator_of
from difflab.loop.training_loop import fit
from difflab.metrics.held_out_loss import errors
from difflab.models.latent_encoder import moments
from difflab.models.stable_diffusion import StableDiffusion
from difflab.pretraining import autoencoder


class AutoencoderPart(Spec):
    """The AutoencoderKL, which converts pixels to latents and back."""

    channels: list[int] = Field(
        [32, 48, 80], min_length=1, description="Channels per resolution; each further entry halves the side."
    )
    latent_channels: int = Field(8, ge=1, description="Channels of a latent.")
    layers_per_block: int = Field(1, ge=1, description="Residual layers per resolution.")
    norm_groups: int = Field(
        8, ge=1, description="Groups of the group norm; must divide every entry of channels."
    )
    kl_weight: float = Field(1e-3, ge=0, description="Weight of the KL divergence per latent value; 0 = off.")
    train: Train


class TokenizerPart(Spec):
    """A CLIP tokenizer (byte-level BPE) learned from the captions."""

    vocabulary: int = Field(2000, ge=258, description="Entries of the vocabulary.")
    length: int = Field(
        24,
        ge=4,
        description="Tokens of a prompt, start and end included; longer prompts are truncated.",
    )


class TextEncoderPart(Spec):
    """A CLIP text encoder, trained along with the UNet."""

    width: int = Field(128, ge=8, description="Width, and the cross-attention dimension of the UNet.")
    layers: int = Field(2, ge=1, description="Transformer layers.")
    heads: int = Field(4, ge=1, description="Attention heads.")


class UNetPart(Spec):
    """The UNet2DConditionModel, with cross-attention at every resolution, and its noise schedule."""

    channels: list[int] = Field([64, 128], min_length=1, description="Channels per resolution.")
    layers_per_block: int = Field(1, ge=1, description="Residual layers per resolution.")
    heads: int = Field(4, ge=1, description="Attention heads.")
    norm_groups: int = Field(16, ge=1, description="Groups of the group norm.")
    prediction_type: str = Field(
        "v_prediction",
        pattern="^(epsilon|v_prediction)$",
        description="What the UNet predicts, as in diffusers.",
    )
    beta_schedule: str = Field("squaredcos_cap_v2", description="Noise schedule, as in diffusers.")


class DenoiserPart(Spec):
    """Training of the UNet and the text encoder."""

    train: Train


class Pretraining(Spec):
    """The pretraining of one complete latent text-to-image model."""

    name: str = Field(
        "tiny",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Folder under runs/ when --out is not given.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="The seed of all random numbers.")
    data: Data
    autoencoder: AutoencoderPart
    tokenizer: TokenizerPart = Field(default_factory=TokenizerPart)
    text_encoder: TextEncoderPart = Field(default_factory=TextEncoderPart)
    unet: UNetPart = Field(default_factory=UNetPart)
    denoiser: DenoiserPart

    @model_validator(mode="after")
    def _precision(self) -> Pretraining:
        if "auto" in (self.autoencoder.train.precision, self.denoiser.train.precision):
            raise ValueError("precision auto is for runs only; set train.precision to no, tf32, bf16 or fp16")
        return self


def pretrain(
    config: Pretraining, out: Path, report: Reporter | None = None, earlier: Path | None = None
) -> Path:
    """Train all parts that do not exist yet. Returns the diffusers folder `out`/model with float16 weights.

    Args:
        config: the parts and their training.
        out: the folder for all results.
        report: shows progress and messages; None = silent.
        earlier: a folder that this function wrote with the same parts. The training of its weights continues
            with a new optimiser, until they have seen denoiser.train.images_seen images in total.

    Raises ConfigError if the source has no captions, if `earlier` has other parts, or if its weights have
    already seen that many images.
    """
    report = report or Reporter(quiet=True)
    images, prompts, unseen = _data(config)
    before = None
    if earlier:
        before = _before(config, earlier)
        start, autoencoding = earlier, before["autoencoder"]
        vae = AutoencoderKL.from_pretrained(earlier / "vae", use_safetensors=True)
    else:
        vae = _autoencoder(config, out, images, unseen, report)
        start = _start(config, out / "start", vae, images.shape[1], prompts[0])
        autoencoding = read_json(out / "autoencoder" / "record.json")
    model, record = _denoiser(config, out / "denoiser", start, vae, images, prompts[0], report, before)
    losses = {
        "train": held_loss(model, vae, images[:500], prompts[0][:500]),
        "held_out": held_loss(model, vae, unseen[:500], prompts[1][:500]),
    }
    folder = out / "model"
    shutil.rmtree(out / ".model.tmp", ignore_errors=True)
    model.save(out / ".model.tmp")
    for file in (out / ".model.tmp").rglob("*.safetensors"):
        halve(file)
    for file in (out / ".model.tmp").glob("*/config.json"):  # the files should not contain local paths
        write_json(file, {name: value for name, value in read_json(file).items() if name != "_name_or_path"})
    to_disk(out / ".model.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    (out / ".model.tmp").rename(folder)
    processor = platform.processor() or platform.machine()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    write_json(
        folder / "training.json",
        {
            "config": config.model_dump(mode="json"),
            "autoencoder": autoencoding,
            "denoiser": {**record, "loss_at_fixed_noise": losses},
            "machine": f"{processor}, {torch.get_num_threads()} threads, {device}",
            "versions": {p: version(p) for p in ("difflab", "torch", "diffusers", "transformers")},
        },
    )
    return folder


def _start(config: Pretraining, folder: Path, vae: Any, image_size: int, prompts: list[str]) -> Path:
    """Write a diffusers folder: the autoencoder, a tokenizer of the captions and untrained networks."""
    if (folder / "model_index.json").is_file():
        return folder
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    text, unet = config.text_encoder, config.unet
    empty = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])
    tokenizer = empty.train_new_from_iterator(
        [prompts], vocab_size=config.tokenizer.vocabulary, length=len(prompts), show_progress=False
    )
    tokenizer.model_max_length = config.tokenizer.length
    levels = len(unet.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("denoiser", config.seed))
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=text.width,
                intermediate_size=2 * text.width,
                projection_dim=text.width,
                num_hidden_layers=text.layers,
                num_attention_heads=text.heads,
                max_position_embeddings=config.tokenizer.length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        network = UNet2DConditionModel(
            sample_size=image_size // 2 ** (len(config.autoencoder.channels) - 1),
            in_channels=config.autoencoder.latent_channels,
            out_channels=config.autoencoder.latent_channels,
            block_out_channels=tuple(unet.channels),
            layers_per_block=unet.layers_per_block,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            cross_attention_dim=text.width,
            attention_head_dim=unet.heads,
            norm_num_groups=unet.norm_groups,
        )
    scheduler = DDIMScheduler(
        beta_schedule=unet.beta_schedule,
        prediction_type=unet.prediction_type,
        clip_sample=False,
        timestep_spacing="trailing",
        steps_offset=1,
    )
    pipe: Any = StableDiffusionPipeline(
        vae, encoder, tokenizer, network, scheduler, None, None, requires_safety_checker=False
    )  # type: ignore[arg-type]
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipe.save_pretrained(temporary)
    to_disk(temporary)
    temporary.rename(folder)
    return folder


def _before(config: Pretraining, earlier: Path) -> dict[str, Any]:
    """The record of an earlier training. Raises ConfigError if `config` does not continue it."""
    if not (earlier / "training.json").is_file():
        raise ConfigError(f"{earlier} was not written by difflab pretrain: it has no training.json")
    record = read_json(earlier / "training.json")
    now = config.model_dump(mode="json")
    other = [
        part for part in ("data", "tokenizer", "text_encoder", "unet") if now[part] != record["config"][part]
    ]
    if other:
        raise ConfigError(
            f"{earlier} was trained with another section {other[0]}; use the same section, or train from "
            "scratch"
        )
    if record["denoiser"]["images_seen"] >= config.denoiser.train.images_seen:
        raise ConfigError(
            f"{earlier} has seen {record['denoiser']['images_seen']:,} images; raise "
            "denoiser.train.images_seen above this number"
        )
    return record


def _denoiser(
    config: Pretraining,
    folder: Path,
    start: Path,
    vae: Any,
    images: np.ndarray,
    prompts: list[str],
    report: Reporter,
    before: dict[str, Any] | None,
) -> tuple[StableDiffusion, dict[str, Any]]:
    """Train the UNet and the text encoder as generation 0 of the family stable-diffusion is trained."""
    train, shape = config.denoiser.train, Shape(images.shape[1:], 0, tuple(sorted(set(prompts))))
    key: tuple[object, ...] = ("denoiser", config.seed)
    seen_before = before["denoiser"]["images_seen"] if before else 0
    if seen_before:
        train = train.model_copy(update={"images_seen": train.images_seen - seen_before})
        key = (*key, seen_before)
    model = StableDiffusion(
        configs.StableDiffusion(family="stable-diffusion", base=str(start), train_text_encoder=True), shape
    )
    model.initialise(seed_of("denoiser", config.seed))
    accelerator = accelerator_of(train.precision)
    model.prepare_training(train, accelerator.device)
    position = {prompt: i for i, prompt in enumerate(shape.prompts)}
    conditions = np.array([position[prompt] for prompt in prompts])
    data = autoencoder.Memory(moments(vae, torch.from_numpy(images)).numpy(), conditions)
    with report.stage(0, "denoiser", train.images_seen) as advance:
        fit(model, data, train, key, folder, accelerator, advance, extendable=True)
    record = read_json(folder / "training.json")
    for name in ("steps", "means"):  # they describe only the last call
        record.pop(name, None)
    if before:
        continued = [[seen_before + seen, loss] for seen, loss in record["loss"]]
        curve = before["denoiser"]["loss"] + continued
        sittings = before["denoiser"].get("sittings", [before["config"]["denoiser"]["train"]])
        record |= {
            "images_seen": seen_before + record["images_seen"],
            "loss": curve,
            "sittings": [*sittings, config.denoiser.train.model_dump(mode="json")],
        }
    return model, record


def held_loss(model: StableDiffusion, vae: Any, images: np.ndarray, prompts: list[str]) -> float:
    """Mean squared error of the prediction at fixed noise (see difflab/metrics/held_out_loss.py).

    Args:
        model: a trained model.
        vae: its autoencoder.
        images: uint8 [n, H, W, C].
        prompts: their captions, which need not be in the training set.
    """
    evaluated = model.with_prompts(tuple(prompts), model.backbone.device)
    latents = moments(vae, torch.from_numpy(images)).numpy()
    batches = np.array_split(np.arange(len(images)), -(-len(images) // 16))
    losses = [errors(evaluated, latents[rows], rows, rows.tolist(), ()) for rows in batches]
    return float(np.concatenate(losses).mean())


def halve(file: Path) -> None:
    """Store the weights of a safetensors file in float16, which halves its size."""
    tensors = read_tensors(file)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.half()
    write_tensors(file, tensors, {"format": "pt"})


def _data(config: Pretraining) -> tuple[np.ndarray, list[list[str]], np.ndarray]:
    """Train images uint8 [n, H, W, C], captions of train and held-out images, and the held-out images."""
    source = open_source(config.data, config.seed)
    source = kept_together(source, contents(source))  # a run splits the set in the same way
    if source.size[0] != source.size[1]:
        raise ConfigError(
            f"difflab pretrain makes a base for square images; use data.image_size={min(source.size)}"
        )
    if source.prompts is None:
        raise ConfigError(
            f"data.source={config.data.source} has no captions, which a text-to-image model needs; set "
            "data.caption"
        )
    sides = split(source, config.data.held_out, seed_of("split", config.data.drawn_with(config.seed)))
    images, prompts = [], []
    for side in sides:
        images.append(np.stack([source.read(int(i)) for i in side]))
        prompts.append([source.prompts[i] for i in side])
    return images[0], prompts, images[1]


def _autoencoder(
    config: Pretraining, out: Path, images: np.ndarray, unseen: np.ndarray, report: Reporter
) -> Any:
    """The trained autoencoder, read from `out` if an earlier call has trained it."""
    part, folder = config.autoencoder, out / "autoencoder"
    if (folder / "vae").is_dir():
        return AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("autoencoder", config.seed))
        vae = autoencoder.build(
            part.channels,
            part.latent_channels,
            part.layers_per_block,
            part.norm_groups,
            images.shape[1],
            images.shape[3],
        )
    started = time.time()
    with report.stage(0, "autoencoder", part.train.images_seen) as advance:
        model = autoencoder.Autoencoder(vae, part.kl_weight)
        fit(
            model,
            autoencoder.Memory(images),
            part.train,
            ("autoencoder", config.seed),
            folder,
            accelerator_of(part.train.precision),
            advance,
        )
    latents = moments(vae, torch.from_numpy(images))
    mean, std = latents.chunk(2, dim=1)
    # The denoiser needs latents of variance one (Rombach et al. 2112.10752, app. G).
    vae.register_to_config(scaling_factor=round(1 / float((mean.var() + std.square().mean()).sqrt()), 5))
    errors = {
        name: autoencoder.reconstruction_error(vae, torch.from_numpy(x))
        for name, x in (("train", images), ("held_out", unseen))
    }
    write_json(
        folder / "record.json",
        {"error_levels": errors, "seconds_of_last_sitting": round(time.time() - started)},
    )
    shutil.rmtree(folder / ".vae.tmp", ignore_errors=True)
    vae.save_pretrained(folder / ".vae.tmp")
    to_disk(folder / ".vae.tmp")
    (folder / ".vae.tmp").rename(folder / "vae")
    return vae
