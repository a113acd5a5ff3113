"""A chain of two generations with every architecture: in two processes, killed, and resumed in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from forks import Server
from tiny_bases import TinyBase, bases

from difflab.runs.run import open_run

pytestmark = tiny.LIBRARIES


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.mark.parametrize("base", [base for base in bases() if not base.variant], ids=lambda base: base.name)
def test_a_chain_killed_in_two_processes_and_resumed_in_one_is_the_same(base: TinyBase, server, tmp_path):
    folder = base.write(tmp_path / "base")
    model: dict[str, Any] = {} if base.lora is None else {"lora_rank": 2, "lora_targets": list(base.lora)}
    train = {"images_seen": 24, "checkpoint_every": 8}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(base.config(folder, model=model, train=train)))
    server.run(file, tmp_path / "whole", world=0)  # modules of this architecture are loaded once
    server.run(file, tmp_path / "killed", world=2, stop=1)  # both end at once after the first checkpoint
    assert not (tmp_path / "killed" / "gen-000" / "sampled.json").exists()
    server.run(file, tmp_path / "killed")
    whole, resumed = open_run(tmp_path / "whole"), open_run(tmp_path / "killed")
    for generation in (0, 1):
        one, other = (run.samples(generation).gather(np.arange(6)).astype(int) for run in (whole, resumed))
        assert one.std() > 10 and np.abs(one - other).max() <= 1
    assert whole.samples(0).hash() != whole.samples(1).hash()
    assert "training has not changed the samples" not in (tmp_path / "whole.0.log").read_text()
