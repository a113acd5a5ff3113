"""The loss of a denoiser on real images that it was not trained on: their likelihood, not the quality of
samples.

The mean squared error over all noise levels is, up to a weight per level, the bound on -log p(x) that
diffusion models are trained on (Ho et al. 2006.11239, eq. 5 and 14; Kingma et al. 2107.00630, eq. 11). Here
no weights are applied. Averaged over real images it is the closest estimate of KL(real || model) that such a
model offers: it rises where the model no longer covers real images. Images, noise and noise levels are the
same in every generation of a run, so that generations can be compared in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from difflab.core.rows import RowKind
from difflab.core.seeds import generator

LEVELS = 8  # noise levels of an image, one in each of as many equal strata
BINS = 4  # strata are reported in fours
_LOSS = "squared error"
_QUARTERS = (
    ("least noise", "the quarter of the noise levels with the least noise: the finest structure"),
    ("low noise", "the second quarter of the noise levels, from the least noise"),
    ("high noise", "the third quarter of the noise levels, from the least noise"),
    ("most noise", "the quarter of the noise levels with the most noise: the coarsest structure"),
)
ROWS = (
    RowKind(
        "held_out_loss",
        unit=_LOSS,
        better="lower",
        about="Denoising loss on real images that were never trained on, over all noise levels. "
        "It rises where the model gives up real images.",
        topic="Tails and likelihood",
        title="held-out loss",
    ),
    *(
        RowKind(
            f"held_out_loss_{i}",
            unit=_LOSS,
            better="lower",
            about=f"Denoising loss on held-out real images at {where}.",
            topic="Training",
            title=f"held-out loss, {level}",
        )
        for i, (level, where) in enumerate(_QUARTERS, 1)
    ),
    RowKind(
        "held_out_loss_rare",
        unit=_LOSS,
        better="lower",
        about="Denoising loss, over all noise levels, on held-out real images of the classes that are rarest "
        "in the first training set.",
        topic="Tails and likelihood",
        title="held-out loss, rarest classes",
    ),
    RowKind(
        "loss_gap",
        unit=_LOSS,
        better="lower",
        about="Held-out loss minus the loss on as many images of the first training set. Above 0: these "
        "images were memorised.",
        topic="Memorisation",
        title="loss gap to training images",
    ),
)


@torch.no_grad()
def errors(
    model: Any, inputs: Any, conditions: np.ndarray | None, places: Iterable[int], key: tuple[object, ...]
) -> np.ndarray:
    """Mean squared error of the prediction of `model.net` for each image at LEVELS noise levels, least noise
    first: float64 [n, LEVELS].

    Args:
        model: a Denoiser, ready and on its device.
        inputs: what training reads of the images, [n, ...], see Denoiser.inputs.
        conditions: int64 [n], never dropped; None = an unconditional model.
        places: n numbers. Noise and levels of an image are a function of `key` and its number alone.
    """
    device = next(model.net.parameters()).device
    drawn: list[tuple[torch.Tensor, ...]] = []
    for image, place in zip(torch.from_numpy(np.array(inputs)).split(1), places, strict=True):
        rng = generator("held-out loss", *key, place)
        x = model.clean(image.to(device), slice(0, 1), 1, rng)
        levels = (torch.arange(LEVELS) + torch.rand(LEVELS, generator=rng)) / LEVELS
        noise = torch.randn((LEVELS, *x.shape[1:]), generator=rng)
        drawn.append((x.expand_as(noise), noise.to(device), model.noisy(levels).to(device)))
    x, noise, t = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    labels = None
    if conditions is not None:
        labels = torch.from_numpy(conditions).to(device).repeat_interleave(LEVELS)
    return model.error(model.net, x, noise, t, labels).double().cpu().numpy().reshape(-1, LEVELS)


def summary(
    held: np.ndarray, trained: np.ndarray, classes: tuple[list[str], np.ndarray, np.ndarray] | None = None
) -> dict[str, Any]:
    """The measures from errors [n, LEVELS] of held-out and [m, LEVELS] of trained images, m <= n, with the
    same noise on both sides.

    Args:
        classes: names; classes of the held-out images, int64 [n]; classes of generation 0's training set.
            None = unlabelled.

    Returns {"measures": {name: value, low, high, n, reason}, "classes": {name: value, n}}. Intervals are
    normal, over images.

    >>> summary(np.full((3, 8), 2.0), np.full((2, 8), 0.5))["measures"]["loss_gap"]["value"]
    1.5
    """
    image = held.mean(1)
    measures = {"held_out_loss": mean(image)}
    for i, part in enumerate(np.split(held, BINS, axis=1), 1):
        measures[f"held_out_loss_{i}"] = mean(part.mean(1))
    by_class = {}
    if classes is not None:
        names, labels, known = classes
        measures["held_out_loss_rare"] = mean(image[np.isin(labels, rare(known))])
        by_class = {
            names[c]: {key: value for key, value in mean(image[labels == c]).items() if key in ("value", "n")}
            for c in np.unique(labels)
        }
    measures["loss_gap"] = mean(image[: len(trained)] - trained.mean(1))
    return {"measures": measures, "classes": by_class}


def rare(labels: np.ndarray) -> np.ndarray:
    """The rarest quarter (at least one) of the classes among `labels`, ties by index: int64 [max(1, classes
    // 4)].

    >>> rare(np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3]))
    array([1])
    """
    classes, count = np.unique(labels, return_counts=True)
    return classes[count.argsort(kind="stable")[: max(1, len(classes) // 4)]]


def mean(
    values: np.ndarray,
    infinite: str = "the loss is not finite",
    none: str = "no held-out image is of such a class",
) -> dict[str, Any]:
    """Mean of values [n] with its normal 95% interval.

    Where there is no finite mean, the value is None with a reason: `infinite`, or `none` without values.
    """
    n = len(values)
    value = float(values.mean()) if n else math.nan
    if not math.isfinite(value):
        return {"value": None, "low": None, "high": None, "n": n, "reason": infinite if n else none}
    half = 1.96 * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    return {
        "value": value,
        "low": None if half is None else value - half,
        "high": None if half is None else value + half,
        "n": n,
        "reason": None,
    }
