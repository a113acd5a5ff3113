"""Four statistics of each image that show named defects: palette, banding, blocking and ringing.

They are the features of the extractor `artefacts`. The measures of difflab/metrics/artefacts.py read them and
no other features. No weights are involved. Each statistic is made to stay where it is when an image is
blurred, sharpened or recoloured: those changes have statistics of their own, see difflab/features/texture.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.features.extractor import Extractor
from difflab.features.texture import luminance

STATISTICS = ("palette", "banding", "blocking", "ringing")
"""The columns of `artefacts`, in order."""
BIN = 8
"""Grey levels that count as one in `palette`: five bits, below which a picture looks posterised."""
RAMP, LOW, HIGH = 4, 4, 48
"""Steps of a ramp in `banding`, and its least and greatest height in grey levels."""
GRID = 8
"""Side in pixels of the blocks of JPEG, MPEG and H.264."""
REACH = 7
"""Pixels beside an edge that `ringing` reads."""
EDGE, LEAST = 0.25, 16
"""An edge rises by this share of the range of the image, and by so many grey levels."""
FLAT = 0.2
"""Largest range of the pixels beside an edge, from the third one on, as a share of the edge's height."""
PERIODS = ((2, 4), (3, 6))
"""Where the second swing of a ringing of period 4 and 6 pixels begins and ends, in pixels behind the edge."""
FEW = 2
"""Flat sides without ringing that are added to those of each image, so that one side alone says little."""


def artefacts(images: Tensor) -> Tensor:
    """The statistics of uint8 images [n, H, W, 1 or 3] with sides of at least 8 pixels: float32 [n, 4] on the
    CPU.

    One column per entry of `STATISTICS`:

        palette    0..1 or so   levels in use, of as many as would be expected, see `palette`: about 0.95 for
                                photos, 0.25 for their 8 levels
        banding    0..1         share of gentle ramps that are one step between flats, see `banding`
        blocking   -1..1 or so  how much more neighbours differ across the borders of 8 x 8 blocks than
                                elsewhere, see `blocking`; 0 without a border inside the image
        ringing    -1..1        swing behind the overshoot of edges, in heights of the edge, see `ringing`; 0
                                without an edge that has a flat side of 7 pixels

    Computed in float64. Raises MeasureError for other input.

    >>> artefacts(torch.full((1, 8, 8, 1), 7, dtype=torch.uint8))
    tensor([[0., 0., 0., 0.]])
    """
    valid = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[3] in (1, 3)
    if not valid or min(images.shape[1:3]) < GRID:
        raise MeasureError(
            f"artefacts reads uint8 images [n, H, W, 1 or 3] of 8 or more pixels a side, got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    # 1 million pixels: some hundred MB.
    n_per_batch = max(1, 2**20 // (images.shape[1] * images.shape[2]))
    batches = images.cpu().split(n_per_batch) if len(images) else ()
    return torch.cat([torch.zeros(0, len(STATISTICS)), *(_artefacts(batch) for batch in batches)])


def _artefacts(images_NHWC: Tensor) -> Tensor:
    levels = images_NHWC.permute(0, 3, 1, 2).short()
    light = luminance(images_NHWC.double())
    return torch.stack([palette(levels), banding(levels), blocking(light), ringing(light)], 1).float()


def palette(levels_NCHW: Tensor) -> Tensor:
    """Distinct levels of a channel, of as many as would be expected, mean over channels: float64 [n].

    Levels are counted in bins of 8 grey levels. Only pixels that differ from a neighbour count, because flat
    areas of one colour are no defect, and none that is as dark or as light as any in the image, because
    clipping is none. m pixels at random in R bins, those between the darkest and the lightest, would fill R
    (1 - (1 - 1/R)^m) of them. So neither size nor contrast matters. 0 where no pixel counts.

    A palette of few colours is what quantisation leaves (Heckbert 1982, Color image quantization for frame
    buffer display).
    """
    n, channels = levels_NCHW.shape[:2]
    low, high = levels_NCHW.amin((2, 3), keepdim=True), levels_NCHW.amax((2, 3), keepdim=True)
    down, right = levels_NCHW.diff(dim=2) != 0, levels_NCHW.diff(dim=3) != 0
    counts = torch.zeros(levels_NCHW.shape, dtype=torch.bool)
    counts[:, :, 1:] |= down
    counts[:, :, :-1] |= down
    counts[..., 1:] |= right
    counts[..., :-1] |= right
    counts &= (levels_NCHW > low) & (levels_NCHW < high)
    used = torch.zeros(n, channels, 256 // BIN, dtype=torch.long)
    used.scatter_add_(2, (levels_NCHW // BIN).flatten(2).long(), counts.flatten(2).long())
    distinct, pixels = (used > 0).sum(2), used.sum(2)
    bins = (high // BIN - low // BIN + 1).flatten(1).double()
    expected = bins * (1 - (1 - 1 / bins) ** pixels)
    return (distinct / expected.clamp(min=1)).mean(1)


def banding(levels_NCHW: Tensor) -> Tensor:
    """Share of the gentle ramps that are one step between flats: float64 [n].

    A ramp is 5 pixels in a row or column of a channel that rise, or fall, by 4 to 48 grey levels in all. In a
    smooth area it rises a little at each pixel. With too few bits it is flat but for one step, which is how
    banding is found by Bhagavathy, Llach & Zhai 2009 (Multi-scale probabilistic dithering for suppressing
    contour artifacts in digital images) and Tandon et al. 2021 (CAMBI). Ramps with the darkest or the
    lightest level of the image do not count: clipping makes them flat. One ramp without a step is added, so
    that a single ramp says little.
    """
    n = len(levels_NCHW)
    steps, ramps = torch.zeros(n, dtype=torch.double), torch.ones(n, dtype=torch.double)
    low, high = levels_NCHW.amin((2, 3), keepdim=True), levels_NCHW.amax((2, 3), keepdim=True)
    for x in (levels_NCHW, levels_NCHW.transpose(2, 3)):
        first, last = x[..., :-RAMP], x[..., RAMP:]
        differences = x.diff().abs()
        total, largest = torch.zeros_like(first), torch.zeros_like(first)
        for at in range(RAMP):
            here = differences[..., at : at + first.shape[3]]
            total, largest = total + here, torch.maximum(largest, here)
        rise = (last - first).abs()
        ramp = (total == rise) & (rise >= LOW) & (rise <= HIGH)
        ramp &= (torch.minimum(first, last) > low) & (torch.maximum(first, last) < high)
        ramps += ramp.sum((1, 2, 3))
        steps += (ramp & (largest == rise)).sum((1, 2, 3))
    return steps / ramps


def blocking(luminance_NHW: Tensor) -> Tensor:
    """How much more neighbours differ across the borders of 8 x 8 blocks than elsewhere: float64 [n].

    At each border of two pixels the difference across it, less the mean of the differences on both sides,
    mean over the borders of the grid less that over other borders, in mean differences. Rows and columns
    together. It is the blockiness of Wang, Sheikh & Bovik 2002 (No-reference perceptual quality assessment of
    JPEG compressed images), made local and signed, so that it is 0 on average without a grid. The other
    borders have an even number, as those of the grid: images enlarged twofold have a period of 2. The grid
    starts at the upper left corner. 0 for images without a border of the grid that has neighbours.
    """
    excess = torch.zeros(len(luminance_NHW), dtype=torch.double)
    size = torch.zeros_like(excess)
    for x in (luminance_NHW, luminance_NHW.transpose(1, 2)):
        differences = x.diff().abs()
        beside = (differences[..., :-2] + differences[..., 2:]) / 2
        step = (differences[..., 1:-1] - beside).mean(1)  # borders 2, 3, ...: n pixels lie before border n
        border = torch.arange(2, 2 + step.shape[1])
        grid, other = border % GRID == 0, (border % GRID != 0) & (border % 2 == 0)
        if grid.any():
            excess += step[:, grid].mean(1) - step[:, other].mean(1)
        size += differences.mean((1, 2))
    return torch.where(size > 0, excess / size.clamp(min=1e-9), 0.0)


def ringing(luminance_NHW: Tensor) -> Tensor:
    """The swing behind the overshoot of edges, in heights of the edge: float64 [n].

    Around an edge a filter with a sharp cutoff, such as a truncated Fourier series or Lanczos', swings about
    the level beside it (Gibbs). The first swing, the overshoot, is also what sharpening makes, so it does not
    count. The second one is read from the mean profile beside the edges of an image: ringing starts at the
    edge, while texture and noise do not and cancel in the mean. It is the rise from 2 to 4 or from 3 to 6
    pixels behind the edge, whichever is larger. Edges with something else within 7 pixels have no flat side
    and do not count; ringing near them is masked (Marziliano et al. 2004, Perceptual blur and ringing
    metrics). Two flat sides without ringing are added.
    """
    n = len(luminance_NHW)
    profiles = torch.zeros(n, REACH + 1, dtype=torch.double)
    sides = torch.full((n, 1), float(FEW), dtype=torch.double)
    least = (EDGE * (luminance_NHW.amax((1, 2)) - luminance_NHW.amin((1, 2)))).clamp(min=LEAST)
    for x in _orientations(luminance_NHW):
        image, profile = _flat_sides(x, least)
        profiles.index_add_(0, image, profile)
        sides.index_add_(0, image, torch.ones(len(image), 1, dtype=torch.double))
    mean = profiles / sides
    return torch.stack([mean[:, end] - mean[:, start] for start, end in PERIODS]).amax(0)


def _orientations(luminance_NHW: Tensor) -> Iterator[Tensor]:
    """Rows and columns, forwards and backwards, rising and falling edges: every edge rises to the right."""
    for x in (luminance_NHW, luminance_NHW.transpose(1, 2)):
        for y in (x, x.flip(2)):
            yield y
            yield -y


def _flat_sides(x: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels from the top of each edge on, where they are flat: their image [m] and profile [m, REACH +
    1].

    Profiles start at 0 and count in heights of the edge, which is all that rises without a break.

    Args:
        x: luminance [n, H, W].
        least: the least height of an edge, float64 [n].
    """
    empty = torch.zeros(0, dtype=torch.long), torch.zeros(0, REACH + 1, dtype=torch.double)
    if x.shape[2] < REACH + 2:
        return empty
    rises = x.diff() > 0
    pixel = torch.arange(x.shape[2])
    # The foot of the rise that a pixel is on: the last pixel before it that is not above its left neighbour.
    foot = torch.where(torch.cat([torch.zeros_like(rises[..., :1]), rises], 2), 0, pixel).cummax(2).values
    height = x - x.gather(2, foot)
    top = torch.cat([~rises, torch.ones_like(rises[..., :1])], 2)
    edge = top & (height >= least[:, None, None])
    image, row, column = edge[..., : x.shape[2] - REACH].nonzero(as_tuple=True)
    if not len(image):
        return empty
    beside = x[image.unsqueeze(1), row.unsqueeze(1), column.unsqueeze(1) + torch.arange(REACH + 1)]
    profile = (beside - beside[:, :1]) / height[image, row, column].unsqueeze(1)
    rest = profile[:, 2:]
    flat = (rest.amax(1) - rest.amin(1) <= FLAT) & (profile.amin(1) > -0.5)
    return image[flat], profile[flat]


def open_artefacts() -> Extractor:
    """The extractor `artefacts`. It runs on the CPU whatever the device of the others, in float64."""
    recipe = {
        "input": "own size",
        "resize": "none",
        "values": "[0, 255]",
        "dtype": "float64",
        "statistics": list(STATISTICS),
    }

    def encode(images_NCHW: Tensor) -> Tensor:
        return artefacts(images_NCHW.permute(0, 2, 3, 1).contiguous())

    return Extractor("artefacts", len(STATISTICS), recipe, encode, "cpu")
