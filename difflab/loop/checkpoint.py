"""The checkpoint within one training: all that a stopped training needs to end with the same weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch.distributed.tensor import DTensor

from difflab.core.files import read_tensors, write_tensors
from difflab.loop.gradients import Gradients
from difflab.models.ema import Average
from difflab.models.weights import like, whole
from difflab.policies.watch import Watch


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after `step` steps, as an earlier call wrote it. At step 0 it is empty.

    Attributes:
        curve: points of the loss curve, (images seen, mean loss since the previous point).
        running: loss summed over the steps since the last point of the curve, a scalar.
        sums, totals: see `Gradients`.
        tensors: all stored tensors. The prefix of a name tells what the tensor belongs to: ``net.``,
            ``ema.``, ``optimizer.`` or ``watch.``.
        scale: the state of the loss scaler; empty without one.
    """

    step: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    running: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(4))
    totals: torch.Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint; without a file it is empty. Raises StoreError if the file is damaged."""
        if not path.exists():
            return cls()
        tensors = read_tensors(path)
        with safe_open(path, "pt") as handle:
            metadata = handle.metadata()
        curve = [(int(seen), float(loss)) for seen, loss in tensors["curve"]]
        sums = tensors.get("sums", torch.zeros(4))
        totals = tensors.get("totals", torch.zeros(4, dtype=torch.float64))
        scale = json.loads(metadata.get("scaler", "{}"))
        return cls(int(metadata["step"]), curve, tensors["running"], sums, totals, tensors, scale)

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names start with `prefix`, by their names without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    @torch.no_grad()
    def into_weights(self, weights: dict[str, Any]) -> None:
        """Copy the stored weights into `weights`."""
        for name, t in self.part("net.").items():
            weights[name].copy_(t)

    @torch.no_grad()
    def into_average(self, ema: Average) -> None:
        """Copy the stored moving average into `ema`."""
        for name, t in self.part("ema.").items():
            ema.weights[name].copy_(like(t, ema.weights[name]))

    def into_optimizer(self, optimizer: Any, weights: list[Any]) -> None:
        """Load the stored state of the optimiser; `weights` are in its order."""
        state: dict[int, dict[str, Any]] = {}
        for name, t in self.part("optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = like(t, weights[int(index)])
        if state:
            inner = getattr(optimizer, "optimizer", optimizer)
            inner.load_state_dict({"state": state, "param_groups": inner.state_dict()["param_groups"]})

    def into_watches(self, watches: Sequence[Watch]) -> None:
        """Restore the watches that have a stored state."""
        for i, watch in enumerate(watches):
            state = self.part(f"watch.{i}.")
            if state:
                watch.restore(state)

    def into_scaler(self, scaler: Any) -> None:
        """Load the stored state of the loss scaler, if there is one."""
        if scaler and self.scale:
            scaler.load_state_dict(self.scale)


def write_checkpoint(
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
    """Write a checkpoint as safetensors. A checkpoint of accelerate would pickle the optimiser.

    All processes take part, because sharded tensors are gathered. The main process writes.

    Args:
        curve, running: as in `Checkpoint`.
        weights: the trained weights by name.
    """
    tensors = {f"net.{name}": p for name, p in weights.items()}
    tensors |= {f"ema.{name}": p for name, p in ema.weights.items()}
    for i, watch in enumerate(watches):
        tensors |= {f"watch.{i}.{name}": value for name, value in watch.state().items()}
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
