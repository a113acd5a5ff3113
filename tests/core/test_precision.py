"""Which hardware multiplies in fewer than 32 bits."""

import platform

import pytest
import torch

from difflab.core import precision
from difflab.core.precision import bf16_is_native, emulates_bf16, native_precisions


@pytest.mark.parametrize("avx", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_a_cpu_needs_instructions_for_it_and_gpus_are_not_asked(avx, amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert bf16_is_native("cpu") == (avx or amx)
    assert not bf16_is_native("cuda") and not bf16_is_native(torch.device("cuda", 1))
    assert native_precisions("cpu") == (("bf16",) if avx or amx else ())


@pytest.mark.parametrize(
    ("capability", "machine", "emulated"),
    [
        ("AVX2", "x86_64", True),
        ("DEFAULT", "AMD64", True),
        ("AVX512", "x86_64", False),
        ("DEFAULT", "arm64", False),
    ],
)
def test_bf16_is_emulated_by_old_x86_cpus_only(capability, machine, emulated, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(precision, "machine", lambda: machine)
    assert emulates_bf16() == emulated and platform.machine()


@pytest.mark.parametrize(
    ("capability", "known"),
    [
        ((6, 1), ()),  # P40: products in fp16 at 1/64 of the speed of float32
        ((7, 0), ("fp16",)),  # V100
        ((7, 5), ("fp16",)),  # T4
        ((8, 0), ("bf16",)),  # A100
        ((9, 0), ("bf16",)),  # H100
        ((12, 0), ("bf16",)),  # B200 and later
    ],
)
def test_a_gpu_is_asked_for_its_compute_capability(capability, known, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_precisions("cuda") == native_precisions(torch.device("cuda", 0)) == known


def test_other_accelerators_count_as_without(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert native_precisions("mps") == native_precisions("xpu") == ()


def test_an_unknown_device_is_refused():
    with pytest.raises(RuntimeError):
        native_precisions("abacus")
