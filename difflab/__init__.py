"""difflab, the image-diffusion collapse lab: what happens to an image model that keeps being trained on model output.

>>> import difflab
>>> run = difflab.open_run("runs/digits")    # doctest: +SKIP
>>> run.strip(); run.metrics                 # doctest: +SKIP
"""

from difflab.errors import DifflabError
from difflab.run import Run, open_run

__all__ = ["DifflabError", "Run", "open_run"]
