"""The probe: halves without copies in common, rates on the other half, sets that differ in format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audited import synthetic, write
from PIL import Image

from difflab.core.errors import DataError
from difflab.evaluation.audit.probe import Looks, difference, fit_probe
from difflab.features.registry import open_extractor

TEXTURE = [open_extractor("texture")]


def test_rates_are_those_on_images_that_were_not_trained_on(
    sets: dict[str, Path], emoji: list[np.ndarray]
) -> None:
    probe = fit_probe(sets["real"], sets["synthetic"], TEXTURE, None, 0, [])
    assert probe.calibration.synthetic == probe.calibration.real == 60
    assert probe.size == (32, 32) and probe.threshold == 0.5 and len(probe.contents) == 240
    assert probe.calibration.youden > 0.6
    other = np.stack([synthetic(image, 5000 + i) for i, image in enumerate(emoji[460:600])])
    found = float((probe.score(other) > probe.threshold).mean())
    assert abs(found - probe.calibration.sensitivity) < 0.12


def test_random_labels_have_the_rates_of_chance(tmp_path: Path, emoji: list[np.ndarray]) -> None:
    """With 60 training images and many features the probe fits them perfectly. Its measured rates do not show it."""
    one, other = write(tmp_path / "one", emoji[:60]), write(tmp_path / "other", emoji[60:120])
    probe = fit_probe(one, other, [open_extractor("pixels")], None, 0, [])
    assert abs(probe.calibration.youden) < 0.4


def test_the_same_seed_gives_the_same_probe(sets: dict[str, Path], emoji: list[np.ndarray]) -> None:
    first, second, third = (
        fit_probe(sets["real"], sets["synthetic"], TEXTURE, (16, 16), seed, []).score(
            np.stack([np.asarray(Image.fromarray(image).resize((16, 16))) for image in emoji[:20]])
        )
        for seed in (0, 0, 1)
    )
    assert (first == second).all() and not (first == third).all()


def test_copies_of_an_image_are_in_one_half(
    tmp_path: Path, emoji: list[np.ndarray], sets: dict[str, Path]
) -> None:
    """40 images, each three times: the halves hold no image in common, so that fewer remain."""
    folder = tmp_path / "real"
    for name in ("a", "b", "c"):
        write(folder, emoji[:40], name)
    probe = fit_probe(folder, sets["synthetic"], TEXTURE, None, 0, [])
    assert probe.calibration.real % 3 == 0 or probe.calibration.real < 60


def test_sets_that_are_too_small_damaged_or_shared(
    tmp_path: Path, emoji: list[np.ndarray], sets: dict[str, Path]
) -> None:
    few = write(tmp_path / "few", emoji[:19])
    with pytest.raises(DataError, match="has 19 images"):
        fit_probe(few, sets["synthetic"], TEXTURE, None, 0, [])
    same = write(tmp_path / "same", emoji[:1] * 30)
    with pytest.raises(DataError, match="fewer than 20 different"):
        fit_probe(same, sets["synthetic"], TEXTURE, None, 0, [])
    with pytest.raises(DataError, match="in the real and in the synthetic set"):
        fit_probe(sets["real"], sets["real"], TEXTURE, None, 0, [])
    notes: list[str] = []
    (few / "bad.png").write_bytes(b"")
    write(few, emoji[19:60], "more")
    fit_probe(few, sets["synthetic"], TEXTURE, None, 0, notes)
    assert notes == ["calibration: 1 of 61 real images cannot be read"]


def test_formats_and_sizes_that_differ() -> None:
    png, jpeg, large = Looks(0.0, 64), Looks(1.0, 64), Looks(0.0, 512)
    assert difference("A", png, "B", png) is None
    assert "0% of A are JPEG or WebP, but 100% of B" in str(difference("A", png, "B", jpeg))
    assert "64 px, but 512 px" in str(difference("A", png, "B", large))
    assert difference("A", Looks(0.1, 64), "B", Looks(0.25, 80)) is None
    assert Looks.of(["png", "jpeg"], [(3, 9), (8, 5)]) == Looks(0.5, 4.0)
