"""CLIP models of open_clip: an image tower, and a text tower in the same space."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.files import ASSETS
from difflab.core.suggest import nearest_few
from difflab.features.extractor import BATCH, Extractor, ready
from difflab.features.hub import offline_when_unreachable
from difflab.features.preprocess import normalised


def open_open_clip(spec: str, device: str | torch.device) -> Extractor:
    """Image embeddings of an open_clip model, with `encode_text` for texts in the same space.

    `spec` is tiny-clip (bundled with difflab), a local folder, hf-hub:REPOSITORY, NAME/TAG, or NAME/FILE of
    weights. Raises MeasureError for unknown models and tags (with the nearest) and for weights that cannot be
    loaded.
    """
    import open_clip

    name, weights, shown = _located(spec)
    try:
        with warnings.catch_warnings(), offline_when_unreachable():
            # A checkpoint loads also under the wrong activation and then gives wrong features. open_clip only
            # warns.
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            network = open_clip.create_model(
                name, pretrained=weights, require_pretrained=True, weights_only=True
            )
    except Exception as error:  # open_clip, huggingface_hub and torch raise a dozen kinds here
        reason = " ".join(str(error).split())[:200]
        raise MeasureError(
            f"cannot open open_clip:{spec}: {reason}; offline, give a local folder as open_clip:PATH"
        ) from error
    network = ready(network, device)
    preprocess = network.visual.preprocess_cfg
    size = preprocess["size"] if isinstance(preprocess["size"], int) else preprocess["size"][0]
    prepare, recipe = normalised(size, preprocess["mean"], preprocess["std"], network.visual.state_dict())

    def encode(images_NCHW: Tensor) -> Tensor:
        return network.encode_image(prepare(images_NCHW))

    @torch.no_grad()
    def encode_text(texts: list[str]) -> Tensor:
        try:
            with offline_when_unreachable():
                tokens = open_clip.get_tokenizer(name)(texts)
            network.to(device)
            embeddings = [network.encode_text(part.to(device)).float().cpu() for part in tokens.split(BATCH)]
            return torch.cat(embeddings)
        except Exception as error:  # the tokenizers of open_clip and transformers raise a dozen kinds here
            reason = " ".join(str(error).split())[:200]
            raise MeasureError(
                f"cannot read texts with open_clip:{spec}: {reason}; it needs the tokenizer of its training"
            ) from error

    dim = network.encode_image(torch.zeros(1, 3, size, size, device=device)).shape[1]
    # As difflab's own pretraining writes it.
    training = Path(name.removeprefix("local-dir:")) / "training.json"
    if weights is None and training.is_file():
        recipe["held_out_accuracy"] = _held_out_accuracy(training)
    return Extractor(f"open_clip:{shown}", dim, recipe, encode, device, network, encode_text)


def _located(spec: str) -> tuple[str, str | None, str]:
    """The model name and the weights for open_clip.create_model (None = part of the name), and the name to
    show.
    """
    import open_clip

    folder = ASSETS / spec if spec == "tiny-clip" else Path(spec.removeprefix("local-dir:")).expanduser()
    if spec.startswith("local-dir:") or folder.is_dir():
        if not (folder / "open_clip_config.json").is_file():
            raise MeasureError(
                f"{folder} is no open_clip folder: it needs open_clip_config.json and "
                "open_clip_model.safetensors"
            )
        return f"local-dir:{folder}", None, folder.name
    if spec.startswith("hf-hub:"):
        return spec, None, spec
    name, _, weights = spec.partition("/")
    if name not in open_clip.list_models():
        raise MeasureError(f"unknown open_clip model '{name}'; {nearest_few(name, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not weights:
        example = tags[0] if tags else "PATH"
        raise MeasureError(
            f"open_clip:{name} names no weights; add one of its tags or a file, as open_clip:{name}/{example}"
        )
    if weights not in tags and not Path(weights).is_file():
        raise MeasureError(
            f"open_clip:{name} has no weights '{weights}': not a file, and no tag; "
            f"{nearest_few(weights, tags)}"
        )
    return name, weights, spec if weights in tags else name


def _held_out_accuracy(file: Path) -> dict[str, float] | None:
    """Zero-shot accuracy on concepts that a model pretrained by difflab never saw, by kind of prompt; None in
    other files.
    """
    try:
        accuracy: dict[str, Any] = json.loads(file.read_text())["accuracy"]["unseen_concepts"]
        return {kind: row["top1"] for kind, row in accuracy.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
