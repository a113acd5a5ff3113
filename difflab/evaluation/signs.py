"""The measures that a diagnosis reads, and the one rule that decides every effect.

A measure is taken on the samples and, in the same way, on **controls**: real images as they are (the noise
floor), real images saved as JPEG, generation 0, and generation 0 (without one: real images) filtered and
recoloured to look like the samples (`difflab.evaluation.controls`). An effect is

    present      if the samples are worse than *every* control by `Z` standard errors and by a relevant amount
    absent       if, compared with some control, the harm is less than a relevant amount by a one-sided test
                 at 5% (an equivalence test: Schuirmann 1987)
    cannot tell  otherwise, and wherever a measure has no value

No threshold is learned from a data set. What a blur, a file format, a small set or a weak first model
explains is not called collapse. The rules and their reasons are in docs/DIAGNOSIS.md. The eight definitions
are those of Schaeffer et al. 2503.03150.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

Z = 3.0
"""Standard errors that make an effect.

About 15 measures are read in one or two feature spaces: 5% over 30 readings, one-sided, needs 2.9 for each
(Bonferroni).
"""
ONE_SIDED = 1.645
"""Standard errors of a one-sided test at 5%."""
LOOK = "in this look"
"""The name of a control that looks like the samples ends with this."""
UNMATCHED, MOST_UNMATCHED = 0.5, 0.2
"""A control takes on at least two thirds of a look. So half as much harm again is not present as long as it
is below a fifth of the control's value.
"""
DEFECTS = "with these defects"
"""The name of a control that has only the defects of the samples ends with this."""
PRESENT, ABSENT, UNKNOWN = "present", "absent", "cannot tell"


@dataclass(frozen=True)
class Sign:
    """A measure that shows an effect, the direction that is worse, and how large a change is relevant.

    Attributes:
        worse: 'higher' or 'lower'.
        relevant: a multiple of the noise floor's value (of = 'floor'), of the total variance of the real
            images ('variance'), of each control's own value ('control'), or an absolute number ('one').
        in_look: whether the samples are also compared with the control that looks like them.
        decides: whether a definition is absent only if this measure is. A measure of few images or few
            classes has an error so large that it can raise an alarm but excludes little.
    """

    metric: str
    worse: str
    relevant: float = 0.1
    of: str = "floor"
    in_look: bool = True
    decides: bool = True


CATASTROPHIC = "1 catastrophic increase of risk"
INCREASE = "2 any increase of risk"
DIVERGING = "3 diverging risk"
SCALING = "4 change of scaling law"
VARIANCE = "5 collapsing variance"
ENTANGLED = "6 entangled modes"
TAILS = "7 lost tails"
HALLUCINATED = "8 hallucinated data"

SIGNS: dict[str, tuple[Sign, ...]] = {
    CATASTROPHIC: (Sign("fd", "higher", 0.5, "variance"),),  # one repeated image has 1: all variance is lost
    INCREASE: (Sign("fd", "higher", 0.01, "variance"),),
    VARIANCE: (Sign("trace_ratio", "lower"), Sign("within_class_ratio", "lower"), Sign("vendi", "lower")),
    ENTANGLED: (Sign("class_accuracy", "lower"), Sign("class_margin", "lower", decides=False)),
    # 0.3 for a measure that reads a tenth of the images or a few classes, or has no upper bound (density): a
    # smaller change could not be told from chance.
    TAILS: (
        Sign("recall", "lower"),
        Sign("coverage", "lower"),
        Sign("tail_recall", "lower", 0.3, decides=False),
        Sign("rare_class_survival", "lower", 0.3, decides=False),
    ),
    HALLUCINATED: (Sign("precision", "lower"), Sign("density", "lower", 0.3)),
}
"""The measures of each definition that one generation can show."""
CONTENT = (INCREASE, VARIANCE, ENTANGLED, TAILS, HALLUCINATED)
"""The definitions whose measures are taken. The catastrophic increase reads the measure of any increase."""
# Samples a fifth as far apart as real images are repeats. A few repeated images have no look to compare with.
REPEATS = Sign("spacing_ratio", "lower", 0.8, "control", in_look=False)
COPIES = (Sign("near_duplicates", "higher", 0.05, "one"),)
# Wrong labels raise it by half their share: three in ten labels. Blends of all images raise it by less.
LABELS = (Sign("unlikely_labels", "higher", 0.15, "one"),)
BETWEEN = (Sign("class_confidence", "lower"),)
ENCODING = (Sign("texture_distance", "higher", 0.0, "one"),)


def _shifts(worse: str, *statistics: str, relevant: float = 0.25) -> tuple[Sign, ...]:
    """Shifts of statistics by at least `relevant` of the real interquartile range.

    A quarter is half way from the median real image to the upper quartile.
    """
    return tuple(Sign(f"{statistic}_shift", worse, relevant, "one") for statistic in statistics)


LOOKS = {
    # Real images differ little in the levels that they use: nobody sees a quarter of their range. With 2
    # the typical sample would be an outlier among real images (outside the fences of Tukey's box plot).
    "posterised": _shifts("lower", "palette", relevant=2.0),
    "blocked": _shifts("higher", "blocking"),
    # Sharpening and contrast make steps of ramps as well: half a range at most, see docs/DIAGNOSIS.md.
    "banded": _shifts("higher", "banding", relevant=1.0),
    # A quarter is within what a blur does to clean drawings.
    "ringing": _shifts("higher", "ringing", relevant=0.5),
    "blurred": _shifts("lower", "sharpness", "high_frequency"),
    "sharpened": _shifts("higher", "sharpness", "high_frequency"),
    "saturated": _shifts("higher", "saturation", "colourfulness"),
    "faded": _shifts("lower", "saturation", "colourfulness"),
    "more contrast": _shifts("higher", "contrast"),
    "less contrast": _shifts("lower", "contrast"),
}
"""Changes of the look of images, which are no loss of content.

The first one that is present in this order of groups gives the name, because it explains the later ones: few
levels make bands and sharp steps, JPEG blocks ring, a filter that rings blurs, and blur lowers contrast.
"""
RANK = {"posterised": 0, "blocked": 0, "banded": 1, "ringing": 1, "more contrast": 3, "less contrast": 3}
"""The group of each look; 2 = the others."""


@dataclass(frozen=True)
class Reading:
    """A measure on the samples and on each control: (value, standard error).

    Attributes:
        unit: what `sign.relevant` is a multiple of.
        differences: the standard error of the difference to a control, where both were measured on the same
            real images; without it the two are taken as independent.
        n: number of samples.
        space: the extractor.
    """

    sign: Sign
    value: float
    error: float
    controls: dict[str, tuple[float, float]]
    unit: float
    n: int
    space: str = ""
    differences: dict[str, float] = field(default_factory=dict)

    def effects(self) -> dict[str, tuple[float, float]]:
        """Harm beyond each control with its standard error; above 0 = the samples are worse.

        For a look: how far it is shifted.
        """
        direction = 1 if self.sign.worse == "higher" else -1
        return {
            name: (
                direction * (self.value - value),
                self.differences.get(name, math.hypot(self.error, error)),
            )
            for name, (value, error) in self.controls.items()
        }

    @property
    def nearest(self) -> str:
        """The control that explains most of the effect."""
        effects = self.effects()
        return min(effects, key=lambda name: effects[name][0])

    @property
    def effect(self) -> float:
        """Harm beyond the control that explains most."""
        return self.effects()[self.nearest][0]

    @property
    def z(self) -> float:
        """Standard errors between the samples and the control that is nearest in these."""
        return min((_ratio(effect, error) for effect, error in self.effects().values()), default=math.nan)

    @property
    def relevant(self) -> float:
        """The smallest harm that is relevant."""
        return self.sign.relevant * self.unit

    def _relevant_beyond(self, control: str) -> float:
        if self.sign.of == "control":
            return self.sign.relevant * abs(self.controls[control][0])
        return self.relevant

    def _unmatched(self, control: str) -> float:
        """Harm that the look itself may have beyond a control in this look: the match is not exact."""
        base = control.removesuffix(LOOK).strip()
        if not control.endswith(LOOK) or base not in self.controls:
            return 0.0
        value, explained = self.controls[control][0], self.controls[control][0] - self.controls[base][0]
        direction = 1 if self.sign.worse == "higher" else -1
        return min(UNMATCHED * direction * explained, MOST_UNMATCHED * abs(value))

    @property
    def verdict(self) -> str:
        """'present', 'absent' or 'cannot tell', see the top of this file."""
        present, absent = True, False
        for name, (effect, error) in self.effects().items():
            relevant = self._relevant_beyond(name)
            enough = max(relevant, self._unmatched(name))
            present = present and _ratio(effect, error) > Z and effect >= enough
            absent = absent or effect + ONE_SIDED * error < relevant
        if present:
            return PRESENT
        return ABSENT if absent else UNKNOWN

    @property
    def seems_worse(self) -> bool:
        """Whether the estimated harm is relevant beyond every control, sure or not."""
        effects = self.effects().items()
        return all(effect >= self._relevant_beyond(name) for name, (effect, _) in effects)

    @property
    def bound(self) -> float:
        """The least harm that is excluded, compared with the control that excludes most: above 0, in units of
        `unit`.
        """
        ends = [effect + ONE_SIDED * error for effect, error in self.effects().values()]
        return max(0.0, min(ends)) / self.unit if self.unit else 0.0

    def worse_than(self, control: str, z: float = Z) -> bool:
        """Whether the samples are worse than a control by more than `z` standard errors."""
        effect, error = self.effects()[control]
        return _ratio(effect, error) > z

    def row(self) -> dict[str, Any]:
        """The reading against the control that explains most, for JSON."""
        control = self.nearest
        effect, error = self.effects()[control]
        return {
            "metric": self.sign.metric,
            "extractor": self.space,
            "value": self.value,
            "control": control,
            "control_value": self.controls[control][0],
            "effect": effect,
            "effect_low": effect - 1.96 * error,
            "effect_high": effect + 1.96 * error,
            "z": self.z if math.isfinite(self.z) else None,
            "relevant": self.relevant,
            "n": self.n,
            "verdict": self.verdict,
        }

    def value_row(self, generation: int) -> dict[str, Any]:
        """The value with its 95% interval and the floor, as in metrics.jsonl of a run."""
        return {
            "generation": generation,
            "metric": self.sign.metric,
            "extractor": self.space,
            "value": self.value,
            "ci_low": self.value - 1.96 * self.error,
            "ci_high": self.value + 1.96 * self.error,
            "floor": self.controls["real images"][0],
            "n": self.n,
        }

    def __str__(self) -> str:
        shown = {name: f"{value:.3g}" for name, (value, _) in self.controls.items()}
        # Where no change brings a control nearer to the look, its value in this look is its own.
        bases = {name: shown.get(name.removesuffix(LOOK).strip()) for name in shown if name.endswith(LOOK)}
        controls = ", ".join(f"{name} {value}" for name, value in shown.items() if bases.get(name) != value)
        return f"{self.sign.metric} ({self.space}) {self.value:.3g} ± {1.96 * self.error:.2g} ({controls})"


def _ratio(effect: float, error: float) -> float:
    """Effect in standard errors; without an error it is infinite, or 0 for no effect."""
    if error > 0:
        return effect / error
    return math.copysign(math.inf, effect) if effect else 0.0
