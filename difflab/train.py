"""Stage 2, train: one loop for every model family. Progress is counted in images seen.

The order of the data, the noise and the learning rate are pure functions of (seed, generation, images seen), so a
training that was stopped goes on from its last checkpoint to the same weights, bit for bit on a CPU, and any number
of processes sees the same batches (idea: Karras et al. 2024, EDM2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from difflab.config import Config, Train
from difflab.data.files import read_tensors, write_json, write_tensors
from difflab.data.train_set import TrainSet
from difflab.errors import ConfigError, TrainingError
from difflab.seeds import generator, numpy_generator

REPORTS = 50  # points of the loss curve


def fit(model: Any, data: TrainSet, config: Config, generation: int, folder: Path, accelerator: Accelerator, advance: Callable[[int], None]) -> None:
    """Fit `model` to `data` by descent and leave `folder`/training.json. Resumes from `folder`/checkpoint.safetensors.

    Args:
        advance: called with the number of images seen since the last call.

    Raises TrainingError at a non-finite loss; the last good checkpoint stays.
    """
    train = config.train
    rank, world = accelerator.process_index, accelerator.num_processes
    if train.batch_size < world:
        raise ConfigError(f"train.batch_size {train.batch_size} is smaller than the number of processes {world}")
    rows = slice(rank * train.batch_size // world, (rank + 1) * train.batch_size // world)
    steps = math.ceil(train.images_seen / train.batch_size)
    report_every = max(1, steps // REPORTS)

    raw = model.net.to(accelerator.device).train()
    optimizer = torch.optim.AdamW(raw.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    ema = Average(raw, train.ema_decay)
    checkpoint = folder / "checkpoint.safetensors"
    step, curve, running = restore(checkpoint, raw, optimizer, ema)
    running = running.to(accelerator.device)
    advance(step * train.batch_size)
    net, optimizer = accelerator.prepare(raw, optimizer)
    saved = told = step

    while step < steps:
        seen = step * train.batch_size
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train, seen)
        at = order(len(data), train.batch_size, seen, (config.seed, generation))[rows]
        images = torch.from_numpy(data.images(at)).to(accelerator.device)
        labels = None if data.labels is None or not config.conditional else torch.from_numpy(data.labels[at]).to(accelerator.device)
        rng = generator("noise", config.seed, generation, seen)
        with accelerator.autocast():
            losses = model.loss(net, images, labels, rows, train.batch_size, train, rng)
        # Gradients are averaged over processes; this factor makes that the mean over the whole batch.
        loss = losses.sum() * (world / train.batch_size)
        accelerator.backward(loss)
        if train.gradient_clip:
            accelerator.clip_grad_norm_(net.parameters(), train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(raw, step)
        running += loss.detach()
        step += 1

        at_checkpoint = bool(train.checkpoint_every) and (step - saved) * train.batch_size >= train.checkpoint_every and step < steps
        at_report = step % report_every == 0 or step == steps
        if at_report or at_checkpoint:
            running = accelerator.reduce(running, "mean")
            mean = float(running) / (step - (curve[-1][0] // train.batch_size if curve else 0))
            # A finite loss may still have had an infinite gradient, so what is about to be written is looked at too.
            written = at_checkpoint or step == steps
            if not math.isfinite(mean) or (written and not all(bool(p.isfinite().all()) for p in raw.parameters())):
                what = (
                    f"the loss of generation {generation} is {mean}" if not math.isfinite(mean) else f"generation {generation} has non-finite weights"
                )
                kept = f"the checkpoint at {saved * train.batch_size:,} images is kept" if saved else "nothing was written"
                raise TrainingError(
                    f"{what} after {step * train.batch_size:,} images; {kept}. Lower train.learning_rate (now {train.learning_rate:g}) or set train.gradient_clip, under a new name"
                )
            advance((step - told) * train.batch_size)
            told = step
        if at_report:
            curve.append((step * train.batch_size, mean))
            running = torch.zeros_like(running)
        if at_checkpoint:
            if accelerator.is_main_process:
                keep(checkpoint, step, curve, running, raw, optimizer, ema)
            saved = step
    ema.copy_to(raw)
    raw.eval()
    accelerator.free_memory()  # it keeps a reference to all that it prepared: one model and optimiser more per generation
    if accelerator.is_main_process:
        write_json(folder / "training.json", {"images_seen": steps * train.batch_size, "set_size": len(data), "loss": curve})


def learning_rate(train: Train, seen: int) -> float:
    """Learning rate after `seen` images: linear warm-up, then cosine decay to 0 or none."""
    rate = train.learning_rate
    if train.decay == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, seen / train.images_seen)))
    if seen < train.warmup_images:
        rate *= seen / train.warmup_images
    return rate


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


class Average:
    """Exponential moving average of the weights, with the warm-up of diffusers: decay min(d, (1 + k) / (10 + k))."""

    def __init__(self, net: Any, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in net.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self, net: Any, step: int) -> None:
        if self.decay:
            now = net.state_dict()
            share = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.weights.values()), [now[name] for name in self.weights], share)

    def copy_to(self, net: Any) -> None:
        if self.decay:
            net.load_state_dict(self.weights)


def keep(path: Path, step: int, curve: list[tuple[int, float]], running: torch.Tensor, net: Any, optimizer: Any, ema: Average) -> None:
    """Write a checkpoint as safetensors (accelerate's own would pickle the optimiser); `running` is the loss since the curve's last point."""
    tensors = {f"net.{name}": p for name, p in net.state_dict().items()}
    tensors |= {f"ema.{name}": p for name, p in ema.weights.items()}
    for i, state in getattr(optimizer, "optimizer", optimizer).state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
    tensors |= {"curve": torch.tensor(curve, dtype=torch.float64).reshape(-1, 2), "running": running}
    write_tensors(path, {name: t.detach().cpu().clone() for name, t in tensors.items()}, {"step": str(step)})


def restore(path: Path, net: Any, optimizer: Any, ema: Average) -> tuple[int, list[tuple[int, float]], torch.Tensor]:
    """Load a checkpoint into net, optimiser and average; returns (steps done, loss curve, loss since). (0, [], 0) without one."""
    if not path.exists():
        return 0, [], torch.zeros(())
    from safetensors import safe_open

    tensors = read_tensors(path)
    with safe_open(path, "pt") as handle:
        step = int(handle.metadata()["step"])

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    net.load_state_dict(part("net."))
    for name, t in part("ema.").items():
        ema.weights[name].copy_(t)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, t in part("optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = t
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step, [(int(seen), float(loss)) for seen, loss in tensors["curve"]], tensors["running"]
