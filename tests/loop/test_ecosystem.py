"""Labs that train on each other's samples: what is drawn from whom, what lies where, resuming, and the rows between labs."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from difflab import open_run
from difflab.cli.main import main
from difflab.config import Config, parse
from difflab.core.errors import ConfigError, StoreError
from difflab.core.files import read_tensors
from difflab.loop import chain, reuse
from difflab.loop.chain import run_chain
from difflab.loop.mix import draw_rows
from difflab.loop.regimes import check_possible, pools
from difflab.metrics.frechet import frechet_distance
from difflab.runs.run import EcosystemRun
from difflab.runs.train_set import SHARED, TrainSet
from difflab.runs.verify import verify

MATRIX = [[0.5, 0.5, 0.0], [0.2, 0.6, 0.2], [0.0, 0.0, 1.0]]


def exact(ecosystem: dict[str, Any] | None, **changes: Any) -> Config:
    raw = {
        "generations": 2,
        "data": {"source": "exact", "train_size": 10},
        "model": {"family": "categorical", "replicates": 3},
        "sample": {"count": 10, "shard_size": 5, "batch_size": 5},
        "ecosystem": ecosystem,
    }
    return parse({**raw, **changes})


def pictures(ecosystem: dict[str, Any], **changes: Any) -> Config:
    raw = {
        "generations": 1,
        "data": {"source": "digits", "limit": 240},
        "model": {"family": "memoriser"},
        "sample": {"count": 40, "shard_size": 20, "batch_size": 20},
        "probe": {"per_condition": 1},
        "measure": {
            "extractors": ["pixels"],
            "metrics": ["trace_ratio"],
            "resamples": 20,
            "held_out_loss": 0,
        },
        "ecosystem": ecosystem,
    }
    return parse({**raw, **changes})


def content(path: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != "timings.jsonl" and not p.name.startswith(".lease-")
    }


# ------------------------------------------------------------------------------------------------------------- config
# ----------------------------------------------------------------------------------------------------------- exchange
def drawn(config: Config, lab: int, t: int, kept: list[int] | None = None, replicates: int = 1) -> Any:
    """Training set t of a lab as a DataFrame; every lab kept as many samples of each generation."""
    of_labs = [[np.arange(n)] * t for n in kept or [10] * config.ecosystem.count]
    own = config.labs()[lab]
    parts, budget = pools(own, t, 10, of_labs[lab], labs=of_labs)
    return draw_rows(parts, budget, ("mix", lab, t), replicates).to_pandas()


@pytest.mark.parametrize(
    ("shares", "count", "wanted"),
    [
        ([0.5, 0.5, 0.0], 10, {0: 5, 1: 5}),
        ([0.2, 0.6, 0.2], 10, {0: 2, 1: 6, 2: 2}),
        ([1 / 3, 1 / 3, 1 / 3], 10, {0: 4, 1: 3, 2: 3}),
        ([0.25, 0.25, 0.5], 6, {0: 2, 1: 1, 2: 3}),
        ([0.0, 1.0, 0.0], 10, {1: 10}),
    ],
    ids=str,
)
def test_a_lab_draws_its_shares_by_largest_remainder(shares, count, wanted):
    config = exact({"exchange": [shares] * 3}, regime={"name": "replace", "set_size": count})
    rows = drawn(config, 0, 2)
    assert Counter(rows["lab"]) == wanted
    assert set(rows["generation"]) == {1} and set(rows["replicate"]) == {SHARED}
    assert not rows.duplicated(["lab", "generation", "index"]).any()


@pytest.mark.parametrize("regime", ["replace", "accumulate", "accumulate_subsample", "fixed_real"])
def test_a_lab_by_itself_draws_as_a_chain_does(regime):
    config = exact({"labs": 2, "exchange": "isolated"}, regime={"name": regime})
    alone = pools(exact(None, regime={"name": regime}), 3, 10, [np.arange(10)] * 3)
    for lab in (0, 1):
        rows = drawn(config, lab, 3, replicates=4)
        assert rows.drop(columns="lab").equals(
            draw_rows(*alone, ("mix", lab, 3), 4).to_pandas().drop(columns="lab")
        )
        assert set(rows["lab"][rows["generation"] >= 0]) == {lab} and set(
            rows["lab"][rows["generation"] < 0]
        ) <= {0}


def test_labs_draw_independently_and_each_of_its_chains_too():
    config = exact({"exchange": [[0.5, 0.5], [0.5, 0.5]]})
    rows = [drawn(config, lab, 1, replicates=500) for lab in (0, 1)]
    sets = [
        {r: frozenset(zip(own["lab"], own["index"], strict=True)) for r, own in table.groupby("replicate")}
        for table in rows
    ]
    assert len(set(sets[0].values())) > 400
    both = [
        len(sets[0][r] & sets[1][r]) for r in range(500)
    ]  # 2 x hypergeometric(10, 5, 5): mean 5, variance 2 x 25/36
    assert abs(np.mean(both) - 5) < 4 * np.sqrt(2 * 25 / 36 / 500)


def test_what_a_lab_has_received_stays_the_same_when_data_accumulate():
    config = exact({"exchange": MATRIX}, regime={"name": "accumulate"})
    sets = [
        set(zip(rows["lab"], rows["generation"], rows["index"], strict=True))
        for rows in (drawn(config, 1, t) for t in (1, 2, 3))
    ]
    assert [len(own) for own in sets] == [20, 30, 40] and sets[0] < sets[1] < sets[2]
    assert Counter(lab for lab, g, _ in sets[2] if g >= 0) == {0: 6, 1: 18, 2: 6}


def test_a_budget_is_drawn_from_the_union_after_the_exchange():
    config = exact({"exchange": MATRIX}, regime={"name": "accumulate_subsample"})
    rows = drawn(config, 1, 2, replicates=2000)
    assert (rows.groupby("replicate").size() == 10).all()
    often = rows.groupby(["generation", "lab"]).size() / 2000
    assert often.to_dict() == pytest.approx(
        {(-1, 0): 10 / 3, **{(g, j): 10 / 3 * MATRIX[1][j] for g in (0, 1) for j in range(3)}}, abs=0.15
    )
    each = rows[rows["generation"] == 1].groupby(["lab", "index"]).size()
    assert len(each) == 30 and (each[1].min() > 2 * each[0].max())


def test_too_few_samples_of_another_lab_are_named_before_anything_runs():
    config = exact({"labs": 2, "exchange": "one_way", "overrides": [{"sample.count": 6}, {}]})
    with pytest.raises(
        ConfigError,
        match=r"training set 1 asks for 10 samples of generation 0 of lab 0 \(synthetic\), but there are only 6",
    ):
        check_possible(config.labs()[1], 10, config.labs())
    check_possible(config.labs()[0], 10, config.labs())
    fits = exact(
        {"labs": 2, "exchange": "one_way", "overrides": [{"sample.count": 6}, {}]},
        regime={"name": "replace", "set_size": 6},
    )
    check_possible(fits.labs()[1], 10, fits.labs())


# ------------------------------------------------------------------------------------------------------------ the run
ECOSYSTEM = {
    "exchange": MATRIX,
    "real": "disjoint",
    "overrides": [{}, {}, {"regime.name": "accumulate_subsample"}],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ecosystem") / "run"
    run_chain(exact(ECOSYSTEM), path)
    return path


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def test_every_lab_is_a_run_in_its_own_folder(whole):
    top = {p.name for p in whole.iterdir()}
    assert top == {"run.yaml", "metrics.jsonl", "between", "lab-0", "lab-1", "lab-2", ".lease-000001"}
    assert {p.name for p in (whole / "between").iterdir()} == {
        f"gen-{t:03d}.{end}" for t in range(3) for end in ("jsonl", "safetensors")
    }
    for i in range(3):
        run = open_run(whole / f"lab-{i}")
        assert (
            run.config.lab == i and run.generations == [0, 1, 2] and run.config == exact(ECOSYSTEM).labs()[i]
        )
        assert set(run.samples(1).column("lab")) == {i} and set(run.real.column("lab")) == {0}
        assert [lab.path.name for lab in run.labs] == ["lab-0", "lab-1", "lab-2"] and run.parts == [run]
        assert list(verify(run)) == []
    whole_run = open_run(whole)
    assert isinstance(whole_run, EcosystemRun) and whole_run.generations == [0, 1, 2]
    for look in (
        lambda: whole_run.samples(0),
        lambda: whole_run.real,
        lambda: whole_run.kept(0),
        lambda: whole_run.done(0, "mix"),
    ):
        with pytest.raises(
            StoreError, match=r"an ecosystem of 3 labs, and each lab is a run: name one, such as .*lab-0"
        ):
            look()


def test_training_sets_are_of_the_labs_that_the_matrix_names(whole):
    for i, row in enumerate(MATRIX):
        rows = pq.read_table(whole / f"lab-{i}" / "gen-002" / "train_set.parquet").to_pandas()
        found = {lab for lab in rows["lab"][rows["generation"] >= 0]}
        assert found == {j for j, share in enumerate(row) if share}
    rows = pq.read_table(whole / "lab-1" / "gen-002" / "train_set.parquet")
    run = open_run(whole / "lab-1")
    own = TrainSet(rows, run.samples)
    assert sorted(own.sets) == [(0, 1), (1, 1), (2, 1)]
    for (lab, t), shards in own.sets.items():
        assert shards.hash() == open_run(whole / f"lab-{lab}").samples(t).hash()
    at = own.by_chain(np.arange(len(own)))
    for place in ((0, 0), (5, 1), (9, 2)):
        row = at[place]
        other = open_run(whole / f"lab-{rows['lab'][row]}").samples(1)
        assert own.records()[place] == other.gather(np.array([rows["index"][row].as_py()]))[0, place[1]]


def test_rows_of_labs_and_between_them(whole):
    rows = open_run(whole).rows()
    assert [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()] == rows
    assert [row["generation"] for row in rows] == sorted(row["generation"] for row in rows)
    assert {(row["generation"], row["lab"]) for row in rows} == {
        (t, lab) for t in range(3) for lab in (0, 1, 2, None)
    }
    between = [row for row in rows if row["lab"] is None]
    assert [row["metric"] for row in between] == ["lab_distance"] * 3 and {row["n"] for row in between} == {3}
    assert len({row["floor"] for row in between}) == 1 and all(
        row["ci_low"] < row["value"] < row["ci_high"] for row in between
    )
    frame = open_run(whole).metrics
    assert len(frame[frame["lab"] == 1]) == len(open_run(whole / "lab-1").rows())
    p = [
        read_tensors(whole / f"lab-{i}" / "gen-002" / "model" / "categorical.safetensors")["p"].numpy()
        for i in range(3)
    ]
    wanted = np.mean([((p[i] - p[j]) ** 2).sum(1) for i, j in ((0, 1), (0, 2), (1, 2))], axis=0)
    assert read_tensors(whole / "between" / "gen-002.safetensors")["lab_distance"].numpy() == pytest.approx(
        wanted
    )
    assert between[2]["value"] == pytest.approx(wanted.mean())


def test_a_lab_by_itself_is_the_chain_by_itself_and_the_others_are_not(tmp_path):
    run_chain(exact({"labs": 2, "exchange": "isolated"}), tmp_path / "two")
    run_chain(exact(None), tmp_path / "one")
    one, labs = open_run(tmp_path / "one"), open_run(tmp_path / "two").labs
    assert labs[0].real.hash() == labs[1].real.hash() == one.real.hash()
    assert [labs[0].samples(t).hash() for t in range(3)] == [one.samples(t).hash() for t in range(3)]
    assert [row["value"] for row in labs[0].rows()] == [row["value"] for row in one.rows()]
    assert all(labs[1].samples(t).hash() != one.samples(t).hash() for t in range(3))


@pytest.mark.parametrize(
    "victims",
    [
        ["lab-1/gen-001"],
        ["lab-0/gen-002/train_set.parquet", "lab-2/gen-000/samples/00001.parquet", "between/gen-001.jsonl"],
        ["lab-2"],
        ["between", "metrics.jsonl", "lab-1/metrics.jsonl"],
        ["lab-0/real", "lab-1/gen-002/model"],
    ],
    ids="+".join,
)
def test_whatever_was_lost_is_made_again_byte_for_byte(whole, copy, victims):
    for name in victims:
        victim = copy / name
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    run_chain(exact(ECOSYSTEM), copy)
    assert content(copy) == content(whole)


@pytest.mark.parametrize(
    ("stage", "lab", "generation"), [("mix", 2, 1), ("train", 1, 0), ("sample", 0, 2), ("measure", 2, 2)]
)
def test_an_ecosystem_stopped_anywhere_goes_on_to_the_same_bytes(
    whole, tmp_path, monkeypatch, stage, lab, generation
):
    real = chain.RUN_STAGE[stage]

    def stopped(work: Any, t: int) -> Any:
        if (t, work.run.config.lab) == (generation, lab):
            raise KeyboardInterrupt
        return real(work, t)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setitem(chain.RUN_STAGE, stage, stopped)
        run_chain(exact(ECOSYSTEM), tmp_path / "run")
    run_chain(exact(ECOSYSTEM), tmp_path / "run")
    assert content(tmp_path / "run") == content(whole)


def test_labs_take_turns(tmp_path, monkeypatch):
    order = []
    real = chain.RUN_STAGE["mix"]
    monkeypatch.setitem(
        chain.RUN_STAGE, "mix", lambda work, t: order.append((t, work.run.config.lab)) or real(work, t)
    )
    run_chain(exact({"labs": 2}), tmp_path / "run")
    assert order == [(t, lab) for t in range(3) for lab in (0, 1)]


def test_more_generations_extend_and_another_exchange_is_another_run(whole, copy, tmp_path):
    run_chain(exact(ECOSYSTEM, generations=1), tmp_path / "short")
    run_chain(exact(ECOSYSTEM), tmp_path / "short")
    assert content(tmp_path / "short") == content(whole)
    with pytest.raises(StoreError, match=r"another recipe \(ecosystem.exchange"):
        run_chain(exact({**ECOSYSTEM, "exchange": "pooled"}), copy)
    with pytest.raises(StoreError, match="another recipe"):
        run_chain(exact(None), copy)
    assert content(copy) == content(whole)


def test_one_lab_cannot_be_run_alone_and_a_run_is_locked_as_a_whole(whole, tmp_path):
    with pytest.raises(ConfigError, match="config of lab 1 of an ecosystem"):
        run_chain(exact(ECOSYSTEM).labs()[1], tmp_path / "run")
    config = exact({"labs": 2})
    run = EcosystemRun.create(tmp_path / "run", config)
    with pytest.raises(StoreError, match="another process is working on"):
        run_chain(config, tmp_path / "run")
    run.close()
    run_chain(config, tmp_path / "run")


def test_labs_share_no_stage_with_each_other_or_with_a_chain():
    configs = [exact(None), *exact({"labs": 2}).labs(), *exact({"labs": 2, "exchange": "isolated"}).labs()]
    keys = [reuse.keys(config) for config in configs]
    assert len({key[0, "sample"] for key in keys}) == len(configs)


# ------------------------------------------------------------------------------------------------------------- images
def test_images_of_labs_with_their_own_parts_of_the_real_ones(tmp_path):
    run = run_chain(pictures({"labs": 3, "real": "disjoint"}), tmp_path / "run", plots=True)
    labs = run.labs
    keys = [dict(zip(lab.real.column("key"), lab.real.column("split"), strict=True)) for lab in labs]
    train = [{k for k, side in own.items() if side == "train"} for own in keys]
    held = [{k for k, side in own.items() if side == "held_out"} for own in keys]
    assert [len(own) for own in train] == [40, 40, 40] and len(set.union(*train)) == 120
    assert held[0] == held[1] == held[2] and len(held[0]) == 120
    # What lab 1's second model remembers are the samples of all labs that its training set points at.
    rows = pq.read_table(tmp_path / "run" / "lab-1" / "gen-001" / "train_set.parquet").to_pandas()
    assert Counter(rows["lab"]) == {0: 14, 1: 13, 2: 13}
    images = read_tensors(tmp_path / "run" / "lab-1" / "gen-001" / "model" / "memoriser.safetensors")[
        "images"
    ].numpy()
    for k in (0, 20, 39):
        assert (images[k] == labs[rows["lab"][k]].samples(0).gather(np.array([rows["index"][k]]))[0]).all()
    rows = [row for row in run.rows() if row["lab"] is None]
    assert [(row["metric"], row["extractor"], row["n"], row["reason"]) for row in rows] == [
        ("lab_distance", "pixels", 40, None)
    ] * 2
    assert all(row["ci_low"] < row["value"] < row["ci_high"] for row in rows)
    key = next(
        (tmp_path / "run" / "lab-0" / "gen-001" / "features").glob("*-00000.safetensors")
    ).name.removesuffix("-00000.safetensors")
    f = [lab.samples(1).features(key) for lab in labs]
    assert rows[1]["value"] == pytest.approx(
        np.mean([frechet_distance(f[i], f[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    )
    real = labs[0].real.features(key)
    assert rows[1]["floor"] == pytest.approx(frechet_distance(real[:40], real[40:80]))
    assert (tmp_path / "run" / "strip.png").exists() and (tmp_path / "run" / "curves.png").exists()
    assert run.strip().height == sum(lab.strip().height for lab in labs)


SMALL = {
    "model": {"family": "pixel-mlp", "width": 8, "depth": 1},
    "train": {"images_seen": 64, "batch_size": 32},
    "sample": {"count": 40, "steps": 2, "shard_size": 40, "batch_size": 40},
}


def test_equal_labs_have_different_models_and_are_told_apart_by_the_same_extractor(tmp_path):
    run = run_chain(
        pictures(
            {"labs": 2, "overrides": [{}, {"policies": [{"policy": "unflagged"}]}]}, generations=0, **SMALL
        ),
        tmp_path / "run",
    )
    a, b = (
        {n: t for f in (lab.gen(0) / "model").rglob("*.safetensors") for n, t in read_tensors(f).items()}
        for lab in run.labs
    )
    assert a.keys() == b.keys() and not any(torch.equal(t, b[name]) for name, t in a.items() if t.numel() > 8)
    assert run.labs[0].real.hash() == run.labs[1].real.hash()
    assert not set(run.labs[0].samples(0).column("seed")) & set(run.labs[1].samples(0).column("seed"))
    assert run.labs[0].probe(0, 10).column("seed") == run.labs[1].probe(0, 10).column("seed")  # for eyes
    assert [row["value"] is not None for row in run.rows() if row["lab"] is None] == [True]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"data": {"source": "emoji", "limit": 240, "image_size": 8, "color": "L"}},
            r"whose classes differ: lab \d has .*, lab \d has 10 ",
        ),
        (
            {"data.image_size": 16},
            r"lab 0 trains on samples of lab 1, which are \[16, 16, 1\] instead of \[8, 8, 1\]",
        ),
        ({"model": {"family": "memoriser"}}, "is conditioned on classes, which these samples do not have"),
        ({"data.limit": 200}, r"images that lab \d holds out are in the train split of lab \d"),
        ({"data.split_seed": 7}, r"images that lab \d holds out are in the train split of lab \d"),
        ({"train.precision": "bf16"}, "train.precision is bf16 in lab 1 and no in lab 0"),
        ({"measure.judge": "texture"}, "measure.judge 'texture' is not among measure.extractors"),
    ],
    ids=str,
)
def test_labs_that_do_not_fit_together_are_refused_before_anything_is_fitted(tmp_path, overrides, said):
    with pytest.raises(ConfigError, match=said):
        run_chain(pictures({"labs": 2, "overrides": [{}, overrides]}, **SMALL), tmp_path / "run")
    assert not list(tmp_path.rglob("gen-*"))
    run_chain(
        pictures({"labs": 2, "exchange": "isolated"}, generations=0, model={"family": "memoriser"}),
        tmp_path / "run",
    )  # mended


def test_labs_that_do_not_exchange_may_be_of_any_kind(tmp_path):
    own = {"data": {"source": "digits", "limit": 200}, "measure.extractors": ["texture", "fitted"]}
    run = run_chain(
        pictures({"labs": 2, "exchange": "isolated", "overrides": [{}, own]}, generations=0), tmp_path / "run"
    )
    rows = [row for row in run.rows() if row["lab"] is None]
    assert [row["value"] for row in rows] == [None] and "different extractors" in rows[0]["reason"]


# ------------------------------------------------------------------------------------------------------- command line
def test_commands_know_ecosystems(tmp_path, capsys):
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(pictures({"labs": 2}).model_dump(mode="json")))
    out = str(tmp_path / "run")
    assert main(["plan", str(tmp_path / "two.yaml"), "--json"]) == 0
    assert {json.loads(line)["lab"] for line in capsys.readouterr().out.splitlines()} == {0, 1}
    assert main(["run", str(tmp_path / "two.yaml"), "--out", out]) == 0
    said = capsys.readouterr()
    assert "lab 0\n" in said.out and "lab 1\n" in said.out and "strip.png" in said.out
    assert "generation 1/1 lab 1 sample" in said.err
    assert main(["status", out]) == 0
    said = capsys.readouterr().out
    assert said.count("recipe") == 2 and said.endswith("complete\n")
    assert main(["status", out, "--all"]) == 0
    said = capsys.readouterr().out
    assert "run-lab-0" in said and "run-lab-1" in said and "distance" in said
    assert main(["status", out, "--json"]) == 0
    assert [(r["lab"], r["generation"]) for r in map(json.loads, capsys.readouterr().out.splitlines())] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert main(["verify", out]) == 0
    capsys.readouterr()
    (tmp_path / "run" / "lab-1" / "gen-001" / "model" / "memoriser.safetensors").unlink()
    assert (
        main(["verify", out]) == 1
        and "lab-1/gen-001/model/memoriser.safetensors is missing" in capsys.readouterr().out
    )
    assert main(["export", out, "--generation", "0", "--to", str(tmp_path / "x")]) == 2
    assert "name one, such as" in capsys.readouterr().err
    assert main(["export", f"{out}/lab-1", "--generation", "0", "--to", str(tmp_path / "x")]) == 0
    (tmp_path / "run" / "lab-1" / "gen-001" / "metrics.jsonl").unlink()
    capsys.readouterr()
    assert main(["status", f"{out}/lab-1"]) == 0 and capsys.readouterr().out.replace("\n", "").endswith(
        f"--out {out}"
    )
