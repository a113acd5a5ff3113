"""Memorisation: `generalisation_score` (and `generalisation_score_own`), `auth_pct`, `ct`, `near_duplicates` against the training images; `repeats` and `spacing_ratio` among samples.

All but the last two need ``Pair(..., train=features)``: the images that the model was trained on, while ``pair.real`` is held out.
A model that copies comes nearer to its training images than held-out images do; one that blurs or breaks stays further away.
So neither end is good: read each number beside its floor, which has held-out images in the place of the samples (by
construction 0 for `ct` and .01 for `near_duplicates`).

The training set is taken as given: intervals are about the samples and the held-out images drawn. Distances are Euclidean.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.distances import squared_distances
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows
from difflab.metrics.precision_recall import _near_fake, _near_real, radii

COPIES = 0.01
"""Share of real images that the thresholds of `near_duplicates` and `repeats` call too near: what an honest model is expected to score."""


def nearest_real(samples: Tensor, real: Tensor, block: int = 512) -> tuple[Tensor, Tensor]:
    """Euclidean distance float32 [n] from each sample to its nearest real image, and that image's index int64 [n] (the first of equals).

    Built over `block` samples at a time: besides features in float64, memory stays below ``32 * block * len(real)`` bytes.
    Raises MeasureError for features of different widths and where there is no real image.

    >>> nearest_real(torch.tensor([[1.0], [9.0]]), torch.tensor([[0.0], [5.0]]))
    (tensor([1., 4.]), tensor([0, 1]))
    """
    if samples.ndim != 2 or real.ndim != 2 or samples.shape[1] != real.shape[1] or not len(real):
        raise MeasureError(
            f"nearest images are looked up between features [n, d] and [m, d] with m >= 1, got {tuple(samples.shape)} and {tuple(real.shape)}"
        )
    found = [squared_distances(part, real).min(1) for part in samples.split(block)] if len(samples) else []
    none = torch.zeros(0, device=samples.device)
    return torch.cat([none, *(f.values for f in found)]).sqrt(), torch.cat(
        [none.long(), *(f.indices for f in found)]
    )


def _fake_to_train(pair: Pair) -> tuple[Tensor, Tensor]:
    return nearest_real(pair.fake, pair.train)


def _real_to_train(pair: Pair) -> tuple[Tensor, Tensor]:
    return nearest_real(pair.real, pair.train)


class _Memorisation(PairMetric):
    needs = "train"
    better = "real"


@measure("generalisation_score")
class GeneralisationScore(_Memorisation):
    """Mean distance from a sample to its nearest training image (Shi et al. 2509.16499): 0 when all samples are copies.

    In the units of the features, so only comparable within one extractor, and smaller the more training images there are.
    ``pair.real`` is not read.

    >>> x = torch.tensor([[0.0], [4.0]])
    >>> GeneralisationScore.of(Pair(x, x + 1, train=x))
    1.0
    """

    unit = "feature distance"
    range = (0.0, float("inf"))

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(_fake_to_train)[0][fake].double().mean())


@measure("generalisation_score_own")
class GeneralisationScoreOwn(GeneralisationScore):
    """`generalisation_score` against the images that this generation itself was trained on: mean distance to the nearest (Shi et al. 2509.16499).

    The measure of the paper, where `generalisation_score` keeps to the real images that generation 0 learned from. In a loop without
    real images it tends to 0 as each model copies the samples of the one before: from generalisation to memorisation. A training set
    that shrinks into a small region brings it down as well; its floor, held-out images in the place of the samples, then rises.

    >>> x = torch.tensor([[0.0], [4.0]])
    >>> GeneralisationScoreOwn.of(Pair(x, x + 1, train=x + 3))
    2.0
    """

    needs = "own"


def _authentic(pair: Pair) -> Tensor:
    """bool [n_f]: the sample lies further from its nearest training image than that image from its own nearest other one."""
    train, (distance, index) = pair.train, pair.once(_fake_to_train)
    if len(train) < 2:
        raise MeasureError(
            f"auth_pct compares training images with each other and wants at least 2, got {len(train)}"
        )
    hit, back = index.unique(
        return_inverse=True
    )  # of 50,000 training images only those that some sample is near
    own = []
    for part in hit.split(256):
        to_all = squared_distances(train[part], train)
        to_all[torch.arange(len(part), device=train.device), part] = float(
            "inf"
        )  # by index: a duplicate is a neighbour
        own.append(to_all.min(1).values)
    return distance > torch.cat(own).sqrt()[back]


@measure("auth_pct")
class AuthPct(_Memorisation):
    """Share of authentic samples: further from their nearest training image than that one is from its nearest other.

    Alaa et al. 2102.08921; times 100 it is the AuthPct of dgm-eval. Copies score 0, but samples far from all
    data score 1, so that more is not better than the floor. ``pair.real`` is not read.

    >>> train = torch.tensor([[0.0], [1.0]])
    >>> AuthPct.of(Pair(train, torch.tensor([[0.0], [0.4], [1.9], [3.0]]), train=train))
    0.25
    """

    unit = "share of samples"
    range = (0.0, 1.0)

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(_authentic)[fake].double().mean())


def _null_deviation(pair: Pair) -> float:
    """Standard deviation, when both sides are alike, of the share of pairs that `ct` counts; ties make it smaller."""
    both = torch.cat([pair.once(_real_to_train)[0], pair.once(_fake_to_train)[0]])
    n, m, total = len(pair.real), len(pair.fake), len(both)
    tied = both.unique(return_counts=True)[1].double()
    left = total + 1 - float((tied**3 - tied).sum()) / (total * (total - 1))
    if left < 1e-9:
        raise MeasureError(
            f"ct has no value: samples and held-out images all lie at distance {float(both[0]):g} from the training images"
        )
    return (left / (12 * n * m)) ** 0.5


@measure("ct")
class CT(_Memorisation):
    """C_T of Meehan et al. 2004.05675 in a single cell: do samples lie nearer to the training images than held-out ones do?

    The Mann-Whitney U of the two sets of nearest distances as a z-score: about N(0, 1) for an honest model, far below 0 for
    one that copies, far above 0 for one that underfits. It grows as sqrt(n): compare equal n. Ties count one half and shrink
    the null deviation accordingly; there is no continuity correction. (The authors' code and dgm-eval shift z by a constant
    1/2 pair and ignore ties; dgm-eval also averages three k-means cells on 64 principal components.)

    On rows of a pair the deviation stays that of the whole pair, so that half-samples spread as the whole does.

    >>> train = torch.zeros(1, 1)
    >>> round(CT.of(Pair(torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0], [2.0]]), train=train)), 4)
    -1.5492
    """

    unit = "standard deviations"
    range = (-float("inf"), float("inf"))

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        held_out, sampled = (
            pair.once(_real_to_train)[0][real].sort().values,
            pair.once(_fake_to_train)[0][fake].contiguous(),
        )
        below, not_above = (
            torch.searchsorted(held_out, sampled),
            torch.searchsorted(held_out, sampled, right=True),
        )
        return float((below + not_above).double().mean() / (2 * len(held_out)) - 0.5) / pair.once(
            _null_deviation
        )


def _too_near(distances: Tensor) -> float:
    """The distance that a further image of the same kind falls short of with probability `COPIES`.

    Among n + 1 exchangeable distances the last is at most the r-th smallest of the others with probability r / (n + 1); between
    those the quantile is linear (Weibull's). Below 99 distances the smallest one stands in, reached with probability 1 / (n + 1).
    """
    return float(np.quantile(distances.double().cpu().numpy(), COPIES, method="weibull"))


@measure("near_duplicates")
class NearDuplicates(_Memorisation):
    """Share of samples that are as near to a training image as only 1% of held-out images are; exact copies always are.

    So an honest model scores .01 (1/(n + 1) below n = 99 held-out images), whatever the extractor; more where the data hold
    over 1% exact duplicates. The threshold comes from the held-out rows, and the interval includes its noise.

    >>> train = torch.arange(200.0).view(-1, 1)
    >>> NearDuplicates.of(Pair(train + 0.3, torch.tensor([[5.0], [7.1], [9.4], [11.5]]), train=train))
    0.5
    """

    unit = "share of samples"
    range = (0.0, 1.0)

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(
            (pair.once(_fake_to_train)[0][fake] <= _too_near(pair.once(_real_to_train)[0][real]))
            .double()
            .mean()
        )


def _nearest_among(pair: Pair, real: Rows, fake: Rows) -> tuple[Tensor, Tensor]:
    """Squared distance of each real image to the nearest other one, and of each sample to the nearest other one, over equally many of both."""
    chosen_real, chosen_fake = (
        torch.arange(len(x), device=x.device)[rows] for x, rows in ((pair.real, real), (pair.fake, fake))
    )
    n = min(len(chosen_real), len(chosen_fake))
    return radii(pair.real, pair.once(_near_real), chosen_real[:n], 1), radii(
        pair.fake, pair.once(_near_fake), chosen_fake[:n], 1
    )


@measure("repeats")
class Repeats(PairMetric):
    """Share of samples that are as near to another sample as only 1% of real images are to another real one: a few images repeat.

    An honest model scores about .01 (2/n below n = 200); exact repeats always count. Nearest distances shrink with n, so of a
    larger side only as many rows are read as the other side has. Needs no training images.

    >>> real = torch.arange(200.0).view(-1, 1) ** 2
    >>> Repeats.of(Pair(real, torch.cat([real[2:150], real[150:152].repeat(26, 1)])))
    0.26
    """

    unit = "share of samples"
    range = (0.0, 1.0)
    better = "real"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        among_real, among_fake = _nearest_among(pair, real, fake)
        pairs = among_real.sort().values[
            1::2
        ]  # two images that near are each other's nearest: such distances come twice, the order statistics once
        return float((among_fake <= _too_near(pairs)).double().mean())


@measure("spacing_ratio")
class SpacingRatio(PairMetric):
    """Median distance from a sample to the nearest other sample, over the same among real images: 1 = as far apart, 0 = repeats.

    Where more than half of the samples have a twin it drops to what tells twins apart, noise say, however near real images may come to
    each other, which `repeats` has to allow for. It shrinks with anything that narrows the set, blur too. Nearest distances
    shrink with n, so of a larger side only as many rows are read as the other side has.

    >>> real = torch.arange(20.0).view(-1, 1)
    >>> SpacingRatio.of(Pair(real, torch.cat([real[:10], real[:10] + 0.125])))
    0.125
    """

    unit = "ratio"
    range = (0.0, float("inf"))
    better = "real"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        among_real, among_fake = _nearest_among(pair, real, fake)
        whole = math.sqrt(float(among_real.median()))
        if whole == 0:
            raise MeasureError(
                "spacing_ratio has no value: more than half of the real images are exact copies of another one"
            )
        return math.sqrt(float(among_fake.median())) / whole
