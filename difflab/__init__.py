"""difflab, the image-diffusion collapse lab: what happens to an image model that keeps being trained on model output.

>>> import difflab
>>> run = difflab.open_run("runs/digits")    # doctest: +SKIP
>>> run.strip(); run.metrics                 # doctest: +SKIP
>>> difflab.compare("real/", "generated/").frame    # doctest: +SKIP
>>> difflab.diagnose("real/", ["gen0/", "gen1/"]).first_alarm    # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from difflab.errors import DifflabError

if TYPE_CHECKING:
    from difflab.adding import measure_run
    from difflab.comparison import compare
    from difflab.diagnosis import diagnose, diagnose_run
    from difflab.monitor import Monitor
    from difflab.run import Run, open_run

HOMES = {
    "Run": "run",
    "open_run": "run",
    "compare": "comparison",
    "Monitor": "monitor",
    "diagnose": "diagnosis",
    "diagnose_run": "diagnosis",
    "measure_run": "adding",
}

__all__ = ["DifflabError", "Monitor", "Run", "compare", "diagnose", "diagnose_run", "measure_run", "open_run"]


def __getattr__(name: str) -> Any:
    """Everything is imported when first asked for: the libraries behind it take seconds."""
    if name in HOMES:
        return getattr(import_module(f"difflab.{HOMES[name]}"), name)
    raise AttributeError(f"module 'difflab' has no attribute '{name}'")
