"""The chain of the exact families: resuming. (The image families have their own cases below them.)"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from difflab.config import Config, parse
from difflab.loop import chain
from difflab.loop.chain import run_chain
from difflab.runs.verify import verify

BASE: dict[str, Any] = {
    "generations": 3,
    "data": {"source": "exact", "train_size": 12},
    "model": {"family": "gaussian", "dim": 2, "replicates": 3},
    "regime": {"name": "accumulate_subsample"},
    "sample": {"count": 12, "shard_size": 5, "batch_size": 5},
}
NOT_COMPARED = {"timings.jsonl"}


def exact(**changes: Any) -> Config:
    return parse({**BASE, **changes})


def content(path: Path) -> dict[str, bytes]:
    """Every file of a run but the record of time."""
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name not in NOT_COMPARED and not p.name.startswith(".lease-")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("chain") / "run"
    run_chain(exact(), path)
    return path


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def test_a_chain_leaves_every_result_and_no_rubbish(whole):
    files = set(content(whole))
    for t in range(4):
        own = {f.removeprefix(f"gen-{t:03d}/") for f in files if f.startswith(f"gen-{t:03d}/")}
        shards = {f"samples/{k:05d}.parquet" for k in range(3)}
        assert own == shards | {
            "train_set.parquet", "model/gaussian.safetensors", "model/hash.json", "sampled.json", "selected.parquet", "metrics.jsonl", "replicates.safetensors", "hashes.json"
        }  # fmt: skip
    assert not (whole / "cache").exists()


@pytest.mark.parametrize(
    "victims",
    [
        ["gen-002/selected.parquet"],
        ["gen-001/train_set.parquet", "gen-002/train_set.parquet"],
        ["gen-001/samples/00001.parquet", "gen-001/sampled.json"],
        ["gen-001/sampled.json"],
        ["gen-003"],
        ["gen-001", "gen-002", "gen-003", "metrics.jsonl"],
        ["gen-002/model"],
        ["gen-002/model/hash.json", "gen-002/metrics.jsonl"],
        ["gen-000/metrics.jsonl", "metrics.jsonl", "gen-003/replicates.safetensors", "gen-003/metrics.jsonl"],
        ["gen-000/samples", "gen-000/sampled.json", "gen-003/samples/00002.parquet", "gen-003/sampled.json"],
        ["metrics.jsonl"],
        ["gen-001/samples/00001.parquet"],
        ["real"],
        ["real/images/00000.parquet"],
        ["real/about.json"],
    ],
    ids="+".join,
)
def test_whatever_was_lost_is_made_again_byte_for_byte(whole, copy, victims):
    for name in victims:
        victim = copy / name
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    assert content(copy) != content(whole)
    run_chain(exact(), copy)
    assert content(copy) == content(whole)
    assert list(verify(run_chain(exact(), copy))) == []


@pytest.mark.parametrize("stage", ["mix", "train", "sample", "select", "measure"])
@pytest.mark.parametrize("generation", [0, 2])
def test_a_chain_stopped_anywhere_goes_on_to_the_same_bytes(whole, tmp_path, monkeypatch, stage, generation):
    real = chain.RUN_STAGE[stage]

    def stopped(work: Any, t: int) -> Any:
        if t == generation:
            raise KeyboardInterrupt
        return real(work, t)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setitem(chain.RUN_STAGE, stage, stopped)
        run_chain(exact(), tmp_path / "run")
    run_chain(exact(), tmp_path / "run")
    assert content(tmp_path / "run") == content(whole)


def test_a_chain_stopped_between_two_shards_goes_on_to_the_same_bytes(whole, tmp_path, monkeypatch):
    from difflab.runs.store import Shards

    write, calls = Shards.write, []

    def stopped(self: Shards, shard: int, *rest: Any) -> None:
        calls.append(shard)
        if len(calls) == 6:
            raise KeyboardInterrupt
        write(self, shard, *rest)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Shards, "write", stopped)
        run_chain(exact(), tmp_path / "run")
    run_chain(exact(), tmp_path / "run")
    assert content(tmp_path / "run") == content(whole)


def test_a_chain_stopped_while_the_model_is_saved_goes_on(whole, tmp_path, monkeypatch):
    from difflab.models.gaussian import Gaussian

    def stopped(self: Gaussian, folder: Path) -> None:
        (folder / "half.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Gaussian, "save", stopped)
        run_chain(exact(), tmp_path / "run")
    run_chain(exact(), tmp_path / "run")
    assert content(tmp_path / "run") == content(whole)


@pytest.mark.parametrize("until", [0, 2])
def test_a_chain_that_ends_early_goes_on_to_the_same_bytes(whole, tmp_path, until):
    made: list[int] = []
    run_chain(exact(), tmp_path / "run", until=until, after_generation=lambda run, t, new: made.append(t))
    assert made == list(range(until + 1)) and not (tmp_path / "run" / "gen-003").exists()
    assert (tmp_path / "run" / "cache").exists()  # the next call reads it
    run_chain(exact(), tmp_path / "run", until=7)  # more than there are
    assert content(tmp_path / "run") == content(whole)


def test_running_a_complete_chain_again_touches_no_result(whole):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*.parquet")}
    run_chain(exact(), whole)
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*.parquet")} == before


def test_more_generations_extend_the_chain_and_leave_the_first_ones(whole, tmp_path):
    run_chain(exact(generations=1), tmp_path / "run")
    run_chain(exact(generations=3), tmp_path / "run")
    assert content(tmp_path / "run") == content(whole)


def test_the_shard_size_moves_no_number(whole, tmp_path):
    from difflab.runs.run import Run

    other = exact(sample={"count": 12, "shard_size": 4, "batch_size": 4})
    run_chain(other, tmp_path / "run")
    a, b = Run(whole, exact()), Run(tmp_path / "run", other)
    for t in range(4):
        assert a.samples(t).hash() == b.samples(t).hash()
        assert [r["value"] for r in a.rows()] == [r["value"] for r in b.rows()]


@pytest.mark.parametrize(
    "changes",
    [
        {
            "model": {"family": "categorical", "replicates": 3},
            "regime": {"name": "fresh_real", "real_fraction": 0.25},
        },
        {"model": {"family": "mixture", "replicates": 3}, "regime": {"name": "fixed_real"}},
        {
            "model": {"family": "gaussian"},
            "regime": {"name": "replace"},
            "sample": {"count": [12, 6, 20], "shard_size": 5, "batch_size": 5},
        },
    ],
    ids=["categorical", "mixture", "gaussian"],
)
def test_the_other_families_and_regimes_resume_too(tmp_path, changes):
    run_chain(exact(**changes), tmp_path / "a")
    run_chain(exact(**changes), tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "gen-002")
    run_chain(exact(**changes), tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_another_seed_gives_other_samples(whole, tmp_path):
    run_chain(exact(seed=1), tmp_path / "run")
    a, b = content(whole), content(tmp_path / "run")
    same = {name for name in a if a[name] == b[name]}
    assert same <= {"gen-000/train_set.parquet"} | {f"gen-{t:03d}/selected.parquet" for t in range(4)} | {
        "real/about.json"
    }


def test_who_publishes_is_called_whenever_a_stage_is_done(tmp_path):
    path, calls = tmp_path / "run", []

    def look() -> None:
        calls.append({name: path.joinpath(name).exists() for name in ("gen-000", "gen-003", "metrics.jsonl")})

    run_chain(exact(), path, after_stage=look)
    assert len(calls) == 1 + 4 * (5 + 1) + 1  # real set, stages and generations, run
    assert calls[0] == dict.fromkeys(calls[0], False) and calls[-1] == dict.fromkeys(calls[0], True)
    again: list[int] = []
    run_chain(exact(), path, after_stage=lambda: again.append(1))
    assert len(again) == 1 + 4 + 1
