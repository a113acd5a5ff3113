"""Diffusers folders of the architectures of Stable Diffusion 1.5, 2.1, XL and 3, with random weights and a few hundred kilobytes.

Settings follow the published folders (scheduler, prediction type, encoders, VAE scale); sizes do not. Weights are a pure function
of the kind. Scales are chosen so that pictures have contrast and depend on the prompt: a test on flat pictures would see nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from difflab.config import parse
from difflab.core.shape import Shape

# What diffusers and transformers themselves say while they open folders; none of it is about difflab.
LIBRARIES = [
    pytest.mark.filterwarnings("ignore:.*torch_dtype.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:diffusers.schedulers"
    ),
    pytest.mark.filterwarnings(
        "ignore:__array_wrap__ must accept context:DeprecationWarning:diffusers.schedulers"
    ),
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),  # Chroma uses it
]

CAPTIONS = (
    "noto red apple",
    "noto purple heart",
    "noto seal",
    "openmoji seal",
    "twemoji pilot",
    "openmoji man student",
    "noto fire",
)
LENGTH = 77  # tokens of a prompt
SIDE = 16  # pixels
WIDTH = 16  # of a text encoder


def tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """Byte-level BPE with three merges: bytes, bytes that end a word, what the merges make, and the two marks.

    Not learned from captions: the trainer of `tokenizers` numbers its entries in another order at every call.
    """
    letters = sorted(ByteLevel.alphabet())
    merges = [("n", "o"), ("t", "o</w>"), ("no", "to</w>")]
    entries = [
        *letters,
        *(c + "</w>" for c in letters),
        *("".join(m) for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    made = CLIPTokenizer(vocab={entry: i for i, entry in enumerate(entries)}, merges=merges, pad_token=pad)
    made.model_max_length = LENGTH
    return made


def text_encoder(tokens: CLIPTokenizer, projection: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        initializer_factor=4.0,  # else all prompts look alike
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def vae(scaling: float, channels: tuple[int, ...] = (4, 8), latents: int = 4, **more: Any) -> AutoencoderKL:
    levels = len(channels)
    made = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=latents,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE,
        scaling_factor=scaling,
        **more,
    )
    with torch.no_grad():
        made.decoder.conv_out.weight *= 3  # contrast
    return made.eval()


def unet(levels: int = 2, latents: int = 4, context: int = WIDTH, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 2,
        in_channels=latents,
        out_channels=latents,
        block_out_channels=(4, 8)[:levels],
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")[:levels],
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")[-levels:],
        cross_attention_dim=context,
        attention_head_dim=2,
        norm_num_groups=2,
        **more,
    )


SD_NOISE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
EULER = {name: value for name, value in SD_NOISE.items() if name != "set_alpha_to_one"}


def _sd15() -> Any:
    tokens = tokenizer()
    scheduler = PNDMScheduler(**SD_NOISE, skip_prk_steps=True)
    scheduler.register_to_config(
        clip_sample=False
    )  # in the published folder, though this scheduler knows no such thing
    return StableDiffusionPipeline(
        vae(0.18215),
        text_encoder(tokens),
        tokens,
        unet(1),
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )  # type: ignore[arg-type]


def _sd21() -> Any:
    tokens = tokenizer()
    scheduler = DDIMScheduler(**SD_NOISE, clip_sample=False, prediction_type="v_prediction")
    network = unet(use_linear_projection=True)
    return StableDiffusionPipeline(
        vae(0.18215),
        text_encoder(tokens),
        tokens,
        network,
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )  # type: ignore[arg-type]


def _sdxl() -> Any:
    tokens = tokenizer()
    network = unet(
        context=2 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        transformer_layers_per_block=1,
    )
    scheduler = diffusers.EulerDiscreteScheduler(**EULER, timestep_spacing="leading")
    scheduler.register_to_config(clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True)
    parts = (
        vae(0.13025, force_upcast=True),
        text_encoder(tokens),
        text_encoder(tokens, True),
        tokens,
        tokenizer("!"),
        network,
        scheduler,
    )
    # The published folder says true; tests/models/test_stable_diffusion.py has a test of its own for that.
    return StableDiffusionXLPipeline(*parts, force_zeros_for_empty_prompt=False)  # type: ignore[arg-type]


def _t5() -> tuple[Any, Any]:
    """The third text encoder of SD 3 and its tokenizer: a letter is a token."""
    entries = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    tokens = T5Tokenizer(vocab=[(entry, -float(i)) for i, entry in enumerate(entries)], extra_ids=0)
    size = {"d_model": 2 * WIDTH + 4, "d_kv": 6, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(
        T5Config(vocab_size=len(tokens), **size, is_encoder_decoder=False, use_cache=False)
    ).eval(), tokens


def _sd3(third: tuple[Any, Any] = (None, None)) -> Any:
    tokens = tokenizer()
    network = SD3Transformer2DModel(
        sample_size=SIDE // 2,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH + 4,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
    )
    with torch.no_grad():
        network.proj_out.weight *= 3
    autoencoder = vae(1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    encoders = text_encoder(tokens, True), tokens, text_encoder(tokens, True), tokenizer("!"), *third
    return StableDiffusion3Pipeline(
        network, FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder, *encoders
    )  # type: ignore[arg-type]


KINDS: dict[str, Callable[[], Any]] = {"sd15": _sd15, "sd21": _sd21, "sdxl": _sdxl, "sd3": _sd3}
BACKBONE = {"sd15": "unet", "sd21": "unet", "sdxl": "unet", "sd3": "transformer"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def family(kind: str) -> str:
    return "flow" if kind.startswith("sd3") else "stable-diffusion"


def make(kind: str, folder: Path, seed: int = 0, **how: Any) -> Path:
    """Write the folder of one kind (or sd3-t5: SD 3 with all three text encoders) and return it; `how` goes to save_pretrained (variant, max_shard_size)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = KINDS[kind]() if kind != "sd3-t5" else _sd3(_t5())
    pipe.save_pretrained(folder, **how)
    return folder


def spec(kind: str, base: Path | str, **changes: Any) -> Any:
    """The ``model`` section of a config."""
    return parse(
        {"model": {"family": family(kind), "base": str(base), **changes}, "train": {"start_from": "base"}}
    ).model


def model(kind: str, base: Path | str, shape: Shape | None = None, **changes: Any) -> Any:
    """A family object with the base's weights."""
    from difflab.models import family_of

    own = spec(kind, base, **changes)
    made = family_of(own)(own, shape or Shape((SIDE, SIDE, 3), 0, CAPTIONS))
    made.initialise(0)
    return made


def sampler(kind: str) -> dict[str, Any]:
    """Scheduler settings of a config for this kind."""
    return {
        "scheduler": "FlowMatchEulerDiscreteScheduler" if kind.startswith("sd3") else "DDIMScheduler",
        "steps": 3,
    }


def images(n: int = 8, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, uint8 [n, side, side, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, side // 4, side // 4, 3)).astype(np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)


def tensors(folder: Path, component: str = "unet") -> dict[str, torch.Tensor]:
    """All weights of one component of a diffusers folder."""
    return {
        name: t
        for file in sorted((folder / component).glob("*.safetensors"))
        for name, t in load_file(file).items()
    }


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[name]) for name, t in a.items())


def spoil(file: Path, name: str, value: float = float("nan")) -> None:
    """Put `value` into the first entry of one tensor of a safetensors file."""
    content = load_file(file)
    content[name].view(-1)[0] = value
    save_file(content, file, {"format": "pt"})


def amend(file: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def plain_sd3(folder: Path) -> Any:
    """The pipeline without its T5, which diffusers wants to be told."""
    return StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, local_files_only=True
    )


def config(kind: str, base: Path | str, **changes: Any) -> Any:
    """A chain of generations 0 and 1 on 40 small pictures with captions; sections in `changes` are merged."""
    raw: dict[str, Any] = {
        "generations": 1,
        "data": {"source": "emoji", "limit": 40, "image_size": SIDE, "label": "style"},
        "model": {"family": family(kind), "base": str(base)},
        "train": {
            "start_from": "base",
            "images_seen": 48,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "checkpoint_every": 16,
            "ema_decay": 0.5,
        },
        "sample": {**sampler(kind), "count": 10, "guidance_scale": 3.0, "shard_size": 5, "batch_size": 5},
        "probe": {"per_condition": 0},
        "measure": {"extractors": ["pixels"], "metrics": [], "resamples": 0, "held_out_loss": 0},
    }
    for section, values in changes.items():
        raw[section] = {**raw[section], **values} if isinstance(values, dict) and section in raw else values
    return parse(raw)


def pipeline(kind: str, folder: Path) -> Any:
    """The folder in plain diffusers."""
    if kind == "sd3":
        pipe = plain_sd3(folder)
    else:
        classes = {"sdxl": StableDiffusionXLPipeline, "sd3-t5": StableDiffusion3Pipeline}
        pipe = classes.get(kind, StableDiffusionPipeline).from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(
    pipe: Any,
    prompts: list[str],
    seeds: list[int],
    how: Any,
    size: tuple[int, int] = (SIDE, SIDE),
    **more: Any,
) -> np.ndarray:
    """What plain diffusers paints for these prompts and seeds with the scheduler and guidance of `how`: uint8 [n, H, W, C]."""
    pipe.scheduler = getattr(diffusers, how.scheduler).from_config(
        pipe.scheduler.config, **how.scheduler_options
    )
    made = pipe(
        prompts,
        height=size[0],
        width=size[1],
        num_inference_steps=how.steps,
        guidance_scale=how.guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
        **more,
    )
    return (made.images * 255).round().astype(np.uint8)


def train(made: Any, folder: Path, count: int = 8, side: int = SIDE, **changes: Any) -> Any:
    """Train a latent model on a few pictures through difflab's loop; returns the model."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from difflab.config import Train
    from difflab.loop.training_loop import fit
    from difflab.pretraining.autoencoder import Memory

    how = Train(
        **{
            "images_seen": 24,
            "batch_size": 8,
            "learning_rate": 1e-2,
            "decay": "none",
            "ema_decay": 0.0,
            "checkpoint_every": 0,
            **changes,
        }
    )
    latents = made.encoder("cpu")(torch.from_numpy(images(count, side))).numpy()
    conditions = np.arange(count) % len(made.shape.prompts) if made.spec.conditional else None
    made.prepare_training(how, "cpu")
    AcceleratorState._reset_state()  # else the precision of the first one in this process stays
    try:
        fit(
            made,
            Memory(latents, conditions),
            how,
            ("tiny", 0),
            folder,
            Accelerator(cpu=True, mixed_precision=how.precision),
            lambda n: None,
        )
    finally:
        AcceleratorState._reset_state()
    return made


def clip(folder: Path) -> Path:
    """A random open_clip model of a few thousand parameters in `folder`."""
    import open_clip

    folder.mkdir(parents=True)
    text = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    shape = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": text,
    }
    torch.manual_seed(0)
    save_file(
        {name: tensor.contiguous() for name, tensor in open_clip.CLIP(**shape).state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": shape, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    )
    return folder
