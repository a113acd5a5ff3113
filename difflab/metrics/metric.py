"""The base class of every measure, and the table of measures by name.

A new measure is one small file: a subclass of `PairMetric` with an `evaluate`, under ``@measure("name")``.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.suggest import nearest
from difflab.metrics.concept_set import Concepts
from difflab.metrics.deferred import deferred
from difflab.metrics.influence import Influence
from difflab.metrics.judge import Judge
from difflab.metrics.pair import Pair, Rows, checked_labels

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    Metric = deferred("torchmetrics", "Metric")

STATES = ("real", "fake", "real_labels", "fake_labels", "trained")
NO_DIRECTION = "have features of length 0, hence no direction, and are left out"


class PairMetric(Metric):
    """Base of every measure between real images and samples: a torchmetrics metric over features.

    `update` collects features, `compute` compares them. The states are concatenated over processes. `of`
    evaluates the same formula on any rows of a `Pair` and reuses what the pair has cached: the intervals are
    computed in this way. The first instance imports torchmetrics, see `deferred`.

    Args:
        judge: class judge, for measures whose `needs` is 'judge'.
        neighbours: k of the nearest-neighbour measures.
        concepts: texts, for measures whose `needs` is 'concepts'.
        kwargs: as for any torchmetrics.Metric.

    >>> from difflab.metrics import METRICS
    >>> metric = METRICS["trace_ratio"]()
    >>> metric.update(torch.tensor([[0.0], [2.0]]), real=True)
    >>> metric.update(torch.tensor([[0.0], [1.0]]), real=False)
    >>> metric.compute()
    tensor(0.2500, dtype=torch.float64)
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    """What the number counts: 'share', 'nats', 'ratio', 'squared feature distance', ..."""
    range: ClassVar[tuple[float, float]]
    """Smallest and largest possible value. Intervals are clipped to it."""
    better: ClassVar[str]
    """'lower' | 'higher' | 'real' (best is the value between two sets of real images)."""
    topic: ClassVar[str] = "Other"
    """What the measure is about: one of `difflab.core.rows.TOPICS`. A report groups its curves by it."""
    needs: ClassVar[str] = "features"
    """'features' | 'judge' | 'concepts' | 'prompts' | 'train' | 'own' | 'detector'.

    'train' also reads the real images that the model was trained on. 'own' reads, in a run, the training set
    of the generation itself instead, samples included. 'detector' reads a probe in place of the judge, and
    in place of the training images those that give its threshold; see `difflab.metrics.detectors`.
    """
    extractor: ClassVar[str | None] = None
    """The extractor whose statistics it reads, one of `difflab.core.rows.STATISTICS`; None = all others."""
    min_n: ClassVar[int] = 2
    """Fewest images on either side. The nearest-neighbour measures need `neighbours` + 1."""
    directions: ClassVar[tuple[str, ...]] = ()
    """The sides ('real', 'fake') of which only the direction of each row is read.

    Rows of length 0 are left out, see `note`.
    """

    is_differentiable = False
    full_state_update = False

    real: list[Tensor] | Tensor
    fake: list[Tensor] | Tensor
    real_labels: list[Tensor] | Tensor
    fake_labels: list[Tensor] | Tensor
    trained: list[Tensor] | Tensor
    width: Tensor

    def __init__(
        self, judge: Judge | None = None, neighbours: int = 5, concepts: Concepts | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.judge = judge
        self.neighbours = neighbours
        self.concepts = concepts
        # A process without images syncs a flat, empty tensor of the metric's dtype, and torchmetrics gathers
        # only tensors of equal rank and dtype. Rows are therefore stored flat, labels as floats (exact up to
        # 2^24), and the width separately.
        for state in STATES:
            self.add_state(state, [], dist_reduce_fx="cat")
        self.add_state("width", torch.zeros((), dtype=torch.long), dist_reduce_fx="max")

    def update(self, features: Tensor, real: bool, labels: Tensor | None = None, train: bool = False) -> None:
        """Add `features` [n, d] of one side, with `labels` int64 [n] where that side has classes. Raises
        MeasureError.

        With `train` they are of images that the model was trained on; `real` and `labels` are then ignored.
        """
        if features.ndim != 2:
            raise MeasureError(f"features have shape {tuple(features.shape)}; a measure needs [n, d]")
        if len(features) == 0:
            return
        if int(self.width) not in (0, features.shape[1]):
            raise MeasureError(
                f"features have {features.shape[1]} dimensions after rows of {int(self.width)}: take all "
                "with one extractor"
            )
        side = "trained" if train else "real" if real else "fake"
        labels = None if train else checked_labels(side, labels, len(features))
        self.width.fill_(features.shape[1])
        getattr(self, side).append(features.detach().to(self.device, self.dtype).flatten())
        if labels is not None:
            getattr(self, f"{side}_labels").append(labels.to(self.device, self.dtype))

    def compute(self) -> Tensor:
        """The measure over all rows so far, a float64 scalar.

        Raises MeasureError with the reason where it has no value.
        """
        states = {state: self._gathered(state) for state in STATES}
        width = max(int(self.width), 1)
        real, fake, train = (states[side].view(-1, width) for side in ("real", "fake", "trained"))
        labels = {
            side: states[side].round().long() if len(states[side]) else None
            for side in ("real_labels", "fake_labels")
        }
        pair = Pair(
            real,
            fake,
            judge=self.judge,
            neighbours=self.neighbours,
            concepts=self.concepts,
            train=train,
            **labels,
        )
        value, note = self.of(pair), self.note(pair)
        if note:
            warnings.warn(f"{self.name}: {note}", stacklevel=2)
        return torch.tensor(value, dtype=torch.float64, device=self.device)

    def _gathered(self, state: str) -> Tensor:
        rows = getattr(self, state)  # a list of parts; one tensor after a sync
        if isinstance(rows, Tensor):
            return rows
        return torch.cat(rows) if rows else torch.zeros(0, device=self.device, dtype=self.dtype)

    @classmethod
    def of(cls, pair: Pair, rows_real: Tensor | None = None, rows_fake: Tensor | None = None) -> float:
        """The measure on these rows of `pair` (None = all), reusing the pair's cached matrices.

        Rows that the measure cannot read are left out, see `note`. Raises MeasureError when there are too few
        rows, when labels or a judge are missing, or when the result is not finite.
        """
        value = float(cls.evaluate(pair, *cls._read(pair, rows_real, rows_fake)))
        if not abs(value) < float("inf"):
            raise MeasureError(
                f"{cls.name} came out as {value}: the features are too large or degenerate for it"
            )
        return value

    @classmethod
    def _read(
        cls, pair: Pair, rows_real: Tensor | None = None, rows_fake: Tensor | None = None
    ) -> list[Rows]:
        """The rows of either side that the measure reads. Raises MeasureError when there are too few."""
        rows = {"real": rows_real, "fake": rows_fake}
        for side in rows:
            if side in cls.directions and not pair.directed[side].all():
                directed, drawn = pair.directed[side], rows[side]
                rows[side] = directed.nonzero().squeeze(1) if drawn is None else drawn[directed[drawn]]
            chosen = rows[side]
            n = len(getattr(pair, side)) if chosen is None else len(chosen)
            if n < cls.least(pair):
                why = cls.note(pair) or "give more (in a run sample.count, measure.count or data.held_out)"
                raise MeasureError(
                    f"{cls.name} needs at least {cls.least(pair)} {side} images, got {n}: {why}"
                )
        return [_all_or(rows["real"]), _all_or(rows["fake"])]

    @classmethod
    def note(cls, pair: Pair) -> str | None:
        """How many rows of the pair this measure leaves out, and why; None = it reads all of them.

        >>> from difflab.metrics import METRICS
        >>> fake = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> METRICS["vendi"].note(Pair(torch.eye(3), fake))
        '1 of 3 images have features of length 0, hence no direction, and are left out'
        """
        names = {"real": "real images", "fake": "images"}
        notes = []
        for side in cls.directions:
            directed = pair.directed[side]
            n_without = int((~directed).sum())
            if n_without:
                notes.append(f"{n_without} of {len(directed)} {names[side]} {NO_DIRECTION}")
        return "; ".join(notes) or None

    @classmethod
    def least(cls, pair: Pair) -> int:
        """Fewest images on either side that this measure takes under the pair's settings."""
        return cls.min_n

    @classmethod
    def counted(cls, pair: Pair) -> int | None:
        """How many images the value is a share of, for Wilson's interval; None = it is not a share.

        >>> from difflab.metrics import METRICS
        >>> pair = Pair(torch.zeros(3, 1), torch.zeros(4, 1))
        >>> [METRICS[name].counted(pair) for name in ("precision", "recall", "density")]
        [4, 3, None]
        """
        return {"share of samples": len(pair.fake), "share of real images": len(pair.real)}.get(cls.unit)

    @classmethod
    @abstractmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        """The formula, on rows `real` and `fake` of the pair. `of` has checked that there are enough."""

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence | None:
        """The influence of each of the rows `real` and `fake` on the measure, for its standard error.

        None, as here, = the error comes from half-samples. A smooth measure gives it: that is exact to
        first order, and costs no resampling.
        """
        return None

    @classmethod
    def influence_of(cls, pair: Pair) -> Influence | None:
        """The influence of every image of the pair, 0 for those that the measure leaves out; None = unknown.

        >>> from difflab.metrics import METRICS
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> METRICS["trace_ratio"].influence_of(Pair(x, 2 * x)).fake.sign().tolist()
        [1.0, -1.0, -1.0, 1.0]
        """
        real, fake = cls._read(pair)
        influence = cls.influence(pair, real, fake)
        if influence is None:
            return None
        return influence.spread_over(len(pair.real), len(pair.fake), real, fake)


def _all_or(rows: Tensor | None) -> Rows:
    return slice(None) if rows is None else rows


class _Table(dict[str, type[PairMetric]]):
    def __missing__(self, name: str) -> type[PairMetric]:
        raise MeasureError(f"unknown measure '{name}'; {nearest(name, sorted(self))}")


METRICS: dict[str, type[PairMetric]] = _Table()
"""Every measure by name. An unknown name raises MeasureError with the nearest and all known ones."""
M = TypeVar("M", bound=type[PairMetric])


def measure(name: str) -> Callable[[M], M]:
    """Class decorator: enter a PairMetric into METRICS under `name`.

    A class of the same name replaces the one that is there, as when the cell of a notebook runs again. Raises
    ValueError for a class of another name.
    """

    def enter(cls: M) -> M:
        if name in METRICS and METRICS[name].__qualname__ != cls.__qualname__:
            raise ValueError(
                f"measure '{name}' is defined twice: {METRICS[name].__qualname__} and {cls.__qualname__}"
            )
        cls.name = name
        cls.higher_is_better = {"higher": True, "lower": False, "real": None}[cls.better]
        METRICS[name] = cls
        return cls

    return enter
