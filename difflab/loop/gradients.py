"""Gradient clipping, and the statistics of gradients over a training."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor


def clipped(accelerator: Accelerator, weights: dict[str, Any], max_norm: float) -> torch.Tensor:
    """Clip the gradients to norm `max_norm` (0 = no clipping) and return their norm before that.

    The norm is over all weights. It is a float32 scalar on the device. The call does not wait for it.
    """
    if max_norm:
        norm: Any = accelerator.clip_grad_norm_(weights.values(), max_norm)
    else:
        accelerator.unscale_gradients()
        norm = torch.nn.utils.get_total_norm([p.grad for p in weights.values() if p.grad is not None])
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).detach().float()


class Gradients:
    """Statistics of the gradients, summed over steps.

    The four sums are the norm before clipping, the number of clipped steps, the number of steps with a
    non-finite norm, and the number of all steps.

    Args:
        sums: sums since the last `read`, float32 [4] on the device. Nothing waits for them between two reads.
        totals: sums up to the last `read`, float64 [4] on the CPU. In single precision a long training would
            lose single steps.
    """

    def __init__(self, sums: torch.Tensor, totals: torch.Tensor):
        self.sums, self.totals = sums, totals

    def add(self, norm: torch.Tensor, max_norm: float) -> None:
        """Add one step.

        Args:
            norm: the norm of its gradient before clipping, a scalar.
            max_norm: the norm at which gradients are clipped; 0 = no clipping.
        """
        finite = norm.isfinite()
        over = finite & (norm > max_norm) if max_norm else torch.zeros_like(finite)
        self.sums += torch.stack(
            [
                norm.where(finite, torch.zeros_like(norm)),
                over.float(),
                (~finite).float(),
                torch.ones_like(norm),
            ]
        )

    def read(self) -> None:
        """Add the sums to the totals and set them to zero."""
        self.totals = self.totals + self.sums.double().cpu()
        self.sums = torch.zeros_like(self.sums)

    def means(self, scaled: bool) -> dict[str, float | None]:
        """The means over the steps by name, after a `read`. A mean over no step is None.

        gradient_norm is the mean over the steps with a finite norm.

        Args:
            scaled: whether training has a loss scaler. It skips the steps with a non-finite norm, and their
                share is one of the means.
        """
        norm, over, nonfinite, steps = (float(total) for total in self.totals)
        means = {
            "gradient_norm": norm / (steps - nonfinite) if steps > nonfinite else None,
            "clipped_share": over / steps if steps else None,
        }
        if scaled:
            means["nonfinite_share"] = nonfinite / steps if steps else None
        return means
