"""The rules of a diagnosis: what bears witness to what, when an effect is one, and which stage follows.

One rule decides every verdict. A measure is taken on the samples and, in the same way, on **controls**: real images as they are
(the floor), real images saved as JPEG, generation 0, and generation 0 (without one: real images) given the samples' look, as far as
a filter and colours make it (`difflab.evaluation.controls`). An effect is

    present      when the samples are worse than *every* control by `Z` standard errors and by what is `relevant`
    absent       when against some control they are not worse by what is relevant, at the upper end of the 95% interval
    cannot tell  in between, and wherever a measure has no value

so no constant is learned from any data set: what a blur, a file format, a small set or a weak first model explains is no collapse.
Rules and reasons in words: docs/DIAGNOSIS.md. The eight definitions are those of Schaeffer et al. 2503.03150.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Z = 3.0
"""Standard errors that make an effect. About 15 measures are looked at: one-sided 5% over all of them is 2.7 each (Bonferroni), and
half-sample intervals hold a little less than they say."""
LOOK = "in this look"
"""End of the name of the control that has the samples' look."""
LEAST = 30
"""Fewest images on a side: a standard error from fewer is a guess."""
EXPECTED = 8
"""Real images of a class whose absence among as many samples is no chance: e^-8 is one in 3,000."""

COURSE = 5
"""Fewest generations that have a course: what the risk does in the long run is not asked of fewer."""
VERSION = 3
"""Raised when the same images would be told something else: verdicts that were kept are then made anew."""

PRESENT, ABSENT, UNKNOWN = "present", "absent", "cannot tell"


@dataclass(frozen=True)
class Sign:
    """A measure that bears witness, which way is worse, and how much counts.

    in_look: whether it is compared with the control that has the samples' look.
    relevant: in units of the floor's value; of the real images' total variance where `of` is 'variance'; as it is where 'one';
    of each control's own value where 'control'.
    """

    metric: str
    worse: str
    relevant: float = 0.1
    of: str = "floor"
    in_look: bool = True


INCREASE = "2 any increase of risk"
CATASTROPHIC = "1 catastrophic increase of risk"
DIVERGING = "3 diverging risk"
SCALING = "4 change of scaling law"
VARIANCE = "5 collapsing variance"
ENTANGLED = "6 entangled modes"
TAILS = "7 lost tails"
HALLUCINATED = "8 hallucinated data"

SIGNS: dict[str, tuple[Sign, ...]] = {
    CATASTROPHIC: (Sign("fd", "higher", 0.5, "variance"),),  # one image repeated is at 1: all variance missed
    INCREASE: (Sign("fd", "higher", 0.01, "variance"),),
    VARIANCE: (Sign("trace_ratio", "lower"), Sign("within_class_ratio", "lower"), Sign("vendi", "lower")),
    ENTANGLED: (Sign("class_accuracy", "lower"), Sign("class_margin", "lower")),
    # A third where a measure reads a tenth of the images, or a few classes, or (density) has no upper end: less would never be told.
    TAILS: (
        Sign("recall", "lower"),
        Sign("coverage", "lower"),
        Sign("tail_recall", "lower", 0.3),
        Sign("rare_class_survival", "lower", 0.3),
    ),
    HALLUCINATED: (Sign("precision", "lower"), Sign("density", "lower", 0.3)),
}
REPEATS = Sign(
    "spacing_ratio", "lower", 0.8, "control", in_look=False
)  # a fifth as far apart as real images; a few images have no look to speak of
COPIES = (Sign("near_duplicates", "higher", 0.05, "one"),)
LOOKS = {  # in real interquartile ranges: a quarter of one is half way from the median image to where every fourth image is beyond
    "blurred": (
        Sign("sharpness_shift", "lower", 0.25, "one"),
        Sign("high_frequency_shift", "lower", 0.25, "one"),
    ),
    "sharpened": (
        Sign("sharpness_shift", "higher", 0.25, "one"),
        Sign("high_frequency_shift", "higher", 0.25, "one"),
    ),
    "saturated": (
        Sign("saturation_shift", "higher", 0.25, "one"),
        Sign("colourfulness_shift", "higher", 0.25, "one"),
    ),
    "faded": (
        Sign("saturation_shift", "lower", 0.25, "one"),
        Sign("colourfulness_shift", "lower", 0.25, "one"),
    ),
    "more contrast": (Sign("contrast_shift", "higher", 0.25, "one"),),
    "less contrast": (Sign("contrast_shift", "lower", 0.25, "one"),),
}
CONTENT = (INCREASE, VARIANCE, ENTANGLED, TAILS, HALLUCINATED)
"""Definitions that one generation shows by itself."""

HELP = {
    "catastrophic": "start again from the base with real images: what these samples have lost no selection among them brings back",
    "forgetting": "put the missing classes back into the training set; what is still asked for has not suffered",
    "poisoned labels": "mend the labels or captions: the images themselves are as real ones",
    "weak first model": "mend generation 0 (longer training, other settings) before blaming the loop: it has not lost anything since",
    "reference images": "give samples of a model, and a reference that no model was trained on: these samples are reference images",
    "changed encoding": "nothing is lost: compare images that were saved and resized in the same way",
    "none": "nothing to mend at this n",
    "cannot tell": "measure more images on either side",
}
CAUSES = {"poisoned labels": "mislabel", "forgetting": "omit"}
"""Policies that do it on purpose."""
NARROWING = ("best_of", "luce", "reward_weight", "temperature", "top_share")
"""Policies that trade variety for what is preferred, or likely."""


@dataclass(frozen=True)
class Chain:
    """What a chain does already, as far as advice depends on it. The defaults are those of images whose chain is not known.

    real, fresh: shares of the training set that are real images, and real ones never trained on before; None = not known.
    guidance: scale while sampling, 1 = none. policies: their names.
    """

    real: float | None = None
    fresh: float = 0.0
    guidance: float | None = None
    start_from: str = "previous"
    policies: tuple[str, ...] = ()

    @property
    def guided(self) -> bool:
        return self.guidance is None or self.guidance > 1


def advice(name: str, chain: Chain) -> str:
    """What could help against `name` (see `Finding.name`) and is not done already.

    >>> advice("early", Chain(real=0.3, fresh=0.3, guidance=1.0))
    'raise the share of fresh real images in every training set (now 30%); tails return with real data only'
    """
    if CAUSES.get(name) in chain.policies:
        return f"leave out the policy {CAUSES[name]}, which does this"
    now = "" if chain.guidance is None else f" (now {chain.guidance:g})"
    if name == "early":
        narrowing = [f"the policy {policy}" for policy in chain.policies if policy in NARROWING]
        steps = [
            _real_images(chain),
            *([f"lower guidance{now}"] if chain.guided else []),
            *(f"leave out {own}, which narrows" for own in narrowing),
        ]
        return _joined(steps) + ("" if chain.real == 1 else "; tails return with real data only")
    if name == "late":
        steps = ["go back to the last generation before"]
        steps += (
            ["train from the base instead of the previous model"] if chain.start_from == "previous" else []
        )
        steps += (
            ["filter samples by a judge trained on real images"] if "verifier" not in chain.policies else []
        )
        return _joined([*steps, *([] if chain.real is None else [_real_images(chain)])])
    if name == "overfitting":
        steps = [
            "train "
            + (
                "on more real images"
                if "early_stop" in chain.policies
                else "for fewer images seen or on more real images"
            )
        ]
        return _joined(
            steps
            + (["remove duplicates from the training set"] if "deduplicate" not in chain.policies else [])
        )
    if name in HELP:
        return HELP[name]
    check = f"resizing and guidance{now}" if chain.guided else "resizing"
    return f"train on images as they were taken: the look has drifted, what is shown has not; check {check}"


def _real_images(chain: Chain) -> str:
    """What to do about the real images in training sets."""
    if chain.real == 1:
        return "train for longer, or train a larger model: the training set was real images alone"
    if chain.fresh:
        return f"raise the share of fresh real images in every training set (now {chain.fresh:.0%})"
    if chain.real:
        return f"add fresh real images to every training set (this one is {chain.real:.0%} real, but always the same images)"
    return "add real images to every training set (fresh ones, or keep accumulating)"


def _joined(steps: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b, and c'."""
    return (
        steps[0]
        if len(steps) == 1
        else ", ".join(steps[:-1]) + (", and " if len(steps) > 2 else " and ") + steps[-1]
    )


@dataclass(frozen=True)
class Reading:
    """A measure on the samples and on each control, with standard errors: (value, error)."""

    sign: Sign
    value: float
    error: float
    controls: dict[str, tuple[float, float]]
    unit: float
    n: int
    space: str = ""

    def effects(self) -> dict[str, tuple[float, float]]:
        """Harm beyond each control and its standard error; above 0 = the samples are worse. For looks, how much further out they are."""
        side = 1 if self.sign.worse == "higher" else -1
        return {
            name: (side * (self.value - value), math.hypot(self.error, error))
            for name, (value, error) in self.controls.items()
        }

    @property
    def nearest(self) -> str:
        """The control that explains most of the effect."""
        return min(self.effects().items(), key=lambda item: item[1][0])[0]

    @property
    def effect(self) -> float:
        return self.effects()[self.nearest][0]

    @property
    def z(self) -> float:
        """Standard errors between the samples and the control that explains most."""
        return min((_ratio(effect, error) for effect, error in self.effects().values()), default=math.nan)

    @property
    def relevant(self) -> float:
        return self.sign.relevant * self.unit

    def _needed(self, control: str) -> float:
        return (
            self.sign.relevant * abs(self.controls[control][0])
            if self.sign.of == "control"
            else self.relevant
        )

    @property
    def verdict(self) -> str:
        effects = [(*found, self._needed(name)) for name, found in self.effects().items()]
        if all(_ratio(effect, error) > Z and effect >= needed for effect, error, needed in effects):
            return PRESENT
        if any(effect + 1.96 * error < needed for effect, error, needed in effects):
            return ABSENT
        return UNKNOWN

    def worse_than(self, control: str, z: float = Z) -> bool:
        effect, error = self.effects()[control]
        return _ratio(effect, error) > z

    def row(self) -> dict[str, Any]:
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

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {value:.3g}" for name, (value, _) in self.controls.items())
        return f"{self.sign.metric} ({self.space}) {self.value:.3g} ± {1.96 * self.error:.2g} ({shown})"


def _ratio(effect: float, error: float) -> float:
    return effect / error if error > 0 else math.copysign(math.inf, effect) if effect else 0.0


@dataclass
class Finding:
    """The diagnosis of one generation.

    profile: verdict per definition. stage: 'none', 'early', 'late', 'catastrophic' or 'cannot tell'. instead: what it is otherwise,
    empty for nothing. looks: how the images look other than real ones, the largest shift first. readings: the evidence by definition.
    chain: what is done already in the chain that it is a generation of. equal: how many samples are real images, pixel for pixel.
    copies_told: False where the reference images are training images, so that near copies have no control.
    """

    generation: int
    profile: dict[str, str]
    stage: str
    instead: list[str]
    looks: list[str]
    readings: dict[str, list[Reading]]
    gone: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    n: int = 0
    chain: Chain = Chain()
    equal: dict[str, int] = field(default_factory=dict)
    copies_told: bool = True

    @property
    def name(self) -> str:
        """The one word for it: the stage, or else what it is instead, or else the change of look."""
        if self.stage not in ("none", "cannot tell"):
            return self.stage
        return self.instead[0] if self.instead else self.looks[0] if self.looks else self.stage

    @property
    def alarm(self) -> bool:
        """Whether anything is wrong with the images; a changed encoding is nothing wrong."""
        return self.name not in ("none", "cannot tell", "changed encoding")

    @property
    def advice(self) -> str:
        return advice(self.name, self.chain)

    def evidence(self, most: int = 6) -> list[str]:
        """What speaks for it: the readings that are present, the surest first."""
        found = [
            (r, name) for name, readings in self.readings.items() for r in readings if r.verdict == PRESENT
        ]
        lines = [f"{name}: {r}" for r, name in sorted(found, key=lambda item: -item[0].z)[:most]]
        counts = [
            (f"all {self.n}" if count == self.n else f"{count} of {self.n}", name)
            for name, count in self.equal.items()
            if count
        ]
        return lines + [f"copies: {count} samples are {name}, pixel for pixel" for count, name in counts]

    def rows(self) -> list[dict[str, Any]]:
        """One row per definition, with its deciding reading, for JSON."""
        shared = {
            "generation": self.generation,
            "diagnosis": self.name,
            "stage": self.stage,
            "instead": self.instead,
            "looks": self.looks,
        }
        shared |= {f"equal_to_{name.replace(' ', '_')}": count for name, count in self.equal.items()}
        out = []
        for name, verdict in self.profile.items():
            readings = self.readings.get(name, [])
            deciding = (
                max(readings, key=lambda r: (r.verdict == verdict, r.z)).row() if readings else {"n": self.n}
            )
            out.append(shared | deciding | {"definition": name, "verdict": verdict})
        return out


@dataclass(frozen=True)
class Diagnosis:
    """findings: one per generation. notes: what was found in the images. recipe: what the features were. doubts: controls that are none."""

    findings: list[Finding]
    notes: list[str]
    recipe: dict[str, Any]
    doubts: list[str] = field(default_factory=list)

    @property
    def first_alarm(self) -> tuple[int, list[str]] | None:
        """(generation, measures) of the first alarm: which measures would have been the first to see it."""
        by = {
            generation: [m for m, t in self.alarms.items() if t == generation]
            for generation in self.alarms.values()
        }
        return (min(by), by[min(by)]) if by else None

    @property
    def alarms(self) -> dict[str, int]:
        """The generation in which each measure was first present, of those that ever were; what a first model lacks is no alarm."""
        out: dict[str, int] = {}
        for finding in self.findings[1:] or self.findings:
            for name, readings in finding.readings.items():
                for reading in readings:
                    if reading.verdict == PRESENT and name not in (CATASTROPHIC, "encoding"):
                        out.setdefault(reading.sign.metric, finding.generation)
        return out

    @property
    def unknown(self) -> dict[str, list[str]]:
        """Definitions without a verdict in the last generation, by the reason."""
        last = self.findings[-1]
        out: dict[str, list[str]] = {}
        for name in (name for name, verdict in last.profile.items() if verdict == UNKNOWN):
            if name == SCALING:
                reason = "not answerable from one chain"
            elif name == DIVERGING and len(self.findings) < COURSE:
                reason = f"not answerable from fewer than {COURSE} generations"
            elif name in SIGNS and not last.readings[name]:
                reason = "not measured"
            else:
                reason = "cannot tell at this n"
            out.setdefault(reason, []).append(name)
        return out

    def rows(self) -> list[dict[str, Any]]:
        return [row for finding in self.findings for row in finding.rows()]

    @property
    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows())


# --------------------------------------------------------------------------------------------------------- the rules
def verdict(readings: Sequence[Reading]) -> str:
    """Present when any measure of a definition says so, absent when all do, else cannot tell."""
    verdicts = {r.verdict for r in readings}
    return PRESENT if PRESENT in verdicts else ABSENT if verdicts == {ABSENT} else UNKNOWN


def judge(readings: dict[str, list[Reading]], number: int) -> Finding:
    """Stage and alternatives from one generation's readings."""
    profile = {name: verdict(readings[name]) for name in SIGNS} | {DIVERGING: UNKNOWN, SCALING: UNKNOWN}
    profile = dict(sorted(profile.items()))
    there = {name for name, verdict in profile.items() if verdict == PRESENT}
    instead: list[str] = []
    few = [r for r in readings[TAILS] if r.sign.metric == "coverage"]
    if (
        verdict(readings["repeats"]) == PRESENT and verdict(few) == PRESENT
    ):  # close together alone are images of a narrowed class, too
        stage = "catastrophic"
    elif ENTANGLED in there and not _as_real(readings):
        stage = "late"
    elif there & {VARIANCE, TAILS}:
        stage = "early"
    else:
        stage = (
            "none"
            if all(profile[name] == ABSENT for name in (VARIANCE, ENTANGLED, TAILS) if readings[name])
            else "cannot tell"
        )
        if ENTANGLED in there:  # the images are as real ones, only not what was asked for
            instead.append("poisoned labels")
    if verdict(readings["copies"]) == PRESENT:
        instead.append("overfitting")
    looks = _looks(readings)
    if stage in ("none", "cannot tell") and not instead and not looks:
        shifted = [r for r in (*readings["encoding"], *readings[INCREASE]) if r.worse_than("real images")]
        if shifted and not any(r.worse_than("re-encoded") for r in shifted):
            instead.append("changed encoding")
    return Finding(number, profile, stage, instead, looks, readings)


def _as_real(readings: dict[str, list[Reading]]) -> bool:
    """Whether nothing tells the images from a control but the classes that they were asked for.

    The Frechet distance, which sees all of a distribution, has to be within 2 standard errors; the others within `Z`, as always.
    """
    apart = [
        r
        for name in (INCREASE, VARIANCE, TAILS, HALLUCINATED)
        for r in readings[name]
        if r.sign.metric != "within_class_ratio"
    ]
    return not _looks(readings) and not any(
        all(r.worse_than(c, 2 if r.sign.metric == "fd" else Z) for c in r.controls if not c.endswith(LOOK))
        for r in apart
    )


def _looks(readings: dict[str, list[Reading]]) -> list[str]:
    """Names of the looks that are present, the largest shift (in real interquartile ranges) first.

    Contrast comes last: blurring takes some and sharpening adds some, so that it says least by itself.
    """
    found = {}
    for name in LOOKS:
        present = [r.effect for r in readings[f"look: {name}"] if r.verdict == PRESENT]
        if present:
            found[name] = max(present)
    return sorted(found, key=lambda name: ("contrast" in name, -found[name]))


def failed(readings: dict[str, list[Reading]]) -> bool:
    """Whether samples fall short of real images where generation 0 did already."""
    return any(
        r.controls.get("generation 0")
        and all(r.worse_than(c) and r.effects()[c][0] >= r.relevant for c in ("real images", "re-encoded"))
        and not r.worse_than("generation 0")
        for name in (VARIANCE, ENTANGLED, TAILS, HALLUCINATED)
        for r in readings[name]
    )


def over_time(findings: list[Finding]) -> None:
    """Definition 3 from the course of the Frechet distance: does its growth slow down? Wants `COURSE` generations or more.

    Growth in the second half of the generations at least that of the first, both beyond chance: present. Growth in the second half
    below half of the first: absent. A finite chain shows no asymptote: this is the direction at its end.
    """
    points = [
        (f.readings[INCREASE][-1].value, f.readings[INCREASE][-1].error)
        for f in findings
        if f.readings[INCREASE]
    ]
    if len(points) < COURSE or len(points) != len(findings):
        return
    middle = len(points) // 2
    (v0, _), (v1, e1), (v2, e2) = points[0], points[middle], points[-1]
    early, late = (v1 - v0) / middle, (v2 - v1) / (len(points) - 1 - middle)
    late_error = math.hypot(e1, e2) / (len(points) - 1 - middle)
    last = findings[-1]
    if late - Z * late_error > 0 and late + 1.96 * late_error >= early:
        last.profile[DIVERGING] = PRESENT
    elif late + 1.96 * late_error < max(early, 0) / 2 or (
        early <= 0 and late + 1.96 * late_error < last.readings[INCREASE][-1].relevant
    ):
        last.profile[DIVERGING] = ABSENT
