"""difflab, the image-diffusion collapse lab: what happens to an image model that keeps being trained on model output.

>>> import difflab
>>> run = difflab.open_run("runs/digits")    # doctest: +SKIP
>>> run.strip(); run.metrics                 # doctest: +SKIP
>>> difflab.compare("real/", "generated/").frame    # doctest: +SKIP
>>> difflab.diagnose("real/", ["gen0/", "gen1/"]).first_alarm    # doctest: +SKIP
"""

from importlib import import_module
from typing import Any

from difflab.errors import DifflabError
from difflab.run import Run, open_run

__all__ = ["DifflabError", "Monitor", "Run", "compare", "diagnose", "diagnose_run", "open_run"]


def __getattr__(name: str) -> Any:
    """What measures is imported when first asked for: its libraries take seconds."""
    home = {"compare": "comparison", "Monitor": "monitor", "diagnose": "diagnosis", "diagnose_run": "diagnosis"}.get(name)
    if home is not None:
        return getattr(import_module(f"difflab.{home}"), name)
    raise AttributeError(f"module 'difflab' has no attribute '{name}'")
