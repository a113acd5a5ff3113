from __future__ import annotations

import numpy as np

from difflab.policies.select.unflagged import Unflagged
from difflab.runs import ledger


def test_unflagged_drops_images_of_one_colour():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    pixels[1], pixels[3] = 0, 200

    class Candidates:
        rows = ledger.table({"index": list(range(4))}, pixels, images=True)

    assert Unflagged(policy="unflagged").select(None, Candidates()) == [None, "constant", None, "constant"]
