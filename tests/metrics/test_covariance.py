"""Oracle: the bootstrap memoriser, (1 - 1/n)^t in any feature space."""

import numpy as np
import pytest
import torch

from difflab.errors import MeasureError
from difflab.metrics import Pair, TraceRatio


def test_is_numpy_s_trace():
    real, fake = torch.randn(50, 4), torch.randn(50, 4) * 2
    wanted = np.trace(np.cov(fake.double().T, bias=True)) / np.trace(np.cov(real.double().T, bias=True))
    assert TraceRatio.of(Pair(real, fake)) == pytest.approx(wanted, rel=1e-12)


def test_bootstrap_memoriser_loses_one_over_n_a_generation():
    draw = torch.Generator().manual_seed(0)
    n, generations, chains = 50, 10, 300
    real, values = torch.randn(n, 3, generator=draw), []
    for _ in range(chains):
        fake = real
        for _ in range(generations):
            fake = fake[torch.randint(n, (n,), generator=draw)]
        values.append(TraceRatio.of(Pair(real, fake)))
    values = torch.tensor(values)
    assert abs(values.mean() - (1 - 1 / n) ** generations) < 4 * values.std() / chains**0.5


def test_no_spread_in_the_real_images_is_an_error():
    with pytest.raises(MeasureError, match="all the same"):
        TraceRatio.of(Pair(torch.ones(5, 2), torch.randn(5, 2)))
