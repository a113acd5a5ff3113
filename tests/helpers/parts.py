"""Tokenizers, text encoders and autoencoders of the tiny bases. Nothing is learned and nothing comes from a hub."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

CAPTIONS = ("noto red apple", "noto seal", "openmoji man student playing", "noto fire")
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

INSTRUCT = "<s>{% for m in messages %}{% if m['role'] == 'system' %}[SYSTEM_PROMPT]{{ m['content'][0]['text'] }}[/SYSTEM_PROMPT]{% else %}[INST]{{ m['content'][0]['text'] }}[/INST]{% endif %}{% endfor %}"

TYPED = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'][0]['text'] }}<|im_end|>\n{% endfor %}"


DESCRIBE = "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the objects and background:"


def qwen_tokenizer(describe: bool = False) -> Any:
    """Byte-level BPE without merges, with the chat template and the marks of Qwen.

    With `describe` one entry stands for most of the sentence that Qwen-Image puts before prompts, so that all before the prompt has
    34 tokens, as many as its pipeline cuts off.
    """
    marks = ["<|im_start|>", "<|im_end|>", *([DESCRIBE[:-17]] if describe else [])]
    entries = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", *marks]
    made = Qwen2TokenizerFast(
        vocab={entry: i for i, entry in enumerate(entries)},
        merges=[],
        unk_token=None,
        pad_token="<|endoftext|>",
        additional_special_tokens=marks,
    )
    made.chat_template = CHAT
    return made


def qwen_vl_processor() -> Any:
    """The tokenizer with the marks of pictures, and the processors of pictures, which no text needs."""
    marks = [
        "<|im_start|>",
        "<|im_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
    ]
    entries = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", *marks]
    tokens = Qwen2TokenizerFast(
        vocab={entry: i for i, entry in enumerate(entries)},
        merges=[],
        unk_token=None,
        pad_token="<|endoftext|>",
        additional_special_tokens=marks,
    )
    pictures, videos = Qwen2VLImageProcessor(), Qwen3VLVideoProcessor()
    return Qwen3VLProcessor(pictures, tokens, videos, chat_template=TYPED)


def qwen3_vl(entries: int, width: int = 8, layers: int = 1) -> Any:
    """The config of a small Qwen3-VL, whose vision part no text needs."""
    text = {
        "hidden_size": width,
        "intermediate_size": 8,
        "num_hidden_layers": layers,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": entries,
        "initializer_range": 0.5,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_heads": 1,
        "out_hidden_size": width,
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision)


def pixtral_processor() -> Any:
    """Byte-level BPE without merges, with the chat template and the marks of Mistral, padded on the left."""
    entries = ["<unk>", "[IMG]", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]"]
    entries += ["[/SYSTEM_PROMPT]", "[IMG_BREAK]", "[IMG_END]"]
    letters = sorted(ByteLevel.alphabet())
    inner = Tokenizer(BPE({entry: i for i, entry in enumerate([*entries, *letters])}, [], unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=[*entries[5:], "[IMG]"],
        padding_side="left",
    )
    return PixtralProcessor(PixtralImageProcessor(), tokens, patch_size=14, chat_template=INSTRUCT)


def t5(width: int = 16) -> tuple[Any, Any]:
    """A T5 encoder and its tokenizer: a letter is a token."""
    entries = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    tokens = T5Tokenizer(vocab=[(entry, -float(i)) for i, entry in enumerate(entries)], extra_ids=0)
    size = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=len(tokens), **size, is_encoder_decoder=False, use_cache=False)
    return T5EncoderModel(config).eval(), tokens


def gemma(width: int = 16, layers: int = 1) -> tuple[Any, Any]:
    """A Gemma 2 without a head and its tokenizer: a letter is a token."""
    entries = ["<pad>", "<eos>", "<bos>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    tokens = GemmaTokenizer(vocab={entry: i for i, entry in enumerate(entries)}, merges=[])
    size = {"hidden_size": width, "intermediate_size": 2 * width, "head_dim": 8, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    config = Gemma2Config(vocab_size=len(tokens), **size, **heads, initializer_range=0.5)
    return Gemma2Model(config).eval(), tokens


def kl(latents: int, levels: int = 2, kind: Any = AutoencoderKL, **more: Any) -> Any:
    """A small AutoencoderKL (or a class with its arguments) whose pictures have contrast."""
    made = kind(
        block_out_channels=(4, 8, 8, 8)[:levels],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=latents,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=16,
        **more,
    )
    contrast(made.decoder.conv_out)
    return made.eval()


@torch.no_grad()
def contrast(layer: Any, factor: float = 3.0) -> None:
    """Multiply the weights of a layer."""
    layer.weight *= factor
