"""The scatter matrix of many rows, summed block by block."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def scatter(blocks: Iterable[Tensor], step: int = 256) -> Tensor:
    """Sum of B'B over `blocks` of rows [b, d]: a matrix [d, d] of which only the lower triangle is valid.

    Cholesky and eigvalsh read nothing else. `step` is the number of columns computed at a time.

    >>> scatter([torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])]).tril()
    tensor([[1., 0.],
            [2., 5.]])
    """
    total = torch.zeros(())
    for rows in blocks:
        d = rows.shape[1]
        if not total.ndim:
            total = rows.new_zeros(d, d)
        for start in range(0, d, step):
            columns, up_to = slice(start, start + step), slice(0, start + step)
            total[columns, up_to].addmm_(rows[:, columns].T, rows[:, up_to])
    return total
