"""Take the held-out loss of a trained model, with all processes. The measure itself:
difflab/metrics/held_out_loss.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from difflab.core.files import write_json
from difflab.metrics.held_out_loss import LEVELS, errors, summary
from difflab.runs.run import Run
from difflab.runs.sizes import first_size


def positions(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the real set, int64, of held-out images and of images of generation 0's training set.
    Each side is already shuffled.

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
    """Write `folder`/held_out_loss.json: the summary of a trained model's errors. All processes take part
    and share the images.

    Args:
        model: a Denoiser after training, see `errors`.
        encode: makes sure that the encoded inputs of these shards, [(set, shard numbers)], exist.
    """
    config, real = run.config, run.real
    held, trained = positions(run)
    images = np.concatenate([held, trained])
    places = np.concatenate([np.arange(len(held)), np.arange(len(trained))])  # the same noise on both sides
    encode([(real, np.unique(images // real.shard_size).tolist())])
    conditions = run.conditions(real)
    model.net.to(accelerator.device).eval()
    # Fixed batches: which process computes one does not change its numbers.
    batches = list(
        _batches(len(images), max(1, (config.train.micro_batch_size or config.train.batch_size) // LEVELS))
    )
    parts: list[Any] = []
    # The network is compiled for the shapes of training. Eager mode avoids compiling it for these.
    with accelerator.autocast(), torch.compiler.set_stance("force_eager"):
        for k in range(accelerator.process_index, len(batches), accelerator.num_processes):
            rows = batches[k]
            known = None if conditions is None else conditions[images[rows]]
            inputs = model.inputs(real, images[rows])
            parts.append((k, errors(model, inputs, known, places[rows].tolist(), (config.seed,))))
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    if accelerator.is_main_process:
        values = np.concatenate([part for _, part in sorted(parts, key=lambda part: part[0])])
        labels = real.labels()
        classes = None
        if labels is not None:
            n_first = first_size(config, run.about["n_train"])
            classes = (run.about["classes"], labels[held], labels[:n_first])
        write_json(folder / "held_out_loss.json", summary(values[: len(held)], values[len(held) :], classes))


def _batches(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))
