"""Compute the held-out loss of a trained model with all processes.

difflab/metrics/held_out_loss.py holds the measure itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from difflab.core.files import write_json
from difflab.core.precision import products
from difflab.core.threads import each_on_a_core
from difflab.metrics.held_out_loss import LEVELS, errors, summary
from difflab.runs.run import Run
from difflab.runs.sizes import first_size


def positions(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the real set, int64, of held-out images and of images of generation 0's training set.

    There are measure.held_out_loss images on each side, or fewer if there are fewer. The training set never
    gives more images than there are held out. The real set is already shuffled, so these are the first images
    of each side.
    """
    about, wanted = run.about, run.config.measure.held_out_loss
    held = min(wanted, about["n_held_out"])
    trained = min(held, first_size(run.config, about["n_train"]))
    return about["n_train"] + np.arange(held), np.arange(trained)


def take(
    run: Run,
    model: Any,
    folder: Path,
    accelerator: Accelerator,
    encode: Callable[[list[tuple[Any, Sequence[int]]]], None],
) -> None:
    """Write the summary of a trained model's errors to held_out_loss.json in `folder`.

    All processes take part and share the images.

    Args:
        model: a Denoiser after training, see `errors`.
        encode: makes sure that the encoded inputs of shards exist. It gets [(set, shard numbers)].
    """
    config, real = run.config, run.real
    held, trained = positions(run)
    images = np.concatenate([held, trained])
    places = np.concatenate([np.arange(len(held)), np.arange(len(trained))])  # the same noise on both sides
    encode([(real, np.unique(images // real.shard_size).tolist())])
    conditions = run.conditions(real)
    model.net.to(accelerator.device).eval()
    # The batches do not depend on the number of processes, so that the numbers do not either.
    most = max(1, (config.train.micro_batch_size or config.train.batch_size) // LEVELS)
    batches = batches_of(len(images), most, real.bucket[images] if real.sizes else None)

    def part(k: int) -> tuple[int, Any]:
        rows = batches[k]
        known = None if conditions is None else conditions[images[rows]]
        inputs = model.inputs(real, images[rows])
        with accelerator.autocast():  # of this thread
            return k, errors(model, inputs, known, places[rows].tolist(), (config.seed,))

    own = range(accelerator.process_index, len(batches), accelerator.num_processes)
    on_cpu = accelerator.device.type == "cpu"
    # The network is compiled for the shapes of training. Eager mode avoids compiling it for these shapes.
    with torch.compiler.set_stance("force_eager"), products(config.train.precision, accelerator.device):
        parts: list[Any] = each_on_a_core(part, own) if on_cpu else [part(k) for k in own]
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    if accelerator.is_main_process:
        in_batches = np.concatenate([part for _, part in sorted(parts, key=lambda part: part[0])])
        values = np.empty_like(in_batches)
        values[np.concatenate(batches)] = in_batches
        labels = real.labels()
        classes = None
        if labels is not None:
            n_first = first_size(config, run.about["n_train"])
            classes = (run.about["classes"], labels[held], labels[:n_first])
        write_json(folder / "held_out_loss.json", summary(values[: len(held)], values[len(held) :], classes))


def batches_of(n: int, most: int, bucket: np.ndarray | None) -> list[np.ndarray]:
    """The positions 0..n in batches of at most `most`, in order. A batch has images of one bucket only.

    Args:
        bucket: the bucket of each image, int64 [n]; None = all images have one size.

    >>> [batch.tolist() for batch in batches_of(5, 2, np.array([1, 0, 1, 1, 0]))]
    [[1, 4], [0, 2], [3]]
    """
    groups = [np.arange(n)]
    if bucket is not None:
        groups = [np.flatnonzero(bucket == b) for b in np.unique(bucket)]
    batches = []
    for group in groups:
        batches += [group[start : start + most] for start in range(0, len(group), most)]
    return batches
