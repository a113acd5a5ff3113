"""Which hardware multiplies in fewer than 32 bits."""

import platform

import pytest
import torch

from difflab.core import precision
from difflab.core.errors import ConfigError
from difflab.core.precision import (
    bf16_is_native,
    emulates_bf16,
    faster_precisions,
    has_tf32,
    native_precisions,
    products,
)


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


@pytest.fixture
def flags():
    """torch's settings, which are restored afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield lambda: (matmul.allow_tf32, cudnn.allow_tf32)
    matmul.allow_tf32, cudnn.allow_tf32 = before


def fake_gpu(monkeypatch, capability, hip=None):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)


@pytest.mark.parametrize(
    ("capability", "hip", "faster"),
    [
        ((7, 5), None, ("fp16",)),
        ((8, 0), None, ("tf32", "bf16")),
        ((12, 0), None, ("tf32", "bf16")),
        ((9, 4), "6.4", ("bf16",)),  # ROCm
    ],
)
def test_nvidia_gpus_from_8_0_have_tf32_which_is_more_accurate_than_16_bits(
    capability, hip, faster, monkeypatch
):
    fake_gpu(monkeypatch, capability, hip)
    assert has_tf32("cuda") == ("tf32" in faster)
    assert faster_precisions("cuda") == faster
    assert not has_tf32("cpu") and "tf32" not in faster_precisions("cpu")


@pytest.mark.parametrize(
    ("precision", "inside"), [("tf32", (True, True)), ("no", (False, False)), ("bf16", None), ("fp16", None)]
)
@pytest.mark.parametrize("before", [(False, True), (True, False)])
def test_products_are_set_in_the_block_only(precision, inside, before, flags, monkeypatch):
    fake_gpu(monkeypatch, (8, 0))
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    with products(precision, "cuda"):
        assert flags() == (inside or before)
        with products("no", torch.device("cuda", 0)):
            assert flags() == (False, False)
        # What torch.compile and the feature networks read must not raise an error.
        assert torch.get_float32_matmul_precision() in ("high", "highest")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            assert flags()[1] is False
        assert flags() == (inside or before)
    assert flags() == before


def test_products_are_restored_after_an_error(flags, monkeypatch):
    fake_gpu(monkeypatch, (8, 0))
    before = flags()
    with pytest.raises(KeyError), products("tf32", "cuda"):
        raise KeyError
    assert flags() == before


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_cpu_keeps_the_settings(precision, flags):
    before = flags()
    with products(precision, "cpu"):
        assert flags() == before


@pytest.mark.parametrize(("device", "capability"), [("cpu", (8, 0)), ("cuda", (7, 5)), ("mps", (8, 0))])
def test_tf32_is_refused_where_there_is_none(device, capability, flags, monkeypatch):
    fake_gpu(monkeypatch, capability)
    before = flags()
    message = (
        f"tf32 needs an NVIDIA GPU of compute capability 8.0 or more, and this machine computes on {device}"
    )
    with pytest.raises(ConfigError, match=message), products("tf32", device):
        pass
    assert flags() == before


def test_settings_of_the_other_api_are_refused(monkeypatch):
    """The other API is a program's own choice, so difflab does not overrule it (and torch could not read it)."""
    fake_gpu(monkeypatch, (8, 0))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with (
            pytest.raises(ConfigError, match="fp32_precision was set in this program"),
            products("no", "cuda"),
        ):
            pass
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
