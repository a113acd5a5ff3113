"""A user's function is an extractor whose recipe holds its source."""

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.features.registry import open_extractor


def images(n, size=8, channels=1, seed=0):
    return torch.randint(
        0, 256, (n, size, size, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_a_function_of_the_user_s(tmp_path, monkeypatch):
    code = (
        "def corners(images):\n    return images[:, 0, 0].double() * {0}\n\n"
        "corners.recipe = {{'weights': 'none'}}\n"
    )
    (tmp_path / "mine.py").write_text(code.format(2))
    extractor = open_extractor(f"python:{tmp_path}/mine.py:corners")
    x = images(70, 5, 3)
    assert (
        torch.equal(extractor(x), 2 * x[:, 0, 0].float())
        and extractor.dim == 3
        and extractor.name == "python:mine:corners"
    )
    assert extractor.recipe["weights"] == "none"
    monkeypatch.syspath_prepend(tmp_path)
    assert open_extractor("python:mine:corners").recipe == extractor.recipe
    (tmp_path / "mine.py").write_text(code.format(3))
    # Another function, other features.
    assert open_extractor(f"python:{tmp_path}/mine.py:corners").key != extractor.key
    (tmp_path / "wrong.py").write_text(
        "def flat(images):\n    return images.float().mean()\n\ndef fails(images):\n    return 1 / 0\n"
    )
    for name, said in (
        ("flat", r"gave \(\) for 64 images"),
        ("fails", "ZeroDivisionError"),
        ("absent", "AttributeError"),
    ):
        with pytest.raises(MeasureError, match=said):
            open_extractor(f"python:{tmp_path}/wrong.py:{name}")
