"""Memorisation of the training images, and repetition among samples.

Against training images: `generalisation_score`, `generalisation_score_own`, `auth_pct`, `ct`,
`near_duplicates`. Among samples: `repeats`, `spacing_ratio`.

The measures against training images need ``Pair(..., train=features)``, the images that the model was
trained on, while ``pair.real`` is held out. Samples of a model that copies are nearer to its training
images than held-out images are. Blurred or broken samples are farther away. Neither extreme is good: read
each number beside its floor, which has held-out images in the place of the samples. By construction the
floor is 0 for `ct` and .01 for `near_duplicates`.

The training set is treated as fixed: intervals cover the choice of samples and held-out images. Distances
are Euclidean.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.distances import squared_distances
from difflab.metrics.influence import Influence
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows
from difflab.metrics.precision_recall import near_fake, near_real, radii

COPIES = 0.01
"""Share of real images below the thresholds of `near_duplicates` and `repeats`.

A model that neither copies nor repeats is expected to score this share.
"""

GAP = 20
"""Rank of the distance from which the spread of the smallest distance is read."""


def nearest_real(samples: Tensor, real: Tensor, block: int = 512) -> tuple[Tensor, Tensor]:
    """Euclidean distance float32 [n] from each sample to its nearest real image, and the index of that image
    int64 [n].

    The first of equal images counts. Computed over `block` samples at a time: besides features in
    float64, memory stays below ``32 * block * len(real)`` bytes. Raises MeasureError for features of
    different widths, and without a real image.

    >>> nearest_real(torch.tensor([[1.0], [9.0]]), torch.tensor([[0.0], [5.0]]))
    (tensor([1., 4.]), tensor([0, 1]))
    """
    if samples.ndim != 2 or real.ndim != 2 or samples.shape[1] != real.shape[1] or not len(real):
        raise MeasureError(
            f"nearest images need features [n, d] and [m, d] with m >= 1, got {tuple(samples.shape)} and "
            f"{tuple(real.shape)}"
        )
    distances = [torch.zeros(0, device=samples.device)]
    indices = [torch.zeros(0, dtype=torch.long, device=samples.device)]
    if len(samples):
        for part in samples.split(block):
            nearest = squared_distances(part, real).min(1)
            distances.append(nearest.values)
            indices.append(nearest.indices)
    return torch.cat(distances).sqrt(), torch.cat(indices)


def _fake_to_train(pair: Pair) -> tuple[Tensor, Tensor]:
    return nearest_real(pair.fake, pair.train)


def _real_to_train(pair: Pair) -> tuple[Tensor, Tensor]:
    return nearest_real(pair.real, pair.train)


def _of_samples(pair: Pair, real: Rows, values: Tensor) -> Influence:
    """On a mean of one value per sample. The training images are taken as given."""
    return Influence.of(torch.zeros_like(pair.real[real][:, 0]), values)


class _Memorisation(PairMetric):
    needs = "train"
    better = "real"
    topic = "Memorisation"


@measure("generalisation_score")
class GeneralisationScore(_Memorisation):
    """Mean distance from a sample to its nearest training image (Shi et al. 2509.16499): 0 when all samples
    are copies.

    The unit is that of the features, so values are comparable within one extractor only. They are smaller
    the more training images there are. ``pair.real`` is not read.

    >>> x = torch.tensor([[0.0], [4.0]])
    >>> GeneralisationScore.of(Pair(x, x + 1, train=x))
    1.0
    """

    unit = "feature distance"
    range = (0.0, float("inf"))

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(_fake_to_train)[0][fake].double().mean())

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        return _of_samples(pair, real, pair.once(_fake_to_train)[0][fake])


@measure("generalisation_score_own")
class GeneralisationScoreOwn(GeneralisationScore):
    """`generalisation_score` against the training set of the generation itself, samples included (Shi et al.
    2509.16499): 0 when all samples are copies.

    This is the measure of the paper. `generalisation_score` instead compares with the real images that
    generation 0 learned from. In a loop without real images it tends to 0, because each model copies the
    samples of the one before. A training set that shrinks into a small region also lowers it; its floor,
    which has held-out images as samples, then rises.

    >>> x = torch.tensor([[0.0], [4.0]])
    >>> GeneralisationScoreOwn.of(Pair(x, x + 1, train=x + 3))
    2.0
    """

    needs = "own"


def _authentic(pair: Pair) -> Tensor:
    """Whether a sample is farther from its nearest training image than that image from its own nearest other
    one, bool [n_f].
    """
    train, (distance, index) = pair.train, pair.once(_fake_to_train)
    if len(train) < 2:
        raise MeasureError(
            f"auth_pct compares training images with each other and needs at least 2, got {len(train)}"
        )
    # Of all training images only those are read that are the nearest of some sample.
    rows, position = index.unique(return_inverse=True)
    to_nearest = []
    for part in rows.split(256):
        to_all = squared_distances(train[part], train)
        # By index, not by distance 0: a duplicate is a neighbour.
        to_all[torch.arange(len(part), device=train.device), part] = float("inf")
        to_nearest.append(to_all.min(1).values)
    return distance > torch.cat(to_nearest).sqrt()[position]


@measure("auth_pct")
class AuthPct(_Memorisation):
    """Share of authentic samples: those farther from their nearest training image than that image is from
    its own nearest other one.

    Alaa et al. 2102.08921; times 100 it is the AuthPct of dgm-eval. Copies score 0, but samples far from
    all data score 1, so a value above the floor is not better. ``pair.real`` is not read.

    >>> train = torch.tensor([[0.0], [1.0]])
    >>> AuthPct.of(Pair(train, torch.tensor([[0.0], [0.4], [1.9], [3.0]]), train=train))
    0.25
    """

    unit = "share of samples"
    range = (0.0, 1.0)

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(_authentic)[fake].double().mean())

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        return _of_samples(pair, real, pair.once(_authentic)[fake])


def _above(distances: Tensor, others: Tensor) -> Tensor:
    """Twice the number of `others` below each distance, float64; equal ones count once."""
    ranked, distances = others.sort().values, distances.contiguous()
    below, not_above = (torch.searchsorted(ranked, distances, right=right) for right in (False, True))
    return (below + not_above).double()


def _null_deviation(pair: Pair) -> float:
    """Standard deviation, between equal distributions, of the share of pairs that `ct` counts. Ties make it
    smaller.
    """
    both = torch.cat([pair.once(_real_to_train)[0], pair.once(_fake_to_train)[0]])
    n, m, total = len(pair.real), len(pair.fake), len(both)
    tied = both.unique(return_counts=True)[1].double()
    variance = total + 1 - float((tied**3 - tied).sum()) / (total * (total - 1))
    if variance < 1e-9:
        raise MeasureError(
            f"ct has no value: samples and held-out images all lie at distance {float(both[0]):g} from the "
            "training images"
        )
    return (variance / (12 * n * m)) ** 0.5


@measure("ct")
class CT(_Memorisation):
    """C_T of Meehan et al. 2004.05675 with a single cell: whether samples lie nearer to the training images
    than held-out images do. Far below 0 = copies.

    The Mann-Whitney U of the two sets of nearest distances as a z-score: about N(0, 1) for a model that
    does not copy, far below 0 for one that does, far above 0 for one that underfits. It grows as sqrt(n),
    so compare at equal n. Ties count one half and reduce the null deviation accordingly. There is no
    continuity correction. (The authors' code and dgm-eval shift z by a constant of 1/2 pair and ignore
    ties; dgm-eval also averages over three k-means cells on 64 principal components.)

    On rows of a pair the deviation remains that of the whole pair, so that half-samples have the same
    scale.

    >>> train = torch.zeros(1, 1)
    >>> round(CT.of(Pair(torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0], [2.0]]), train=train)), 4)
    -1.5492
    """

    unit = "standard deviations"
    range = (-float("inf"), float("inf"))

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        held_out, sampled = pair.once(_real_to_train)[0][real], pair.once(_fake_to_train)[0][fake]
        share = float(_above(sampled, held_out).mean() / (2 * len(held_out)) - 0.5)
        return share / pair.once(_null_deviation)

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        """Of an image on the share of pairs: how many of the other side it lies above."""
        held_out, sampled = pair.once(_real_to_train)[0][real], pair.once(_fake_to_train)[0][fake]
        scale = 2 * pair.once(_null_deviation)
        of_real = -_above(held_out, sampled) / (scale * len(sampled))
        return Influence.of(of_real, _above(sampled, held_out) / (scale * len(held_out)))


def _too_near(distances: Tensor) -> float:
    """The distance that a further image of the same distribution falls below with probability `COPIES`.

    Among n + 1 exchangeable distances the last is at most the r-th smallest of the others with
    probability r / (n + 1). Between those the quantile is linear (Weibull's). For fewer than 99 distances
    it is the smallest one, which is reached with probability 1 / (n + 1).
    """
    return float(np.quantile(distances.double().cpu().numpy(), COPIES, method="weibull"))


def _threshold_influence(distances: Tensor, of_distances: Tensor, among_fake: Tensor) -> Tensor:
    """Influence of real images on the share of samples below `_too_near`, float64 like `of_distances`.

    The r-th smallest distance has a rank of about r +- sqrt(r). Half of the difference between the shares at
    these two ranks is the error. The images below the threshold have it in equal parts. Rank 0 is the
    smallest distance d_1 minus the gap from it to the `GAP`-th smallest.

    Args:
        distances: those that the threshold is a quantile of.
        of_distances: the distance of each image.
    """
    ranked, n = distances.double().sort().values, len(distances)
    rank = min(max(COPIES * (n + 1), 1.0), float(n))
    at_0 = (2 * ranked[:1] - ranked[:GAP][-1:]).clamp(min=0)
    thresholds = torch.cat([at_0, ranked])
    below_rank = torch.searchsorted(among_fake.double().sort().values, thresholds, right=True) / len(
        among_fake
    )
    ends = [rank - rank**0.5, rank + rank**0.5]
    low, high = np.interp(ends, np.arange(len(thresholds)), below_rank.tolist())
    below = (of_distances <= _too_near(distances)).double()
    influence = below - below.mean()
    length = float(influence.square().sum()) ** 0.5
    return influence * ((low - high) / 2 / length if length else 0.0)


@measure("near_duplicates")
class NearDuplicates(_Memorisation):
    """Share of samples at least as near to a training image as the nearest 1% of held-out images. Exact
    copies always count.

    A model that does not copy scores .01 (1/(n + 1) below n = 99 held-out images) with any extractor, and
    more where the data hold over 1% exact duplicates. The threshold comes from the held-out rows, and the
    interval includes its noise. Held-out images that are training images, or near copies of them, make the
    threshold too small: where more than 1% are equal, only exact copies count. So `difflab.compare` and
    `difflab.diagnose` leave such images out.

    >>> train = torch.arange(200.0).view(-1, 1)
    >>> NearDuplicates.of(Pair(train + 0.3, torch.tensor([[5.0], [7.1], [9.4], [11.5]]), train=train))
    0.5
    """

    unit = "share of samples"
    range = (0.0, 1.0)

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        threshold = _too_near(pair.once(_real_to_train)[0][real])
        return float((pair.once(_fake_to_train)[0][fake] <= threshold).double().mean())

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        held_out, sampled = pair.once(_real_to_train)[0][real], pair.once(_fake_to_train)[0][fake]
        below = _of_samples(pair, real, sampled <= _too_near(held_out))
        return Influence(_threshold_influence(held_out, held_out, sampled), below.fake)


def _nearest_among(pair: Pair, real: Rows, fake: Rows) -> tuple[Tensor, Tensor]:
    """Squared distance from each real image to the nearest other one, and the same for samples, with equally
    many rows of both.
    """
    chosen_real, chosen_fake = (
        torch.arange(len(x), device=x.device)[rows] for x, rows in ((pair.real, real), (pair.fake, fake))
    )
    n = min(len(chosen_real), len(chosen_fake))
    return radii(pair.real, pair.once(near_real), chosen_real[:n], 1), radii(
        pair.fake, pair.once(near_fake), chosen_fake[:n], 1
    )


@measure("repeats")
class Repeats(PairMetric):
    """Share of samples at least as near to another sample as the nearest 1% of real images are to another
    real image. Rises when few images repeat.

    A model without repetition scores about .01 (2/n below n = 200). Exact repeats always count. Nearest
    distances shrink with n, so the larger side is cut to the number of rows of the smaller one. Needs no
    training images.

    >>> real = torch.arange(200.0).view(-1, 1) ** 2
    >>> Repeats.of(Pair(real, torch.cat([real[2:150], real[150:152].repeat(26, 1)])))
    0.26
    """

    unit = "share of samples"
    range = (0.0, 1.0)
    better = "real"
    topic = "Diversity"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        among_real, among_fake = _nearest_among(pair, real, fake)
        # Two images that near are each other's nearest, so such a distance is listed twice. It counts once.
        distinct = among_real.sort().values[1::2]
        return float((among_fake <= _too_near(distinct)).double().mean())

    @classmethod
    def counted(cls, pair: Pair) -> int:
        """Half of the samples: the two of a pair count together."""
        return min(len(pair.real), len(pair.fake)) // 2

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        """A sample counts with the neighbours that have no other one below the threshold.

        The second-order term is that of the pairs which are each other's only one, of the samples whose only
        neighbour has others too, and of the samples with two neighbours.
        """
        among_real, among_fake = _nearest_among(pair, real, fake)
        n, distinct = len(among_fake), among_real.sort().values[1::2]
        rows = torch.arange(len(pair.fake), device=pair.fake.device)[fake][:n]
        threshold = _too_near(distinct)
        pairs, start = [], 0
        for part in pair.distances(rows, rows, "ff"):
            pairs.append((part <= threshold).nonzero() + torch.tensor([start, 0], device=part.device))
            start += len(part)
        one, other = torch.cat(pairs).T
        one, other = one[one != other], other[one != other]
        degree = one.bincount(minlength=n)
        only = (degree == 1).double()
        changed = (degree > 0).double().index_add_(0, one, only[other])
        quadratic = float((only[one] + only[other]).square().sum()) / 2 + int((degree == 2).sum())
        of_fake = changed.new_zeros(len(pair.fake[fake]))
        of_fake[:n] = (changed - changed.mean()) / n
        of_real = of_fake.new_zeros(len(pair.real[real]))
        of_real[:n] = _threshold_influence(distinct, among_real, among_fake)
        return Influence(of_real, of_fake, quadratic / n**2)


@measure("spacing_ratio")
class SpacingRatio(PairMetric):
    """Median distance from a sample to the nearest other sample, divided by the same among real images: 1 =
    as far apart, 0 = repeats.

    Where more than half of the samples have a twin, it drops to the distance between twins (noise, for
    example), also where some real images are near each other, which `repeats` has to allow for. Anything
    that narrows the set lowers it, blur included. Nearest distances shrink with n, so the larger side is
    cut to the number of rows of the smaller one.

    >>> real = torch.arange(20.0).view(-1, 1)
    >>> SpacingRatio.of(Pair(real, torch.cat([real[:10], real[:10] + 0.125])))
    0.125
    """

    unit = "ratio"
    range = (0.0, float("inf"))
    better = "real"
    topic = "Diversity"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        among_real, among_fake = _nearest_among(pair, real, fake)
        whole = math.sqrt(float(among_real.median()))
        if whole == 0:
            raise MeasureError(
                "spacing_ratio has no value: more than half of the real images are exact copies of another "
                "one"
            )
        return math.sqrt(float(among_fake.median())) / whole
