"""KID, precision, recall and Inception Score exactly as packages compute them: their subsets, their random
numbers, their precision.

The measures of difflab under these names are other estimates of the same quantities: they use all pairs at
once, k = 5 and exact distances. Use the functions here only to reproduce numbers that a package printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from difflab.core.errors import MeasureError

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
"""Of torch-fidelity and clean-fid."""
NEIGHBOURS = 3
"""Of torch-fidelity and of ADM."""


def kid_of_torch_fidelity(real_ND: Tensor, fake_MD: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of KID over 100 subsets of 1000, by torch-fidelity's own function.

    It draws with NumPy's RandomState(2020), first from the generated images, then from the real ones. Raises
    MeasureError for fewer than 1000 images on a side.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    if min(len(real_ND), len(fake_MD)) < KID_SUBSET_SIZE:
        raise MeasureError(
            f"torch-fidelity's KID needs {KID_SUBSET_SIZE} images on each side, the size of its subsets, got "
            f"{len(real_ND)} real and {len(fake_MD)} generated ones; clean-fid's takes any number"
        )
    found = kid_features_to_metric(
        fake_MD, real_ND, kid_subsets=KID_SUBSETS, kid_subset_size=KID_SUBSET_SIZE, verbose=False
    )
    return found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD]


def kid_of_clean_fid(real_ND: Tensor, fake_MD: Tensor, seed: int = 0) -> float:
    """Mean KID over 100 subsets of min(n_r, n_f, 1000), in the dtype of the features, as clean-fid 0.1.35.

    clean-fid draws from NumPy's global generator and does not seed it. The result is what it returns for
    `compute_kid(REAL, GEN)` after `numpy.random.seed(seed)`. Raises MeasureError for fewer than 2 images.

    >>> kid_of_clean_fid(torch.zeros(3, 2), torch.ones(3, 2))
    7.0
    """
    real, fake = real_ND.numpy(), fake_MD.numpy()
    draw, d = np.random.RandomState(seed), real.shape[1]
    m = min(len(real), len(fake), KID_SUBSET_SIZE)
    if m < 2:
        raise MeasureError(
            f"KID needs at least 2 images on each side, got {len(real)} real and {len(fake)} generated ones"
        )
    total = np.float32(0)
    for _ in range(KID_SUBSETS):
        x = fake[draw.choice(len(fake), m, replace=False)]
        y = real[draw.choice(len(real), m, replace=False)]
        within = (x @ x.T / d + 1) ** 3 + (y @ y.T / d + 1) ** 3
        between = (x @ y.T / d + 1) ** 3
        total += (within.sum() - np.diag(within).sum()) / (m - 1) - between.sum() * 2 / m
    return float(total / KID_SUBSETS / m)


def prc_of_torch_fidelity(real_ND: Tensor, fake_MD: Tensor, block: int = 1000) -> tuple[float, ...]:
    """Precision, recall and F-score by torch-fidelity's own function: k = 3, distances <= radii.

    Its first set is the generated one. `block` distances wide pieces are held at a time, times all images.
    Raises MeasureError for fewer than 4 images on a side.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    _enough_neighbours(real_ND, fake_MD)
    return tuple(
        prc_features_to_metric(
            fake_MD, real_ND, prc_batch_size=block, save_cpu_ram=True, verbose=False
        ).values()
    )


def precision_recall_of_adm(real_ND: Tensor, fake_MD: Tensor, block: int = 10_000) -> tuple[float, float]:
    """Precision and recall of the evaluator of ADM (guided-diffusion): k = 3, squared distances <= radii.

    Its first set is the reference. Features are rounded to float16, and so is every term of |u|^2 - 2 u.v +
    |v|^2. Where a `block` x `block` part of the distances overflows, that part is computed in float32.
    TensorFlow on a GPU adds products in float32, as is done here. Raises MeasureError for fewer than 4 images
    on a side.
    """
    _enough_neighbours(real_ND, fake_MD)
    radii_real, radii_fake = (_adm_radii(side, block) for side in (real_ND, fake_MD))
    covered, plausible = (
        torch.zeros(len(real_ND), dtype=torch.bool),
        torch.zeros(len(fake_MD), dtype=torch.bool),
    )
    for columns in _ranges(len(fake_MD), block):
        for rows, distances in _adm_distances(real_ND, fake_MD[columns], block):
            covered[rows] |= (distances <= radii_fake[columns]).any(1)
            plausible[columns] |= (distances <= radii_real[rows].unsqueeze(1)).any(0)
    return float(plausible.double().mean()), float(covered.double().mean())


def _enough_neighbours(real_ND: Tensor, fake_MD: Tensor) -> None:
    if min(len(real_ND), len(fake_MD)) <= NEIGHBOURS:
        raise MeasureError(
            f"precision and recall need at least {NEIGHBOURS + 1} images on each side, got {len(real_ND)} "
            f"real and {len(fake_MD)} generated ones"
        )


def _ranges(n: int, step: int) -> Iterator[slice]:
    return (slice(start, min(n, start + step)) for start in range(0, n, step))


def _adm_radii(x_ND: Tensor, block: int) -> Tensor:
    """Squared distance of each row to its third nearest other row, float32 [n].

    The row itself counts as the nearest of four, although rounding gives it a distance above 0.
    """
    nearest = torch.full((len(x_ND), NEIGHBOURS + 1), float("inf"))
    for columns in _ranges(len(x_ND), block):
        for rows, distances in _adm_distances(x_ND, x_ND[columns], block):
            known = torch.cat([nearest[rows], distances], 1)
            nearest[rows] = known.topk(NEIGHBOURS + 1, largest=False).values
    return nearest[:, -1]


def _adm_distances(
    u_ND: Tensor, v_MD: Tensor, block: int, step: int = 1000
) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances float32 [b, m] of pieces of rows of `u_ND`, with the rows that they belong to."""
    for whole in _ranges(len(u_ND), block):
        rows = u_ND[whole]
        dtype = torch.float16
        if not all(_adm_piece(part, v_MD, dtype).isfinite().all() for part in _if_large(rows, v_MD, step)):
            dtype = torch.float32
        for part in _ranges(len(rows), step):
            distances = _adm_piece(rows[part], v_MD, dtype).float()
            yield slice(whole.start + part.start, whole.start + part.stop), distances


def _if_large(u_ND: Tensor, v_MD: Tensor, step: int) -> Iterable[Tensor]:
    """The pieces of `u_ND` in which float16 could overflow: none where (|u| + |v|)^2 is below its range."""
    largest = sum(float(side.norm(dim=1).max()) for side in (u_ND, v_MD))
    return u_ND.split(step) if largest**2 > 60_000 else ()


def _adm_piece(u_ND: Tensor, v_MD: Tensor, dtype: torch.dtype) -> Tensor:
    """|u|^2 - 2 u.v + |v|^2 with every term rounded to `dtype`; sums are accumulated in float32."""
    u, v = (side.to(dtype) for side in (u_ND, v_MD))
    norm_u, norm_v = (side.square().float().sum(1).to(dtype) for side in (u, v))
    products = (u.float() @ v.float().T).to(dtype)
    return (norm_u.unsqueeze(1) - 2 * products + norm_v).clamp(min=0)


def inception_scores(logits_of: Callable[[Tensor], Tensor], parts: Iterable[Tensor]) -> tuple[float, float]:
    """Mean and standard deviation over parts of exp(mean KL(p(y|x) || p(y))) (Salimans et al. 2016).

    Args:
        logits_of: row numbers int64 [b] to logits [b, classes] of the generated images.
        parts: the row numbers of each part.

    >>> logits = torch.eye(4) * 100
    >>> inception_scores(lambda rows: logits[rows], [torch.arange(4)])
    (4.0, 0.0)
    """
    scores = []
    for rows in parts:
        log_p = logits_of(rows).double().log_softmax(1)
        p = log_p.exp()
        scores.append(float((p * (log_p - p.mean(0).log())).sum(1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))


def parts_of_torch_fidelity(n: int, splits: int = 10) -> list[Tensor]:
    """Row numbers of torch-fidelity's parts: ten of a permutation by NumPy's RandomState(2020).

    Raises MeasureError for fewer images than parts.
    """
    if n < splits:
        raise MeasureError(f"torch-fidelity's Inception Score needs {splits} images for its parts, got {n}")
    order = torch.from_numpy(np.random.RandomState(2020).permutation(n))
    return [order[i * n // splits : (i + 1) * n // splits] for i in range(splits)]


def parts_of_adm(n: int, size: int = 5000) -> list[Tensor]:
    """Row numbers of ADM's parts: 5000 images in their order, the last part may be smaller.

    >>> [len(part) for part in parts_of_adm(12_000)]
    [5000, 5000, 2000]
    """
    return list(torch.arange(n).split(size))
