"""Import slow libraries while something else is done."""

from __future__ import annotations

import threading
from contextlib import suppress
from importlib import import_module


def import_ahead(*modules: str) -> None:
    """Begin to import `modules` in a thread of its own, in this order.

    A later import statement of a module waits for the thread. It raises what the thread does not: the thread
    ends at the first module that cannot be imported.
    """

    def run() -> None:
        with suppress(Exception):
            for module in modules:
                import_module(module)

    threading.Thread(target=run, name="import ahead").start()
