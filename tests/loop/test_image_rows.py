"""The rows of a generation are the measures on the same images, with floor, interval and recipe."""

import json
import math
import re
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from measured_digits import ALL, BASE, digits, rows, run_chain
from safetensors.torch import save_file

from difflab.core.rows import KEYS
from difflab.core.seeds import seed_of
from difflab.loop import resamples
from difflab.loop.image_rows import measure_images
from difflab.loop.run_extractors import extractors_of
from difflab.metrics import METRICS, Judge, Pair, interval, open_extractor, resampled
from difflab.metrics.interval import normal_interval, wilson
from difflab.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("measure") / "run")


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


def test_intervals_are_those_of_the_half_samples_or_of_the_influences(run, taken):
    pair = sides(run)["pair"]
    for name in ("fd", "trace_ratio"):
        r, influence = taken[f"{name}/pixels"], METRICS[name].influence_of(pair)
        assert (r["ci_low"], r["ci_high"]) == pytest.approx(
            normal_interval(r["value"], influence.error, METRICS[name].range), rel=1e-5, abs=1e-9
        )
    draws = resampled(METRICS["recall"], pair, range(20), seed_of("interval", 0, 1, "recall"))
    r = taken["recall/pixels"]
    assert (r["ci_low"], r["ci_high"]) == pytest.approx(
        interval(r["value"], draws, METRICS["recall"].range), rel=1e-5, abs=1e-9
    )


def test_measuring_again_gives_the_same_rows(run, taken):
    assert rows(run) == taken
    written = [json.loads(line) for line in (run.gen(1) / "metrics.jsonl").read_text().splitlines()]
    # The others were left by the training.
    assert [row for row in written if row["extractor"] != "training"] == list(taken.values())


def test_no_resamples_no_intervals(run, taken):
    for name, r in rows(run, resamples=0).items():
        assert r["value"] == taken[name]["value"]
        assert r["metric"] == "flagged_share" or (r["ci_low"] is None and r["ci_high"] is None)


def recipes(run: Run, **measure: Any) -> dict[str, str]:
    return {name: r["recipe"] for name, r in rows(run, **measure).items()}


def test_the_recipe_changes_with_what_makes_a_number_and_with_nothing_else(run, taken):
    base = {name: r["recipe"] for name, r in taken.items()}
    assert len(set(base.values())) == len(base)  # every measure its own
    assert recipes(run, resamples=0) == base and recipes(run, resamples=40) == base  # the number is the same
    assert recipes(run, metrics=["recall"])["recall/pixels"] == base["recall/pixels"]
    fewer = recipes(run, count=60)
    # Which is about all samples, whatever count.
    assert {m for m in base if fewer[m] == base[m]} == {"flagged_share/none"}
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


def test_without_measures_only_flags_are_counted(run, tmp_path):
    nothing = Run(run.path, digits(measure={"metrics": []}))
    assert extractors_of(nothing, Accelerator()) == []
    assert [r["metric"] for r in measure_images(nothing, 1, [], Accelerator(), lambda n: None)] == [
        "flagged_share"
    ]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_half_samples_and_agree_on_the_interval(run, taken, monkeypatch, world):
    """What each of several processes would gather is played by taking all their parts in turn."""
    changed = Run(run.path, digits(measure={**BASE["measure"], "metrics": ["coverage", "recall"]}))
    opened, parts = extractors_of(changed, Accelerator()), []

    def play(rank: int) -> list[Any]:
        process = SimpleNamespace(
            process_index=rank, num_processes=world, is_main_process=rank == 0, wait_for_everyone=lambda: None
        )
        return measure_images(changed, 1, opened, process, lambda n: None)  # type: ignore[arg-type]

    monkeypatch.setattr(resamples, "gather_object", lambda own: parts.append(own) or ([*own] * 20)[:20])
    for rank in range(world):
        play(rank)
    for at, name in enumerate(("coverage", "recall")):
        drawn = [x for part in parts[at::2] for x in part]
        assert len(drawn) == 20
        monkeypatch.setattr(resamples, "gather_object", lambda own, drawn=drawn: drawn)
        r = {r["metric"]: r for r in play(0)}[name]
        assert r == taken[f"{name}/pixels"]


def test_the_interval_of_a_share_is_never_narrower_than_wilsons(taken):
    for name in ("precision", "recall", "coverage", "class_accuracy"):
        r = taken[f"{name}/pixels"]
        low, high = wilson(r["value"], 70)
        assert r["ci_low"] <= low and r["ci_high"] >= high, name


def test_prompt_diversity_of_classes_has_a_floor(run):
    r = rows(run, metrics=["prompt_diversity"])["prompt_diversity/pixels"]
    by_hand = sides(run)
    assert r["value"] == pytest.approx(METRICS["prompt_diversity"].of(by_hand["pair"]))
    assert r["floor"] == pytest.approx(METRICS["prompt_diversity"].of(by_hand["floor"]))
    assert r["ci_low"] < r["value"] < r["ci_high"] and r["reason"] is None


def test_the_aesthetic_score_of_a_head_on_its_backbone(tmp_path):
    spec, draw = f"open_clip:{tiny.clip(tmp_path / 'clip')}", torch.Generator().manual_seed(0)
    # The format of LAION's linear heads.
    head = {
        "weight": torch.randn(1, 8, generator=draw),
        "bias": torch.tensor([5.0]),
    }
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
    # The head's content is in the recipe.
    assert other["recipe"] != r["recipe"] and other["value"] == pytest.approx(r["value"] - 1, abs=1e-5)


def test_images_that_an_extractor_cannot_read_are_left_out_of_all_that_it_serves(tmp_path, run):
    """An extractor of one's own that is not defined for some images: the judge and its drift go on without
    them.
    """
    (tmp_path / "space.py").write_text(
        "import torch\n"
        "def space(images):\n"
        "    x = torch.nn.functional.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), "
        "4).mean(1).flatten(1)\n"
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
