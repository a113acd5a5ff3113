"""Images after a change that watermarks may not survive: JPEG, resizing, cropping, an autoencoder.

A change is named by a string: `jpeg` or `jpegQ` (quality 1 to 95, chroma at half resolution), `resize` (half
the side and back), `crop` (an eighth of each side is cut off, and the rest enlarged to the old size), or
`vae:PATH` (encoded and decoded by the autoencoder in the folder PATH, which may be that of a whole pipeline;
tiny-sd is the bundled one).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.files import ASSETS
from difflab.core.hashing import sha256_of

CHANGES = ("jpeg", "jpegQ", "resize", "crop", "vae:PATH")
QUALITY = 75
"""Quality of `jpeg`, Pillow's default."""
Change = Callable[[Tensor], Tensor]
"""uint8 images [n, H, W, C] to changed ones of the same shape."""


def check_change(name: str) -> None:
    """Raise MeasureError for an unknown change. Loads nothing."""
    quality = re.fullmatch(r"jpeg(\d*)", name)
    known = name in ("resize", "crop") or (name.startswith("vae:") and len(name) > 4)
    if not known and not (quality and 1 <= int(quality[1] or QUALITY) <= 95):
        raise MeasureError(
            f"unknown change of images '{name}'; use one of {', '.join(CHANGES)} (Q from 1 to 95)"
        )


def open_change(name: str) -> tuple[Change, dict[str, Any]]:
    """The change that `name` names, and what its recipe says besides the name.

    Raises MeasureError for an unknown name, and for an autoencoder that cannot be opened.
    """
    check_change(name)
    if name.startswith("vae:"):
        network = _autoencoder(name.removeprefix("vae:"))
        return lambda images: _round_trip(images, network), {"vae_sha256": sha256_of(network.state_dict())}
    by_name: dict[str, Callable[[Image.Image], Image.Image]] = {"resize": _halved, "crop": _cropped}
    change = by_name.get(name) or _jpeg_of(name)
    return lambda images: _each(images, change), {}


def _each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    mode, out = "L" if images.shape[3] == 1 else "RGB", torch.empty_like(images)
    for i, image in enumerate(images.numpy()):
        changed = change(Image.fromarray(image.reshape(image.shape[:2] + image.shape[2:] * (mode == "RGB"))))
        out[i] = torch.from_numpy(np.array(changed).reshape(image.shape))
    return out


def _jpeg_of(name: str) -> Callable[[Image.Image], Image.Image]:
    quality = int(re.sub(r"\D", "", name) or QUALITY)

    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "jpeg", quality=quality)
        return Image.open(file)

    return change


def _halved(image: Image.Image) -> Image.Image:
    width, height = image.size
    small = image.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def _cropped(image: Image.Image) -> Image.Image:
    (width, height), (x, y) = image.size, (side // 8 for side in image.size)
    return image.crop((x, y, width - x, height - y)).resize(image.size, Image.Resampling.BICUBIC)


def _autoencoder(place: str) -> Any:
    """The AutoencoderKL in a folder, or in its subfolder vae."""
    from diffusers import AutoencoderKL

    folder = ASSETS / "tiny-sd" if place == "tiny-sd" else Path(place).expanduser()
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    if not (folder / "config.json").is_file():
        raise MeasureError(
            f"vae:{place}: there is no autoencoder; name a folder with config.json, or a base with vae/"
        )
    try:
        network = AutoencoderKL.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MeasureError(f"vae:{place} cannot be opened: {' '.join(str(error).split())[:160]}") from error
    return network.eval().requires_grad_(False)


@torch.no_grad()
def _round_trip(images: Tensor, network: Any) -> Tensor:
    factor, (height, width) = 2 ** (len(network.config.block_out_channels) - 1), images.shape[1:3]
    if height % factor or width % factor:
        raise MeasureError(
            f"the autoencoder needs sides that are multiples of {factor} pixels, got {height} x {width}"
        )
    rgb = images.permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1) / 127.5 - 1
    decoded = network.decode(network.encode(rgb).latent_dist.mode()).sample
    back = ((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    return (back.mean(3, keepdim=True) if images.shape[3] == 1 else back).to(torch.uint8)
