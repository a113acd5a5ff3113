"""Compiling a network: one compilation for all networks of an architecture, code on disk, the same numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch._dynamo.testing import CompileCounter

from difflab.models.compiled import compile_network, compiled_home

pytestmark = tiny.LIBRARIES


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x).relu()


class Blocks(Small):
    """As the networks of diffusers, with a method that compiles the repeated blocks."""

    _repeated_blocks = ("Linear",)

    def compile_repeated_blocks(self, **how: Any) -> None:
        self.asked = how


def test_code_is_kept_in_the_cache_unless_torch_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    net, x = Small(), torch.randn(3, 4)
    compile_network(net, "cpu")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compile_network(net, "cpu")
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(compiled_home())
    expected = net.inner(x).relu()
    assert torch.allclose(net(x), expected, atol=1e-6)
    assert list((compiled_home() / "code").rglob("*.so"))  # the compiled code of a CPU


def test_a_cpu_compiles_the_whole_network_and_a_gpu_its_repeated_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: whole.append(how))
    net = Blocks()
    compile_network(net, "cpu")
    assert whole == [{"dynamic": False}] and not hasattr(net, "asked")
    compile_network(net, "cuda")
    assert len(whole) == 1 and net.asked == {"dynamic": False}
    compile_network(Small(), "cuda")  # without a list of blocks
    assert len(whole) == 2


def test_networks_of_one_architecture_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations have networks of their own. Torch would stop compiling after eight of them otherwise."""
    counter, plain = CompileCounter(), torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: plain(self, backend=counter, **how))
    torch.compiler.reset()
    for _ in range(10):
        net = Small()
        compile_network(net, "cpu")
        x = torch.randn(3, 4)
        assert torch.equal(net(x), net.inner(x).relu())
    assert counter.frame_count == 1
    net(torch.randn(5, 4))  # another size has code of its own
    assert counter.frame_count == 2
    torch.compiler.reset()
