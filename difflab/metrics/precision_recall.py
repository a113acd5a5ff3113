"""Nearest-neighbour measures: `precision`, `recall`, `density`, `coverage`.

Each image has a ball that reaches to its k-th nearest other image of its own side. Precision and recall:
Kynkaanniemi et al. 2019 (k = 3 there; 5 in the MAD paper). Density and coverage: Naeem et al. 2020. An
image on the sphere counts as inside (`<=` as in Kynkaanniemi; the package prdc uses `<`). Exact copies
then count as covered also where duplicates shrink a ball to a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce

import torch
from torch import Tensor

from difflab.metrics.distances import distance_blocks, squared_distances
from difflab.metrics.influence import Influence
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows

Near = tuple[Tensor, Tensor]
"""Squared distances (ascending) and indices of each point's nearest others, both [n, m]."""


def nearest_others(x_ND: Tensor, m: int, block: int = 1024) -> Near:
    """Squared distances float32 [n, m] (ascending) and indices int64 [n, m] of the m nearest other rows of
    each row.

    Computed over `block` rows at a time, as `squared_distances`, without holding all distances.

    >>> nearest_others(torch.tensor([[0.0], [1.0], [3.0]]), 1)[1].flatten()
    tensor([1, 0, 1])
    """
    return _nearest(distance_blocks(x_ND, x_ND, block), m)


def _nearest(blocks: Iterable[Tensor], m: int) -> Near:
    """As `nearest_others`, from a square matrix of distances in blocks of rows."""
    distances, indices, start = [], [], 0
    for block in blocks:
        to_all = block.clone()
        to_all.diagonal(start).fill_(float("inf"))  # by index, not by distance 0: a duplicate is a neighbour
        values, columns = to_all.topk(m, largest=False, sorted=True)
        distances.append(values)
        indices.append(columns)
        start += len(to_all)
    return torch.cat(distances), torch.cat(indices)


def _listed(n: int, k: int) -> int:
    """Neighbours that are kept per image. A half-sample keeps each with probability 1/2, so fewer than k of
    8k + 24 remain once in 1e10.
    """
    return min(n - 1, 8 * k + 24)


def near_real(pair: Pair) -> Near:
    """The nearest other real images of each real image, as many as `radii` reads for k = neighbours."""
    return _nearest(pair.distances(slice(None), slice(None), "rr"), _listed(len(pair.real), pair.neighbours))


def near_fake(pair: Pair) -> Near:
    """The nearest other samples of each sample, as many as `radii` reads for k = neighbours."""
    return _nearest(pair.distances(slice(None), slice(None), "ff"), _listed(len(pair.fake), pair.neighbours))


def radii(x_ND: Tensor, near: Near, rows: Rows, k: int) -> Tensor:
    """Squared distance from each of `rows` to its k-th nearest among the others of `rows`, float32
    [len(rows)].

    Read from the sorted lists `near` of the whole set. An image whose list holds fewer than k of `rows`
    is computed exactly.
    """
    distances, indices = near[0][rows], near[1][rows]
    chosen = torch.zeros(len(x_ND), dtype=torch.bool, device=x_ND.device)
    chosen[rows] = True
    rank = chosen[indices].cumsum(1)
    result = distances.gather(1, (rank >= k).int().argmax(1, keepdim=True)).squeeze(1)
    short = (rank[:, -1] < k).nonzero().squeeze(1)
    if len(short):
        points = x_ND[rows]
        to_all = squared_distances(points[short], points)
        to_all[torch.arange(len(short), device=x_ND.device), short] = float("inf")
        result[short] = to_all.kthvalue(k, dim=1).values
    return result


def _within(rf: Tensor, radius: Tensor) -> Tensor:
    # The two were rounded apart: without the margin a copy of the k-th neighbour, exactly on the sphere,
    # would fall in or out at random.
    return rf <= radius * (1 + 1e-6)


def _in_real(pair: Pair, real: Rows, fake: Rows) -> Iterator[Tensor]:
    """bool [b, n_f] for blocks of real images, in order: whether sample j is in the ball of real image i."""
    radius, start = radii(pair.real, pair.once(near_real), real, pair.neighbours), 0
    for distance in pair.distances(real, fake):
        yield _within(distance, radius[start : start + len(distance)].unsqueeze(1))
        start += len(distance)


def in_fake(pair: Pair, real: Rows, fake: Rows) -> float:
    """Share of the real images that lie in at least one ball of the samples."""
    return _share(inside.any(1) for inside in inside_fake(pair, real, fake))


def inside_fake(pair: Pair, real: Rows, fake: Rows) -> Iterator[Tensor]:
    """bool [b, n_f] for blocks of real images, in order: whether real image i is in the ball of sample j."""
    radius = radii(pair.fake, pair.once(near_fake), fake, pair.neighbours)
    for distance in pair.distances(real, fake):
        yield _within(distance, radius)


def _share(blocks: Iterable[Tensor]) -> float:
    return float(torch.cat(list(blocks)).double().mean())


class _Manifold(PairMetric):
    range = (0.0, 1.0)
    better = "higher"
    topic = "Diversity"

    @classmethod
    def least(cls, pair: Pair) -> int:
        """k neighbours and the image itself."""
        return pair.neighbours + 1


@measure("precision")
class Precision(_Manifold):
    """Share of samples inside the ball of at least one real image: fidelity. It does not see lost modes.

    >>> Precision.of(Pair(torch.arange(8.0).view(-1, 1), torch.arange(8.0).view(-1, 1) + 100))
    0.0
    """

    unit = "share of samples"
    topic = "Fidelity"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(
            reduce(torch.logical_or, (inside.any(0) for inside in _in_real(pair, real, fake))).double().mean()
        )


@measure("recall")
class Recall(_Manifold):
    """Share of real images inside the ball of at least one sample: diversity. Outlying samples, whose balls
    are large, inflate it.

    >>> Recall.of(Pair(torch.arange(8.0).view(-1, 1), torch.arange(8.0).view(-1, 1)))
    1.0
    """

    unit = "share of real images"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return in_fake(pair, real, fake)


@measure("density")
class Density(_Manifold):
    """Number of real balls that contain a sample, averaged over samples, divided by k: 1 in expectation
    between equal distributions.

    Above 1 the samples concentrate where real images are dense, as samples of a model that lost its tails
    do: hence better = 'real'.

    >>> Density.of(Pair(torch.zeros(8, 1), torch.zeros(8, 1)))
    1.6
    """

    unit = "real balls per sample / k"
    range = (0.0, float("inf"))
    better = "real"
    topic = "Fidelity"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return sum(int(inside.count_nonzero()) for inside in _in_real(pair, real, fake)) / (
            len(pair.fake[fake]) * pair.neighbours
        )

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        """A further real image adds its ball, and shrinks each ball that it is in by about one of k."""
        k = pair.neighbours
        sums = [(inside.sum(1), inside.sum(0)) for inside in _in_real(pair, real, fake)]
        of_real = torch.cat([of_block for of_block, _ in sums]).double()
        of_fake = reduce(torch.add, (of_block for _, of_block in sums)) / k
        neighbours = pair.once(near_real)[1][real][:, :k]
        shrunk = torch.zeros_like(of_real)
        shrunk.index_add_(0, neighbours.flatten(), (of_real / k).repeat_interleave(k))
        return Influence.of((of_real - shrunk) * len(of_real) / (k * len(of_fake)), of_fake)


@measure("coverage")
class Coverage(_Manifold):
    """Share of real images whose ball holds at least one sample: diversity, robust against outlying samples.

    Between equal distributions its expectation is 1 - (n_r - 1)...(n_r - k) / ((n_f + n_r - 1)...(n_f +
    n_r - k)), which tends to 1 - 2^-k at n_r = n_f (Naeem et al. 2020, section 3.3), not to 1.

    >>> Coverage.of(Pair(torch.arange(8.0).view(-1, 1), torch.zeros(8, 1)))
    0.5
    """

    unit = "share of real images"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return _share(inside.any(1) for inside in _in_real(pair, real, fake))
