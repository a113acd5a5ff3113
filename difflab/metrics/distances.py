"""Squared Euclidean distances between two feature sets, accurate also between rows that are nearly equal."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PAIRS = 2**23
"""Most distances that are computed at a time."""
TILE = 64
"""Rows of distances that stay in the processor's cache between two steps."""
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
    for part in distance_blocks(x_ND, y_MD, block, triangle=same, into_NM=distances):
        stop = start + len(part)
        if same:  # rounding may differ between (i, j) and (j, i): one of them is written to both
            upper = distances[start:stop, start:stop].triu()
            distances[start:stop, start:stop] = upper + upper.triu(1).T
            distances[stop:, start:stop] = distances[start:stop, stop:].T
        start = stop
    return distances


def distance_blocks(
    x_ND: Tensor, y_MD: Tensor, block: int, triangle: bool = False, into_NM: Tensor | None = None
) -> Iterator[Tensor]:
    """`squared_distances` in blocks of at most `block` rows of x, in order: float32 [b, M].

    With `triangle`, each block begins at the column of its own first row: [b, M - first row]. With `into_NM`
    the blocks are parts of that matrix, else each has memory of its own.
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
        rows, first_column = slice(start, min(start + block, len(x_ND))), start if triangle else 0
        if into_NM is None:
            out = x_ND.new_empty(rows.stop - start, len(y_MD) - first_column, dtype=torch.float32)
        else:
            out = into_NM[rows, first_column:]
        if products.dtype == torch.float32 and not products.refined(rows, first_column, out):
            products = _Products(x_ND, y_MD, order, torch.float64)  # too many near pairs: from here on
        if products.dtype == torch.float64:
            products.exact(rows, out)
        yield out


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

    def _block(self, rows: slice, squared: Tensor) -> Tensor:
        """Write the squared distances from `rows` of x to the last rows of y. Returns the norms of x."""
        if self.x_ND is self.y_MD:
            x, x_norm = self.y[rows], self.y_norm[rows]
        else:
            x, x_norm = self._centred(self.x_ND[rows])
        for part, norms in self._with_norms(squared, x_norm):
            part.copy_(norms)
        squared.addmm_(x, self.y[-squared.shape[1] :].T, alpha=-2)
        return x_norm

    def _with_norms(self, squared: Tensor, x_norm: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts of `squared` that stay in the processor's cache, each with |x|^2 + |y|^2 in float64.

        The sum is rounded pair by pair. Norms rounded row by row would leave errors that do not average out.
        """
        y_norm = self.y_norm[-squared.shape[1] :]
        for part, norm in zip(squared.split(TILE), x_norm.split(TILE), strict=True):
            yield part, norm.unsqueeze(1) + y_norm

    def exact(self, rows: slice, out: Tensor) -> None:
        """Write the distances of a block from float64 products."""
        squared = torch.empty_like(out, dtype=torch.float64)
        x_norm = self._block(rows, squared)
        for part, norms in self._with_norms(squared, x_norm):
            part.masked_fill_(part <= norms.mul_(COPY), 0)
        out.copy_(squared)

    def refined(self, rows: slice, first_column: int, out: Tensor) -> bool:
        """Write the distances of a block from float32 products, near pairs from differences.

        False where too many are near; what is written is then not valid.
        """
        x_norm = self._block(rows, out)
        near = torch.empty_like(out, dtype=torch.bool)
        for (part, norms), found in zip(self._with_norms(out, x_norm), near.split(TILE), strict=True):
            torch.lt(part, norms.float().mul_(0.25), out=found)
        if 32 * int(near.count_nonzero()) > near.numel():
            return False
        i, j = near.nonzero(as_tuple=True)
        apart = _of_pairs(self.x_ND[rows], self.y_MD[first_column:], i, j)
        out[i, j] = apart.where(apart > COPY * (x_norm[i] + self.y_norm[first_column:][j]), 0).float()
        return True


def _of_pairs(x_ND: Tensor, y_MD: Tensor, i: Tensor, j: Tensor, block: int = 256) -> Tensor:
    """Squared distance of each pair x[i], y[j], float64, from the differences."""
    pairs = zip(i.split(block), j.split(block), strict=True)
    return torch.cat(
        [(x_ND[rows].double() - y_MD[columns].double()).square_().sum(1) for rows, columns in pairs]
    )
