from __future__ import annotations

import numpy as np
import pytest
from accelerate import Accelerator

from difflab.config import parse
from difflab.core.errors import ConfigError
from difflab.loop.ingest import ingest
from difflab.runs.run import Run


def opened(path, regime: str = "replace", generations: int = 3, **model) -> Run:
    raw = {
        "generations": generations,
        "data": {"source": "exact", "train_size": 20},
        "model": {"family": "gaussian", "dim": 2, "replicates": 3, **model},
        "regime": {"name": regime},
        "sample": {"count": 20},
    }
    return Run(path, parse(raw))


@pytest.mark.parametrize(("regime", "n_train"), [("replace", 20), ("accumulate", 20), ("fresh_real", 50)])
def test_exact_records_are_as_many_as_the_chain_will_ask_for(tmp_path, regime, n_train):
    run = opened(tmp_path, regime)
    ingest(run, Accelerator())
    assert (run.about["n_train"], run.about["n_held_out"], run.about["record"]) == (n_train, 20, [3, 2])
    assert run.real.column("split") == ["train"] * n_train + ["held_out"] * 20
    assert set(run.real.column("generation")) == {-1} and set(run.real.column("kind")) == {"real"}
    values = run.real.gather(np.arange(n_train + 20))
    assert len(np.unique(values)) == values.size  # every record its own draw


def test_ingesting_again_changes_nothing_and_mends_what_is_gone(tmp_path):
    run = opened(tmp_path)
    ingest(run, Accelerator())
    path = run.real.path(0)
    before, about, stamp = (
        path.read_bytes(),
        (tmp_path / "real" / "about.json").read_bytes(),
        path.stat().st_mtime_ns,
    )
    ingest(run, Accelerator())
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    ingest(run, Accelerator())
    assert path.read_bytes() == before and (tmp_path / "real" / "about.json").read_bytes() == about


def test_an_impossible_chain_is_refused_before_anything_is_written(tmp_path):
    raw = opened(tmp_path).config.model_dump() | {"regime": {"name": "replace", "set_size": 21}}
    with pytest.raises(ConfigError, match="budget of 21"):
        ingest(Run(tmp_path, parse(raw)), Accelerator())
    assert list(tmp_path.iterdir()) == []
