"""What is asked of each sample: the classes and captions of a generation's samples, and those of the probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from difflab.core.errors import ConfigError
from difflab.core.seeds import numpy_generator
from difflab.runs.run import Run
from difflab.runs.sizes import first_size


@dataclass(frozen=True)
class Conditions:
    """What is asked of each sample. conditions: int64 [n]; labels: int64 [n] or None; the texts behind them,
    or None.
    """

    conditions: np.ndarray
    labels: np.ndarray | None
    classes: list[str] | None
    prompts: list[str] | None

    def part(self, span: range) -> Conditions:
        cut = slice(span.start, span.stop)
        labels = None if self.labels is None else self.labels[cut]
        return Conditions(
            self.conditions[cut],
            labels,
            self.classes and self.classes[cut],
            self.prompts and self.prompts[cut],
        )

    def columns(self) -> dict[str, Any]:
        """As columns of the ledger."""
        labels = None if self.labels is None else self.labels.tolist()
        return {
            name: value
            for name, value in (("label", labels), ("class", self.classes), ("prompt", self.prompts))
            if value is not None
        }


def sample_conditions(run: Run, generation: int, count: int) -> Conditions:
    """What is asked of `count` samples: the classes and captions of training set 0 (or classes equally
    often), in random order.

    Classes have exact quotas. Captions go through the images of each class in turn, the same ones in every
    generation. Raises ConfigError when a class would not be asked for at all: its loss would be the
    experiment's own doing.
    """
    labels = _quotas(run, generation, count)
    if not run.config.text:
        assert labels is not None
        return _named(run, labels, labels, None)
    known, n0 = run.real.labels(), first_size(run.config, run.about["n_train"])
    captions = run.conditions(run.real)[:n0]  # type: ignore[index]
    order = numpy_generator("captions", run.config.seed).permutation(n0)
    conditions = np.empty(count, dtype=np.int64)
    if labels is None or known is None:
        conditions[:] = numpy_generator("asked", run.config.seed, generation).permutation(
            np.resize(captions[order], count)
        )
    else:
        for label in np.unique(labels):
            own = captions[order[known[order] == label]]
            conditions[labels == label] = np.resize(own, int((labels == label).sum()))
    return _named(run, conditions, labels, conditions)


def probe_conditions(run: Run) -> Conditions | None:
    """What the probe asks for; None = unconditional.

    Captions: those of config, or some of training set 0, each `per_condition` times. Classes: the most
    frequent and the rarest alternating, `per_condition` images of each.
    """
    probe, n0 = run.config.probe, first_size(run.config, run.about["n_train"])
    if not run.config.conditional:
        return None
    if run.config.text:
        captions = run.conditions(run.real)
        assert captions is not None
        if probe.prompts is not None:
            at = {prompt: i for i, prompt in enumerate(run.prompts)}
            chosen = np.array([at[prompt] for prompt in probe.prompts])
        else:
            own = np.unique(captions[:n0])
            chosen = np.sort(numpy_generator("probe", run.config.seed).permutation(own)[: probe.conditions])
        conditions = np.repeat(chosen, probe.per_condition)
        known = run.real.labels()
        labels = None if known is None else known[[int(np.argmax(captions == c)) for c in conditions]]
        return _named(run, conditions, labels, conditions)
    known = run.real.labels()
    if known is None:
        return None
    frequency = np.bincount(known[:n0], minlength=len(run.about["classes"]))
    ranked = np.argsort(-frequency, kind="stable")[
        : np.count_nonzero(frequency)
    ]  # only what the model has been shown
    shown = len(ranked) if len(ranked) <= probe.conditions else probe.conditions
    chosen = np.sort(np.concatenate([ranked[: -(-shown // 2)], ranked[len(ranked) - shown // 2 :]]))
    labels = np.repeat(chosen, probe.per_condition)
    return _named(run, labels, labels, None)


def probe_count(run: Run) -> int:
    wanted = probe_conditions(run)
    return len(wanted.conditions) if wanted is not None else 8 * run.config.probe.per_condition


def _named(
    run: Run, conditions: np.ndarray, labels: np.ndarray | None, captions: np.ndarray | None
) -> Conditions:
    classes, prompts = run.about["classes"], run.prompts
    named = None if labels is None else [classes[label] for label in labels.tolist()]
    return Conditions(
        conditions, labels, named, None if captions is None else [prompts[c] for c in captions.tolist()]
    )


def _quotas(run: Run, generation: int, count: int) -> np.ndarray | None:
    """The class asked of each sample: int64 [count]; None where a text model's set has no classes."""
    known = run.real.labels()
    if known is None:
        if run.config.text:
            return None
        raise ConfigError(
            "a conditional model needs a labelled real set; for this one set model.conditional=false "
            "sample.guidance_scale=1"
        )
    classes = run.about["classes"]
    n0 = first_size(run.config, run.about["n_train"])
    share = np.bincount(known[:n0], minlength=len(classes)).astype(float)
    if run.config.sample.conditions == "balanced":
        share = (share > 0).astype(float)  # a class without a training image cannot be asked for
    share /= share.sum()
    quota = np.floor(share * count).astype(int)
    remainder = np.argsort(-(share * count - quota), kind="stable")[: count - quota.sum()]
    quota[remainder] += 1
    if (quota[share > 0] == 0).any():
        lost = classes[int(np.argmax((quota == 0) & (share > 0)))]
        instead = " or use sample.conditions=balanced" if run.config.sample.conditions == "real" else ""
        raise ConfigError(
            f"sample.count {count} is too small to ask for class '{lost}' even once; raise it{instead}"
        )
    labels = np.repeat(np.arange(len(classes)), quota)
    return numpy_generator("asked", run.config.seed, generation).permutation(labels)
