from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.features.altered import open_change
from difflab.features.registry import known_extractor, open_extractor
from difflab.features.spread_spectrum import agreements, marked

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), dtype=np.uint8))


def test_its_features_are_the_agreements_of_the_key():
    extractor = open_extractor("watermark:7", device="meta")  # it stays on the CPU
    assert torch.equal(extractor(IMAGES), agreements(IMAGES, 7))
    assert (extractor.dim, extractor.statistics, extractor.name) == (256, "watermark", "watermark:7")
    coarse = open_extractor("watermark:7,chip=2")
    assert torch.equal(coarse(IMAGES), agreements(IMAGES, 7, chip=2))


def test_the_images_are_changed_before_they_are_read():
    changed = open_extractor("watermark:7,after=jpeg50")
    assert torch.equal(changed(IMAGES), agreements(open_change("jpeg50")[0](IMAGES), 7))


def test_every_setting_has_a_key_of_its_own():
    specs = [
        "watermark:7",
        "watermark:8",
        "watermark:7,chip=2",
        "watermark:7,after=crop",
        "watermark:7,after=jpeg9",
    ]
    assert len({open_extractor(spec).key for spec in specs}) == len(specs)


def test_folders_are_not_part_of_the_name(tmp_path):
    from difflab.core.files import ASSETS

    assert open_extractor(f"watermark:7,after=vae:{ASSETS}/tiny-sd").name == "watermark:7,after=vae:tiny-sd"


def test_a_marked_image_agrees():
    flat = np.full((1, 16, 16, 1), 100, np.uint8)
    assert open_extractor("watermark:7")(torch.from_numpy(marked(flat, 7, 2))).sum() > 150


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("watermark", "needs the key of the mark, a number from 0 on, got ''"),
        ("watermark:", "needs the key"),
        ("watermark:-1", "got '-1'"),
        ("watermark:cat", "got 'cat'"),
        ("watermark:7,chip=0", "'chip=0' is unknown; write watermark:KEY"),
        ("watermark:7,size=2", "'size=2' is unknown"),
        ("watermark:7,after=blur", "unknown change of images 'blur'"),
    ],
)
def test_a_spec_of_another_form_is_refused_before_anything_is_loaded(spec, message):
    with pytest.raises(MeasureError, match=message):
        known_extractor(spec)
