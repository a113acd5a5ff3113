"""What to run: one typed config, read from YAML with dotted ``key=value`` overrides.

Every field states its unit and the value that turns it off in its description, so that ``difflab schema`` is
the reference. How to run a config (processes, devices, output folder) is set on the command line and is never
part of it.
"""

from difflab.config.ecosystem import Ecosystem
from difflab.config.families import (
    EXACT,
    Categorical,
    Flow,
    Gaussian,
    Memoriser,
    Mixture,
    Model,
    PixelMLP,
    PixelUNet,
    StableDiffusion,
)
from difflab.config.load import Loader, apply_override, load, parse
from difflab.config.policy_registry import PolicySpec, parse_policy
from difflab.config.schema import NOT_IN_RECIPE, Config, flat, recipe_of, stages_of
from difflab.config.sections import Data, Measure, Probe, Regime, Sample, Tail, Train
from difflab.config.spec import Precision, Spec, merged
from difflab.config.validate import spec_of

__all__ = [
    "EXACT",
    "NOT_IN_RECIPE",
    "Categorical",
    "Config",
    "Data",
    "Ecosystem",
    "Flow",
    "Gaussian",
    "Loader",
    "Measure",
    "Memoriser",
    "Mixture",
    "Model",
    "PixelMLP",
    "PixelUNet",
    "PolicySpec",
    "Precision",
    "Probe",
    "Regime",
    "Sample",
    "Spec",
    "StableDiffusion",
    "Tail",
    "Train",
    "apply_override",
    "flat",
    "load",
    "merged",
    "parse",
    "parse_policy",
    "recipe_of",
    "spec_of",
    "stages_of",
]
