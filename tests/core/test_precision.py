"""Which hardware multiplies in bfloat16."""

import pytest
import torch

from difflab.core.precision import bf16_is_native


@pytest.mark.parametrize("avx", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_a_cpu_needs_instructions_for_it_and_gpus_are_not_asked(avx, amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert bf16_is_native("cpu") == (avx or amx)
    assert not bf16_is_native("cuda") and not bf16_is_native(torch.device("cuda", 1))
