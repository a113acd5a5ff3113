from __future__ import annotations

import inspect

import pytest

from difflab.studies.executors.engine import Engine
from difflab.studies.executors.local import Local
from difflab.studies.executors.slurm import Slurm


@pytest.mark.parametrize("kind", [Local, Slurm])
def test_engines_are_called_in_one_way(kind):
    assert list(inspect.signature(kind.run).parameters) == list(inspect.signature(Engine.run).parameters)
