"""Watch a training script: give it samples every few steps, and it measures them, logs the curves and warns.

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

from difflab.core.errors import DataError, DifflabError, MeasureError
from difflab.core.hashing import digest
from difflab.core.rows import Row
from difflab.core.seeds import numpy_generator, seed_of
from difflab.data.content import halves
from difflab.data.image_sets import open_sides
from difflab.data.source import Source
from difflab.evaluation.extract import default_extractor, features, rows_at
from difflab.metrics import METRICS, open_extractor
from difflab.metrics.defaults import COMMON, TEXTURE
from difflab.metrics.evaluate import ComparedSets, MeasureSettings, Side, measured
from difflab.metrics.interval import resampled
from difflab.metrics.row_name import measure_name

T = TypeVar("T")


class CollapseWarning(UserWarning):
    """A measure has become clearly worse than at the first update."""


class Alarm(NamedTuple):
    """A measure on an extractor that was clearly worse at `step` than at the first update."""

    step: int
    metric: str
    extractor: str


class Monitor:
    """Measures samples of a model in training against real images at every update.

    Samples are compared with one half of the reference; the other half gives the noise floor. A measure
    **alarms** if its whole 95% interval lies on the worse side of its interval at the first update.
    `METRICS[name].better` says which side is worse; a measure that is best at the value of real images is
    worse if it is farther from the floor. If the model does not change, an update alarms by chance with a
    probability of about 0.003 per measure (two normal intervals that do not overlap, on one side). Alarms at
    two updates in a row are a reason to stop the training.

    Args:
        reference: real images, as in `difflab.compare`.
        extractors, metrics: as in `difflab.compare`; None = its defaults without memorisation and concept
            measures.
        count: largest number of images on either side; None = half of the reference.
        neighbours: k of the nearest-neighbour measures.
        resamples: half-samples behind each interval; 0 = no intervals and no alarms.
        image_size: size in pixels to which all images are cropped and resized, the side of a square or
            (H, W); None = that of the reference.
        seed: of the choice of images and of the half-samples.
        accelerator: an accelerate.Accelerator. Its trackers get ``difflab/MEASURE/EXTRACTOR``, as those of a
            run do, and its processes share the samples.
        device: where features are extracted.

    Attributes: `rows`, as in metrics.jsonl of a run, with the step as the generation; `alarms`, tuples (step,
    metric, extractor) in order; `notes`, what was special about the images, each once.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> real, wide, narrow = (rng.integers(0, top, (80, 8, 8, 3), dtype=np.uint8) for top in (256, 256, 40))
    >>> monitor = Monitor(real, extractors=["pixels"], metrics=["trace_ratio"])
    >>> first, second = monitor.update(wide, step=0), monitor.update(narrow, step=1000, warn=False)
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
        image_size: int | Sequence[int] | None = None,
        seed: int = 0,
        accelerator: Any = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.metrics = list(metrics) if metrics is not None else [*COMMON, *TEXTURE]
        for name in self.metrics:
            if METRICS[name].needs in ("judge", "concepts", "train", "own", "detector"):
                raise MeasureError(f"{name} needs more than real images; use difflab.compare, or a run")
        self.rows: list[Row] = []
        self.alarms: list[Alarm] = []
        self.notes: list[str] = []
        self.neighbours, self.resamples, self.seed = neighbours, resamples, seed
        self.accelerator = accelerator
        specs = extractors or (default_extractor(), "texture")
        self._extractors = [open_extractor(spec, device=device) for spec in specs]
        self._read_reference(reference, count, image_size)

    def _read_reference(
        self, reference: Any, count: int | None, image_size: int | Sequence[int] | None
    ) -> None:
        """Extract the features of the reference. Copies of one image are in one half of it."""

        def read() -> tuple[Source, list[str], list[torch.Tensor]]:
            source = open_sides({"reference": reference}, image_size, 0.01, self.notes)["reference"]
            self.count = min(count or len(source), len(source) // 2)
            rows = numpy_generator("monitor", self.seed).permutation(len(source))[: 2 * self.count]
            return source, *features(source, rows, self._extractors, "reference", self.notes)

        source, hashes, real = self._together(read)
        first, second = halves(hashes, self.count)
        self._identity, self.count = digest(hashes), len(first)
        self._real = [rows_at(part, np.concatenate([first, second])) for part in real]
        self._size, self._channels = source.size, source.channels

    def update(self, images: Any, step: int | None = None, warn: bool = True) -> list[Row]:
        """Measure `images`, log the values, and warn about every measure that alarms. Returns the new rows.

        Args:
            images: samples, as in `difflab.compare`; in several processes those of this one. Every process
                has to call `update`. If their numbers of images differ, all are cut to the smallest.
            step: None = one more than the last.
            warn: whether an alarm emits a CollapseWarning.

        Raises DataError for images that cannot be read, in all processes if it happens in one. No unreadable
        image is left out.
        """
        if step is None:
            step = self.rows[-1]["generation"] + 1 if self.rows else 0
        samples = self._gathered(self._together(lambda: self._features(images)))
        new = self._measure(samples, step)
        for row in new:
            if self._worse(row):
                self.alarms.append(Alarm(step, row["metric"], row["extractor"]))
                if warn:
                    warnings.warn(_warning(row), CollapseWarning, stacklevel=2)
        self.rows += new
        if self.accelerator is not None:
            values = {
                f"difflab/{row['metric']}/{row['extractor']}": row["value"]
                for row in new
                if row["value"] is not None
            }
            self.accelerator.log(values, step=step)
        return new

    def _measure(self, samples: list[torch.Tensor], step: int) -> list[Row]:
        """The rows of all measures. samples: features [n, d] per extractor."""

        def resample(metric: Any, pair: Any) -> list[float]:
            seed = seed_of("monitor", self.seed, metric.name)
            return resampled(metric, pair, range(self.resamples), seed)

        n = min(self.count, len(samples[0]))
        settings = MeasureSettings(
            self.metrics, resample if self.resamples else None, self.neighbours, generation=step
        )
        rows: list[Row] = []
        for extractor, real, fake in zip(self._extractors, self._real, samples, strict=True):
            second_real = Side(real[self.count : self.count + n])
            sets = ComparedSets(Side(real[:n]), Side(fake[:n]), second_real, identity=self._identity)
            rows += measured(extractor, sets, settings)
        return rows

    def _features(self, images: Any) -> list[torch.Tensor]:
        """Features [n, d] of this process's images on each extractor, in the colours of the reference."""
        source = open_sides({"images": images}, self._size, 0.0, [])["images"]
        if source.channels > self._channels:
            raise DataError(
                "images are in colour and the reference is grey: give a reference in colour, or grey images"
            )
        if source.channels < self._channels:
            source = _as_colour(source, self._channels)
        rows = numpy_generator("monitor", self.seed).permutation(len(source))
        return features(source, rows, self._extractors, "images", [])[1]

    def _together(self, work: Callable[[], T]) -> T:
        """The result of `work`, when all processes have theirs.

        An error in one is raised in all, so that none waits for ever.
        """
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return work()
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # the other processes have to know of every error
            failure = error
        messages = gather_object([_message(failure)])
        if failure is not None:
            raise failure
        for rank, message in enumerate(messages):
            if message is not None:
                raise DataError(f"process {rank}: {message}")
        return result

    def _gathered(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        """The features of all processes, of each as many as the smallest number."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return parts
        counts = gather_object([len(parts[0])])
        least = min(counts)
        note = f"the processes gave {', '.join(map(str, counts))} images; {least} of each are measured"
        if max(counts) > least and note not in self.notes:
            self.notes.append(note)
        device = self.accelerator.device
        return [self.accelerator.gather(part[:least].to(device)).cpu() for part in parts]

    @property
    def frame(self) -> Any:
        """All rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows).rename(columns={"generation": "step"})

    def _worse(self, row: Row) -> bool:
        """Whether the interval of a row lies on the worse side of that of the first update."""
        first = self._first(row)
        if first is None or first["ci_low"] is None or row["ci_low"] is None:
            return False
        better = METRICS[measure_name(row["metric"])].better
        if better == "real":
            now, before = abs(row["value"] - row["floor"]), abs(first["value"] - first["floor"])
            if now <= before:
                return False
            better = "lower" if row["value"] > first["value"] else "higher"
        if better == "higher":
            return bool(row["ci_high"] < first["ci_low"])
        return bool(row["ci_low"] > first["ci_high"])

    def _first(self, row: Row) -> Row | None:
        """The row of the first update of the same measure."""
        key = (row["metric"], row["extractor"])
        return next((known for known in self.rows if (known["metric"], known["extractor"]) == key), None)


def _as_colour(source: Source, channels: int) -> Source:
    """A grey source as one with `channels` equal channels."""
    read_grey = source.read

    def read(index: int) -> np.ndarray:
        return np.repeat(read_grey(index), channels, axis=2)

    return replace(source, channels=channels, read=read)


def _message(error: Exception | None) -> str | None:
    """One line about an error, for the other processes."""
    if error is None or isinstance(error, DifflabError):
        return None if error is None else str(error)
    return f"{type(error).__name__}: {error}"


def _warning(row: Row) -> str:
    interval = f"[{row['ci_low']:.3g}, {row['ci_high']:.3g}]"
    name = f"{row['metric']} ({row['extractor']})"
    return f"step {row['generation']}: {name} is {row['value']:.3g} {interval}, floor {row['floor']:.3g}"
