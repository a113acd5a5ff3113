"""Count the bytes of the tensors that a computation keeps in memory."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorBytes(TorchDispatchMode):
    """Counts the storages of all tensors that are made in this context, until they are freed.

    It also counts the tensors of a ``FakeTensorMode`` that was entered before it: they have shapes and types
    but no memory.

    Attributes:
        now: bytes of the tensors that are alive.
        peak: the largest value of `now` since `reset`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._counted: set[int] = set()

    def reset(self) -> None:
        """Forget the peak before now."""
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._counted:
            self._counted.add(key)
            self.now += size
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size
