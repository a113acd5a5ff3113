"""difflab, the image-diffusion collapse lab.

What happens to an image model that keeps being trained on images made by models?

>>> import difflab
>>> run = difflab.open_run("runs/digits")    # doctest: +SKIP
>>> run.strip(); run.metrics                 # doctest: +SKIP
>>> difflab.compare("real/", "generated/").frame    # doctest: +SKIP
>>> difflab.diagnose("real/", ["gen0/", "gen1/"]).first_alarm    # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from difflab.core.errors import DifflabError

if TYPE_CHECKING:
    from difflab.config import load as load_config
    from difflab.evaluation.audit.audit import audit
    from difflab.evaluation.compare import compare
    from difflab.evaluation.diagnose import diagnose, diagnose_run
    from difflab.evaluation.monitor import Monitor
    from difflab.loop.chain import run_chain
    from difflab.loop.measure_run import measure_run
    from difflab.runs.run import Run, open_run

HOMES = {
    "Run": "runs.run",
    "audit": "evaluation.audit.audit",
    "open_run": "runs.run",
    "compare": "evaluation.compare",
    "Monitor": "evaluation.monitor",
    "diagnose": "evaluation.diagnose",
    "diagnose_run": "evaluation.diagnose",
    "run_chain": "loop.chain",
    "load_config": "config",
    "measure_run": "loop.measure_run",
}
PLAIN = {"load_config": "load"}  # public name -> name in its home

__all__ = [
    "DifflabError",
    "Monitor",
    "Run",
    "audit",
    "compare",
    "diagnose",
    "diagnose_run",
    "load_config",
    "measure_run",
    "open_run",
    "run_chain",
]


def __getattr__(name: str) -> Any:
    """Everything is imported when first asked for: the libraries behind it take seconds."""
    if name in HOMES:
        return getattr(import_module(f"difflab.{HOMES[name]}"), PLAIN.get(name, name))
    raise AttributeError(f"module 'difflab' has no attribute '{name}'")
