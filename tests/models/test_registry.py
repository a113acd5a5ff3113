"""Each family of a config is found under its name."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from difflab.models.registry import FAMILIES, family_of


def test_every_family_of_the_config_is_found_under_its_name():
    from difflab.config import Model

    specs = {s.model_fields["family"].annotation.__args__[0]: s for s in Model.__origin__.__args__}
    assert specs.keys() == FAMILIES.keys()
    for name, spec in specs.items():
        needed = {"base": "tiny-sd"} if spec.model_fields.get("base") else {}
        assert family_of(spec(family=name, **needed)).__name__ == spec.__name__


def test_an_unknown_family_is_an_error():
    with pytest.raises(KeyError, match="no-such-family"):
        family_of(SimpleNamespace(family="no-such-family"))


def test_an_exact_family_does_not_import_diffusers():
    code = (
        "import sys; from types import SimpleNamespace; from difflab.models.registry import family_of;"
        "family_of(SimpleNamespace(family='gaussian')); sys.exit('diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
