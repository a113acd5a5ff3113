"""The result of a diagnosis: one finding per generation, and what follows from all of them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

from difflab.core.text import plain
from difflab.evaluation.advice import Chain, advice
from difflab.evaluation.equivalence import bounds_in_words, enough
from difflab.evaluation.signs import CATASTROPHIC, DIVERGING, PRESENT, SCALING, SIGNS, UNKNOWN, Reading
from difflab.evaluation.summary import Summary, changes_most, sentence

COURSE = 5
"""Fewest generations from which the long-run course of the risk is judged."""

DAMAGED, POISONED, ENCODED = "damaged classes", "poisoned labels", "changed encoding"
"""The names of damage to single classes, of wrong labels, and of images that were only saved differently."""
ALONE = (
    "one generation alone shows how it differs from real images, but not whether a loop caused the "
    "difference; give generation 0 as well"
)
"""Is said of a diagnosis of one generation."""


@dataclass
class Finding:
    """The diagnosis of one generation.

    Attributes:
        profile: the verdict on each of the eight definitions.
        stage: 'none', 'early', 'late', 'catastrophic' or 'cannot tell'.
        instead: explanations other than collapse, the main one first.
        looks: how the images look different from real ones, the largest shift first.
        readings: the evidence, by definition.
        gone: classes that no sample was asked for.
        classes: what is wrong with each class that is damaged by itself, in words.
        left_out: by measure, why it has no value.
        chain: what the chain of this generation does already.
        equal: how many samples are training images or reference images, pixel for pixel.
        near: how many samples are near copies of training images or reference images, beside those.
        copies_told: False if the reference images are training images, so that near copies have no control.
    """

    generation: int
    profile: dict[str, str]
    stage: str
    instead: list[str]
    looks: list[str]
    readings: dict[str, list[Reading]]
    gone: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    n: int = 0
    chain: Chain = field(default_factory=Chain)
    equal: dict[str, int] = field(default_factory=dict)
    near: dict[str, int] = field(default_factory=dict)
    copies_told: bool = True

    @property
    def name(self) -> str:
        """One name: the stage, else the first alternative explanation, else the largest change of look."""
        if self.stage not in ("none", "cannot tell"):
            return self.stage
        return next(iter([*self.instead, *self.looks]), self.stage)

    @property
    def alarm(self) -> bool:
        """Whether something is wrong with the images. A changed encoding is no alarm."""
        return self.name not in ("none", "cannot tell", ENCODED)

    @property
    def words(self) -> str:
        """The stage, the alternative explanations and the looks, such as 'late collapse, blurred'."""
        damaged = f"{DAMAGED} ({self.damaged})"
        words = [damaged if name == DAMAGED else name for name in (*self.instead, *self.looks)]
        if self.stage in ("early", "late", "catastrophic"):
            words = [f"{self.stage} collapse", *words]
        if not words:
            words = ["no collapse found" if self.stage == "none" else "nothing seen at this n"]
        if not self.copies_told and "overfitting" not in words:
            words.append("copies cannot be told")
        return ", ".join(words)

    @property
    def damaged(self) -> str:
        """The damaged classes, such as 'cat: blurred; dog: less variety', at most five."""
        shown = [f"{plain(name)}: {', '.join(wrong)}" for name, wrong in self.classes.items()]
        further = [f"and {len(shown) - 5} more"] if len(shown) > 5 else []
        return "; ".join([*shown[:5], *further])

    @property
    def excluded(self) -> str:
        """How much can be lost at most, if there is no stage; '' if it is not known."""
        return bounds_in_words(self.readings) if self.stage == "none" and not self.classes else ""

    @property
    def advice(self) -> str:
        """What could help, and is not done already."""
        names = [self.name]
        if POISONED in self.instead and self.name != POISONED:  # wrong labels beside another loss
            names.append(POISONED)
        return "; ".join(advice(name, self.chain) for name in names)

    def evidence(self, most: int = 6) -> list[str]:
        """Sentences about the effects that are present, the surest first, and about copies."""
        present: list[tuple[float, str]] = []
        for name, readings in self.readings.items():
            present += [(r.z, f"{name}: {r}") for r in readings if r.verdict == PRESENT]
        present.sort(key=lambda item: -item[0])
        lines = [line for _, line in present[:most]]
        lines += self._copies(self.equal, "are {}, pixel for pixel")
        return lines + self._copies(self.near, "are near copies of {}")

    def _copies(self, counts: dict[str, int], words: str) -> list[str]:
        """A sentence for every count that is not 0."""
        return [
            f"copies: {f'all {self.n}' if count == self.n else f'{count} of {self.n}'} samples "
            f"{words.format(name)}"
            for name, count in counts.items()
            if count
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One row per definition, with the reading that decides it, for JSON."""
        shared = {
            "generation": self.generation,
            "diagnosis": self.name,
            "stage": self.stage,
            "instead": self.instead,
            "looks": self.looks,
            "damaged_classes": self.classes,
        }
        for how, counts in (("equal_to", self.equal), ("near_to", self.near)):
            shared |= {f"{how}_{name.replace(' ', '_')}": count for name, count in counts.items()}
        return [
            shared | self._deciding(name, verdict) | {"definition": name, "verdict": verdict}
            for name, verdict in self.profile.items()
        ]

    def _deciding(self, definition: str, verdict: str) -> dict[str, Any]:
        """The row of the surest reading that agrees with the verdict on a definition."""
        readings = self.readings.get(definition)
        if not readings:
            return {"n": self.n}
        return max(readings, key=lambda r: (r.verdict == verdict, r.z)).row()


@dataclass(frozen=True)
class Diagnosis:
    """The result of `difflab.diagnose`.

    Attributes:
        findings: one per generation.
        notes: what was special about the images.
        recipe: how the features were computed.
        doubts: sentences about controls that are not valid.
    """

    findings: list[Finding]
    notes: list[str]
    recipe: dict[str, Any]
    doubts: list[str] = field(default_factory=list)

    @property
    def first_alarm(self) -> tuple[int, list[str]] | None:
        """The generation of the first alarm and the measures that raised it; None = no alarm."""
        alarms = self.alarms
        if not alarms:
            return None
        first = min(alarms.values())
        return first, [measure for measure, generation in alarms.items() if generation == first]

    @property
    def alarms(self) -> dict[str, int]:
        """By measure, the first generation in which its effect was present.

        What the first model lacks is no alarm.
        """
        first: dict[str, int] = {}
        for finding in self.findings[1:] or self.findings:
            for name, readings in finding.readings.items():
                if name in (CATASTROPHIC, "encoding", "between classes"):
                    continue
                for reading in readings:
                    if reading.verdict == PRESENT:
                        first.setdefault(reading.sign.metric, finding.generation)
        return first

    @property
    def unknown(self) -> dict[str, list[str]]:
        """The definitions without a verdict in the last generation, by the reason."""
        definitions: dict[str, list[str]] = {}
        for name, verdict in self.findings[-1].profile.items():
            if verdict == UNKNOWN:
                definitions.setdefault(self._why_unknown(name), []).append(name)
        return definitions

    def _why_unknown(self, definition: str) -> str:
        if definition == SCALING:
            return "not answerable from one chain"
        if definition == DIVERGING and len(self.findings) < COURSE:
            return f"not answerable from fewer than {COURSE} generations"
        if definition in SIGNS and not self.findings[-1].readings[definition]:
            return "not measured"
        wanted = enough(self.findings[-1].readings.get(definition, ()))
        if wanted is None or wanted <= self.findings[-1].n:
            return "cannot tell at this n"
        return f"cannot tell at this n; about {wanted:,} images on each side would be enough"

    def summary(self, run: str | None = None, reference: str = "REAL", samples: str = "GENERATED") -> Summary:
        """The verdict on the last generation, the measures that changed most, and what to type next.

        Args:
            run: path of the run that was diagnosed; None = image sets were, at the paths `reference` and
                `samples`.
        """
        last = self.findings[-1]
        if run is None:
            commands = [f"difflab compare {shlex.quote(reference)} {shlex.quote(samples)}"]
        else:
            commands = [f"difflab report {shlex.quote(run)}", f"difflab status {shlex.quote(run)} --all"]
        sentences = [sentence(last.words, last.generation, last.n, self.first_alarm)]
        if last.excluded:
            sentences.append(last.excluded)
        if len(self.findings) == 1:
            sentences.append(ALONE)
        return Summary(
            "\n".join(sentences),
            changes_most(self.values()),
            next_commands=commands,
            advice=last.advice,
        )

    def values(self) -> list[dict[str, Any]]:
        """The value of every measure in every generation, as in metrics.jsonl of a run.

        The floor is that of real images.
        """
        rows: dict[tuple[int, str, str], dict[str, Any]] = {}
        for finding in self.findings:
            for readings in finding.readings.values():
                for reading in readings:
                    key = (finding.generation, reading.sign.metric, reading.space)
                    rows.setdefault(key, reading.value_row(finding.generation))
        return list(rows.values())

    def rows(self) -> list[dict[str, Any]]:
        """One row per generation and definition."""
        rows = []
        for finding in self.findings:
            rows += finding.rows()
        return rows

    @property
    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows())
