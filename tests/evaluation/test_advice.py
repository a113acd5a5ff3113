"""What could help, and is not done already."""

from __future__ import annotations

import pytest

from difflab.evaluation.advice import Chain, advice


@pytest.mark.parametrize(
    ("name", "chain", "says", "silent"),
    [
        (
            "early",
            Chain(),
            ["add real images to every training set (fresh ones, or keep accumulating)", "lower guidance;"],
            ["remove"],
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
        ("early", Chain(real=1.0, guidance=1.0), ["real images only"], ["add", "brings tails back"]),
        (
            "early",
            Chain(real=0.0, policies=("best_of",)),
            ["remove the policy best_of, which reduces variety"],
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
        ("forgetting", Chain(policies=("omit",)), ["remove the policy omit"], ["put"]),
        ("poisoned labels", Chain(policies=("mislabel",)), ["remove the policy mislabel"], ["correct"]),
        ("blurred", Chain(), ["check resizing and guidance"], []),
        ("blurred", Chain(guidance=1.0), ["check resizing"], ["guidance"]),
        ("blurred", Chain(guidance=1.0, unguided=0.0), ["check resizing and guidance (now 1)"], []),
    ],
)
def test_advice_is_what_is_not_done_yet(name: str, chain: Chain, says: list[str], silent: list[str]) -> None:
    text = advice(name, chain)
    assert all(part in text for part in says) and not any(part in text for part in silent), text
