"""What every measure shares: the pair of feature sets, the base class, the table of names.

A new measure is one small file: a subclass of `PairMetric` with an `evaluate`, under ``@measure("name")``.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from difflab.core.errors import MeasureError
from difflab.core.suggest import nearest

if TYPE_CHECKING:
    from difflab.metrics.classes import Judge
    from difflab.metrics.concepts import Concepts

T = TypeVar("T")
HELD = 2**31
"""Bytes of a matrix between all images that are kept for the resamples; a larger one is gone through in blocks, each time anew."""
PAIRS = 2**23
"""Distances that are worked on at a time."""
COPY = 1e-12
"""Squared distance, relative to the squared norms, under which two rows of float32 features count as one."""
Rows = Tensor | slice
"""Rows of one side: int64 indices without duplicates, or ``slice(None)`` for all of them."""


def squared_distances(x_ND: Tensor, y_MD: Tensor, block: int = 1024) -> Tensor:
    """Squared Euclidean distances, float32 [N, M], to about 1e-6 relative; half the work where both sides are one and the same tensor.

    |x|^2 + |y|^2 - 2xy of the centred rows, by a product in float32 over `block` rows of x at a time. It cancels where a pair is near:
    pairs nearer than half of what their norms allow (a quarter, squared) are therefore taken one by one from the differences, in
    float64. Where these are more than a 32nd of a block, as in few dimensions, or where torch may round float32 products further
    (a GPU, `torch.set_float32_matmul_precision`), or for float64 features, the products are float64 instead.
    Besides the result and the features once more, memory is bounded by a few blocks, which shrink with M: 200 MB. Pairs closer
    than float32 features can tell apart (relative to their norms) are exactly 0, so that copies of an image have distance 0
    whatever the rounding.

    >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]])
    """
    out = torch.empty(len(x_ND), len(y_MD), dtype=torch.float32, device=x_ND.device)
    same, start = x_ND is y_MD, 0
    for part in _distances(x_ND, y_MD, block, triangle=same):
        stop = start + len(part)
        out[start:stop, -part.shape[1] :] = part
        if same:  # (i, j) may be near by a rounding where (j, i) is not
            own = out[start:stop, start:stop].triu()
            out[start:stop, start:stop] = own + own.triu(1).T
            out[stop:, start:stop] = out[start:stop, stop:].T
        start = stop
    return out


def _distances(x_ND: Tensor, y_MD: Tensor, block: int, triangle: bool = False) -> Iterator[Tensor]:
    """`squared_distances` in blocks of some rows of x, in order; with `triangle` only the columns from the block's first row on."""
    same = x_ND is y_MD
    x_ND, y_MD = (side if side.dtype == torch.float64 else side.float() for side in (x_ND, y_MD))
    shift = y_MD.mean(0)  # distances do not depend on it, cancellation in x^2 + y^2 - 2xy does
    order = (
        y_MD[:block].var(0, correction=0).argsort()
    )  # a product is summed in this order: what is large last, so rounded least often

    def centred(features: Tensor) -> tuple[Tensor, Tensor]:
        rows = (features.to(dtype) - shift.to(dtype)).index_select(1, order)
        return rows, torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()

    def product() -> tuple[Tensor, Tensor]:
        # |x|^2 + |y|^2 is rounded pair by pair: norms rounded row by row would leave errors that no mean over pairs evens out.
        squared = torch.add(x_norm.unsqueeze(1), y_norm[left:], out=x.new_empty(len(x), len(y) - left))
        quarter = squared * 0.25
        return squared.addmm_(x, y[left:].T, alpha=-2), quarter

    block = min(block, 1 + PAIRS // (1 + len(y_MD)))
    exact = (
        torch.float64 in (x_ND.dtype, y_MD.dtype)
        or y_MD.device.type != "cpu"
        or torch.get_float32_matmul_precision() != "highest"
    )
    dtype = torch.float64 if exact else torch.float32
    y, y_norm = centred(y_MD)
    for start in range(0, len(x_ND), block):
        rows, left = slice(start, start + block), start if triangle else 0
        x, x_norm = (y[rows], y_norm[rows]) if same else centred(x_ND[rows])
        squared, quarter = product()
        if not exact:
            near = squared < quarter
            if exact := 32 * int(near.count_nonzero()) > near.numel():
                dtype = torch.float64
                (x, x_norm), (y, y_norm) = centred(x_ND[rows]), centred(y_MD)
                squared, quarter = product()
        if exact:
            squared = squared.where(squared > 4 * COPY * quarter, 0).float()
        else:
            i, j = near.nonzero(as_tuple=True)
            apart = _apart(x_ND[rows], y_MD[left:], i, j)
            squared[i, j] = apart.where(apart > COPY * (x_norm[i] + y_norm[left:][j]), 0).float()
        yield squared


def _apart(x_ND: Tensor, y_MD: Tensor, i: Tensor, j: Tensor, block: int = 256) -> Tensor:
    """Squared distance of each pair x[i], y[j], float64, from the differences."""
    pairs = zip(i.split(block), j.split(block), strict=True)
    return torch.cat(
        [(x_ND[rows].double() - y_MD[columns].double()).square_().sum(1) for rows, columns in pairs]
    )


def scatter(blocks: Iterable[Tensor], step: int = 512) -> Tensor:
    """Sum of B'B over `blocks` of rows [b, d], as a matrix [d, d] of which only the lower triangle holds: what Cholesky and eigvalsh read.

    >>> scatter([torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])]).tril()
    tensor([[1., 0.],
            [2., 5.]])
    """
    total = torch.zeros(())
    for rows in blocks:
        d = rows.shape[1]
        total = total if total.ndim else rows.new_zeros(d, d)
        for start in range(0, d, step):
            own, until = slice(start, start + step), slice(0, start + step)
            total[own, until].addmm_(rows[:, own].T, rows[:, until])
    return total


class Pair:
    """Two feature sets and everything that several measures derive from them, each computed once, when first asked for.

    Args:
        real: features of real images [n_r, d], finite.
        fake: features of samples [n_f, d], finite, from the same extractor.
        real_labels: int64 [n_r], the class of each real image; None = unlabelled.
        fake_labels: int64 [n_f], the class each sample was asked for; None = unconditional.
        judge: the class judge that reads these features; None = no class measures.
        neighbours: k of precision, recall, density and coverage.
        concepts: the texts that the concept measures compare with; the labels are then positions in `concepts.names`.
        train: features of the images the model was trained on [n_t, d], finite; None = no memorisation measures.

    Memory of the cached matrices: 4 bytes times n_r*n_f for `rf`, n_r^2 for `rr`, n_f^2 for `ff`; measures that can do without them
    (through `distances`) do so above `HELD`.
    Raises MeasureError where the sets cannot be compared.

    >>> Pair(torch.zeros(3, 2), torch.ones(4, 2)).rf.shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_labels: Tensor | None = None,
        fake_labels: Tensor | None = None,
        judge: Judge | None = None,
        neighbours: int = 5,
        concepts: Concepts | None = None,
        train: Tensor | None = None,
    ) -> None:
        sides = {"real": real, "fake": fake} | ({} if train is None else {"train": train})
        for side, features in sides.items():
            if features.ndim != 2 or not features.is_floating_point():
                raise MeasureError(
                    f"{side} features have shape {tuple(features.shape)} and type {features.dtype}; a measure wants floats [n, d]"
                )
            bad = ~torch.isfinite(features).all(1)
            if bad.any():
                raise MeasureError(
                    f"{int(bad.sum())} of {len(features)} {side} rows hold NaN or infinity (first: row {int(bad.nonzero()[0])}); "
                    "look at those images and drop or remake them before measuring"
                )
            if features.shape[1] != real.shape[1]:
                raise MeasureError(
                    f"real features have {real.shape[1]} dimensions, {side} ones {features.shape[1]}: take both with one extractor"
                )
        if neighbours < 1:
            raise MeasureError(f"neighbours is {neighbours}; a k-nearest-neighbour measure wants at least 1")
        self.real, self.fake = real, fake
        self.real_labels = _labels("real", real_labels, len(real))
        self.fake_labels = _labels("fake", fake_labels, len(fake))
        self.judge = judge
        self.neighbours = neighbours
        self.concepts = concepts
        self._train = train
        self._once: dict[Callable[[Pair], Any], Any] = {}

    def once(self, derive: Callable[[Pair], T]) -> T:
        """``derive(self)``, computed at the first call and kept: how a measure caches what its resamples share."""
        if derive not in self._once:
            self._once[derive] = derive(self)
        return self._once[derive]

    @cached_property
    def rr(self) -> Tensor:
        """Squared distances between real images, float32 [n_r, n_r]."""
        return squared_distances(self.real, self.real)

    @cached_property
    def rf(self) -> Tensor:
        """Squared distances from real images to samples, float32 [n_r, n_f]."""
        return squared_distances(self.real, self.fake)

    def distances(self, rows: Rows, columns: Rows, sides: str = "rf", block: int = 1024) -> Iterator[Tensor]:
        """Squared distances of `sides` ('rf', 'rr', 'ff'), `rows` of the first to `columns` of the second: float32 [b, len(columns)].

        In blocks of some rows, in order, to be read only: off the matrix of that name where it may be held, else made block by block.
        """
        x, y = (self.real if side == "r" else self.fake for side in sides)
        if 4 * len(x) * len(y) > HELD:
            yield from _distances(x[rows], y[columns], block)
            return
        for part in getattr(self, sides)[rows].split(block):
            yield part if isinstance(columns, slice) else part.index_select(1, columns)

    @cached_property
    def ff(self) -> Tensor:
        """Squared distances between samples, float32 [n_f, n_f]."""
        return squared_distances(self.fake, self.fake)

    @cached_property
    def judged_real(self) -> Tensor:
        """The class the judge sees in each real image, int64 [n_r]."""
        return self.judge_of.predict(self.real)

    @cached_property
    def judged_fake(self) -> Tensor:
        """The class the judge sees in each sample, int64 [n_f]."""
        return self.judge_of.predict(self.fake)

    @cached_property
    def directed(self) -> dict[str, Tensor]:
        """Which rows of 'real' and 'fake' have a direction, bool [n]: all but those of length 0 (or too long for float64)."""
        lengths = {
            side: torch.linalg.vector_norm(getattr(self, side), dim=1, dtype=torch.float64)
            for side in ("real", "fake")
        }
        return {side: (length > 0) & torch.isfinite(length) for side, length in lengths.items()}

    @property
    def train(self) -> Tensor:
        """Features of the training images [n_t, d], n_t >= 1. Raises MeasureError where the pair was made without them."""
        if self._train is None or not len(self._train):
            raise MeasureError(
                "memorisation measures compare samples with the images the model was trained on: give Pair(..., train=features)"
            )
        return self._train

    @property
    def judge_of(self) -> Judge:
        """The class judge. Raises MeasureError where the pair was made without one."""
        if self.judge is None:
            raise MeasureError(
                "class measures need a judge; fit one with Judge.fit(train features, train labels, n_classes) on labelled real images"
            )
        return self.judge


def _labels(side: str, labels: Tensor | None, n: int) -> Tensor | None:
    if labels is None:
        return None
    if labels.shape != (n,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise MeasureError(
            f"{side} labels have shape {tuple(labels.shape)} and type {labels.dtype}; {n} images want integers [{n}]"
        )
    if n and int(labels.min()) < 0:
        raise MeasureError(
            f"{side} labels hold {int(labels.min())}; classes count from 0, and unlabelled means no labels at all"
        )
    return labels.long()


class PairMetric(Metric):
    """Base of every measure between real images and samples: a torchmetrics metric over features.

    `update` gathers rows, `compute` compares them; the states are concatenated over processes. `of` evaluates the same
    formula on any rows of a `Pair` and reuses what the pair has cached: that is how the intervals are made.

    Args:
        judge: class judge for measures whose `needs` is 'judge'.
        neighbours: k of the nearest-neighbour measures.
        concepts: texts for measures whose `needs` is 'concepts'.
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
    """Smallest and largest possible value; intervals are clipped to it."""
    better: ClassVar[str]
    """'lower' | 'higher' | 'real' (best where it is as between two sets of real images)."""
    needs: ClassVar[str] = "features"
    """'features' | 'judge' | 'concepts' | 'prompts' | 'texture' (features of the texture extractor) | 'train' (also the real images that the
    model was trained on) | 'own' (in a run the training set of the generation itself instead, samples and all)."""
    min_n: ClassVar[int] = 2
    """Fewest images on either side; the nearest-neighbour measures want `neighbours` + 1."""
    directions: ClassVar[tuple[str, ...]] = ()
    """The sides ('real', 'fake') of which only the direction of each row is read. Rows of length 0 have none: they are left out, see `note`."""

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
        # A process that got no images syncs a flat, empty tensor of the metric's dtype, and torchmetrics gathers only tensors of one
        # rank and dtype. So rows are stored flat, labels as floats (exact up to 2^24), and the width travels on its own.
        for side in ("real", "fake", "real_labels", "fake_labels", "trained"):
            self.add_state(side, [], dist_reduce_fx="cat")
        self.add_state("width", torch.zeros((), dtype=torch.long), dist_reduce_fx="max")

    def update(self, features: Tensor, real: bool, labels: Tensor | None = None, train: bool = False) -> None:
        """Add `features` [n, d] of one side, with `labels` int64 [n] where that side has classes. Raises MeasureError.

        With `train` they are of images the model was trained on, whatever `real` says; their labels are not read.
        """
        if features.ndim != 2:
            raise MeasureError(f"features have shape {tuple(features.shape)}; a measure wants [n, d]")
        if len(features) == 0:
            return
        if int(self.width) not in (0, features.shape[1]):
            raise MeasureError(
                f"features have {features.shape[1]} dimensions after rows of {int(self.width)}: take all with one extractor"
            )
        side = "trained" if train else "real" if real else "fake"
        labels = None if train else _labels(side, labels, len(features))
        self.width.fill_(features.shape[1])
        getattr(self, side).append(features.detach().to(self.device, self.dtype).flatten())
        if labels is not None:
            getattr(self, f"{side}_labels").append(labels.to(self.device, self.dtype))

    def compute(self) -> Tensor:
        """The measure over all rows seen so far, a float64 scalar. Raises MeasureError with the reason where there is none."""
        sides = {}
        for side in ("real", "fake", "real_labels", "fake_labels", "trained"):
            rows = getattr(self, side)
            sides[side] = (
                dim_zero_cat(rows) if len(rows) else torch.zeros(0, device=self.device, dtype=self.dtype)
            )
        width = max(int(self.width), 1)
        labels = {
            side: values.round().long() if len(values) else None
            for side, values in sides.items()
            if side.endswith("labels")
        }
        real, fake, train = (sides[side].view(-1, width) for side in ("real", "fake", "trained"))
        pair = Pair(
            real,
            fake,
            judge=self.judge,
            neighbours=self.neighbours,
            concepts=self.concepts,
            train=train,
            **labels,
        )
        value, left_out = self.of(pair), self.note(pair)
        if left_out:
            warnings.warn(f"{self.name}: {left_out}", stacklevel=2)
        return torch.tensor(value, dtype=torch.float64, device=self.device)

    @classmethod
    def of(cls, pair: Pair, rows_real: Tensor | None = None, rows_fake: Tensor | None = None) -> float:
        """The measure on these rows of `pair` (None = all), reusing the pair's cached matrices.

        Rows that the measure cannot read are left out, see `note`.
        Raises MeasureError when there are too few rows, when labels or a judge are missing, or when the result is not finite.
        """
        rows = {"real": rows_real, "fake": rows_fake}
        for side in rows:
            if side in cls.directions and not pair.directed[side].all():
                known = pair.directed[side]
                drawn = rows[side]
                rows[side] = known.nonzero().squeeze(1) if drawn is None else drawn[known[drawn]]
            chosen = rows[side]
            n = len(getattr(pair, side)) if chosen is None else len(chosen)
            if n < cls.least(pair):
                why = cls.note(pair) or "give more (in a run sample.count, measure.count or data.held_out)"
                raise MeasureError(
                    f"{cls.name} needs at least {cls.least(pair)} {side} images, got {n}: {why}"
                )
        value = float(cls.evaluate(pair, _all_or(rows["real"]), _all_or(rows["fake"])))
        if not abs(value) < float("inf"):
            raise MeasureError(
                f"{cls.name} came out as {value}: the features are too large or degenerate for it"
            )
        return value

    @classmethod
    def note(cls, pair: Pair) -> str | None:
        """How many rows of the pair this measure leaves out, and why; None = it reads all of them.

        >>> from difflab.metrics import METRICS
        >>> METRICS["vendi"].note(Pair(torch.eye(3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])))
        '1 of 3 images have features of length 0, hence no direction, and are left out'
        """
        names = {"real": "real images", "fake": "images"}
        lost = {side: int((~pair.directed[side]).sum()) for side in cls.directions}
        said = [
            f"{count} of {len(pair.directed[side])} {names[side]} have features of length 0, hence no direction, and are left out"
            for side, count in lost.items()
            if count
        ]
        return "; ".join(said) or None

    @classmethod
    def least(cls, pair: Pair) -> int:
        """Fewest images on either side that this measure takes under the pair's settings."""
        return cls.min_n

    @classmethod
    @abstractmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        """The formula, on rows `real` and `fake` of the pair; `of` has checked their numbers."""


def _all_or(rows: Tensor | None) -> Rows:
    return slice(None) if rows is None else rows


class _Table(dict[str, type[PairMetric]]):
    def __missing__(self, name: str) -> type[PairMetric]:
        raise MeasureError(f"unknown measure '{name}'; {nearest(name, sorted(self))}")


METRICS: dict[str, type[PairMetric]] = _Table()
"""Every measure by name. An unknown name raises MeasureError with the nearest and the known ones."""

M = TypeVar("M", bound=type[PairMetric])


def measure(name: str) -> Callable[[M], M]:
    """Class decorator: enter a PairMetric into METRICS under `name`. A class of the same name replaces it, as a notebook's cell does."""

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
