from __future__ import annotations

import pytest
from changed_digits import parts

from difflab.evaluation.readings import Images


@pytest.fixture(scope="module")
def digits() -> dict[str, Images]:
    """Disjoint parts of the digits: reference, other, train, and the pool that samples are made from."""
    return parts()
