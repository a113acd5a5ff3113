"""Mark the samples with a watermark."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.core.ragged import each_size
from difflab.core.seeds import numpy_generator
from difflab.core.shape import Shape
from difflab.data.watermark import SMALLEST
from difflab.features.spread_spectrum import BITS, LEAST, marked
from difflab.policies.interface import At, Policy

PACKAGE = {"dwtDct": "invisible-watermark", "rivaGan": "invisible-watermark and onnxruntime"}
"""The packages that a method of invisible-watermark needs."""


@policy("watermark")
class Watermark(Policy):
    """Every sample is marked with a watermark after it is drawn; the probe too.

    spread_spectrum adds a pattern of signs that the key gives to all channels, at any size from 8 x 8 pixels
    and with one channel or three (`difflab/features/spread_spectrum.py`). The extractor watermark:KEY reads
    it, and `watermark_filter` removes what carries it. dwtDct and rivaGan are those of the package
    invisible-watermark; they need RGB images of at least 256 x 256 pixels, and no measure reads them. All
    samples get the same pattern, so that a model that is trained on them can learn it. Exact: without
    clipping every pixel changes by `strength`, so the peak signal-to-noise ratio is
    20 log10(255 / strength) dB.
    """

    source: ClassVar[str] = (
        "spread spectrum: Cox et al. 1997; dwtDct, RivaGAN: the package invisible-watermark"
    )

    key: int = Field(ge=0, description="The key of the mark: a number from 0 on, which a reader has to know.")
    strength: int = Field(
        2, ge=1, le=64, description="What is added to or subtracted from every pixel, in grey levels of 255."
    )
    chip: int = Field(
        1, ge=1, description="Side in pixels of the squares of equal sign; 1 = the finest pattern."
    )
    share: float = Field(
        1.0, gt=0, le=1, description="Probability that a sample is marked, above 0 to 1; 1 = all are."
    )
    method: Literal["spread_spectrum", "dwtDct", "rivaGan"] = Field(
        "spread_spectrum", description="The watermark that is embedded."
    )

    def check(self, config: Any) -> None:
        if config.exact:
            raise ConfigError(
                f"policies: watermark marks images, but the samples of model.family="
                f"{config.model.family} are numbers"
            )
        if self.method != "spread_spectrum" and self.model_fields_set & {"strength", "chip"}:
            raise ConfigError(
                f"policies: watermark: strength and chip belong to spread_spectrum; remove them, because "
                f"{self.method} has its own strength"
            )
        for size in [config.data.size, *config.data.bucket_sizes]:
            if size is not None:
                self._check_size(*size)
        if self.method != "spread_spectrum":
            _encoder(self.method, self.key)

    def check_shape(self, shape: Shape) -> None:
        for size in shape.all_sizes:
            self._check_size(*size)

    def _check_size(self, height: int, width: int) -> None:
        """Raise ConfigError if images of this size cannot carry the mark."""
        if self.method == "spread_spectrum":
            needed = LEAST * self.chip
            fits = min(height, width) >= needed
        else:
            needed = SMALLEST
            fits = height * width >= needed**2
        if not fits:
            raise ConfigError(
                f"policies: watermark with method={self.method} needs images of {needed} x {needed} pixels "
                f"or more for its {BITS} bits, but they have {height} x {width}; use larger images"
                + (", or method=spread_spectrum" if self.method != "spread_spectrum" else "")
            )

    def drawn_images(self, at: At, pixels: np.ndarray, seeds: list[int]) -> np.ndarray:
        chosen = np.array(
            [numpy_generator("watermark", self.key, seed).random() < self.share for seed in seeds]
        )

        def mark(images: np.ndarray) -> np.ndarray:
            self._check_size(*images.shape[1:3])
            if self.method == "spread_spectrum":
                return marked(images, self.key, self.strength, self.chip)
            return _by_package(images, self.method, self.key)

        with_mark, out = each_size(pixels, mark), pixels.copy()
        for i in np.flatnonzero(chosen):
            out[i] = with_mark[i]
        return out


def _encoder(method: str, key: int) -> Any:
    """The encoder of invisible-watermark with the message of a key. Raises ConfigError without it."""
    try:
        from imwatermark import WatermarkEncoder

        encoder = WatermarkEncoder()
        if method == "rivaGan":
            WatermarkEncoder.loadModel()
    except (ImportError, NameError, RuntimeError) as error:
        raise ConfigError(
            f"policies: watermark with method={method} needs {PACKAGE[method]}: pip install "
            f"{PACKAGE[method].replace(' and ', ' ')}; or use method=spread_spectrum"
        ) from error
    encoder.set_watermark("bits", numpy_generator("watermark message", key).integers(0, 2, BITS).tolist())
    return encoder


def _by_package(images: np.ndarray, method: str, key: int) -> np.ndarray:
    if images.shape[3] != 3:
        raise ConfigError(
            f"policies: watermark with method={method} needs RGB images, but these are grey; use "
            "method=spread_spectrum"
        )
    encoder = _encoder(method, key)
    # The package reads and gives BGR.
    return np.stack([encoder.encode(image[:, :, ::-1].copy(), method)[:, :, ::-1] for image in images])
