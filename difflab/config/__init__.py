"""The typed config of a run, read from YAML with dotted ``key=value`` overrides.

The description of every field states its unit and the value that turns it off, so ``difflab schema`` is the
reference. The command line sets how a config is run (processes, devices, output folder). These settings are
never part of the config.
"""

from difflab.config.data import Data, Tail
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
from difflab.config.sections import Measure, Probe, Regime, Sample, Train
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
