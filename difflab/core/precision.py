"""What this machine's hardware computes in fewer than 32 bits."""

from __future__ import annotations

from platform import machine

import torch

TYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The data type of each precision of a config."""


def bf16_is_native(device: str | torch.device) -> bool:
    """Whether a CPU `device` has instructions for products in bfloat16 (AVX512-BF16 or AMX); False for GPUs.

    Other CPUs convert to float32 and back, which is slower than float32 itself. Only x86 CPUs are asked; all
    others count as without.
    """
    if torch.device(device).type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def emulates_bf16() -> bool:
    """Whether training and sampling would run on a CPU that computes in bf16 by converting back and forth."""
    return (
        not torch.accelerator.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
        and machine() in ("x86_64", "AMD64")
    )


def native_precisions(device: str | torch.device) -> tuple[str, ...]:
    """The precisions with 16 bits that `device` has instructions for: ("bf16",), ("fp16",) or ().

    Of an NVIDIA GPU the compute capability is asked: bf16 from 8.0, before that fp16 from 7.0. A GPU with
    both has equal peaks for both, and bf16 has the range of float32, so that fp16 is left out. Accelerators
    other than CUDA and ROCm count as without.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return ("bf16",) if bf16_is_native(device) else ()
    if kind != "cuda":
        return ()
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 8:
        return ("bf16",)
    return ("fp16",) if major == 7 else ()
