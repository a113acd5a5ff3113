from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from difflab import config as configs
from difflab.config import parse

DIGITS: dict[str, Any] = {"model": {"family": "pixel-mlp"}}


def test_a_config_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        parse(DIGITS).train.batch_size = 3


def test_every_spec_forbids_unknown_keys_and_changes():
    def specs(base: type[BaseModel]) -> list[type[BaseModel]]:
        return [s for c in base.__subclasses__() for s in [c, *specs(c)]]

    found = specs(configs.Spec)
    assert len(found) >= 15
    for spec in found:
        assert (
            spec.model_config["extra"] == "forbid"
            and spec.model_config["frozen"]
            and spec.model_config["strict"]
        ), spec
