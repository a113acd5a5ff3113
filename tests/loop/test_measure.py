"""Stage 5 on real digits: rows with their keys, floors, intervals, recipes, and numbers that could not be taken."""

from __future__ import annotations

import json
import math
import re
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from pictures import folder
from safetensors.torch import save_file

from difflab.config import Config, parse
from difflab.core.errors import ConfigError, DifflabError, MeasureError
from difflab.core.progress import Reporter
from difflab.core.rows import KEYS
from difflab.core.seeds import numpy_generator, seed_of
from difflab.loop import measure as measuring
from difflab.loop.chain import run_chain
from difflab.loop.measure import collect, extractors_of, measure_images, measured_count
from difflab.metrics import METRICS, Judge, Pair, concepts_of, interval, open_extractor, resampled
from difflab.metrics.interval import wilson
from difflab.runs.run import Run

run_chain = partial(run_chain, plots=False)  # curves take seconds

ALL = [
    "fd",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "trace_ratio",
    "class_accuracy",
    "class_entropy",
    "rare_class_survival",
]
BASE: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "train_size": 100},
    "model": {"family": "pixel-mlp", "width": 32, "depth": 1},
    "train": {"images_seen": 2560, "batch_size": 64, "learning_rate": 3e-3},
    "sample": {"count": 80, "steps": 4, "shard_size": 40, "batch_size": 40},
    "probe": {"per_condition": 0},
    "measure": {"metrics": ALL, "resamples": 20, "count": 70, "neighbours": 3},
}


def digits(**changes: Any) -> Config:
    return parse({**BASE, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("measure") / "run")


def rows(run: Run, **measure: Any) -> dict[str, dict[str, Any]]:
    """Generation 1 of a run measured anew with other settings, by metric."""
    changed = Run(run.path, digits(measure={**BASE["measure"], **measure}))
    accelerator = Accelerator()
    out = measure_images(changed, 1, extractors_of(changed, accelerator), accelerator, lambda n: None)
    return {f"{r['metric']}/{r['extractor']}": r for r in out}


@pytest.fixture(scope="module")
def taken(run) -> dict[str, dict[str, Any]]:
    return rows(run)


def sides(run: Run, n: int = 70) -> dict[str, Any]:
    """Features and labels of the images that the measures should be about, found by their ledger columns."""
    split, labels = np.array(run.real.column("split")), torch.from_numpy(run.real.labels())
    pixels = torch.from_numpy(run.real.gather(np.arange(len(run.real)))).flatten(1).float() / 255
    train, held_out = np.flatnonzero(split == "train"), np.flatnonzero(split == "held_out")
    samples = torch.from_numpy(run.samples(1).gather(np.arange(n))).flatten(1).float() / 255
    asked = torch.from_numpy(run.samples(1).labels()[:n])
    judge = Judge.fit(pixels[train], labels[train], 10)
    a, b = train[:n], held_out[:n]
    assert not {run.real.column("sha256")[i] for i in a} & {run.real.column("sha256")[i] for i in b}
    return {
        "pair": Pair(pixels[b], samples, real_labels=labels[b], fake_labels=asked, judge=judge, neighbours=3),
        "floor": Pair(
            pixels[a], pixels[b], real_labels=labels[a], fake_labels=labels[b], judge=judge, neighbours=3
        ),
    }


def test_rows_have_every_key_and_say_what_they_are(run, taken):
    assert set(taken) == {f"{m}/pixels" for m in ALL} | {"flagged_share/none"}
    for r in taken.values():
        assert tuple(r) == KEYS and r["generation"] == 1 and r["lab"] == 0 and len(r["recipe"]) == 12
        assert r["ci_low"] <= r["value"] <= r["ci_high"] and math.isfinite(r["floor"]) and r["reason"] is None
        assert r["ci_low"] < r["ci_high"] or r["value"] in (0, 1)  # a share at its bound in every half-sample
        assert r["n"] == (80 if r["metric"] == "flagged_share" else 70)


def test_rows_are_the_metrics_themselves_on_the_same_images(run, taken):
    by_hand = sides(run)
    for name in ALL:
        assert taken[f"{name}/pixels"]["value"] == pytest.approx(
            METRICS[name].of(by_hand["pair"]), rel=1e-6, abs=1e-9
        ), name


def test_the_floor_is_between_two_disjoint_real_sets_of_the_same_size(run, taken):
    by_hand = sides(run)
    for name in ALL:
        assert taken[f"{name}/pixels"]["floor"] == pytest.approx(
            METRICS[name].of(by_hand["floor"]), rel=1e-6, abs=1e-9
        ), name
    other = rows(run, count=60)
    assert other["fd/pixels"]["n"] == 60 and other["fd/pixels"]["floor"] != taken["fd/pixels"]["floor"]


def test_intervals_are_those_of_the_half_samples(run, taken):
    pair = sides(run)["pair"]
    for name in ("fd", "recall", "class_entropy"):
        draws = resampled(METRICS[name], pair, range(20), seed_of("interval", 0, 1, name))
        r = taken[f"{name}/pixels"]
        assert (r["ci_low"], r["ci_high"]) == pytest.approx(
            interval(r["value"], draws, METRICS[name].range), rel=1e-5, abs=1e-9
        )


def test_measuring_again_gives_the_same_rows(run, taken):
    assert rows(run) == taken
    written = [json.loads(line) for line in (run.gen(1) / "metrics.jsonl").read_text().splitlines()]
    assert [row for row in written if row["extractor"] != "training"] == list(
        taken.values()
    )  # the others were left by the training


def test_no_resamples_no_intervals(run, taken):
    for name, r in rows(run, resamples=0).items():
        assert r["value"] == taken[name]["value"]
        assert r["metric"] == "flagged_share" or (r["ci_low"] is None and r["ci_high"] is None)


def test_metrics_jsonl_of_the_run_is_that_of_its_generations(run):
    own = [(run.gen(t) / "metrics.jsonl").read_text() for t in (0, 1)]
    assert (run.path / "metrics.jsonl").read_text() == "".join(own)
    assert (run.metrics["extractor"] != "training").sum() == 22 and list(run.metrics.columns) == list(KEYS)


# ------------------------------------------------------------------------------------------------ recipes
def recipes(run: Run, **measure: Any) -> dict[str, str]:
    return {name: r["recipe"] for name, r in rows(run, **measure).items()}


def test_the_recipe_changes_with_what_makes_a_number_and_with_nothing_else(run, taken):
    base = {name: r["recipe"] for name, r in taken.items()}
    assert len(set(base.values())) == len(base)  # every measure its own
    assert recipes(run, resamples=0) == base and recipes(run, resamples=40) == base  # the number is the same
    assert recipes(run, metrics=["recall"])["recall/pixels"] == base["recall/pixels"]
    fewer = recipes(run, count=60)
    assert {m for m in base if fewer[m] == base[m]} == {
        "flagged_share/none"
    }  # which is about all samples, whatever count
    assert recipes(run, neighbours=4)["recall/pixels"] != base["recall/pixels"]
    fitted = recipes(run, extractors=["fitted"])
    assert not set(fitted.values()) & (set(base.values()) - {base["flagged_share/none"]})
    judged = recipes(run, extractors=["pixels", "fitted"], judge="fitted")
    assert {"class_accuracy/fitted", "fd/pixels", "fd/fitted"} <= set(
        judged
    ) and "class_accuracy/pixels" not in judged
    assert (
        judged["fd/pixels"] == base["fd/pixels"]
        and judged["class_accuracy/fitted"] == fitted["class_accuracy/fitted"]
    )


def test_generations_share_their_recipes_and_another_real_set_has_others(run, tmp_path):
    by_generation = [{r["metric"]: r["recipe"] for r in run.rows() if r["generation"] == t} for t in (0, 1)]
    by_generation[1].pop("drift_from_previous")  # the first generation has none before it
    assert by_generation[0] == by_generation[1]
    other = run_chain(
        digits(seed=1, generations=0, measure={**BASE["measure"], "metrics": ["fd"]}), tmp_path / "run"
    )
    assert {r["metric"]: r["recipe"] for r in other.rows()}["fd"] != by_generation[0]["fd"]


# ------------------------------------------------------------------------- what cannot be taken, what is wrong
def test_a_measure_that_cannot_be_taken_says_why(tmp_path):
    config = digits(generations=0, model={"family": "memoriser"}, sample={"count": 80})
    run = run_chain(config, tmp_path / "run")
    by_name = {r["metric"]: r for r in run.rows()}
    lost = by_name["class_accuracy"]
    assert lost["value"] is None and lost["floor"] is None and lost["ci_low"] is None and lost["n"] == 70
    assert "the samples are unconditional" in lost["reason"]
    assert all(
        r["value"] is not None and r["reason"] is None
        for name, r in by_name.items()
        if name != "class_accuracy"
    )


def test_constant_images_are_counted_as_flagged(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    copy = Run(tmp_path / "run", run.config)
    pixels = copy.samples(1).gather(np.arange(40))
    pixels[:4] = 7
    copy.samples(1).path(0).unlink()
    copy.samples(1).write(0, pixels, {"generation": 1})
    r = rows(copy)["flagged_share/none"]
    assert r["value"] == 4 / 80 and r["n"] == 80 and r["floor"] == 0.0
    z, p, n = 1.959964, 4 / 80, 80  # Wilson's interval, from its quadratic equation
    roots = np.roots([1 + z * z / n, -(2 * p + z * z / n), p * p])
    assert sorted(roots) == pytest.approx([r["ci_low"], r["ci_high"]])


def test_more_images_than_there_are_cannot_be_measured(run):
    with pytest.raises(MeasureError, match=r"measure\.count 81 is more than the 80 images"):
        measured_count(Run(run.path, digits(measure={"count": 81})))


def test_the_count_is_the_same_in_all_generations_also_in_later_ones(run):
    shrinking = {**BASE["sample"], "count": [80, 80, 40]}
    for generations in (
        1,
        2,
        9,
    ):  # a run that is extended must not change the n of what it has measured already
        assert (
            measured_count(Run(run.path, digits(generations=generations, sample=shrinking, measure={}))) == 40
        )


def test_a_judge_that_is_no_extractor_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(
        ConfigError, match=r"measure\.judge 'fitted' is none of measure\.extractors \['pixels'\]"
    ):
        run_chain(digits(measure={"judge": "fitted"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_measure_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(MeasureError, match="recal"):
        run_chain(digits(measure={"metrics": ["recal"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_measures_only_flags_are_counted(run, tmp_path):
    nothing = Run(run.path, digits(measure={"metrics": []}))
    assert extractors_of(nothing, Accelerator()) == []
    assert [r["metric"] for r in measure_images(nothing, 1, [], Accelerator(), lambda n: None)] == [
        "flagged_share"
    ]


# ---------------------------------------------------------------------------------------- several processes
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_half_samples_and_agree_on_the_interval(run, taken, monkeypatch, world):
    """What each of several processes would gather is played by taking all their parts in turn."""
    changed = Run(run.path, digits(measure={**BASE["measure"], "metrics": ["fd", "recall"]}))
    opened, parts = extractors_of(changed, Accelerator()), []

    def play(rank: int) -> list[Any]:
        process = SimpleNamespace(
            process_index=rank, num_processes=world, is_main_process=rank == 0, wait_for_everyone=lambda: None
        )
        return measure_images(changed, 1, opened, process, lambda n: None)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "gather_object", lambda own: parts.append(own) or ([*own] * 20)[:20])
    for rank in range(world):
        play(rank)
    for at, name in enumerate(("fd", "recall")):
        drawn = [x for part in parts[at::2] for x in part]
        assert len(drawn) == 20
        monkeypatch.setattr(measuring, "gather_object", lambda own, drawn=drawn: drawn)
        r = {r["metric"]: r for r in play(0)}[name]
        assert r == taken[f"{name}/pixels"]


def test_what_one_process_cannot_take_is_an_error_in_all(monkeypatch):
    two, gathered = SimpleNamespace(process_index=0, num_processes=2), []
    rows_of_one = Pair(
        torch.zeros(8, 1), torch.rand(8, 1)
    )  # trace_ratio has no value here: the real images are all the same
    monkeypatch.setattr(measuring, "gather_object", lambda own: gathered.append(own) or [1.0, *own])
    with pytest.raises(MeasureError, match="all the same"):
        measuring._shared(two, METRICS["trace_ratio"], rows_of_one, 20, 0)  # type: ignore[arg-type]
    assert len(gathered) == 1  # it told the others before it stopped
    monkeypatch.setattr(measuring, "gather_object", lambda own: [*own, MeasureError("theirs")])
    with pytest.raises(MeasureError, match="theirs"):
        measuring._shared(two, METRICS["trace_ratio"], Pair(torch.rand(8, 1), torch.rand(8, 1)), 20, 0)  # type: ignore[arg-type]


def test_collect_writes_what_the_generations_hold(run, tmp_path: Path):
    shutil.copytree(run.path, tmp_path / "run")
    copy, before = Run(tmp_path / "run", run.config), (run.path / "metrics.jsonl").read_bytes()
    (copy.path / "metrics.jsonl").unlink()
    collect(copy)
    assert (copy.path / "metrics.jsonl").read_bytes() == before


def test_the_interval_of_a_share_is_never_narrower_than_wilsons(taken):
    for name in ("precision", "recall", "coverage", "class_accuracy"):
        r = taken[f"{name}/pixels"]
        low, high = wilson(r["value"], 70)
        assert r["ci_low"] <= low and r["ci_high"] >= high, name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measure": {"count": 81}}, "measure.count 81 is more than the 80 images"),
        ({"sample": {"count": 5, "batch_size": 5}, "measure": {"metrics": []}}, "too small to ask for class"),
    ],
)
def test_counts_that_do_not_go_together_are_found_before_anything_is_fitted(tmp_path, changes, said):
    with pytest.raises(DifflabError, match=said):
        run_chain(digits(**changes), tmp_path / "run")
    assert not list((tmp_path / "run").glob("gen-*"))


# ------------------------------------------------------------------------------------------------------- concepts
def test_concepts_are_measured_on_a_clip_model_by_class(tmp_path):
    spec = f"open_clip:{tiny.clip(tmp_path / 'clip')}"
    metrics = ["zero_shot_accuracy", "within_between", "class_accuracy", "fd"]
    config = digits(
        generations=0,
        measure={"metrics": metrics, "extractors": [spec], "resamples": 20, "concepts": "classes"},
    )
    run = run_chain(config, tmp_path / "run")
    found = {row["metric"]: row for row in run.rows()}
    for name in metrics:
        assert (
            found[name]["value"] is not None and found[name]["floor"] is not None and found[name]["n"] == 80
        ), name
        assert found[name]["ci_low"] <= found[name]["value"] <= found[name]["ci_high"], name
    reader = extractors_of(run, Accelerator(cpu=True))[0]
    real, fake = (shards.features(reader.key) for shards in (run.real, run.samples(0)))
    told, n = concepts_of(reader, [str(i) for i in range(10)]), 80
    held = slice(run.about["n_train"], run.about["n_train"] + n)
    pair = Pair(
        real[held],
        fake[:n],
        real_labels=torch.from_numpy(run.real.labels()[held]),
        fake_labels=torch.from_numpy(run.samples(0).labels()[:n]),
        concepts=told,
    )
    assert found["zero_shot_accuracy"]["value"] == METRICS["zero_shot_accuracy"].of(pair)


def test_concepts_of_a_file_are_found_in_captions(tmp_path):
    reader = open_extractor(f"open_clip:{tiny.clip(tmp_path / 'clip')}")
    (tmp_path / "few.txt").write_text("seal\nred apple\n")
    run = SimpleNamespace(config=SimpleNamespace(measure=SimpleNamespace(concepts=str(tmp_path / "few.txt"))))

    def shards(*captions):
        return SimpleNamespace(column=lambda name: list(captions))

    real, fake, told = measuring.told(
        run, reader, shards("a seal", "noto red apple"), shards("red apple", "red apple", "seal")
    )
    assert (real.tolist(), fake.tolist(), told.names) == ([0, 1], [1, 1, 0], ["seal", "red apple"])
    with pytest.raises(MeasureError, match="samples: caption 'a cat' holds none"):
        measuring.told(run, reader, shards("a seal", "red apple"), shards("seal", "a cat"))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({"metrics": ["zero_shot_accuracy"]}, "zero_shot_accuracy wants measure.concepts"),
        (
            {"metrics": ["zero_shot_accuracy"], "concepts": "classes"},
            "told apart by a CLIP model; add open_clip",
        ),
        (
            {"metrics": ["zero_shot_accuracy"], "concepts": "missing.txt", "extractors": ["CLIP"]},
            "asked for by class, not by caption",
        ),
    ],
)
def test_concepts_that_do_not_go_with_the_run_are_errors(measure, message, tmp_path):
    clip = f"open_clip:{tiny.clip(tmp_path / 'clip')}"
    measure = {
        key: [clip if x == "CLIP" else x for x in value] if isinstance(value, list) else value
        for key, value in measure.items()
    }
    with pytest.raises(MeasureError, match=message):
        run_chain(
            digits(generations=0, model={"family": "memoriser"}, measure={"resamples": 0, **measure}),
            tmp_path / "run",
        )


# --------------------------------------------------------------------------------------------------- judge drift
JUDGES = ["judge_frozen", "judge_retrained", "judge_rebased", "judge_retrained_on_real"]


def test_judge_drift_is_taken_in_every_generation_of_a_run(tmp_path):
    run = run_chain(
        digits(measure={"metrics": ["class_accuracy"], "resamples": 0, "judge_drift": True}), tmp_path / "run"
    )
    for t in (0, 1):
        found = {row["metric"]: row for row in run.rows() if row["generation"] == t}
        for name in JUDGES:
            r = found[name]
            assert (
                tuple(r) == KEYS
                and r["extractor"] == "pixels"
                and r["reason"] is None
                and r["n"] == (80 if name.endswith("real") else 40)
            )
            assert (r["ci_low"], r["ci_high"]) == wilson(r["value"], r["n"]) and 0.5 < r["floor"] <= 1
        assert len({found[name]["recipe"] for name in JUDGES}) == 4
    by_generation = [
        {r["metric"]: r["recipe"] for r in run.rows() if r["generation"] == t and r["metric"] in JUDGES}
        for t in (0, 1)
    ]
    assert by_generation[0] == by_generation[1]
    assert found["judge_frozen"]["value"] < found["judge_frozen"]["floor"]  # 2,560 images seen make no digits


def test_the_three_judges_by_hand(run):
    found = {name.split("/")[0]: r for name, r in rows(run, judge_drift=True).items()}
    n, n_train = 70, run.about["n_train"]
    real = torch.from_numpy(run.real.gather(np.arange(n_train + n))).flatten(1).float() / 255
    samples = torch.from_numpy(run.samples(1).gather(np.arange(n))).flatten(1).float() / 255
    labels, asked = (
        torch.from_numpy(run.real.labels()[: n_train + n]),
        torch.from_numpy(run.samples(1).labels()[:n]),
    )
    again = numpy_generator("judge drift", 0, 1).integers(n_train, size=n_train)

    def halves(y):
        order = np.random.default_rng([0, 1]).permutation(n)
        order = torch.from_numpy(
            np.concatenate([[i for i in order if y[i] == c] for c in range(10)]).astype(int)
        )
        return order[::2], order[1::2]

    def share(judge, x, y):
        return float((judge.predict(x) == y).double().mean())

    for which, x, y, other, others in (
        ("value", samples, asked, real[n_train:], labels[n_train:]),
        ("floor", real[n_train:], labels[n_train:], real[:n], labels[:n]),
    ):
        fitted, kept = halves(y)
        retrained = Judge.fit(x[fitted], y[fitted], 10)
        assert found["judge_frozen"][which] == share(
            Judge.fit(real[:n_train], labels[:n_train], 10), x[kept], y[kept]
        )
        assert found["judge_rebased"][which] == share(
            Judge.fit(real[again], labels[again], 10), x[kept], y[kept]
        )
        assert found["judge_retrained"][which] == share(retrained, x[kept], y[kept])
        assert found["judge_retrained_on_real"][which] == share(retrained, other, others)


def test_judge_drift_without_classes_or_without_samples_of_one_has_reasons(run, tmp_path):
    config = digits(
        generations=0, model={"family": "memoriser"}, measure={"metrics": [], "judge_drift": True}
    )
    unconditional = {r["metric"]: r for r in run_chain(config, tmp_path / "run").rows()}
    assert all(
        "it wants classes" in unconditional[name]["reason"] and unconditional[name]["value"] is None
        for name in JUDGES
    )
    few = rows(
        run, judge_drift=True, metrics=[], count=12
    )  # of ten digits: some are there once, or not at all
    assert few["judge_frozen/pixels"]["value"] is not None
    for name in ("judge_retrained/pixels", "judge_retrained_on_real/pixels"):
        assert (
            few[name]["value"] is few[name]["floor"] is few[name]["ci_low"] is None
            and "has no sample of class" in few[name]["reason"]
        )


def test_judge_drift_wants_features(tmp_path):
    with pytest.raises(MeasureError, match="judge_drift: the judges read features"):
        run_chain(
            digits(generations=0, measure={"metrics": [], "extractors": [], "judge_drift": True}),
            tmp_path / "run",
        )


# ----------------------------------------------------------------------------------------------- within a prompt
def test_prompt_diversity_of_classes_has_a_floor(run):
    r = rows(run, metrics=["prompt_diversity"])["prompt_diversity/pixels"]
    by_hand = sides(run)
    assert r["value"] == pytest.approx(METRICS["prompt_diversity"].of(by_hand["pair"]))
    assert r["floor"] == pytest.approx(METRICS["prompt_diversity"].of(by_hand["floor"]))
    assert r["ci_low"] < r["value"] < r["ci_high"] and r["reason"] is None


# ----------------------------------------------------------------------------------------------- aesthetic score
def test_the_aesthetic_score_of_a_head_on_its_backbone(tmp_path):
    spec, draw = f"open_clip:{tiny.clip(tmp_path / 'clip')}", torch.Generator().manual_seed(0)
    head = {
        "weight": torch.randn(1, 8, generator=draw),
        "bias": torch.tensor([5.0]),
    }  # the format of LAION's linear heads
    save_file(head, tmp_path / "head.safetensors")
    measure = {"metrics": [], "extractors": ["pixels", spec], "aesthetic": str(tmp_path / "head.safetensors")}
    run = run_chain(digits(generations=0, measure=measure), tmp_path / "run")
    r = next(r for r in run.rows() if r["metric"] == "aesthetic_score")
    reader, n = open_extractor(spec), 80
    held = slice(run.about["n_train"], run.about["n_train"] + n)
    scores = {}
    for side, x in (
        ("real", run.real.features(reader.key)[held]),
        ("fake", run.samples(0).features(reader.key)[:n]),
    ):
        scores[side] = (x / x.norm(dim=1, keepdim=True)).double() @ head["weight"][0].double() + 5
    assert r["value"] == pytest.approx(float(scores["fake"].mean()), abs=1e-5) and r[
        "floor"
    ] == pytest.approx(float(scores["real"].mean()), abs=1e-5)
    half = 1.96 * float(scores["fake"].std()) / n**0.5
    assert (r["ci_low"], r["ci_high"]) == pytest.approx((r["value"] - half, r["value"] + half), abs=1e-5)
    assert r["n"] == n and r["extractor"] == reader.name
    save_file({**head, "bias": torch.tensor([4.0])}, tmp_path / "head.safetensors")
    changed = Run(run.path, digits(generations=0, measure=measure))
    accelerator = Accelerator()
    other = measure_images(changed, 0, extractors_of(changed, accelerator), accelerator, lambda n: None)[-1]
    assert other["recipe"] != r["recipe"] and other["value"] == pytest.approx(
        r["value"] - 1, abs=1e-5
    )  # the head's content is in the recipe


def test_an_aesthetic_head_without_its_backbone_is_an_error_before_anything_is_fitted(tmp_path):
    save_file({"weight": torch.ones(1, 9), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    measure = {"metrics": [], "aesthetic": str(tmp_path / "head.safetensors")}
    for extractors, match in (
        (["pixels"], "add the head's backbone"),
        ([f"open_clip:{tiny.clip(tmp_path / 'clip')}"], "reads 9 features"),
    ):
        with pytest.raises(MeasureError, match=match):
            run_chain(digits(generations=0, measure={**measure, "extractors": extractors}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("gen-*"))


# ----------------------------------------------------------------------------- what cannot be measured is known before
def spoken(config: Config, path: Path) -> tuple[Run, list[str]]:
    """A run, and what it said before its first stage."""
    said: list[str] = []
    report = Reporter(quiet=True)
    report.say = lambda text: said.append(text) if not list(path.glob("gen-*/samples")) else None  # type: ignore[method-assign]
    return run_chain(config, path, report), said


def folder_of_classes(path: Path, **classes: int) -> str:
    for seed, (name, count) in enumerate(classes.items()):
        folder(path / name, count, 16, seed)
    return f"imagefolder:{path}"


MEMORISER: dict[str, Any] = {
    "generations": 0,
    "model": {"family": "memoriser"},
    "sample": {"count": 30, "shard_size": 30, "batch_size": 30},
}


def test_no_judge_is_fitted_where_no_measure_asks_for_one(tmp_path):
    data = {"source": folder_of_classes(tmp_path / "set", cats=60)}
    run, said = spoken(
        digits(**MEMORISER, data=data, measure={"metrics": ["fd"], "resamples": 0}), tmp_path / "run"
    )
    assert (
        said == []
        and not list(run.path.glob("real/judge-*"))
        and all(r["value"] is not None for r in run.rows())
    )


@pytest.mark.parametrize(
    ("classes", "measure", "lost"),
    [
        ({"cats": 60}, {}, {"class_accuracy, class_entropy, rare_class_survival": "needs training images of at least 2 classes, got 1"}),
        ({"cats": 30, "dogs": 30}, {"metrics": ["fd", "class_accuracy"]}, {"class_accuracy": "the samples are unconditional"}),
        ({"": 60}, {"metrics": ["fd", "class_entropy", "within_class_ratio"]}, {"class_entropy": "carry no class labels", "within_class_ratio": "class"}),
        ({"": 60}, {"metrics": ["kid", "recall"], "neighbours": 20}, {"recall": "needs at least 21 real images"}),  # of half of them
        ({"": 60}, {"metrics": ["fd", "fd_infinity"]}, {"fd_infinity": "needs at least 1536 real images"}),
        ({"": 60}, {"metrics": ["fd", "prompt_diversity", "tail_recall"]}, {"prompt_diversity": "unconditional", "tail_recall": "at least 100"}),
        ({"": 60}, {"metrics": ["kid"], "judge_drift": True}, {"judge_drift": "it wants classes|carry no class labels"}),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_said_before_anything_is_fitted(tmp_path, classes, measure, lost):
    config = digits(
        **MEMORISER,
        data={"source": folder_of_classes(tmp_path / "set", **classes)},
        measure={"resamples": 20, **measure},
    )
    run, said = spoken(config, tmp_path / "run")
    names = {name for group in lost for name in group.split(", ")}
    for name in names:
        line = next(line for line in said if name in line)
        assert re.search(next(why for group, why in lost.items() if name in group), line), line
    assert not [line for line in said if not any(name in line for name in names)]
    without = {r["metric"] for r in run.rows() if r["value"] is None}
    assert without == (names - {"judge_drift"} | (set(JUDGES) if "judge_drift" in names else set()))
    for r in run.rows():
        assert (
            r["value"] is not None
            or r["metric"] in JUDGES
            or any(
                r["reason"].removeprefix(f"{r['metric']} ") in line or r["reason"].partition(": ")[2] in line
                for line in said
            )
        )


def test_where_nothing_can_be_measured_nothing_is_trained(tmp_path):
    for metrics in (["class_accuracy"], ["rare_class_survival", "tail_recall"]):
        config = digits(
            **MEMORISER,
            data={"source": folder_of_classes(tmp_path / "-".join(metrics), cats=60)},
            measure={"metrics": metrics},
        )
        with pytest.raises(
            MeasureError, match=r"none of measure\.metrics can be measured here: .*at least 2 classes, got 1"
        ):
            run_chain(config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("gen-*"))


def test_concepts_that_the_set_cannot_have_are_an_error_before_anything_is_fitted(tmp_path):
    spec = f"open_clip:{tiny.clip(tmp_path / 'clip')}"
    (tmp_path / "concepts.txt").write_text("cat\ndog\n")
    for concepts, match in (
        ("classes", "there are none here"),
        (str(tmp_path / "concepts.txt"), "asked for by class, not by caption"),
    ):
        measure = {"metrics": ["fd", "zero_shot_accuracy"], "extractors": [spec], "concepts": concepts}
        config = digits(
            **MEMORISER,
            data={"source": folder_of_classes(tmp_path / f"set of {concepts[-7:]}", **{"": 60})},
            measure=measure,
        )
        with pytest.raises(MeasureError, match=match):
            run_chain(config, tmp_path / "run")
        assert not list((tmp_path / "run").glob("gen-*"))


def test_a_complete_run_says_nothing_again(tmp_path):
    config = digits(
        **MEMORISER, data={"source": folder_of_classes(tmp_path / "set", cats=60)}, measure={"resamples": 0}
    )
    assert len(spoken(config, tmp_path / "run")[1]) == 1 and spoken(config, tmp_path / "run")[1] == []


def test_images_that_an_extractor_cannot_read_are_left_out_of_all_that_it_serves(tmp_path, run):
    """An extractor of one's own that is not defined for some images: the judge and its drift go on without them."""
    (tmp_path / "space.py").write_text(
        "import torch\n"
        "def space(images):\n"
        "    x = torch.nn.functional.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), 4).mean(1).flatten(1)\n"
        "    return x.masked_fill(images.flatten(1).long().sum(1, keepdim=True) % 7 == 3, float('nan'))\n"
    )
    found = rows(
        run,
        extractors=[f"python:{tmp_path / 'space.py'}:space"],
        metrics=["fd", "class_accuracy", "recall"],
        judge_drift=True,
    )
    for name, r in found.items():
        if not name.startswith("flagged"):
            assert r["value"] is not None and re.search(
                r"\d+ of \d+ .* have features that are no finite numbers, and are left out", r["reason"]
            ), name
