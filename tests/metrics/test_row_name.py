"""Rows have the names of their measures, but for the Frechet distance on Inception features."""

from difflab.metrics import METRICS
from difflab.metrics.row_name import measure_name, row_name


def test_only_the_frechet_distance_on_inception_has_another_name():
    for name in METRICS:
        for extractor in ("inception", "inception:weights.pth", "pixels", "texture"):
            shown = row_name(name, extractor)
            assert measure_name(shown) == name
            assert (shown == name) == (name != "fd" or not extractor.startswith("inception"))
    assert row_name("fd", "inception") == "fid"
