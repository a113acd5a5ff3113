"""Settings that need images of one size. tests/loop/test_buckets.py has the chains."""

from __future__ import annotations

import pytest

from difflab.config import parse
from difflab.core.errors import ConfigError
from difflab.loop.bucket_checks import check_buckets


def config(extractors: list[str], buckets: object = ((8, 8), (8, 12))) -> object:
    sizes = [list(size) for size in buckets] if buckets else None
    data = {"source": "imagefolder:x", "buckets": sizes}
    return parse({"data": data, "model": {"family": "pixel-unet"}, "measure": {"extractors": extractors}})


@pytest.mark.parametrize("extractor", ["pixels", "fitted"])
def test_extractors_that_compare_images_of_one_size(extractor):
    with pytest.raises(ConfigError, match=f"'{extractor}' compares images of one size.*efficientnet-lite0"):
        check_buckets(config(["texture", extractor]))
    check_buckets(config([extractor], buckets=None))


@pytest.mark.parametrize("extractors", [[], ["texture"], ["artefacts", "efficientnet-lite0"], ["inception"]])
def test_extractors_that_take_any_size(extractors):
    check_buckets(config(extractors))
