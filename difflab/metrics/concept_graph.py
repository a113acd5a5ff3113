"""Effects of a chain on single concepts: the confusion table, a row per concept, and the graph of merged
concepts.

    edges = merged(pair, real_pair)
    components(edges)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.concepts import aurocs, concepts_in, margins, sample_concepts, seen_fake, seen_real
from difflab.metrics.interval import wilson
from difflab.metrics.pair import Pair


def confusion(pair: Pair) -> Tensor:
    """How many samples conditioned on concept i (row) are recognised as concept j (column): int64 [C, C].

    >>> from difflab.metrics.concepts import Concepts
    >>> concepts = Concepts(["cat", "dog"], torch.eye(2))
    >>> x = torch.tensor([[1.0, 0.1], [1.0, 0.2]])
    >>> confusion(Pair(x, x, fake_labels=torch.tensor([0, 1]), concepts=concepts)).tolist()
    [[1, 0], [1, 0]]
    """
    n, known = len(concepts_in(pair)), pair.directed["fake"]
    return torch.bincount(
        (pair.once(sample_concepts) * n + pair.once(seen_fake))[known], minlength=n * n
    ).view(n, n)


def per_concept(pair: Pair) -> list[dict[str, Any]]:
    """One row per concept, in order, also for concepts without samples (n = 0 and no numbers).

    concept; n, its samples; accuracy, the share of them that is recognised, with Wilson's 95% ci_low and
    ci_high; margin, the mean of `margins`; share_real and share_fake, the shares of all real images and
    of all samples that are recognised as it.
    """
    labels, known = pair.once(sample_concepts), concepts_in(pair)
    table, n = confusion(pair), len(known)
    count, hits = table.sum(1).tolist(), table.diagonal().tolist()
    margin = pair.once(margins).where(pair.directed["fake"], 0)  # what has no direction is in no count either
    summed = torch.zeros(n, dtype=torch.float64, device=labels.device).index_add_(0, labels, margin).tolist()
    seen = [side[side >= 0] for side in (pair.once(seen_real), pair.once(seen_fake))]
    real, fake = ((torch.bincount(side, minlength=n) / max(len(side), 1)).tolist() for side in seen)
    rows = []
    for i, name in enumerate(known.names):
        low, high = wilson(hits[i] / count[i], count[i]) if count[i] else (None, None)
        rows.append(
            {
                "concept": name,
                "n": count[i],
                "accuracy": hits[i] / count[i] if count[i] else None,
                "ci_low": low,
                "ci_high": high,
                "margin": summed[i] / count[i] if count[i] else None,
                "share_real": real[i],
                "share_fake": fake[i],
            }
        )
    return rows


def merged(
    pair: Pair, real_pair: Pair, level: float = 0.75, rate: float = 0.05
) -> list[tuple[str, str, float]]:
    """The pairs of concepts that were separated among real images and are not among samples: (a, b, fall of
    AUROC), largest first.

    `real_pair` has real images in the place of the samples, as for a floor. Rule: the AUROC of a and b
    (`aurocs`) is above `level` among real images *and* below it among samples, both significantly. Each
    side is a one-sided score test at `level` with the variance of Hanley & McNeil 1982 in the form of
    Newcombe 2006 (Stat. Med. 25:559), which unlike the usual intervals has a positive width at AUROC 1.
    The p-value of the pair is the larger of the two. C concepts make C(C-1)/2 pairs to test, so p-values
    are adjusted (Benjamini & Hochberg 1995), and about `rate` of the listed pairs are expected to be
    false. Pairs share images; the adjustment is proven for positive dependence only. With few images per
    concept nothing is listed: a handful of concepts needs about 20 images on each side. An empty list
    does not mean that no pair has merged. An AUROC far below 1/2 is also listed: the two concepts have
    swapped.

    Raises MeasureError when the concepts differ, or when no pair has images on both sides.
    """
    from scipy.stats import false_discovery_control, norm

    names = concepts_in(pair).names
    if names != concepts_in(real_pair).names:
        raise MeasureError(
            "the pair of samples and the pair of real images have different concepts; "
            "make both with one Concepts"
        )
    if not (0.5 < level < 1 and 0 < rate < 1):
        raise MeasureError(
            f"merged needs a level between 0.5 and 1 and a rate between 0 and 1, got {level} and {rate}"
        )
    (apart, n_real), (now, n_fake) = ([table.cpu() for table in aurocs(side)] for side in (real_pair, pair))
    a, b = torch.triu_indices(len(names), len(names), 1)
    both = (apart[a, b] + now[a, b]).isfinite()
    a, b = a[both], b[both]
    if not len(a):
        raise MeasureError(
            "no two concepts have both real images and samples; measure sets that are conditioned on the "
            "same concepts"
        )
    above = (apart[a, b] - level) / spread(level, n_real[a], n_real[b])
    below = (level - now[a, b]) / spread(level, n_fake[a], n_fake[b])
    listed = torch.from_numpy(false_discovery_control(norm.sf(torch.minimum(above, below).numpy()))) <= rate
    fall = (apart - now)[a, b]
    edges = [(names[int(a[i])], names[int(b[i])], float(fall[i])) for i in listed.nonzero().flatten()]
    return sorted(edges, key=lambda edge: -edge[2])


def spread(auroc: float, m: Tensor, n: Tensor) -> Tensor:
    """Standard error of an AUROC between m and n scores whose expectation is `auroc`.

    Sources: Hanley & McNeil 1982; Newcombe 2006, method 5.

    >>> # (m + n + 1) / (12 m n), as Mann & Whitney
    >>> round(spread(0.5, torch.tensor(10), torch.tensor(10)).item() ** 2, 6)
    0.0175
    """
    other = (m + n).double() / 2 - 1
    return (
        auroc * (1 - auroc) * (1 + other * (1 - auroc) / (2 - auroc) + other * auroc / (1 + auroc)) / (m * n)
    ).sqrt()


def components(edges: Iterable[tuple[str, str, float]]) -> list[list[str]]:
    """The connected components of the graph that `merged` lists: groups of at least two names, each sorted,
    largest group first.

    >>> components([("cat", "dog", 0.4), ("seal", "otter", 0.3), ("wolf", "dog", 0.2)])
    [['cat', 'dog', 'wolf'], ['otter', 'seal']]
    """
    groups: list[set[str]] = []
    for a, b, _ in edges:
        met = [group for group in groups if a in group or b in group]
        groups = [group for group in groups if group not in met] + [{a, b}.union(*met)]
    return sorted((sorted(group) for group in groups), key=lambda group: (-len(group), group))
