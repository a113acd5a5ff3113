"""Stage 2, train: one loop for every model family. Progress is counted in images seen.

The order of the data, the noise and the learning rate are pure functions of (seed, generation, images seen), so a
training that was stopped goes on from its last checkpoint to the same weights, bit for bit on a CPU, and any number
of processes sees the same batches (idea: Karras et al. 2024, EDM2).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from difflab.config import Train
from difflab.core.errors import ConfigError, TrainingError
from difflab.core.files import read_tensors, write_json, write_tensors
from difflab.core.seeds import generator, numpy_generator
from difflab.models.ema import Average
from difflab.models.nonfinite import named, watched
from difflab.models.weights import like, trainable, whole

REPORTS = 50  # points of the loss curve


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
    """Fit `model` to `data` by descent and leave `folder`/training.json. Resumes from `folder`/checkpoint.safetensors.

    Returns the number of images seen in this call.

    Args:
        model: has ``net`` (what requires a gradient is trained, nothing else), ``draws`` and ``loss``, see models/denoiser.py.
        data: has ``len``, ``inputs(rows)`` and ``conditions``, see data/train_set.py.
        key: what all randomness is keyed by, for example (run seed, generation).
        advance: called with the number of images seen since the last call.
        extendable: leave a checkpoint at the end too, from which a larger train.images_seen goes on.
        weights: how much each row of `data` counts in the loss, float64 [N] with mean 1; None = all alike.
        watches: asked after every step, in order; what they must know again goes into the checkpoint.

    Raises TrainingError at a non-finite loss, naming the layer it comes from; the last good checkpoint stays.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    if train.batch_size < world:
        raise ConfigError(
            f"train.batch_size {train.batch_size} is smaller than the number of processes {world}"
        )
    rows = slice(rank * train.batch_size // world, (rank + 1) * train.batch_size // world)
    micro = train.micro_batch_size or train.batch_size
    steps = math.ceil(train.images_seen / train.batch_size)
    report_every = max(1, steps // REPORTS)

    raw = model.net.to(accelerator.device).train()
    if shards(accelerator):
        raw.to(memory_format=torch.contiguous_format)  # FSDP takes no other layout
    checkpoint = folder / "checkpoint.safetensors"
    left = Left.read(checkpoint)
    left.into_weights(trainable(raw))
    net, optimizer = accelerator.prepare(raw, optimizer_of(train, list(trainable(raw).values())))
    trained = trainable(raw)  # sharding puts other ones in their place
    ema = Average(trained, train.ema_decay)
    left.into_optimizer(optimizer, list(trained.values()))
    left.into_average(ema)
    left.into_scaler(accelerator.scaler)
    left.into_watches(watches)
    step, curve = left.step, left.curve
    running = left.running.to(accelerator.device)
    gradients = Gradients(left.sums.to(accelerator.device), left.totals)
    advance(step * train.batch_size)
    saved = told = begun = step

    def broken(what: str, step: int) -> None:
        kept = (
            f"the checkpoint at {saved * train.batch_size:,} images is kept"
            if saved
            else "nothing was written"
        )
        if any(bool(p.isfinite().all()) for p in trained.values()):
            with torch.no_grad(), accelerator.autocast(), watched(raw) as found:
                model.loss(raw, **drawn, train=train)
            where = named(found)
        else:  # a step has spread it over all weights: the first layer would be blamed
            where = f", somewhere in the last {(step - told) * train.batch_size:,} images"
        raise TrainingError(
            f"{what} in {folder.name} after {step * train.batch_size:,} images{where}; {kept}. Lower train.learning_rate (now {train.learning_rate:g}), set train.gradient_clip or use train.precision=no, under a new name"
        )

    while step < steps:
        seen = step * train.batch_size
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train, seen)
        at = order(len(data), train.batch_size, seen, key)[rows]
        inputs = torch.from_numpy(data.inputs(at)).to(accelerator.device, non_blocking=True)
        conditions = (
            None if data.conditions is None else torch.from_numpy(data.conditions[at]).to(accelerator.device)
        )
        counts = (
            None if weights is None else torch.from_numpy(weights[at]).to(accelerator.device, torch.float32)
        )
        drawn = model.draws(inputs, conditions, rows, train.batch_size, train, generator("noise", *key, seen))
        for start in range(0, len(at), micro):
            part = {
                name: None if value is None else value[start : start + micro] for name, value in drawn.items()
            }
            alone = start + micro < len(at)  # gradients travel between processes only with the last part
            with (
                accelerator.no_sync(net) if alone else nullcontext(),
                accelerator.autocast(),
                attention(accelerator),
            ):
                # Gradients are averaged over processes; this factor makes that the mean over the whole batch.
                losses = model.loss(net, **part, train=train)
                losses = losses if counts is None else losses * counts[start : start + micro]
                loss = losses.sum() * (world / train.batch_size)
                accelerator.backward(loss)
            running += loss.detach()
        # Before the step spreads it over all weights. A GPU would have to wait for the answer, several processes for each other.
        if accelerator.device.type == "cpu" and world == 1 and not math.isfinite(float(running)):
            broken(f"the loss is {float(running)}", step + 1)
        gradients.add(clipped(accelerator, trained, train.gradient_clip), train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        now = Moment(
            model,
            raw,
            trained,
            ema,
            train,
            step,
            step * train.batch_size,
            optimizer.param_groups[0]["lr"],
            accelerator,
        )
        for watch in watches:
            watch.adjust(now)
        ema.update(trained, step - 1)
        if any([watch.step(now) for watch in watches]):  # all are asked
            steps = step

        at_checkpoint = (
            bool(train.checkpoint_every)
            and (step - saved) * train.batch_size >= train.checkpoint_every
            and step < steps
        )
        at_report = step % report_every == 0 or step == steps
        if at_report or at_checkpoint:
            running = accelerator.reduce(running, "mean")
            mean = float(running) / (step - (curve[-1][0] // train.batch_size if curve else 0))
            # A finite loss may still have had an infinite gradient, so what is about to be written is looked at too.
            written = at_checkpoint or step == steps
            if not math.isfinite(mean) or (
                written and not all(bool(p.isfinite().all()) for p in trained.values())
            ):
                what = f"the loss is {mean}" if not math.isfinite(mean) else "there are non-finite weights"
                broken(what, step)
            advance((step - told) * train.batch_size)
            told = step
        if at_report:
            curve.append((step * train.batch_size, mean))
            running = torch.zeros_like(running)
            gradients.read()
        if at_checkpoint:
            keep(checkpoint, step, curve, running, gradients, trained, optimizer, ema, watches, accelerator)
            saved = step
    if extendable:
        keep(checkpoint, step, curve, running, gradients, trained, optimizer, ema, watches, accelerator)
    ema.copy_to(trained)
    for watch in watches:
        watch.end(trained)
    if any(isinstance(p, DTensor) for p in trained.values()):
        model.unshard({name: whole(p) for name, p in raw.state_dict().items()})
    raw.eval()
    accelerator.free_memory()  # it keeps a reference to all that it prepared: one model and optimiser more per generation
    if accelerator.is_main_process:
        means = {"train_loss": mean_loss(curve), **gradients.means(scaled=accelerator.scaler is not None)}
        record = {
            "images_seen": steps * train.batch_size,
            "set_size": len(data),
            "steps": steps,
            "loss": curve,
            "means": means,
        }
        for watch in watches:
            record |= watch.record()
        write_json(folder / "training.json", record)
    return (steps - begun) * train.batch_size


@dataclass(frozen=True)
class Moment:
    """Where a training stands after a step of the optimiser; a Watch may look at all of it and change the weights in place."""

    model: Any
    net: Any  # not wrapped
    weights: dict[str, Any]  # what is trained, by name
    average: Average
    train: Train
    steps: int
    images_seen: int
    learning_rate: float  # of the step that was taken
    accelerator: Accelerator


class Watch:
    """What a policy does during a training. All of it is a function of (seed, generation, step) and of `state`, so that a resumed training is the same."""

    def adjust(self, now: Moment) -> None:
        """After each step of the optimiser, before the weights are averaged: change them in place."""

    def step(self, now: Moment) -> bool:
        """After that. True ends the training here."""
        return False

    def state(self) -> dict[str, Any]:
        """Tensors that go into every checkpoint."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what a checkpoint holds of `state`; not asked where there is nothing."""

    def end(self, weights: dict[str, Any]) -> None:
        """After the averaged weights were put in the place of the trained ones."""

    def record(self) -> dict[str, Any]:
        """What it leaves in training.json, under a name of its own."""
        return {}


def shards(accelerator: Accelerator) -> bool:
    """Whether weights are spread over processes."""
    return accelerator.distributed_type == DistributedType.FSDP


def optimizer_of(train: Train, weights: list[Any]) -> Any:
    """AdamW, fused where torch has it; or the one of bitsandbytes with 8-bit state. Raises ConfigError where that is not installed."""
    if train.optimizer == "adamw":
        return torch.optim.AdamW(
            weights, lr=train.learning_rate, betas=(0.9, 0.999), weight_decay=train.weight_decay, fused=True
        )
    try:
        import bitsandbytes
    except ImportError:
        raise ConfigError(
            "train.optimizer=adamw8bit needs bitsandbytes (pip install bitsandbytes) and a GPU; use train.optimizer=adamw"
        ) from None
    return bitsandbytes.optim.AdamW8bit(weights, lr=train.learning_rate, weight_decay=train.weight_decay)


def clipped(accelerator: Accelerator, weights: dict[str, Any], most: float) -> torch.Tensor:
    """Scale the gradients down to norm `most` (0 = leave them) and return the norm that they had, over all weights: a float32 scalar, not synchronised."""
    if most:
        norm: Any = accelerator.clip_grad_norm_(weights.values(), most)
    else:
        accelerator.unscale_gradients()
        norm = torch.nn.utils.get_total_norm([p.grad for p in weights.values() if p.grad is not None])
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).detach().float()


class Gradients:
    """What became of the gradients, summed over steps: norm before clipping, steps clipped, steps with a non-finite norm, steps.

    Args:
        sums: float32 [4] on the device, since the last `read`; nothing waits for them in between.
        totals: float64 [4] on the CPU, before that: single precision would lose single steps in a long training.
    """

    def __init__(self, sums: torch.Tensor, totals: torch.Tensor):
        self.sums, self.totals = sums, totals

    def add(self, norm: torch.Tensor, most: float) -> None:
        """One step, by the norm of its gradient and the largest that is let through (0 = any)."""
        finite = norm.isfinite()
        over = finite & (norm > most) if most else torch.zeros_like(finite)
        self.sums += torch.stack(
            [
                norm.where(finite, torch.zeros_like(norm)),
                over.float(),
                (~finite).float(),
                torch.ones_like(norm),
            ]
        )

    def read(self) -> None:
        """Move the sums into the totals."""
        self.totals = self.totals + self.sums.double().cpu()
        self.sums = torch.zeros_like(self.sums)

    def means(self, scaled: bool) -> dict[str, float | None]:
        """By name, after a `read`; the norm over the steps where it is finite (None: nowhere). `scaled`: a loss scaler leaves out the other steps."""
        norm, over, lost, steps = (float(total) for total in self.totals)
        means = {
            "gradient_norm": norm / (steps - lost) if steps > lost else None,
            "clipped_share": over / steps if steps else None,
        }
        return means | ({"nonfinite_share": lost / steps if steps else None} if scaled else {})


def mean_loss(curve: list[tuple[int, float]]) -> float:
    """Mean over all images seen, from the points of a curve: each is the mean since the point before."""
    before = [0, *(seen for seen, _ in curve)]
    return (
        sum(loss * (seen - start) for (seen, loss), start in zip(curve, before, strict=False)) / curve[-1][0]
    )


def attention(accelerator: Accelerator) -> Any:
    """On a CPU the backward pass of torch's fused attention in bfloat16 takes as long as all the rest; the plain one does not."""
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def learning_rate(train: Train, seen: int) -> float:
    """Learning rate after `seen` images: linear warm-up times the decay of that name (formulas of diffusers' schedules)."""
    share = min(1.0, seen / train.images_seen)
    decayed = {
        "none": 1.0,
        "linear": 1 - share,
        "cosine": 0.5 * (1 + math.cos(math.pi * share)),
        "cosine_with_restarts": 0.0
        if share >= 1
        else 0.5 * (1 + math.cos(math.pi * (share * train.restarts % 1.0))),
        "polynomial": (1 - share) ** 2,
    }[train.decay]
    warm = seen / train.warmup_images if seen < train.warmup_images else 1.0
    return train.learning_rate * decayed * warm


def order(size: int, batch: int, seen: int, key: tuple[object, ...]) -> np.ndarray:
    """Rows of the batch that starts after `seen` images: every epoch is its own permutation. int64 [batch]."""
    epochs, offsets = np.divmod(np.arange(seen, seen + batch), size)
    out = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epochs):
        at = epochs == epoch
        out[at] = _permutation(size, int(epoch), key)[offsets[at]]
    return out


@lru_cache(maxsize=4)
def _permutation(size: int, epoch: int, key: tuple[object, ...]) -> np.ndarray:
    return numpy_generator("order", *key, epoch).permutation(size)


def keep(
    path: Path,
    step: int,
    curve: list[tuple[int, float]],
    running: torch.Tensor,
    gradients: Gradients,
    weights: dict[str, Any],
    optimizer: Any,
    ema: Average,
    watches: Sequence[Watch],
    accelerator: Accelerator,
) -> None:
    """Write a checkpoint as safetensors (accelerate's own would pickle the optimiser); `running` is the loss since the curve's last point.

    Every process takes part, since sharded tensors are gathered; the main one writes.
    """
    tensors = {f"net.{name}": p for name, p in weights.items()}
    tensors |= {f"ema.{name}": p for name, p in ema.weights.items()}
    tensors |= {
        f"watch.{i}.{name}": t for i, watch in enumerate(watches) for name, t in watch.state().items()
    }
    for i, state in getattr(optimizer, "optimizer", optimizer).state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
    sharded = any(isinstance(t, DTensor) for t in tensors.values())
    if accelerator.is_main_process or sharded:
        tensors |= {"curve": torch.tensor(curve, dtype=torch.float64).reshape(-1, 2), "running": running}
        tensors |= {"sums": gradients.sums, "totals": gradients.totals}
        tensors = {name: whole(t) for name, t in tensors.items()}
    if accelerator.is_main_process:
        scaler = accelerator.scaler
        write_tensors(
            path, tensors, {"step": str(step), "scaler": json.dumps(scaler.state_dict() if scaler else {})}
        )


@dataclass(frozen=True)
class Left:
    """What an earlier call left: the state of a training after `step` steps; nothing at step 0."""

    step: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    running: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(4))
    totals: torch.Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Left:
        """Raises StoreError for a damaged checkpoint."""
        if not path.exists():
            return cls()
        from safetensors import safe_open

        tensors = read_tensors(path)
        with safe_open(path, "pt") as handle:
            metadata = handle.metadata()
        curve = [(int(seen), float(loss)) for seen, loss in tensors["curve"]]
        sums = {
            name: tensors.get(name, fresh)
            for name, fresh in (("sums", torch.zeros(4)), ("totals", torch.zeros(4, dtype=torch.float64)))
        }
        scale = json.loads(metadata.get("scaler", "{}"))
        return cls(int(metadata["step"]), curve, tensors["running"], **sums, tensors=tensors, scale=scale)

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    @torch.no_grad()
    def into_weights(self, weights: dict[str, Any]) -> None:
        for name, t in self.part("net.").items():
            weights[name].copy_(t)

    @torch.no_grad()
    def into_average(self, ema: Average) -> None:
        for name, t in self.part("ema.").items():
            ema.weights[name].copy_(like(t, ema.weights[name]))

    def into_optimizer(self, optimizer: Any, weights: list[Any]) -> None:
        state: dict[int, dict[str, Any]] = {}
        for name, t in self.part("optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = like(t, weights[int(index)])
        if state:
            inner = getattr(optimizer, "optimizer", optimizer)
            inner.load_state_dict({"state": state, "param_groups": inner.state_dict()["param_groups"]})

    def into_watches(self, watches: Sequence[Watch]) -> None:
        for i, watch in enumerate(watches):
            state = self.part(f"watch.{i}.")
            if state:
                watch.restore(state)

    def into_scaler(self, scaler: Any) -> None:
        if scaler and self.scale:
            scaler.load_state_dict(self.scale)
