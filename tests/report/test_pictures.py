from __future__ import annotations

import numpy as np
import pytest
from pictures import opened

from difflab.report.pictures import in_common, pictures
from difflab.runs.probe import SameSeeds
from difflab.runs.run import Run


def test_pictures_are_the_probe_to_the_bit(hostile: Run) -> None:
    found = pictures(hostile, 10**6)
    assert (
        found is not None
        and found["per"] == 2
        and len(found["asked"]) == 10
        and set(found["generations"]) == {0, 1, 2}
    )
    probe = hostile.probe(1, 10)
    images = np.concatenate([probe.decode(k) for k in probe.shards])
    assert all(
        (np.asarray(opened(text)) == image[..., 0]).all()
        for text, image in zip(found["generations"][1], images, strict=True)
    )
    assert found["asked"] == probe.column("class")


def test_pictures_beyond_the_budget_are_fewer_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    seeds = SameSeeds([name for name in "abcd" for _ in "12"], 2, noise, {t: noise for t in range(21)})
    monkeypatch.setattr("difflab.report.pictures.same_seeds", lambda run: seeds)
    size = lambda found: sum(  # noqa: E731
        map(len, (*found["real"], *(p for images in found["generations"].values() for p in images)))
    )
    whole = pictures(None, 10**7)
    assert (
        in_common([whole]) == ""
        and len(whole["generations"]) == 21
        and opened(whole["real"][0]).format == "PNG"
    )
    for budget, generations, columns in (
        (1_500_000, 21, 8),
        (500_000, 13, 8),
        (200_000, 6, 4),
        (100_000, 6, 2),
    ):
        found = pictures(None, budget)
        assert size(found) <= 1.02 * budget and opened(found["real"][0]).format == "WEBP"
        assert abs(len(found["generations"]) - generations) <= 1 and len(found["real"]) == columns == len(
            found["asked"]
        )
        assert (
            min(found["generations"]) == 0
            and max(found["generations"]) == 20
            and all(len(p) == columns for p in found["generations"].values())
        )
        said = in_common([found])
        assert (f"{len(found['generations'])} of 21 generations and {columns} of 8 columns" in said) == (
            generations < 21
        ) and "compressed" in said
    wide, narrow = pictures(None, 200_000), found
    assert wide["asked"] == ["a", "a", "c", "c"] and narrow["asked"] == ["a", "a"]
    in_common([wide, narrow])
    assert wide["asked"] == narrow["asked"] and {
        len(p) for p in (wide["real"], *wide["generations"].values())
    } == {2}, "arms keep the same columns"
