"""How images are resized to the input of a network. Packages that use different ones of these all call the
result FID. The results differ by more than the gains of many papers.

    clean         bicubic, antialiased, float: clean-fid (Parmar et al. 2022, arXiv 2104.11222), there by
        PIL
                  in mode F
    torchmetrics  bilinear, antialiased: torchmetrics' FID, which calls it antialias=True
    tf1           TensorFlow 1's bilinear, corners off-centre and no antialiasing: FID of Heusel et al.
        and
                  torch-fidelity
    pytorch-fid   bilinear, pixel centres at half positions and no antialiasing: pytorch-fid
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from difflab.core.errors import MeasureError
from difflab.core.suggest import nearest


def resized(images: Tensor, size: int, how: str) -> Tensor:
    """uint8 images [n, H, W, C] or [n, C, H, W], C = 1 or 3, as float32 [n, C, size, size] in [0, 255].

    `how` is a key of `RESIZES`. An image that is not square is stretched to the square, as in all
    packages of FID: its aspect ratio is not kept.

    Where both readings are possible (3 pixels wide) the channels are last. Nothing is rounded to bytes.
    Raises MeasureError for other input, a size below 1 and an unknown `how` (with the nearest).

    >>> resized(torch.tensor([[[[0]], [[100]]]], dtype=torch.uint8), 2, "tf1")
    tensor([[[[  0.,   0.],
              [100., 100.]]]])
    """
    known_resize(how)
    if (
        images.dtype != torch.uint8
        or images.ndim != 4
        or 0 in images.shape[1:]
        or not {images.shape[3], images.shape[1]} & {1, 3}
    ):
        raise MeasureError(
            f"a resize reads uint8 images [n, H, W, 1 or 3] or [n, 1 or 3, H, W], got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    if size < 1:
        raise MeasureError(f"images are resized to at least 1 pixel a side, got {size}")
    images = images.permute(0, 3, 1, 2).contiguous() if images.shape[3] in (1, 3) else images
    return RESIZES[how](images.float(), size)


def known_resize(how: str) -> None:
    """Raise MeasureError, with the nearest key, unless `how` is a key of `RESIZES`."""
    if how not in RESIZES:
        raise MeasureError(f"unknown resize '{how}'; {nearest(how, list(RESIZES))}")


def bicubic(x_NCHW: Tensor, size: int) -> Tensor:
    """Antialiased bicubic resize of floats in [0, 255] to size x size, in the dtype of x.

    Bicubic overshoots; values are clamped to the byte range.

    >>> bicubic(torch.tensor([0.0, 255, 255]).view(1, 1, 3, 1), 2).flatten().tolist()[-1]
    255.0
    """
    if x_NCHW.shape[2:] == (size, size):
        return x_NCHW
    return F.interpolate(x_NCHW, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(
        0, 255
    )


def _clean(x_NCHW: Tensor, size: int) -> Tensor:
    # PIL places its weights in float64. In float32 they are off by up to .008 of a level, in float64 by
    # .00002.
    return bicubic(x_NCHW.double(), size).float()


def _torchmetrics(x_NCHW: Tensor, size: int) -> Tensor:
    return F.interpolate(x_NCHW, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _tf1(x_NCHW: Tensor, size: int) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return interpolate_bilinear_2d_like_tensorflow1x(x_NCHW, size=(size, size), align_corners=False)


def _pytorch_fid(x_NCHW: Tensor, size: int) -> Tensor:
    return F.interpolate(x_NCHW, (size, size), mode="bilinear", align_corners=False)


RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "clean": _clean,
    "torchmetrics": _torchmetrics,
    "tf1": _tf1,
    "pytorch-fid": _pytorch_fid,
}
"""Every resize by name: float32 [n, C, H, W] in [0, 255] and a size in, [n, C, size, size] out."""
