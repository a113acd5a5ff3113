"""Gradient clipping, and the statistics of gradients over a training."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor


def clipped(accelerator: Accelerator, weights: dict[str, Any], most: float) -> torch.Tensor:
    """Scale the gradients down to norm `most` (0 = leave them) and return the norm that they had, over all
    weights: a float32 scalar, not synchronised.
    """
    if most:
        norm: Any = accelerator.clip_grad_norm_(weights.values(), most)
    else:
        accelerator.unscale_gradients()
        norm = torch.nn.utils.get_total_norm([p.grad for p in weights.values() if p.grad is not None])
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).detach().float()


class Gradients:
    """Statistics of the gradients, summed over steps.

    The four sums are the norm before clipping, the steps that were clipped, the steps with a non-finite norm,
    and all steps.

    Args:
        sums: float32 [4] on the device, since the last `read`. Nothing waits for them in between.
        totals: float64 [4] on the CPU, before that. In single precision a long training would lose single
            steps.
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
        """By name, after a `read`; the norm over the steps where it is finite (None: nowhere).

        `scaled`: a loss scaler leaves out the other steps.
        """
        norm, over, lost, steps = (float(total) for total in self.totals)
        means = {
            "gradient_norm": norm / (steps - lost) if steps > lost else None,
            "clipped_share": over / steps if steps else None,
        }
        return means | ({"nonfinite_share": lost / steps if steps else None} if scaled else {})
