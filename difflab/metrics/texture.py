"""What images look like without any network: eight statistics of each image, and how far their distributions have moved.

The statistics (`texture`, `STATISTICS`) are the features of the extractor `texture`; `<name>_shift` and `texture_distance` read
those and no others. `AestheticHead` is the one thing here with weights: a score over CLIP features, from a file of yours.
A score of beauty rises with saturation and contrast, as early collapse does: read it beside them.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from difflab.core.errors import MeasureError
from difflab.metrics.base import Pair, PairMetric, Rows, measure

STATISTICS = (
    "colourfulness",
    "saturation",
    "contrast",
    "sharpness",
    "spectral_slope",
    "high_frequency",
    "bits_per_pixel",
    "local_entropy",
)
"""The columns of `texture`, in order."""
BLOCK, LEVELS = 8, 16
"""Side in pixels and grey levels of the blocks of local_entropy."""


# -------------------------------------------------------------------------------------------- statistics of an image
def texture(images: Tensor) -> Tensor:
    """Float32 [n, 8] on the CPU, one column per entry of `STATISTICS`, of uint8 images [n, H, W, 1 or 3] with sides of 8 or more.

        colourfulness    0..       M3 of Hasler & Suesstrunk 2003 on values 0..255; 0 for grey images
        saturation       0..1      mean over pixels of HSV's (max - min) / max, black counting 0; 0 for grey images
        contrast         0..0.5    standard deviation of luminance in 0..1 (RMS contrast, Peli 1990)
        sharpness        0..16     variance of the 4-neighbour Laplacian of that luminance, without the border (Pech-Pacheco 2000)
        spectral_slope             slope of log power against log frequency, see `spectrum`: 0 for white noise, about -2 for photos
        high_frequency   0..1      share of power above half of the Nyquist frequency, a quarter cycle per pixel; white noise 1 - pi/16
        bits_per_pixel   0..       bits of the zlib-compressed differences to the left neighbour (PNG's Sub filter), all channels
        local_entropy    0..4      mean entropy in bits of the histogram of 16 grey levels in blocks of 8 x 8 pixels

    Luminance is .299 R + .587 G + .114 B of the stored values. All in float64 on the CPU. Raises MeasureError for other input.

    >>> texture(torch.full((1, 8, 8, 1), 7, dtype=torch.uint8))[0, :6]
    tensor([0., 0., 0., 0., 0., 0.])
    """
    if (
        images.dtype != torch.uint8
        or images.ndim != 4
        or images.shape[3] not in (1, 3)
        or min(images.shape[1:3]) < 8
    ):
        raise MeasureError(
            f"texture reads uint8 images [n, H, W, 1 or 3] of 8 or more pixels a side, got {images.dtype} {tuple(images.shape)}"
        )
    images = images.cpu()
    several = max(
        1, 2**22 // (images.shape[1] * images.shape[2])
    )  # 4 million pixels at a time: some hundred MB
    return torch.cat(
        [
            torch.zeros(0, len(STATISTICS)),
            *(_texture(part) for part in (images.split(several) if len(images) else ())),
        ]
    )


def _texture(images_NHWC: Tensor) -> Tensor:
    x = images_NHWC.double()
    luminance = _luminance(x)
    light = luminance / 255
    laplacian = (
        light[:, :-2, 1:-1]
        + light[:, 2:, 1:-1]
        + light[:, 1:-1, :-2]
        + light[:, 1:-1, 2:]
        - 4 * light[:, 1:-1, 1:-1]
    )
    columns = [
        *_colour(x),
        light.flatten(1).std(1, correction=0),
        laplacian.flatten(1).var(1, correction=0),
        *spectrum(luminance),
        _bits_per_pixel(images_NHWC),
        _local_entropy(luminance),
    ]
    return torch.stack(columns, 1).float()


def _luminance(x_NHWC: Tensor) -> Tensor:
    return (
        x_NHWC[..., 0]
        if x_NHWC.shape[3] == 1
        else (x_NHWC @ torch.tensor([299.0, 587.0, 114.0], dtype=x_NHWC.dtype)) / 1000
    )


def _colour(x_NHWC: Tensor) -> tuple[Tensor, Tensor]:
    if x_NHWC.shape[3] == 1:
        return (torch.zeros(len(x_NHWC), dtype=x_NHWC.dtype),) * 2
    r, g, b = x_NHWC.flatten(1, 2).unbind(2)
    opponents = torch.stack([r - g, (r + g) / 2 - b])
    colourfulness = opponents.std(2, correction=0).norm(dim=0) + 0.3 * opponents.mean(2).norm(dim=0)
    most, least = x_NHWC.amax(3), x_NHWC.amin(3)
    return colourfulness, ((most - least) / most.clamp(min=1)).flatten(1).mean(1)


def spectrum(luminance_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """spectral_slope and high_frequency, float64 [n] each, of luminance in 0..255.

    The mean is taken off and a Hann window put on, so that opposite borders that differ are no edges. Power is averaged over
    rings one frequency step of the shorter side wide, up to Nyquist; the slope is the least-squares one over all but the first,
    which the window mixes with the mean (van der Schaaf & van Hateren 1996). On noise of slope 0 to -2 its mean lies within .18
    of the truth at 8 pixels a side and within .05 at 64; the standard deviation of one image is 1.2 and .12.

    Rounding to 8 bits makes white noise of variance 1/12: rings below it count as that noise, so that a constant image has
    slope 0 and no high frequencies rather than no value.
    """
    radius, power, noise = _power(luminance_NHW)
    frequency, by_ring = _rings(luminance_NHW, radius, power, noise)
    x, y = frequency.log(), by_ring.log()
    slope = (y - y.mean(1, keepdim=True)) @ (x - x.mean()) / (x - x.mean()).square().sum()
    return slope, power[:, radius > 0.25].sum(1) / power.sum(1).clamp(min=noise * len(radius))


def radial_spectrum(images_NHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Frequency [r], in cycles per pixel, and power [n, r] of the luminance of uint8 images, averaged over rings: what `spectrum` reads its slope off.

    The ring nearest to the mean is left out, and nothing is below the power of rounding to 8 bits.
    """
    luminance = _luminance(images_NHWC.double())
    return _rings(luminance, *_power(luminance))


def _power(luminance_NHW: Tensor) -> tuple[Tensor, Tensor, float]:
    """The radius [H * W] of every frequency, the power of each image there [n, H * W], and that of rounding."""
    _, height, width = luminance_NHW.shape
    window = torch.outer(
        torch.hann_window(height, dtype=torch.float64), torch.hann_window(width, dtype=torch.float64)
    )
    mean = (luminance_NHW * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((luminance_NHW - mean) * window).abs().square().flatten(1)
    noise = float(window.square().sum()) / 12  # expected power of rounding at every frequency
    radius = torch.hypot(
        torch.fft.fftfreq(height, dtype=torch.float64).unsqueeze(1),
        torch.fft.fftfreq(width, dtype=torch.float64),
    ).flatten()
    return radius, power, noise


def _rings(luminance_NHW: Tensor, radius: Tensor, power: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Mean radius [r] and mean power [n, r] of the rings from the second one to Nyquist."""
    side = min(luminance_NHW.shape[1:])
    ring = (radius * side).round().long()
    inside = (ring >= 2) & (ring <= side // 2)
    ring = ring[inside] - 2
    size = torch.bincount(ring)
    by_ring = torch.zeros(len(power) + 1, len(size), dtype=torch.float64)
    by_ring.index_add_(1, ring, torch.cat([radius.unsqueeze(0), power])[:, inside])
    return by_ring[0] / size, (by_ring[1:] / size).clamp(min=noise)


def _bits_per_pixel(images_NHWC: Tensor) -> Tensor:
    left = images_NHWC.clone()
    left[:, :, 1:] -= images_NHWC[:, :, :-1]  # modulo 256
    sizes = [len(zlib.compress(image.numpy().tobytes(), 6)) for image in left]
    return torch.tensor(sizes, dtype=torch.float64) * 8 / (images_NHWC.shape[1] * images_NHWC.shape[2])


def _local_entropy(luminance_NHW: Tensor) -> Tensor:
    n, down, across = (
        len(luminance_NHW),
        luminance_NHW.shape[1] // BLOCK,
        luminance_NHW.shape[2] // BLOCK,
    )  # an incomplete last block is left out
    level = luminance_NHW[:, : down * BLOCK, : across * BLOCK].round().long() * LEVELS // 256
    blocks = (
        level.view(n, down, BLOCK, across, BLOCK).transpose(2, 3).reshape(n, down * across, BLOCK * BLOCK)
    )
    share = torch.zeros(n, down * across, LEVELS, dtype=torch.float64).scatter_add_(
        2, blocks, torch.ones(1, 1, 1, dtype=torch.float64).expand_as(blocks)
    )
    return torch.special.entr(share / BLOCK**2).sum(2).mean(1) / math.log(2)


# ------------------------------------------------------------------------------------------ shifts of distributions
def _columns(features: Tensor) -> Tensor:
    if features.shape[1] != len(STATISTICS):
        raise MeasureError(
            f"texture measures read the {len(STATISTICS)} statistics of the texture extractor, got {features.shape[1]} features"
        )
    return features.double()


def _spread(real: Tensor) -> Tensor:
    """Interquartile range of each column, float64 [d]."""
    quartiles = torch.quantile(real, torch.tensor([0.25, 0.75], dtype=real.dtype, device=real.device), dim=0)
    return quartiles[1] - quartiles[0]


def _varying(pair: Pair) -> Tensor:
    """The statistics that vary among the real images of the pair, int64 [k]. Raises MeasureError where none does."""
    varying = (_spread(_columns(pair.real)) > 0).nonzero().squeeze(1)
    if not len(varying):
        raise MeasureError(
            "texture_distance has no value: no statistic varies among the real images, so there is no unit to count in"
        )
    return varying


def wasserstein(x: Tensor, y: Tensor) -> float:
    """Wasserstein-1 distance between two samples [n] and [m] of numbers: the area between their distribution functions.

    >>> wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0, 5.0, 2.0]))
    3.0
    """
    both = torch.cat([x, y]).sort().values
    below_x, below_y = (
        torch.searchsorted(side.sort().values, both[:-1], right=True).double() / len(side) for side in (x, y)
    )
    return float(((below_x - below_y).abs() * both.diff()).sum())


class _Texture(PairMetric):
    needs = "texture"
    unit = "real interquartile ranges"


@measure("texture_distance")
class TextureDistance(_Texture):
    """Mean over the statistics of the Wasserstein-1 distance between samples and real images, each in real interquartile ranges.

    Statistics that do not vary among the real images (the two of colour, for grey ones) have no unit and are left out.

    >>> x = torch.arange(5.0).unsqueeze(1).expand(5, 8)
    >>> TextureDistance.of(Pair(x, x + 1))
    0.5
    """

    range = (0.0, float("inf"))
    better = "lower"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        varying = pair.once(_varying)
        real_columns, fake_columns = (
            _columns(side[rows])[:, varying] for side, rows in ((pair.real, real), (pair.fake, fake))
        )
        moved = [
            wasserstein(x, y)
            for x, y in zip(real_columns.T.contiguous(), fake_columns.T.contiguous(), strict=True)
        ]
        return float((torch.tensor(moved, dtype=torch.float64) / _spread(real_columns).cpu()).mean())


class _Shift(_Texture):
    """Median over samples minus median over real images, in real interquartile ranges: 0 = same, signed."""

    range = (-float("inf"), float("inf"))
    better = "real"

    @staticmethod
    def centre(values: Tensor) -> Tensor:
        return values.quantile(0.5)

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        statistic = cls.name.removesuffix("_shift")
        column = STATISTICS.index(statistic)
        real_values, fake_values = _columns(pair.real[real])[:, column], _columns(pair.fake[fake])[:, column]
        spread = float(_spread(real_values))
        if spread == 0:
            grey = ": grey images have no colour" if column < 2 else ""
            raise MeasureError(
                f"{cls.name} has no value: {statistic} is the same in half of the real images or more, so there is no unit{grey}"
            )
        return float(cls.centre(fake_values) - cls.centre(real_values)) / spread


class _ColourShift(_Shift):
    """Mean over samples minus mean over real images, in real interquartile ranges: 0 = same, signed. Grey images: MeasureError.

    Images without colour stay without it, and where they are many the median is among them. Where all images move one way this is
    the Wasserstein-1 distance.
    """

    @staticmethod
    def centre(values: Tensor) -> Tensor:
        return values.mean()


@measure("colourfulness_shift")
class ColourfulnessShift(_ColourShift):
    """Above 0: more colourful than real images, on average. Grey images: MeasureError."""


@measure("saturation_shift")
class SaturationShift(_ColourShift):
    """Above 0: more saturated than real images, on average. Grey images: MeasureError."""


@measure("contrast_shift")
class ContrastShift(_Shift):
    """Above 0: more contrast than real images."""


@measure("sharpness_shift")
class SharpnessShift(_Shift):
    """Above 0: sharper, or noisier, than real images; below 0: blurred."""


@measure("spectral_slope_shift")
class SpectralSlopeShift(_Shift):
    """Above 0: a flatter spectrum, more fine structure or noise, than real images; below 0: smoother."""


@measure("high_frequency_shift")
class HighFrequencyShift(_Shift):
    """Above 0: more of the power at fine scales than in real images."""


@measure("bits_per_pixel_shift")
class BitsPerPixelShift(_Shift):
    """Above 0: harder to compress than real images; below 0: simpler."""


@measure("local_entropy_shift")
class LocalEntropyShift(_Shift):
    """Above 0: more grey levels side by side than in real images; below 0: flatter patches."""


# ---------------------------------------------------------------------------------------------------- aesthetic score
_RELU_AFTER = {(0,): False, (0, 2, 4, 6, 7): False, (0, 3, 6, 9, 11): True}
"""Positions of the linear layers in the heads of LAION, which give away what lies between: dropout alone, or ReLU and dropout."""


class AestheticHead:
    """A score in the manner of LAION: one linear layer, or the MLP of improved-aesthetic-predictor, on L2-normalised CLIP features.

    Heads are made for one backbone and say nothing on another of the same width: scores with equal recipes are comparable, others
    are not. No weights come with difflab. Train ones are pickles (.pth); ``safetensors.torch.save_file(torch.load(path,
    weights_only=True), ...)`` makes them a file that this reads.

    Attributes:
        recipe: file name and SHA-256 of the head, its shape, and the recipe of the backbone.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]], relu: bool, recipe: dict[str, Any]) -> None:
        self._layers, self._relu, self.recipe = layers, relu, recipe

    @classmethod
    def load(cls, path: str | Path, backbone: Any) -> AestheticHead:
        """Read a head from a .safetensors or .npz file: ``weight`` [1, d] and ``bias`` [1], or ``layers.I.weight`` and ``layers.I.bias``.

        `backbone` is the open_clip extractor whose features it scores. Raises MeasureError for other files (pickles are never read),
        other layers and other backbones.
        """
        from difflab.features.extractors import sha256_of

        path = Path(path).expanduser()
        if path.suffix not in (".safetensors", ".npz"):
            raise MeasureError(
                f"{path} is neither .safetensors nor .npz; pickles can run code and are not read: convert it with safetensors"
            )
        try:
            state = load_file(path) if path.suffix == ".safetensors" else _load_npz(path)
        except (
            OSError,
            SafetensorError,
            ValueError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise MeasureError(f"cannot read an aesthetic head from {path}: {error}") from error
        if not backbone.name.startswith("open_clip:"):
            raise MeasureError(
                f"an aesthetic head scores CLIP features; {backbone.name} makes others: open its backbone as open_clip:NAME/PRETRAINED"
            )
        layers, relu = _layers_of(state, path)
        if layers[0][0].shape[1] != backbone.dim:
            raise MeasureError(
                f"the head in {path} reads {layers[0][0].shape[1]} features, {backbone.name} makes {backbone.dim}: open its own backbone"
            )
        shape = [int(weight.shape[1]) for weight, _ in layers] + [1]
        head = {
            "score": "aesthetic",
            "head": path.name,
            "sha256": sha256_of(state),
            "layers": shape,
            "relu": relu,
            "features": "L2-normalised",
        }
        return cls(layers, relu, {**head, "backbone": backbone.recipe})

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """Scores float32 [n], 1 to 10 for LAION's heads, of features [n, d], normalised here. Raises MeasureError for other input."""
        width = self._layers[0][0].shape[1]
        if features.ndim != 2 or features.shape[1] != width or not torch.isfinite(features).all():
            raise MeasureError(
                f"the aesthetic head reads finite features [n, {width}], got {tuple(features.shape)}"
            )
        x = F.normalize(features.detach().cpu().float(), dim=1)
        for at, (weight, bias) in enumerate(self._layers):
            x = F.linear(F.relu(x) if self._relu and at else x, weight, bias)
        return x.squeeze(1)


def _load_npz(path: Path) -> dict[str, Tensor]:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _layers_of(state: dict[str, Tensor], path: Path) -> tuple[list[tuple[Tensor, Tensor]], bool]:
    """Weights and biases in order, and whether a ReLU lies between them."""
    places = {
        int(found[1] or 0): found[0].removesuffix("weight")
        for name in state
        if (found := re.fullmatch(r"(?:layers\.(\d+)\.)?weight", name))
    }
    order = sorted(places)
    wanted = {places[at] + kind for at in order for kind in ("weight", "bias")}
    if tuple(order) not in _RELU_AFTER or set(state) != wanted:
        raise MeasureError(
            f"{path} is no head that is known here: it holds {', '.join(sorted(state))[:200]}; wanted weight and bias, or LAION's layers.I"
        )
    layers = [(state[places[at] + "weight"].float(), state[places[at] + "bias"].float()) for at in order]
    widths = [weight.shape[0] for weight, _ in layers]
    chained = all(
        w.ndim == 2 and b.shape == w.shape[:1] and torch.isfinite(w).all() and torch.isfinite(b).all()
        for w, b in layers
    )
    if not chained or widths[-1] != 1 or widths[:-1] != [weight.shape[1] for weight, _ in layers[1:]]:
        raise MeasureError(
            f"the layers in {path} do not lead from features to one finite score: {[tuple(weight.shape) for weight, _ in layers]}"
        )
    return layers, _RELU_AFTER[tuple(order)]
