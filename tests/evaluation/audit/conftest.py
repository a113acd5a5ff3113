"""Small image sets of known origin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audited import A1111, synthetic, write

from difflab.config import Data
from difflab.data.registry import open_source


@pytest.fixture(scope="session")
def emoji() -> list[np.ndarray]:
    """600 different emoji, uint8 [32, 32, 3]."""
    source = open_source(Data(source="emoji"), 0)
    order = np.random.default_rng(0).permutation(len(source))
    distinct: dict[bytes, np.ndarray] = {}
    for i in order[:800]:
        image = source.read(int(i))
        distinct.setdefault(image.tobytes(), image)
    return list(distinct.values())[:600]


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory, emoji: list[np.ndarray]) -> dict[str, Path]:
    """Folders: `real` and `synthetic` of 120 images, and `mixed` of 120 real and 40 synthetic ones, of which 20 say so."""
    root = tmp_path_factory.mktemp("audit")
    fakes = [synthetic(image, i) for i, image in enumerate(emoji)]
    mixed = write(root / "mixed", emoji[240:360], "a")
    write(mixed, fakes[400:420], "b", A1111)
    write(mixed, fakes[420:440], "c")
    return {
        "real": write(root / "real", emoji[:120]),
        "synthetic": write(root / "synthetic", fakes[120:240]),
        "mixed": mixed,
    }
