"""The error of a denoiser on real images that it never saw: how likely they are under the model, rather than how good its samples look.

The mean squared error over all noise levels is, up to a weight per level, the bound on -log p(x) that diffusion models are
trained on (Ho et al. 2006.11239, eq. 5 and 14; Kingma et al. 2107.00630, eq. 11), here without any weight. Averaged over real
images it is the closest thing to KL(real || model) that such a model offers: it rises wherever real images are that the model
gives up. Images, noise and noise levels are the same in every generation of a run, so that generations compare in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from difflab.core.files import write_json
from difflab.core.rows import RowKind
from difflab.core.seeds import generator
from difflab.runs.run import Run
from difflab.runs.sizes import first_size

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
        about="Held-out loss minus the loss on as many images of the first training set. Above 0: these images "
        "were memorised.",
        topic="Memorisation",
        title="loss gap to training images",
    ),
)


@torch.no_grad()
def errors(
    model: Any, inputs: Any, conditions: np.ndarray | None, places: Iterable[int], key: tuple[object, ...]
) -> np.ndarray:
    """Mean squared error of what `model.net` predicts for each image at LEVELS noise levels, least noise first: float64 [n, LEVELS].

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
    given = None if conditions is None else torch.from_numpy(conditions).to(device).repeat_interleave(LEVELS)
    return model.error(model.net, x, noise, t, given).double().cpu().numpy().reshape(-1, LEVELS)


def positions(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Places in the real set, int64, of held-out images and of images of generation 0's training set; each side is shuffled already.

    As many as measure.held_out_loss asks for, or as there are.
    """
    about, wanted = run.about, run.config.measure.held_out_loss
    held, trained = (
        min(wanted, about["n_held_out"]),
        min(wanted, about["n_held_out"], first_size(run.config, about["n_train"])),
    )
    return about["n_train"] + np.arange(held), np.arange(trained)


def take(
    run: Run,
    model: Any,
    folder: Path,
    accelerator: Accelerator,
    encode: Callable[[list[tuple[Any, Sequence[int]]]], None],
) -> None:
    """Write `folder`/held_out_loss.json: the summary of a trained model's errors. All processes take part and share the images.

    Args:
        model: a Denoiser after training, see `errors`.
        encode: makes sure that what the model reads of these shards, [(set, shard numbers)], is there.
    """
    config, real = run.config, run.real
    held, trained = positions(run)
    at = np.concatenate([held, trained])
    places = np.concatenate([np.arange(len(held)), np.arange(len(trained))])  # both sides meet the same noise
    encode([(real, np.unique(at // real.shard_size).tolist())])
    conditions = run.conditions(real)
    model.net.to(accelerator.device).eval()
    # Fixed batches: which process computes one does not change its numbers.
    batches = list(
        _batches(len(at), max(1, (config.train.micro_batch_size or config.train.batch_size) // LEVELS))
    )
    own: list[Any] = []
    with (
        accelerator.autocast(),
        torch.compiler.set_stance("force_eager"),
    ):  # compiled for training, these shapes would be compiled anew
        for k in range(accelerator.process_index, len(batches), accelerator.num_processes):
            rows = batches[k]
            known = None if conditions is None else conditions[at[rows]]
            own.append(
                (k, errors(model, model.inputs(real, at[rows]), known, places[rows].tolist(), (config.seed,)))
            )
    taken = gather_object(own) if accelerator.num_processes > 1 else own
    if accelerator.is_main_process:
        values = np.concatenate([part for _, part in sorted(taken, key=lambda pair: pair[0])])
        labels = real.labels()
        classes = (
            None
            if labels is None
            else (run.about["classes"], labels[held], labels[: first_size(config, run.about["n_train"])])
        )
        write_json(folder / "held_out_loss.json", summary(values[: len(held)], values[len(held) :], classes))


def _batches(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))


def summary(
    held: np.ndarray, trained: np.ndarray, classes: tuple[list[str], np.ndarray, np.ndarray] | None = None
) -> dict[str, Any]:
    """What is reported of errors [n, LEVELS] of held-out and [m, LEVELS] of trained images, m <= n, that met the same noise.

    Args:
        classes: names; classes of the held-out images, int64 [n]; classes of generation 0's training set. None = unlabelled.

    Returns {"measures": {name: value, low, high, n, reason}, "classes": {name: value, n}}. Intervals are normal, over images.

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
    """The rarest quarter (at least one) of the classes among `labels`, ties by index: int64 [max(1, classes // 4)].

    >>> rare(np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3]))
    array([1])
    """
    found, count = np.unique(labels, return_counts=True)
    return found[count.argsort(kind="stable")[: max(1, len(found) // 4)]]


def mean(
    values: np.ndarray,
    infinite: str = "the loss is not finite",
    none: str = "no held-out image is of such a class",
) -> dict[str, Any]:
    """Mean of values [n] with its normal 95% interval; value None with a reason, `infinite` or `none`, where there is none."""
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
