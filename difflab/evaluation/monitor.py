"""Watch a training script of one's own: give it samples every few steps, and it keeps the curves, logs them and warns.

monitor = difflab.Monitor("real_images/", accelerator=accelerator)
for step in ...:
    ...
    if step % 1000 == 0:
        monitor.update(pipeline(prompts, ...).images, step=step)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object

from difflab.config import digest
from difflab.core.errors import DataError, DifflabError, MeasureError
from difflab.core.seeds import numpy_generator, seed_of
from difflab.data.content import halves
from difflab.data.image_sets import open_sides
from difflab.data.sources import Source
from difflab.evaluation.extract import default_extractor, features, rows_at
from difflab.loop.measure import Row, Side, measured
from difflab.metrics import METRICS, open_extractor
from difflab.metrics.defaults import COMMON, TEXTURE
from difflab.metrics.interval import resampled

T = TypeVar("T")


class CollapseWarning(UserWarning):
    """A measure has become clearly worse than at the first look."""


class Alarm(NamedTuple):
    """A measure on an extractor that was clearly worse at `step` than at the first look."""

    step: int
    metric: str
    extractor: str


class Monitor:
    """Measures samples of a model in training against real images, again and again.

    Half of the reference is what samples are measured against, the other half makes the floor. A measure **alarms** when its whole
    95% interval lies on the worse side of its interval at the first look; which side that is, `METRICS[name].better` says, and for a
    measure that is best as between real images, farther from the floor is worse. At looks
    of one and the same model that happens by chance about three times in a thousand per measure (two normal intervals that miss
    each other on one side): an alarm at two looks in a row is worth stopping for.

    Args:
        reference: real images, as `difflab.compare` takes them.
        extractors, metrics: as there; None = those of `compare`, without memorisation and concepts.
        count: images on either side, at most; None = half of the reference.
        resamples: half-samples behind each interval; 0 = no intervals, and no alarms.
        accelerator: an accelerate.Accelerator, whose trackers get ``difflab/MEASURE/EXTRACTOR``, as those of a run, and whose processes
            share the samples.
        device: where features are extracted.

    Attributes: `rows`, as in metrics.jsonl of a run, the step in the place of the generation; `alarms`, tuples (step, metric, extractor) in
    order; `notes`, what was found in the reference and in samples, each once.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> monitor = Monitor(rng.integers(0, 256, (80, 8, 8, 3), dtype=np.uint8), extractors=["pixels"], metrics=["trace_ratio"])
    >>> for step, spread in ((0, 256), (1000, 40)): rows = monitor.update(rng.integers(0, spread, (40, 8, 8, 3), dtype=np.uint8), step, warn=False)
    >>> monitor.alarms
    [Alarm(step=1000, metric='trace_ratio', extractor='pixels')]
    """

    def __init__(
        self,
        reference: Any,
        *,
        extractors: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        count: int | None = None,
        neighbours: int = 5,
        resamples: int = 40,
        image_size: int | None = None,
        seed: int = 0,
        accelerator: Any = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.metrics = list(metrics) if metrics is not None else [*COMMON, *TEXTURE]
        refused = [
            name for name in self.metrics if METRICS[name].needs in ("judge", "concepts", "train", "own")
        ]
        if refused:
            raise MeasureError(f"{refused[0]} needs more than real images; use difflab.compare, or a run")
        self.rows: list[Row] = []
        self.alarms: list[Alarm] = []
        self.notes: list[str] = []
        self.neighbours, self.resamples, self.seed, self.accelerator = (
            neighbours,
            resamples,
            seed,
            accelerator,
        )
        self._extractors = [
            open_extractor(name, device=device) for name in extractors or (default_extractor(), "texture")
        ]

        def read() -> tuple[Source, list[str], list[torch.Tensor]]:
            source = open_sides({"reference": reference}, image_size, 0.01, self.notes)["reference"]
            self.count = min(count or len(source), len(source) // 2)
            rows = numpy_generator("monitor", seed).permutation(len(source))[: 2 * self.count]
            return source, *features(source, rows, self._extractors, "reference", self.notes)

        source, hashes, found = self._together(read)
        first, other = halves(hashes, self.count)  # copies of one image are all in one of them
        self._identity, self.count = digest(hashes), len(first)
        self._real = [rows_at(part, np.concatenate([first, other])) for part in found]
        self._size, self._channels = source.size, source.channels

    def update(self, images: Any, step: int | None = None, warn: bool = True) -> list[Row]:
        """Measure `images` (as `difflab.compare` takes them; of a process its own), log, and warn where a measure alarms. Returns the new rows.

        `step` is None = one more than the last. Every process of the accelerator calls it; where they have not equally many images, those of
        each are cut to the smallest number. What one process cannot read is an error in all of them.
        Raises DataError for images that cannot be read, of which no share is left out here.
        """
        step = (self.rows[-1]["generation"] + 1 if self.rows else 0) if step is None else step
        fake = self._gathered(self._together(lambda: self._features(images)))
        n = min(self.count, len(fake[0]))
        new: list[Row] = []
        for extractor, real, samples in zip(self._extractors, self._real, fake, strict=True):
            new += measured(
                extractor,
                self.metrics,
                Side(real[:n]),
                Side(samples[:n]),
                Side(real[self.count : self.count + n]),
                neighbours=self.neighbours,
                identity=self._identity,
                generation=step,
                resample=lambda metric, pair: resampled(
                    metric, pair, range(self.resamples), seed_of("monitor", self.seed, metric.name)
                ),
            )
        for row in new:
            if self._worse(row):
                self.alarms.append(Alarm(step, row["metric"], row["extractor"]))
                if warn:
                    between = f"{row['value']:.3g} [{row['ci_low']:.3g}, {row['ci_high']:.3g}]"
                    warnings.warn(
                        f"step {step}: {row['metric']} ({row['extractor']}) is {between}, floor {row['floor']:.3g}",
                        CollapseWarning,
                        2,
                    )
        self.rows += new
        if self.accelerator is not None:
            self.accelerator.log(
                {
                    f"difflab/{r['metric']}/{r['extractor']}": r["value"]
                    for r in new
                    if r["value"] is not None
                },
                step=step,
            )
        return new

    def _features(self, images: Any) -> list[torch.Tensor]:
        """Features [n, d] of a process's own images in each space, in the colours of the reference."""
        source = open_sides({"images": images}, self._size, 0.0, [])["images"]
        if source.channels > self._channels:
            raise DataError(
                "images are in colour and the reference is grey: give a reference in colour, or grey images"
            )
        if source.channels < self._channels:
            grey = source.read
            source = replace(
                source,
                channels=self._channels,
                read=lambda index: np.repeat(grey(index), self._channels, axis=2),
            )
        return features(
            source,
            numpy_generator("monitor", self.seed).permutation(len(source)),
            self._extractors,
            "images",
            [],
        )[1]

    def _together(self, work: Callable[[], T]) -> T:
        """The result of `work`, once all processes have theirs; an error of one is raised in all, so that none waits for it for ever."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return work()
        failed: Exception | None = None
        try:
            result = work()
        except Exception as error:  # whatever it is, the others must hear of it
            failed = error
        said = (
            None
            if failed is None
            else str(failed)
            if isinstance(failed, DifflabError)
            else f"{type(failed).__name__}: {failed}"
        )
        everywhere = gather_object([said])
        if failed is not None:
            raise failed
        others = [(rank, text) for rank, text in enumerate(everywhere) if text is not None]
        if others:
            raise DataError(f"process {others[0][0]}: {others[0][1]}")
        return result

    def _gathered(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        """The features of all processes, of each as many as of the one that has fewest."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return parts
        counts = gather_object([len(parts[0])])
        least = min(counts)
        note = f"the processes gave {', '.join(map(str, counts))} images; {least} of each are measured"
        if max(counts) > least and note not in self.notes:
            self.notes.append(note)
        return [self.accelerator.gather(part[:least].to(self.accelerator.device)).cpu() for part in parts]

    @property
    def frame(self) -> Any:
        """All rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows).rename(columns={"generation": "step"})

    def _worse(self, row: Row) -> bool:
        first = next(
            (r for r in self.rows if (r["metric"], r["extractor"]) == (row["metric"], row["extractor"])), None
        )
        if first is None or first["ci_low"] is None or row["ci_low"] is None:
            return False
        better = METRICS["fd" if row["metric"] == "fid" else row["metric"]].better
        if better == "real":
            if abs(row["value"] - row["floor"]) <= abs(
                first["value"] - first["floor"]
            ):  # no farther from the floor
                return False
            better = "lower" if row["value"] > first["value"] else "higher"
        return row["ci_high"] < first["ci_low"] if better == "higher" else row["ci_low"] > first["ci_high"]
