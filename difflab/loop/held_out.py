"""Take the held-out loss of a trained model, with all processes.

What it measures: difflab/metrics/held_out_loss.py.
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
    """Places in the real set, int64, of held-out images and of images of generation 0's training set; each
    side is shuffled already.

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
    """Write `folder`/held_out_loss.json: the summary of a trained model's errors. All processes take part and
    share the images.

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
