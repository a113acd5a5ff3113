"""Draw images with one sampler, and find out whether they can be told apart from those of a reference.

The reference is two sets A and B with the same conditions and other seeds. A trial has the conditions and the
seeds of B. Each measure is taken between A and the trial, and between A and B, which is the floor. The trial
is told apart if for some measure the difference of the two values lies outside its interval. The intervals
hold together with 95% (Bonferroni), and are those of two sets with independent seeds. The trial has the seeds
of B, so the difference itself holds less chance unless the sampler adds noise: it is the change that the
sampler makes, compared with the chance in n images.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from difflab.config import Sample
from difflab.core.errors import MeasureError
from difflab.core.seeds import image_seeds, numpy_generator, seed_of
from difflab.metrics.interval import resampled
from difflab.metrics.judge import Judge
from difflab.metrics.measurement import Measurement, error_of_difference, take
from difflab.metrics.metric import METRICS
from difflab.metrics.pair import Pair

MEASURES = ("fd", "precision", "recall", "class_accuracy")
RESAMPLES = 40


@dataclass(frozen=True)
class Trial:
    """n images of one sampler.

    Attributes:
        sampling: the settings.
        passes: images that the network reads for one image: timesteps, times two with guidance.
        seconds: time to draw one image.
        distance: root mean square difference to the image of B with the same seed, in levels of 0 to 255,
            mean over images. Of the reference itself: between A and B.
        measures: between A and these images, by name.
        differences: value less floor and its standard error, by measure; empty for the reference.
    """

    sampling: Sample
    passes: int
    seconds: float
    distance: float
    measures: dict[str, Measurement]
    differences: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def limits(self) -> dict[str, float]:
        """The smallest difference that tells images apart, by measure: 5% error for all measures together."""
        z = norm.ppf(1 - 0.05 / 2 / max(1, len(self.differences)))
        return {name: float(z * error) for name, (_, error) in self.differences.items()}

    @property
    def apart(self) -> list[str]:
        """The measures that tell these images apart from the reference."""
        limits = self.limits
        return [name for name, (change, _) in self.differences.items() if abs(change) > limits[name]]

    def row(self) -> dict[str, Any]:
        """For JSON."""
        row: dict[str, Any] = {"scheduler": self.sampling.scheduler, "steps": self.sampling.steps}
        row |= {"passes": self.passes, "seconds_per_image": self.seconds, "distance": self.distance}
        row["apart"] = self.apart
        for name, measured in self.measures.items():
            low, high = measured.interval or (None, None)
            row[name] = {"value": measured.value, "ci_low": low, "ci_high": high}
            if name in self.differences:
                change, error = self.differences[name]
                row[name] |= {"difference": change, "error": error}
        return row


@dataclass
class Bench:
    """Draws trials of one model and compares them with a reference.

    Attributes:
        model: a denoising family, ready to sample.
        reference: the settings of the reference.
        conditions: inputs of the model, int64 [n]; None = unconditional.
        labels: the class of each image, int64 [n], or None.
        extractor: feature space of the measures.
        judge: reads its features; None = no class measures.
        reasons: why a measure has no value, by name.
    """

    model: Any
    reference: Sample
    n: int
    seed: int
    extractor: Any
    conditions: np.ndarray | None = None
    labels: np.ndarray | None = None
    judge: Judge | None = None
    neighbours: int = 5
    reasons: dict[str, str] = field(default_factory=dict)

    @cached_property
    def drawn(self) -> tuple[np.ndarray, np.ndarray, float]:
        """The images of A and B, uint8 [n, H, W, C], and the seconds per image."""
        a, _ = self._draw(self.reference, 0)
        return a, *self._draw(self.reference, 1)

    @cached_property
    def real(self) -> torch.Tensor:
        """The features of A."""
        return self.extractor(torch.from_numpy(self.drawn[0]))

    @cached_property
    def floor(self) -> Trial:
        """The reference B against A."""
        a, b, seconds = self.drawn
        pair, measures = self._pair(b, np.arange(self.n)), {}
        for name in MEASURES:
            try:
                measures[name] = take(METRICS[name], pair, self._resample)
            except MeasureError as error:
                self.reasons[name] = str(error)
        return Trial(self.reference, self._passes(self.reference), seconds, _distance(a, b), measures)

    def trial(self, sampling: Sample) -> Trial:
        """Draw images with other settings and compare them.

        Raises StoreError if they are not finite.
        """
        pixels, seconds = self._draw(sampling, 1)
        # The rows are shuffled so that half-sample k of the trial and of B do not hold the same seeds. Their
        # difference then has the error of independent sets.
        pair = self._pair(pixels, numpy_generator("sampler trial", self.seed).permutation(self.n))
        measures, differences = {}, {}
        for name, floor in self.floor.measures.items():
            measures[name] = take(METRICS[name], pair, self._resample)
            change = measures[name].value - floor.value
            differences[name] = change, error_of_difference(measures[name], floor)
        distance = _distance(pixels, self.drawn[1])
        return Trial(sampling, self._passes(sampling), seconds, distance, measures, differences)

    def _draw(self, sampling: Sample, part: int) -> tuple[np.ndarray, float]:
        """Images uint8 [n, H, W, C] with the seeds of A (part 0) or B (1), and the seconds per image."""
        seeds = image_seeds(seed_of("sampler trial", self.seed), 0, part, range(self.n))
        started = time.perf_counter()
        pixels = self.model.sample(self.conditions, seeds, sampling)
        return pixels, (time.perf_counter() - started) / self.n

    def _passes(self, sampling: Sample) -> int:
        steps = len(self.model.scheduler(sampling).timesteps)
        return steps if self.conditions is None else steps * self.model.passes(sampling)

    def _pair(self, pixels: np.ndarray, order: np.ndarray) -> Pair:
        """A and `pixels`, whose rows are put in `order`."""
        labels = None if self.labels is None else torch.from_numpy(self.labels)
        return Pair(
            self.real,
            self.extractor(torch.from_numpy(pixels[order])),
            real_labels=labels,
            fake_labels=None if labels is None else labels[order],
            judge=self.judge,
            neighbours=self.neighbours,
        )

    def _resample(self, metric: Any, pair: Pair) -> list[float]:
        return resampled(metric, pair, range(RESAMPLES), seed_of("sampler trial", self.seed, metric.name))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over images of the root mean square difference between `a` and `b`, in levels."""
    difference = (a.astype(np.float32) - b).reshape(len(a), -1)
    return float(np.sqrt(np.square(difference).mean(1)).mean())
