"""Images changed in known ways and degrees; the public path of `difflab.evaluation.simulate`."""

from difflab.evaluation.simulate import *  # noqa: F403
