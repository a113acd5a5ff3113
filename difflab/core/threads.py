"""Independent work in threads, where each core has work of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = 8
"""Threads. The parts of the work that are Python take turns, so that more gain little."""


def each_on_a_core(call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[call(item) for item in items], in up to eight threads that share torch's cores.

    Two cores with an item each take less time than two that share every operation on one item: these wait for
    each other after every operation, and several times as long where other programs use the cores as well.
    Within a thread of its own, or where torch has one thread, the items are taken one after the other. The
    first exception is raised when all items have ended.
    """
    items, threads = list(items), torch.get_num_threads()
    workers = min(threads, MOST, len(items))
    if workers <= 1:
        return [call(item) for item in items]
    try:
        with (
            threadpool_limits(threads // workers, "blas"),  # that of NumPy and SciPy
            ThreadPoolExecutor(workers, "core", lambda: torch.set_num_threads(threads // workers)) as pool,
        ):
            return list(pool.map(call, items))
    finally:
        torch.set_num_threads(threads)  # the number that a thread sets is that of all threads


def together(*calls: Callable[[], Result]) -> list[Result]:
    """The results of `calls`, as of `each_on_a_core`."""
    return each_on_a_core(lambda call: call(), calls)
