"""Measures of spread: in total, per principal direction, within and between classes, and within a prompt.

`trace_ratio`, `logdet_ratio`, `within_class_ratio`, `between_class_ratio`, `prompt_diversity`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.influence import Influence
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows

RESOLVED = 1e-10
"""Smallest variance, relative to the largest, that counts as one."""
ROUNDING = 1e-12
"""Share of the total variance below which a part of it is 0."""


def trace_of_covariance(x_ND: Tensor) -> float:
    """Total variance of rows [n, d]: the trace of the covariance divided by n, in float64.

    >>> trace_of_covariance(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    5.0
    """
    return float(x_ND.double().var(0, correction=0).sum())


@measure("trace_ratio")
class TraceRatio(PairMetric):
    """Total variance of the samples divided by that of the real images: 1 = equal spread, 0 = all samples
    are one point.

    Both variances are divided by n. Use the same n on both sides, as the default `measure.count` does;
    otherwise the ratio is off by a factor (1 - 1/n_f)/(1 - 1/n_r). A bootstrap memoriser, measured
    against its own training set of n images, falls as (1 - 1/n)^t in any feature space. Total variance
    reacts slowly to lost modes (Alemohammad et al. 2307.01850); `recall` reacts faster.

    >>> TraceRatio.of(Pair(torch.tensor([[0.0], [4.0]]), torch.tensor([[0.0], [2.0]])))
    0.25
    """

    unit = "ratio"
    range = (0.0, float("inf"))
    better = "real"
    topic = "Diversity"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        whole = trace_of_covariance(pair.real[real])
        if whole == 0:
            raise MeasureError(
                "trace_ratio has no value: the real images are all the same in this feature space"
            )
        return trace_of_covariance(pair.fake[fake]) / whole

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        x, y = (_squared_deviations(side) for side in (pair.real[real], pair.fake[fake]))
        return ratio_influence(x, y)


def ratio_influence(x_N: Tensor, y_M: Tensor) -> Influence:
    """Influences on mean(y) / mean(x), from one number for each image."""
    ratio = y_M.mean() / x_N.mean()
    return Influence.of(-ratio * x_N / x_N.mean(), y_M / x_N.mean())


def _squared_deviations(x_ND: Tensor) -> Tensor:
    """Squared distance of each row from the mean, float64 [n]."""
    return (x_ND.double() - x_ND.double().mean(0)).square().sum(1)


class _ByClass(PairMetric):
    """A part of the total variance that depends on the classes: samples divided by real images."""

    unit = "ratio"
    range = (0.0, float("inf"))
    better = "real"
    topic = "Diversity"

    @staticmethod
    def part(x_ND: Tensor, labels_N: Tensor) -> float:
        raise NotImplementedError

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        if pair.real_labels is None or pair.fake_labels is None:
            raise MeasureError(
                f"{cls.name} has no value: it needs the class of every real image and of every sample"
            )
        whole = cls.part(pair.real[real], pair.real_labels[real])
        if whole == 0:
            raise MeasureError(
                f"{cls.name} has no value: this variance of the real images is 0 in this feature space"
            )
        return cls.part(pair.fake[fake], pair.fake_labels[fake]) / whole

    @staticmethod
    def derivative(total_N: Tensor, within_N: Tensor) -> Tensor:
        """Of `part` in the direction of each image, from its squared distances to the mean of all and to
        that of its class.
        """
        raise NotImplementedError

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        assert pair.real_labels is not None and pair.fake_labels is not None
        x = cls.derivative(*_deviations(pair.real[real], pair.real_labels[real]))
        y = cls.derivative(*_deviations(pair.fake[fake], pair.fake_labels[fake]))
        return ratio_influence(x, y)


@measure("within_class_ratio")
class WithinClassRatio(_ByClass):
    """Variance within classes, samples divided by real images: the total variance of each class, averaged
    over images. 1 = as varied, 0 = one image per class.

    Each class is weighted by its own number of images on either side. Distances between classes do not
    enter. They keep `trace_ratio` high while each class narrows (within-class variance collapse: Dohmatob
    et al. 2402.07712, sec. 3). Raises MeasureError where either side has no labels.

    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> real = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    >>> fake = torch.tensor([[0.5], [1.5], [10.5], [11.5]])
    >>> WithinClassRatio.of(Pair(real, fake, real_labels=labels, fake_labels=labels))
    0.25
    """

    @staticmethod
    def part(x_ND: Tensor, labels_N: Tensor) -> float:
        return _parts(x_ND, labels_N)[0]

    @staticmethod
    def derivative(total_N: Tensor, within_N: Tensor) -> Tensor:
        return within_N


@measure("between_class_ratio")
class BetweenClassRatio(_ByClass):
    """Variance between classes, samples divided by real images: how far the class means lie apart. 1 = as
    far apart, 0 = samples of all classes look the same on average.

    The classes of samples are those they were conditioned on. Each class is weighted by its own number of
    images on either side. A value near 0 means that modes have merged (Shumailov et al. 2305.17493;
    Schaeffer et al. 2503.03150, definition 6). Variance within and between classes add up to the total
    variance that `trace_ratio` compares. The mean of a class of n images has noise of 1/n of the variance
    within the class, so compare with the floor. Raises MeasureError where either side has no labels.

    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> real, fake = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([[0.0], [2.0], [5.0], [7.0]])
    >>> BetweenClassRatio.of(Pair(real, fake, real_labels=labels, fake_labels=labels))
    0.25
    """

    topic = "Concepts"

    @staticmethod
    def part(x_ND: Tensor, labels_N: Tensor) -> float:
        return _parts(x_ND, labels_N)[1]

    @staticmethod
    def derivative(total_N: Tensor, within_N: Tensor) -> Tensor:
        return total_N - within_N


def _deviations(x_ND: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance of each row from the mean of all rows and from that of its class, float64 [n] each."""
    x = x_ND.double()
    _, number, count = labels_N.unique(return_inverse=True, return_counts=True)
    means = x.new_zeros(len(count), x.shape[1]).index_add_(0, number, x) / count.unsqueeze(1)
    return _squared_deviations(x), (x - means[number]).square().sum(1)


def _parts(x_ND: Tensor, labels_N: Tensor) -> tuple[float, ...]:
    """Pooled variance within classes and variance of the class means (both divided by n), in float64. They
    add up to the total.
    """
    x = x_ND.double() - x_ND.double().mean(0)
    _, number, count = labels_N.unique(return_inverse=True, return_counts=True)
    total = x.new_zeros(len(count), x.shape[1]).index_add_(0, number, x)
    whole, between = float(x.square().sum()), float((total.square().sum(1) / count).sum())
    return tuple(part / len(x) if part > ROUNDING * whole else 0.0 for part in (whole - between, between))


@measure("prompt_diversity")
class PromptDiversity(PairMetric):
    """Mean squared distance between samples of one prompt, divided by that between any two samples: 0 = one
    image per prompt, 1 = the prompt does not affect the image.

    The labels are what each sample was conditioned on: its caption in text-to-image runs, else its class.
    The mean is taken over the pairs of each prompt, then over the prompts with at least two samples.
    Compare with the floor, which has real images as samples and exists where their captions repeat.
    Diversity is usually read from pairs of one prompt (LPIPS: Zhu et al. 1711.11586; similarity: Sadat et
    al. 2310.17347). Between features of unit length a squared distance is 2 - 2 cosine.

    `within_class_ratio` divides by real images of the same class instead, which a unique caption does not
    have, and it depends on scale. This ratio does not change when all samples shrink together. Raises
    MeasureError where no two samples share a prompt.

    >>> x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    >>> # 4 over (2 * 4 + 2 * 100 + 64 + 144) / 6
    >>> round(PromptDiversity.of(Pair(x, x, fake_labels=torch.tensor([0, 0, 1, 1]))), 4)
    0.0577
    """

    unit = "ratio"
    range = (0.0, float("inf"))
    better = "real"
    topic = "Diversity"
    needs = "prompts"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        if pair.fake_labels is None:
            raise MeasureError("prompt_diversity has no value: the samples are unconditional")
        x, prompts = pair.fake[fake].double(), pair.fake_labels[fake]
        _, number, count = prompts.unique(return_inverse=True, return_counts=True)
        if int(count.max()) < 2:
            raise MeasureError(
                f"prompt_diversity has no value: each of {len(x)} samples has a prompt of its own; raise "
                "sample.count"
            )
        # Half of the mean squared distance between two samples. `within` below is half of it too.
        whole = float((x - x.mean(0)).square().sum()) / (len(x) - 1)
        if whole == 0:
            raise MeasureError(
                "prompt_diversity has no value: the samples are all the same in this feature space"
            )
        means = x.new_zeros(len(count), x.shape[1]).index_add_(0, number, x) / count.unsqueeze(1)
        within = x.new_zeros(len(count)).index_add_(0, number, (x - means[number]).square().sum(1))
        several = count > 1
        return float((within[several] / (count[several] - 1)).mean()) / whole


def principal_directions(x_ND: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest variances of rows [n, d] (divided by n), float64 [k], in falling order, and their
    directions [d, k].

    Fewer than k where the rows have no more. Computed from the d x d covariance or the n x n Gram matrix,
    whichever is smaller: min(n, d)^3 operations.

    >>> principal_directions(torch.tensor([[0.0, 0.0], [0.0, 4.0]]), 2)[0]
    tensor([4.], dtype=torch.float64)
    """
    x = x_ND.double()
    rounding = torch.finfo(torch.float32).eps ** 2 * x.square().mean()
    x = x - x.mean(0)
    wide = len(x) < x.shape[1]
    values, vectors = _falling((x @ x.T if wide else x.T @ x) / len(x), rounding, k)
    return values, x.T @ vectors / (values * len(x)).sqrt() if wide else vectors


def _falling(matrix: Tensor, rounding: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k eigenvalues above `rounding` and `RESOLVED`, in falling order, with their eigenvectors as
    columns.
    """
    values, vectors = (result.flip(-1) for result in torch.linalg.eigh(matrix))
    kept = ((values > RESOLVED * values[:1]) & (values > rounding)).nonzero().squeeze(1)[:k]
    return values[kept], vectors[:, kept]


def _in_span_of_real(pair: Pair, block: int = 4096) -> tuple[Tensor, Tensor]:
    """Real images [n_r, r] and samples [n_f, r] in an orthonormal basis of the span of the real images, r <=
    min(n_r, d).

    Principal directions of any subset of the real images lie in that span. Wide features are read once,
    `block` columns at a time.
    """
    n, d = pair.real.shape
    if n > d:
        return pair.real, pair.fake
    gram, cross = (
        torch.zeros(len(side), n, dtype=torch.float64, device=side.device) for side in (pair.real, pair.fake)
    )
    square = torch.zeros((), dtype=torch.float64, device=gram.device)
    for x, y in zip(pair.real.split(block, 1), pair.fake.split(block, 1), strict=True):
        x, y, mean = x.double(), y.double(), x.double().mean(0)
        square += x.square().sum() / (n * d)
        gram.addmm_(x - mean, (x - mean).T)
        cross.addmm_(y - mean, (x - mean).T)
    values, vectors = _falling(gram / n, torch.finfo(torch.float32).eps ** 2 * square, n)
    length = (values * n).sqrt()
    return vectors * length, cross @ vectors / length


@measure("logdet_ratio")
class LogdetRatio(PairMetric):
    """Mean over the leading principal directions of the real images of ln(variance of samples / variance of
    real images), in nats per direction. 0 = equal sets.

    The value is ln a^2 when all samples are scaled by a. Every direction has the same weight, while
    `trace_ratio` is dominated by the first few. The number of directions is k = min(d, n_r // 10), or
    fewer where the real images have no more, so that the value is also finite for n < d. On rows of a pair
    k remains that of the whole pair, so that half-samples have as many directions. Variances are divided
    by n: use the same n on both sides, as the default `measure.count` does.

    Bias: the directions come from these real images. Between two samples of N(0, I_d) with n = n_r = n_f
    >= 10 d the expectation is psi((n-1)/2) - mean_i psi((n-i)/2), i = 1..d, about d/2n (.05 at n = 10 d;
    twice that was measured for a falling spectrum). With k < d it is negative, since the leading
    variances are overestimated: measured at n = 200, d = 64: -.53 for equal true variances, -.13 for
    variances 1/j. The floor has the same bias.

    A lost direction changes the value by about ln(1/n) at most, and by less among directions of similar
    variance, whose directions n images determine only roughly. Copies of the real images keep it at 0: it
    measures spread only. Raises MeasureError where the samples have no variance at all in a direction.

    >>> x = torch.arange(20.0).view(20, 1); round(LogdetRatio.of(Pair(x, x / 2)), 4)  # ln 1/4
    -1.3863
    """

    unit = "nats per direction"
    range = (float("-inf"), float("inf"))
    better = "real"
    topic = "Diversity"
    min_n = 10

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        x, y = pair.once(_in_span_of_real)
        x, y = x[real], y[fake]
        whole, directions = principal_directions(x, min(x.shape[1], len(pair.real) // 10))
        if not len(whole):
            raise MeasureError(
                "logdet_ratio has no value: the real images are all the same in this feature space"
            )
        variances = ((y.double() - y.double().mean(0)) @ directions).square().mean(0)
        if (variances <= RESOLVED * whole).any():
            gone = int((variances <= RESOLVED * whole).sum())
            raise MeasureError(
                f"logdet_ratio is -infinity: the samples are all the same in {gone} of {len(whole)} "
                "principal directions of the real images"
            )
        return float((variances / whole).log().mean())
