"""Model FLOPs utilisation (MFU): FLOP/s of the network as a share of the device's peak.

Source: Chowdhery et al. 2204.02311, appendix B.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import torch

# Peak FLOP/s of dense matrix products, from the data sheets of the manufacturer: (at 16 bits: bf16 or fp16,
# at 32 bits: TF32 if the GPU has it).
PEAKS = {
    "H200": (989e12, 494e12),
    "H100": (989e12, 494e12),
    "A100": (312e12, 156e12),
    "L40S": (362e12, 183e12),
    "4090": (165e12, 82.6e12),
    "3090": (71e12, 35.6e12),
    "V100": (125e12, 15.7e12),
    "T4": (65e12, 8.1e12),
}


@lru_cache
def peak(kind: str, precision: str) -> float | None:
    """Peak FLOP/s of this machine's device of type `kind`; None if it is unknown.

    For a GPU it is the number of the data sheet (`PEAKS`). For a CPU it is measured with a matrix product.
    """
    if kind == "cuda":
        name = torch.cuda.get_device_name()
        peaks = next((pair for key, pair in PEAKS.items() if key in name), None)
        return None if peaks is None else peaks[0 if precision in ("bf16", "fp16") else 1]
    if kind != "cpu":
        return None
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    fastest = 0.0
    for side in (256, 1024):  # a CPU without bfloat16 would need minutes for the large product
        a = torch.ones(side, side, dtype=dtype)
        spent: list[float] = []
        while len(spent) < 6 and sum(spent) < 0.5:
            started = time.perf_counter()
            a @ a
            spent.append(time.perf_counter() - started)
        fastest = max(fastest, 2 * side**3 / min(spent))
        if sum(spent) >= 0.25:
            break
    return fastest


def forward_flops(model: Any) -> float:
    """FLOPs of one forward pass of a diffusion model for one image. They are counted while the pass runs."""
    from torch.utils.flop_counter import FlopCounterMode

    c, h, w = model.drawn
    device = next(model.net.parameters()).device
    x, t = torch.zeros(1, c, h, w, device=device), torch.zeros(1, dtype=torch.long, device=device)
    conditions = torch.full((1,), model.null, device=device) if model.spec.conditional else None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.predict(model.net, x, t, conditions)
    return float(counter.get_total_flops())


def mfu(flops: float, seconds: float, device: torch.device, precision: str) -> float | None:
    """`flops` / `seconds` as a share of the device's peak FLOP/s; None if the peak is unknown."""
    best = peak(device.type, precision)
    return None if best is None or seconds <= 0 else flops / seconds / best
