"""What this machine's hardware computes in fewer than 32 bits, and products of float32 in TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from platform import machine

import torch

from difflab.core.errors import ConfigError

TYPES = {"no": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The data type of each precision of a config. tf32 rounds the factors of products, not the tensors."""
FLOAT32 = ("no", "tf32")
"""The precisions without autocast: all tensors are float32."""


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


def has_tf32(device: str | torch.device) -> bool:
    """Whether `device` has instructions for products in TF32: NVIDIA GPUs from compute capability 8.0.

    TF32 has the range of float32 and 10 bits of mantissa instead of 23. ROCm counts as without.
    """
    if torch.device(device).type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device)[0] >= 8


def faster_precisions(device: str | torch.device) -> tuple[str, ...]:
    """The precisions that `device` may compute faster in than in float32, the most accurate one first."""
    return (*(["tf32"] if has_tf32(device) else []), *native_precisions(device))


def refuse_without_tf32(precision: str, device: str | torch.device) -> None:
    """Raise ConfigError if `precision` is tf32 and `device` has no instructions for it."""
    if precision == "tf32" and not has_tf32(device):
        raise ConfigError(
            "precision tf32 needs an NVIDIA GPU of compute capability 8.0 or more, and this machine computes "
            f"on {torch.device(device).type}; use no (float32) or auto"
        )


@contextmanager
def products(precision: str, device: str | torch.device) -> Iterator[None]:
    """Compute products and convolutions of float32 tensors in TF32 (tf32), or in float32 (no), in this block.

    In other precisions, and on other devices than CUDA, the settings of torch are left as they are. Without
    this block torch computes convolutions in TF32, and matrix products in float32.

    The settings are those of the process, and are restored after the block. Only the older one of torch's
    two APIs, `allow_tf32`, is set: torch 2.14.1 raises an error when settings of `fp32_precision` are read by
    it, as torch.compile and `torch.backends.cudnn.flags` do.

    Raises ConfigError for tf32 on a device without it, and if the program has set `fp32_precision`.
    """
    refuse_without_tf32(precision, device)
    if precision not in FLOAT32 or torch.device(device).type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        before = matmul.allow_tf32, cudnn.allow_tf32
    except RuntimeError as error:
        raise ConfigError(
            "torch's fp32_precision was set in this program, which allow_tf32 does not agree with; set only "
            "torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32"
        ) from error
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
