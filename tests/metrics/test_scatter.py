"""The scatter matrix equals numpy's, whatever the blocks and the step."""

import numpy as np
import pytest
import torch

from difflab.metrics.scatter import scatter


@pytest.mark.parametrize(("block", "step"), [(7, 3), (50, 512), (1, 1)])
def test_the_lower_triangle_is_numpy_s(block, step):
    x = torch.randn(50, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = scatter(x.split(block), step).tril().numpy()
    np.testing.assert_allclose(total, np.tril(x.numpy().T @ x.numpy()), rtol=1e-12)
