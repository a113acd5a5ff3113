"""One feature space: uint8 images in, float32 features out, with the recipe that says which numbers are
comparable.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from difflab.core.errors import MeasureError
from difflab.core.hashing import digest, sha256_of
from difflab.core.rows import statistics_of
from difflab.core.threads import each_on_a_core

BATCH = 64
"""Images in every forward pass."""
ON_CPU = 16
"""Images in every forward pass of a network on a CPU. Compared with 64, efficientnet-lite0 takes 0.64 and
Inception 0.82 of the CPU time on one thread, with the same features.
"""

BF16 = "bfloat16"
"""`dtype` in the recipe of an extractor whose network multiplies in bfloat16."""


class Extractor:
    """A feature space. Call it on uint8 images [n, H, W, C], C = 1 or 3, for float32 features [n, dim] on the
    CPU.

    Every forward pass takes exactly `BATCH` images (`ON_CPU` in a network on a CPU), so that the features of
    an image do not depend on how many other images are extracted with it. The last batch is filled up with
    repeats, whose features are dropped.

    Attributes:
        name: the spec that opened it, without folders.
        dim: features per image; None for `pixels`, where it is H * W * C.
        key: file name for features of this space.
        recipe: name, input size, resize, value range, dtype and the SHA-256 of the weights. Features with
            equal recipes are comparable.
        encode_text: texts to float32 embeddings [n, dim] in the same space, on the CPU; None where the
            network reads no text.
    """

    def __init__(
        self,
        name: str,
        dim: int | None,
        recipe: dict[str, Any],
        encode: Callable[[Tensor], Tensor],
        device: str | torch.device,
        network: nn.Module | None = None,
        encode_text: Callable[[list[str]], Tensor] | None = None,
    ) -> None:
        """`encode` maps uint8 [n, C, H, W] on `device` to features [n, dim]; n is the size of all batches."""
        self.name = name
        self.dim = dim
        self.recipe = {"name": name, **recipe}
        self.encode_text = encode_text
        self._encode = encode
        self._device = torch.device(device)
        self._network = network

    @property
    def statistics(self) -> str | None:
        """The name, if the features are statistics (`core.rows.statistics_of`), else None."""
        return statistics_of(self.name)

    def in_bf16(self) -> Extractor:
        """Let the network multiply in bfloat16 from now on; sums, inputs and features stay float32.

        The recipe says so, so that the key is another one. Returns this extractor. Does nothing without a
        network.
        """
        if self._network is not None:
            self.recipe["dtype"] = BF16
        return self

    def rest(self) -> None:
        """Move the network to the CPU to free memory of the device. The next call moves it back."""
        if self._network is not None:
            self._network.to("cpu")

    @property
    def text_sha256(self) -> str:
        """SHA-256 of the weights outside the image tower. The recipe covers the image tower only."""
        state = {} if self._network is None else self._network.state_dict()
        return sha256_of({key: tensor for key, tensor in state.items() if not key.startswith("visual.")})

    @property
    def key(self) -> str:
        """The recipe as a file name, for stored features.

        Other weights give another key, so stored features are never stale.
        """
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name) + "-" + digest(self.recipe)[:8]

    def __call__(self, images: Tensor) -> Tensor:
        """Features of `images`. Raises MeasureError unless they are uint8 [n, H, W, 1 or 3]."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise MeasureError(
                f"{self.name} reads uint8 images [n, H, W, 1 or 3], got {images.dtype} {tuple(images.shape)}"
            )
        if self.dim is None:
            return images.reshape(len(images), -1).cpu().float() / 255
        features = torch.empty(len(images), self.dim)
        on_cpu = self._network is not None and self._device.type == "cpu"
        size = ON_CPU if on_cpu else BATCH
        in_threads = on_cpu or self.statistics is not None  # not a function of the user
        if self._network is not None:
            self._network.to(self._device)

        def extract(start: int) -> None:
            batch_NHWC = images[start : start + size]
            filled_NHWC = batch_NHWC[torch.arange(size) % len(batch_NHWC)]
            filled_NCHW = filled_NHWC.to(self._device).permute(0, 3, 1, 2).contiguous()
            features[start : start + size] = self._encoded(filled_NCHW)[: len(batch_NHWC)]

        starts = range(0, len(images), size)
        if in_threads:
            each_on_a_core(extract, starts)
        else:
            for start in starts:
                extract(start)
        return features

    @torch.no_grad()
    def _encoded(self, images_NCHW: Tensor) -> Tensor:
        """Features float32 [n, dim] of uint8 images, on the CPU, in the precision of the recipe."""
        in_bf16 = torch.autocast(
            self._device.type, torch.bfloat16, enabled=self.recipe.get("dtype") == BF16, cache_enabled=False
        )
        # On a GPU convolutions default to TF32. The recipe says float32.
        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        with exact, in_bf16:
            return self._encode(images_NCHW).float().cpu()


def open_pixels() -> Extractor:
    """The pixel values divided by 255 as features. No network is involved."""
    recipe = {"input": "own size", "resize": "none", "values": "[0, 1]", "dtype": "float32"}
    return Extractor("pixels", None, recipe, _never_called, "cpu")


def _never_called(images: Tensor) -> Tensor:
    raise AssertionError("pixels are read without a network")


def ready(network: nn.Module, device: str | torch.device) -> Any:
    """`network` on `device` in evaluation mode, without gradients.

    On a CPU the weights are in the layout channels_last, in which convolutions are faster. The features then
    differ from those of the other layout by rounding (a relative 2e-6 for efficientnet-lite0). Typed Any:
    each network has its own methods.
    """
    network = network.eval().requires_grad_(False).to(device)
    return network.to(memory_format=torch.channels_last) if torch.device(device).type == "cpu" else network
