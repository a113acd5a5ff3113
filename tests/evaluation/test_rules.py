"""What follows from readings: here the advice, and what is left open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from difflab.config import parse
from difflab.evaluation.diagnose import chain_of
from difflab.evaluation.rules import (
    ABSENT,
    DIVERGING,
    ENTANGLED,
    HELP,
    SCALING,
    SIGNS,
    TAILS,
    UNKNOWN,
    Chain,
    Diagnosis,
    Finding,
    Reading,
    Sign,
    advice,
)
from difflab.runs.run import Run


@pytest.mark.parametrize(
    ("name", "chain", "says", "silent"),
    [
        (
            "early",
            Chain(),
            ["add real images to every training set (fresh ones, or keep accumulating)", "lower guidance;"],
            ["leave out"],
        ),
        (
            "early",
            Chain(real=0.0, guidance=4.0),
            ["fresh ones, or keep accumulating", "lower guidance (now 4)"],
            [],
        ),
        (
            "early",
            Chain(real=0.3, fresh=0.3, guidance=1.0),
            ["raise the share of fresh real images", "now 30%"],
            ["accumulating", "guidance"],
        ),
        (
            "early",
            Chain(real=0.25, guidance=1.0),
            ["add fresh real images", "25% real, but always the same"],
            ["accumulating"],
        ),
        ("early", Chain(real=1.0, guidance=1.0), ["real images alone"], ["add", "return with real data"]),
        (
            "early",
            Chain(real=0.0, policies=("best_of",)),
            ["leave out the policy best_of, which narrows"],
            [],
        ),
        (
            "late",
            Chain(),
            ["go back", "train from the base", "filter samples by a judge"],
            ["real images to"],
        ),
        (
            "late",
            Chain(real=0.0, start_from="base", policies=("verifier",)),
            ["go back", "add real images"],
            ["from the base", "judge"],
        ),
        ("overfitting", Chain(), ["fewer images seen", "remove duplicates"], []),
        (
            "overfitting",
            Chain(policies=("early_stop", "deduplicate")),
            ["on more real images"],
            ["fewer", "duplicates"],
        ),
        ("forgetting", Chain(), ["put the missing classes back"], []),
        ("forgetting", Chain(policies=("omit",)), ["leave out the policy omit"], ["put"]),
        ("poisoned labels", Chain(policies=("mislabel",)), ["leave out the policy mislabel"], ["mend"]),
        ("blurred", Chain(), ["check resizing and guidance"], []),
        ("blurred", Chain(guidance=1.0), ["check resizing"], ["guidance"]),
    ],
)
def test_advice_is_what_is_not_done_yet(name: str, chain: Chain, says: list[str], silent: list[str]) -> None:
    text = advice(name, chain)
    assert all(part in text for part in says) and not any(part in text for part in silent), text


def test_a_finding_asks_for_its_own_name_and_chain() -> None:
    finding = Finding(3, {}, "early", [], [], {}, chain=Chain(real=0.3, fresh=0.3))
    assert finding.advice == advice("early", finding.chain) != advice("early", Chain())
    assert Finding(3, {}, "none", [], [], {}).advice == HELP["none"]


@pytest.mark.parametrize(
    ("pools", "more", "expected"),
    [
        (["fixed_real"] * 4, {}, Chain(1.0, 0.0, 1.0, "scratch")),
        (["synthetic"] * 4, {"sample": {"guidance_scale": 2.0}}, Chain(0.0, 0.0, 2.0, "scratch")),
        (["synthetic", "synthetic", "synthetic", "fresh_real"], {"train": {"start_from": "previous"}}, Chain(0.25, 0.25, 1.0, "previous")),
        (["synthetic", "fixed_real"], {"policies": [{"policy": "guidance_by_generation", "scales": [1.0, 1.0, 3.0]}]}, Chain(0.5, 0.0, 3.0, "scratch", ("guidance_by_generation",))),
        (["synthetic"], {"policies": [{"policy": "temperature", "scale": 0.9}]}, Chain(0.0, 0.0, 1.0, "scratch", ("temperature",))),
        (["synthetic"], {"policies": [{"policy": "temperature", "scale": 1.1}]}, Chain(0.0, 0.0, 1.0, "scratch")),
    ],
)  # fmt: skip
def test_a_chain_is_read_from_its_training_set_and_config(
    pools: list[str], more: dict[str, Any], expected: Chain, tmp_path: Path
) -> None:
    config = {
        "model": {"family": "pixel-mlp", "conditional": True},
        "train": {"start_from": "scratch", "condition_dropout": 0.1},
    }
    run = Run(tmp_path, parse(config | more | {"train": config["train"] | more.get("train", {})}))
    run.gen(2).mkdir(parents=True)
    parquet.write_table(
        pa.table({"pool": pa.array(pools).dictionary_encode()}), run.gen(2) / "train_set.parquet"
    )
    assert chain_of(run, 2) == expected


def test_what_is_open_is_said_with_the_reason() -> None:
    one = Reading(Sign("recall", "lower"), 0.8, 0.2, {"real images": (0.9, 0.2)}, 1.0, 100)
    readings: dict[str, list[Reading]] = {name: [one] for name in SIGNS} | {ENTANGLED: []}
    profile = dict(
        sorted(
            (
                {name: ABSENT for name in SIGNS}
                | {name: UNKNOWN for name in (DIVERGING, SCALING, ENTANGLED, TAILS)}
            ).items()
        )
    )
    findings = [Finding(t, profile, "cannot tell", [], [], readings) for t in range(5)]
    assert Diagnosis(findings, [], {}).unknown == {
        "cannot tell at this n": [DIVERGING, TAILS],
        "not answerable from one chain": [SCALING],
        "not measured": [ENTANGLED],
    }
    assert Diagnosis(findings[:3], [], {}).unknown["not answerable from fewer than 5 generations"] == [
        DIVERGING
    ]
