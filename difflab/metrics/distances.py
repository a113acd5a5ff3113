"""Squared Euclidean distances between two feature sets, accurate also between rows that are nearly equal."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PAIRS = 2**23
"""Most distances that are computed at a time."""
COPY = 1e-12
"""Squared distance, relative to the squared norms, below which two rows of float32 features count as equal.
"""


def squared_distances(x_ND: Tensor, y_MD: Tensor, block: int = 1024) -> Tensor:
    """Squared Euclidean distances, float32 [N, M], with a relative error of about 1e-6.

    They are computed as |x|^2 + |y|^2 - 2xy of the centred rows, with float32 products over `block` rows of x
    at a time. This cancels where two rows are near each other. Pairs nearer than half of what their norms
    allow are therefore computed from the differences, in float64. All products are float64 instead where more
    than a 32nd of the pairs of a block are that near (in few dimensions), where torch may round float32
    products further (on a GPU, or by `torch.set_float32_matmul_precision`), and for float64 features.

    Rows that float32 features cannot tell apart, relative to their norms, have distance exactly 0. Copies of
    an image therefore have distance 0 whatever the rounding. Both sides may be the same tensor, which halves
    the work. Beyond the result and one copy of the features, memory stays below 200 MB.

    >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]])
    """
    distances = torch.empty(len(x_ND), len(y_MD), dtype=torch.float32, device=x_ND.device)
    same, start = x_ND is y_MD, 0
    for part in distance_blocks(x_ND, y_MD, block, triangle=same):
        stop = start + len(part)
        distances[start:stop, -part.shape[1] :] = part
        if same:  # rounding may differ between (i, j) and (j, i): one of them is written to both
            upper = distances[start:stop, start:stop].triu()
            distances[start:stop, start:stop] = upper + upper.triu(1).T
            distances[stop:, start:stop] = distances[start:stop, stop:].T
        start = stop
    return distances


def distance_blocks(x_ND: Tensor, y_MD: Tensor, block: int, triangle: bool = False) -> Iterator[Tensor]:
    """`squared_distances` in blocks of at most `block` rows of x, in order: float32 [b, M].

    With `triangle`, each block begins at the column of its own first row: [b, M - first row].
    """
    same = x_ND is y_MD
    x_ND, y_MD = (side if side.dtype == torch.float64 else side.float() for side in (x_ND, y_MD))
    if same:
        x_ND = y_MD
    exact = (
        torch.float64 in (x_ND.dtype, y_MD.dtype)
        or y_MD.device.type != "cpu"
        or torch.get_float32_matmul_precision() != "highest"
    )
    # A product is summed in the order of the columns. Large values come last, so that they are rounded least
    # often.
    order = y_MD[:block].var(0, correction=0).argsort()
    products = _Products(x_ND, y_MD, order, torch.float64 if exact else torch.float32)
    block = min(block, 1 + PAIRS // (1 + len(y_MD)))
    for start in range(0, len(x_ND), block):
        rows, first_column = slice(start, start + block), start if triangle else 0
        squared = None
        if products.dtype == torch.float32:
            squared = products.refined(rows, first_column)
            if squared is None:  # too many near pairs: float64 from here on
                products = _Products(x_ND, y_MD, order, torch.float64)
        yield products.exact(rows, first_column) if squared is None else squared


class _Products:
    """Squared distances as |x|^2 + |y|^2 - 2xy, of rows that are centred on the mean of y, computed in
    `dtype`.
    """

    def __init__(self, x_ND: Tensor, y_MD: Tensor, order: Tensor, dtype: torch.dtype) -> None:
        self.x_ND, self.y_MD, self.order, self.dtype = x_ND, y_MD, order, dtype
        self.shift = y_MD.mean(0)  # distances do not depend on it, but centring reduces cancellation
        self.y, self.y_norm = self._centred(y_MD)

    def _centred(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Centred rows with columns in `order`, and their squared norms in float64."""
        rows = (features.to(self.dtype) - self.shift.to(self.dtype)).index_select(1, self.order)
        return rows, torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()

    def _block(self, rows: slice, first_column: int) -> tuple[Tensor, Tensor, Tensor]:
        """Squared distances, a quarter of the sum of squared norms, and the squared norms of x."""
        if self.x_ND is self.y_MD:
            x, x_norm = self.y[rows], self.y_norm[rows]
        else:
            x, x_norm = self._centred(self.x_ND[rows])
        # |x|^2 + |y|^2 is rounded pair by pair. Norms rounded row by row would leave errors that do not
        # average out.
        squared = torch.add(
            x_norm.unsqueeze(1),
            self.y_norm[first_column:],
            out=x.new_empty(len(x), len(self.y) - first_column),
        )
        quarter = squared * 0.25
        return squared.addmm_(x, self.y[first_column:].T, alpha=-2), quarter, x_norm

    def exact(self, rows: slice, first_column: int) -> Tensor:
        """The distances of a block from float64 products."""
        squared, quarter, _ = self._block(rows, first_column)
        return squared.where(squared > 4 * COPY * quarter, 0).float()

    def refined(self, rows: slice, first_column: int) -> Tensor | None:
        """The distances of a block from float32 products, near pairs from differences; None where too many
        are near.
        """
        squared, quarter, x_norm = self._block(rows, first_column)
        near = squared < quarter
        if 32 * int(near.count_nonzero()) > near.numel():
            return None
        i, j = near.nonzero(as_tuple=True)
        apart = _of_pairs(self.x_ND[rows], self.y_MD[first_column:], i, j)
        squared[i, j] = apart.where(apart > COPY * (x_norm[i] + self.y_norm[first_column:][j]), 0).float()
        return squared


def _of_pairs(x_ND: Tensor, y_MD: Tensor, i: Tensor, j: Tensor, block: int = 256) -> Tensor:
    """Squared distance of each pair x[i], y[j], float64, from the differences."""
    pairs = zip(i.split(block), j.split(block), strict=True)
    return torch.cat(
        [(x_ND[rows].double() - y_MD[columns].double()).square_().sum(1) for rows, columns in pairs]
    )
