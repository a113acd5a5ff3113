"""One training loop for every model family. Progress is counted in images seen.

The order of the data, the noise and the learning rate are pure functions of (seed, generation, images seen).
A training that was stopped therefore continues from its last checkpoint to the same weights, bit for bit on a
CPU. Any number of processes sees the same batches. (The idea is from Karras et al. 2024, EDM2.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.optimizer import AcceleratedOptimizer
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from difflab.config import Train
from difflab.core.errors import ConfigError, TrainingError
from difflab.core.files import write_json
from difflab.core.precision import products
from difflab.core.rows import RowKind
from difflab.core.seeds import generator, numpy_generator
from difflab.loop.bucket_order import bucket_order
from difflab.loop.checkpoint import Checkpoint, write_checkpoint
from difflab.loop.gradients import Gradients, clipped
from difflab.models.ema import Average
from difflab.models.nonfinite import named, watched
from difflab.models.weights import trainable, whole
from difflab.policies.watch import Moment, Watch

REPORTS = 50
"""Number of points of the loss curve."""


def fit(
    model: Any,
    data: Any,
    train: Train,
    key: tuple[object, ...],
    folder: Path,
    accelerator: Accelerator,
    advance: Callable[[int], None],
    extendable: bool = False,
    weights: np.ndarray | None = None,
    watches: Sequence[Watch] = (),
) -> int:
    """Fit `model` to `data` by gradient descent and write `folder`/training.json.

    A training that was stopped resumes from `folder`/checkpoint.safetensors.

    Args:
        model: has ``net`` (the parameters that require a gradient are trained), ``draws`` and ``loss``, see
            difflab/models/denoiser.py.
        data: has ``len``, ``inputs(rows)`` and ``conditions``, and ``bucket`` if its images have several
            sizes, see difflab/runs/train_set.py.
        train: the section `train` of a config.
        key: the key of all random numbers, for example (run seed, generation).
        folder: the folder for training.json and the checkpoint.
        accelerator: the processes and their devices.
        advance: called with the number of images seen since the last call.
        extendable: also write a checkpoint at the end. A training with larger train.images_seen can continue
            from it.
        weights: weight of each row of `data` in the loss, float64 [N] with mean 1; None = equal weights.
        watches: called after every step, in order. Their state is part of the checkpoint.

    Returns:
        The number of images seen in this call.

    Raises:
        TrainingError: the loss or a weight is not finite. The message names the first layer with a non-finite
            output. The last good checkpoint is kept.
    """
    with products(train.precision, accelerator.device):
        training = Training(model, data, train, key, folder, accelerator, weights, watches)
        first_step = training.step
        advance(first_step * train.batch_size)
        while training.step < training.steps:
            training.take_step()
            training.report(advance)
        training.finish(extendable)
    return (training.steps - first_step) * train.batch_size


class Training:
    """The state of one training; see `fit` for its arguments.

    Attributes:
        step: number of optimiser steps so far.
        steps: number of optimiser steps at the end.
        trained: the trained parameters by name.
        ema: their exponential moving average.
        curve: points (images seen, mean loss since the previous point).
        running: loss summed over the steps since the last point of the curve, a scalar on the device.
        gradients: statistics of the gradients.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        train: Train,
        key: tuple[object, ...],
        folder: Path,
        accelerator: Accelerator,
        weights: np.ndarray | None,
        watches: Sequence[Watch],
    ):
        rank, world = accelerator.process_index, accelerator.num_processes
        if train.batch_size < world:
            raise ConfigError(
                f"train.batch_size {train.batch_size} is smaller than the number of processes {world}"
            )
        self.model, self.data, self.train, self.key, self.folder = model, data, train, key, folder
        self.accelerator, self.weights, self.watches = accelerator, weights, watches
        self.bucket = getattr(data, "bucket", None)
        # This process's rows of every batch.
        self.rows = slice(rank * train.batch_size // world, (rank + 1) * train.batch_size // world)
        self.steps = math.ceil(train.images_seen / train.batch_size)
        self.checkpoint_path = folder / "checkpoint.safetensors"
        self.batch: dict[str, Any] = {}  # the last batch, to find the layer of a non-finite loss
        self.raw = model.net.to(accelerator.device).train()
        if shards_weights(accelerator):
            self.raw.to(memory_format=torch.contiguous_format)  # FSDP supports no other layout
        self._restore(Checkpoint.read(self.checkpoint_path))
        self.saved = self.reported = self.step

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Prepare network, optimiser and EMA, and set them to the state in `checkpoint`."""
        accelerator, train = self.accelerator, self.train
        checkpoint.into_weights(trainable(self.raw))
        optimizer = optimizer_of(train, list(trainable(self.raw).values()))
        self.net, prepared = accelerator.prepare(self.raw, optimizer)
        # Only fp16 needs accelerate's wrapper of the optimizer. It looks for optional packages in every step.
        # Sharded weights have no wrapper.
        wrapped = accelerator.scaler is None and isinstance(prepared, AcceleratedOptimizer)
        self.optimizer = prepared.optimizer if wrapped else prepared
        self.trained = trainable(self.raw)  # sharding replaces the parameters
        self.ema = Average(self.trained, train.ema_decay)
        checkpoint.into_optimizer(self.optimizer, list(self.trained.values()))
        checkpoint.into_average(self.ema)
        checkpoint.into_scaler(accelerator.scaler)
        checkpoint.into_watches(self.watches)
        self.step, self.curve = checkpoint.step, checkpoint.curve
        self.running = checkpoint.running.to(accelerator.device)
        self.gradients = Gradients(checkpoint.sums.to(accelerator.device), checkpoint.totals)

    @property
    def images_seen(self) -> int:
        """Number of images that all processes together have seen."""
        return self.step * self.train.batch_size

    # ------------------------------------------------------------------------------------------- one step
    def take_step(self) -> None:
        """One step of the optimiser on the next batch."""
        train, accelerator = self.train, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(train, self.images_seen)
        self._accumulate_gradients()
        # A non-finite loss is found here before the step changes all weights. On a GPU, or with several
        # processes, this check would force them to wait, so it is made on a single CPU process only.
        alone_on_cpu = accelerator.device.type == "cpu" and accelerator.num_processes == 1
        if alone_on_cpu and not math.isfinite(float(self.running)):
            self._fail(f"the loss is {float(self.running)}", self.step + 1)
        self.gradients.add(clipped(accelerator, self.trained, train.gradient_clip), train.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._call_watches()

    def _accumulate_gradients(self) -> None:
        """Run forward and backward passes over the next batch, in parts of micro_batch_size images."""
        train, accelerator, seen = self.train, self.accelerator, self.images_seen
        rows = order(len(self.data), train.batch_size, seen, self.key)
        if self.bucket is not None:
            rows = bucket_order(self.bucket, train.batch_size, self.step, self.key)
        rows = rows[self.rows]
        device = accelerator.device
        inputs = torch.from_numpy(self.data.inputs(rows)).to(device, non_blocking=True)
        conditions, weights = None, None
        if self.data.conditions is not None:
            conditions = torch.from_numpy(self.data.conditions[rows]).to(device)
        if self.weights is not None:
            weights = torch.from_numpy(self.weights[rows]).to(device, torch.float32)
        noise = generator("noise", *self.key, seen)
        self.batch = self.model.draws(inputs, conditions, self.rows, train.batch_size, train, noise)
        micro = train.micro_batch_size or train.batch_size
        for start in range(0, len(rows), micro):
            part = {}
            for name, value in self.batch.items():
                part[name] = None if value is None else value[start : start + micro]
            last = start + micro >= len(rows)  # processes exchange gradients in the last part only
            with (
                nullcontext() if last else accelerator.no_sync(self.net),
                accelerator.autocast(),
                attention(accelerator.device.type, accelerator.mixed_precision),
            ):
                losses = self.model.loss(self.net, **part, train=train)
                if weights is not None:
                    losses = losses * weights[start : start + micro]
                # Gradients are averaged over processes. This factor turns that into the mean over the batch.
                loss = losses.sum() * (accelerator.num_processes / train.batch_size)
                accelerator.backward(loss)
            self.running += loss.detach()

    def _call_watches(self) -> None:
        """Let the watches change the weights, update the EMA, then let the watches end the training."""
        now = Moment(
            self.model,
            self.raw,
            self.trained,
            self.ema,
            self.train,
            self.step,
            self.images_seen,
            self.optimizer.param_groups[0]["lr"],
            self.accelerator,
        )
        for watch in self.watches:
            watch.adjust(now)
        self.ema.update(self.trained, self.step - 1)
        stops = [watch.step(now) for watch in self.watches]  # every watch is called
        if any(stops):
            self.steps = self.step

    # ------------------------------------------------------------------------------ reports, checkpoints
    def report(self, advance: Callable[[int], None]) -> None:
        """Add a point to the loss curve and write a checkpoint, if they are due after this step.

        Raises TrainingError for non-finite values.
        """
        train, batch_size = self.train, self.train.batch_size
        every = max(1, math.ceil(train.images_seen / batch_size) // REPORTS)
        since_saved = (self.step - self.saved) * batch_size
        at_end = self.step == self.steps
        at_checkpoint = bool(train.checkpoint_every) and since_saved >= train.checkpoint_every and not at_end
        at_report = self.step % every == 0 or at_end
        if at_report or at_checkpoint:
            self.running = self.accelerator.reduce(self.running, "mean")
            last_point = self.curve[-1][0] // batch_size if self.curve else 0
            mean = float(self.running) / (self.step - last_point)
            self._check_finite(mean, weights=at_checkpoint or at_end)
            advance((self.step - self.reported) * batch_size)
            self.reported = self.step
        if at_report:
            self.curve.append((self.images_seen, mean))
            self.running = torch.zeros_like(self.running)
            self.gradients.read()
        if at_checkpoint:
            self._write_checkpoint()
            self.saved = self.step

    def _check_finite(self, mean: float, weights: bool) -> None:
        """Raise TrainingError if the mean loss is not finite or, with `weights`, if a weight is not finite.

        A finite loss can have an infinite gradient, so weights are checked before they are written.
        """
        if not math.isfinite(mean):
            self._fail(f"the loss is {mean}", self.step)
        if weights and not all(bool(p.isfinite().all()) for p in self.trained.values()):
            self._fail("there are non-finite weights", self.step)

    def _write_checkpoint(self) -> None:
        write_checkpoint(
            self.checkpoint_path,
            self.step,
            self.curve,
            self.running,
            self.gradients,
            self.trained,
            self.optimizer,
            self.ema,
            self.watches,
            self.accelerator,
        )

    def _fail(self, what: str, step: int) -> NoReturn:
        """Raise TrainingError.

        The last batch is passed through the network again to find the first non-finite layer.
        """
        train, batch_size = self.train, self.train.batch_size
        kept = "nothing was written"
        if self.saved:
            kept = f"the checkpoint at {self.saved * batch_size:,} images is kept"
        if any(bool(p.isfinite().all()) for p in self.trained.values()):
            with torch.no_grad(), self.accelerator.autocast(), watched(self.raw) as layers:
                self.model.loss(self.raw, **self.batch, train=train)
            where = named(layers)
        else:  # a step has made all weights non-finite, so the layer where it began is unknown
            where = f", somewhere in the last {(step - self.reported) * batch_size:,} images"
        raise TrainingError(
            f"{what} in {self.folder.name} after {step * batch_size:,} images{where}; {kept}. "
            f"Lower train.learning_rate (now {train.learning_rate:g}), set train.gradient_clip "
            "or use train.precision=no, under a new name"
        )

    # ------------------------------------------------------------------------------------------- the end
    def finish(self, extendable: bool) -> None:
        """Replace the weights by their EMA, free the devices and write training.json."""
        if extendable:
            self._write_checkpoint()
        self.ema.copy_to(self.trained)
        for watch in self.watches:
            watch.end(self.trained)
        if any(isinstance(p, DTensor) for p in self.trained.values()):
            self.model.unshard({name: whole(p) for name, p in self.raw.state_dict().items()})
        self.raw.eval()
        # Accelerate keeps references to all prepared objects, so each generation would need more memory.
        self.accelerator.free_memory()
        if self.accelerator.is_main_process:
            self._write_record()

    def _write_record(self) -> None:
        """Write training.json: images seen, loss curve, means over the steps, and records of the watches."""
        means = self.gradients.means(scaled=self.accelerator.scaler is not None)
        record = {
            "images_seen": self.steps * self.train.batch_size,
            "set_size": len(self.data),
            "steps": self.steps,
            "loss": self.curve,
            "means": {"train_loss": mean_loss(self.curve), **means},
        }
        for watch in self.watches:
            record |= watch.record()
        write_json(self.folder / "training.json", record)


def shards_weights(accelerator: Accelerator) -> bool:
    """Whether the weights are sharded over processes (FSDP)."""
    return accelerator.distributed_type == DistributedType.FSDP


def optimizer_of(train: Train, weights: list[Any]) -> Any:
    """Fused AdamW of torch, or AdamW of bitsandbytes with 8-bit state.

    Raises ConfigError if bitsandbytes is needed and not installed.
    """
    if train.optimizer == "adamw":
        return torch.optim.AdamW(
            weights, lr=train.learning_rate, betas=(0.9, 0.999), weight_decay=train.weight_decay, fused=True
        )
    try:
        import bitsandbytes
    except ImportError:
        raise ConfigError(
            "train.optimizer=adamw8bit needs bitsandbytes (pip install bitsandbytes) and a GPU; use "
            "train.optimizer=adamw"
        ) from None
    return bitsandbytes.optim.AdamW8bit(weights, lr=train.learning_rate, weight_decay=train.weight_decay)


ROWS = (
    RowKind(
        "train_loss",
        unit="loss",
        better="none",
        about="Mean loss over all images seen in training.",
        topic="Training",
        counts="steps",
    ),
    RowKind(
        "gradient_norm",
        unit="norm",
        better="none",
        about="Mean norm of the gradient before clipping, over the steps where it is finite.",
        topic="Training",
        counts="steps",
    ),
    RowKind(
        "clipped_share",
        unit="share of steps",
        better="none",
        about="Share of steps whose gradient was clipped.",
        topic="Training",
        counts="steps",
    ),
    RowKind(
        "nonfinite_share",
        unit="share of steps",
        better="lower",
        about="Share of steps that the loss scaler skipped because the gradient was not finite.",
        topic="Training",
        counts="steps",
    ),
)
"""The means over the steps of a training, in training.json."""


def mean_loss(curve: list[tuple[int, float]]) -> float:
    """Mean loss over all images seen, from a curve whose points are means since the previous point."""
    starts = [0, *(seen for seen, _ in curve)]
    total = sum(loss * (seen - start) for (seen, loss), start in zip(curve, starts, strict=False))
    return total / curve[-1][0]


def attention(device: str, precision: str) -> Any:
    """A context manager that chooses torch's implementation of attention.

    On a CPU the backward pass of the fused attention in bfloat16 takes as long as the rest of the step. There
    the plain implementation is used.
    """
    if device == "cpu" and precision == "bf16":
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def learning_rate(train: Train, seen: int) -> float:
    """Learning rate after `seen` images: linear warm-up times the decay train.decay.

    The formulas are those of the schedules of diffusers.
    """
    share = min(1.0, seen / train.images_seen)
    restarted = 0.0 if share >= 1 else 0.5 * (1 + math.cos(math.pi * (share * train.restarts % 1.0)))
    decay = {
        "none": 1.0,
        "linear": 1 - share,
        "cosine": 0.5 * (1 + math.cos(math.pi * share)),
        "cosine_with_restarts": restarted,
        "polynomial": (1 - share) ** 2,
    }[train.decay]
    warm_up = seen / train.warmup_images if seen < train.warmup_images else 1.0
    return train.learning_rate * decay * warm_up


def order(size: int, batch: int, seen: int, key: tuple[object, ...]) -> np.ndarray:
    """Rows of the batch after `seen` images, int64 [batch]. Every epoch has its own permutation."""
    epochs, offsets = np.divmod(np.arange(seen, seen + batch), size)
    rows = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        rows[of_epoch] = _permutation(size, int(epoch), key)[offsets[of_epoch]]
    return rows


@lru_cache(maxsize=4)
def _permutation(size: int, epoch: int, key: tuple[object, ...]) -> np.ndarray:
    return numpy_generator("order", *key, epoch).permutation(size)
