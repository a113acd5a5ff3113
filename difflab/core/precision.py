"""What this machine's hardware computes in fewer than 32 bits."""

from __future__ import annotations

import torch


def bf16_is_native(device: str | torch.device) -> bool:
    """Whether a CPU `device` has instructions for products in bfloat16 (AVX512-BF16 or AMX); False for GPUs.

    Other CPUs convert to float32 and back, which is slower than float32 itself. Only x86 CPUs are asked; all
    others count as without.
    """
    if torch.device(device).type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
