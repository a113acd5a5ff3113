"""difflab, the image-diffusion collapse lab: what happens to an image model that keeps being trained on model output.

>>> import difflab
>>> run = difflab.open_run("runs/digits")    # doctest: +SKIP
>>> run.strip(); run.metrics                 # doctest: +SKIP
>>> difflab.compare("real/", "generated/").frame    # doctest: +SKIP
"""

from typing import Any

from difflab.errors import DifflabError
from difflab.run import Run, open_run

__all__ = ["DifflabError", "Monitor", "Run", "compare", "open_run"]


def __getattr__(name: str) -> Any:
    """`compare` and `Monitor` are imported when first asked for: their libraries take seconds."""
    if name == "compare":
        from difflab.comparison import compare

        return compare
    if name == "Monitor":
        from difflab.monitor import Monitor

        return Monitor
    raise AttributeError(f"module 'difflab' has no attribute '{name}'")
