"""What could help against a finding, given what the chain does already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HELP = {
    "catastrophic": "start again from the base model with real images: selection among these samples cannot "
    "bring back what they have lost",
    "forgetting": "put the missing classes back into the training set; the other classes are not damaged",
    "damaged classes": "check the training images of these classes, their captions and their number; the "
    "other classes are not damaged",
    "poisoned labels": "correct the labels or captions: the images show other classes than they were asked "
    "for",
    "weak first model": "improve generation 0 first (longer training, other settings): the chain has lost "
    "nothing since then",
    "reference images": "compare samples of a model with a reference that no model was trained on: these "
    "samples are reference images",
    "changed encoding": "compare images that were saved and resized in the same way",
    "none": "nothing to repair at this number of images",
    "cannot tell": "measure more images on both sides",
}
"""Advice that does not depend on the chain, by the name of the finding."""
CAUSES = {"poisoned labels": "mislabel", "forgetting": "omit"}
"""Policies that cause a finding on purpose."""
NARROWING = ("best_of", "luce", "reward_weight", "temperature", "top_share")
"""Policies that give up variety for samples that are preferred or likely."""


@dataclass(frozen=True)
class Chain:
    """What a chain does already, as far as advice depends on it.

    The defaults are those of images of an unknown chain.

    Attributes:
        real, fresh: shares of the training set that are real images, and that are real images never trained
            on before; None = not known.
        guidance: guidance scale while sampling, None = not known.
        policies: their names.
        unguided: the largest guidance scale that means no guidance.
    """

    real: float | None = None
    fresh: float = 0.0
    guidance: float | None = None
    start_from: str = "previous"
    policies: tuple[str, ...] = ()
    unguided: float = 1.0

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is used, or may be."""
        return self.guidance is None or self.guidance > self.unguided


def advice(name: str, chain: Chain) -> str:
    """What could help against `name` (see `Finding.name`) and is not done already.

    >>> advice("early", Chain(real=0.3, fresh=0.3, guidance=1.0))
    'raise the share of fresh real images in every training set (now 30%); only real data brings tails back'
    """
    if CAUSES.get(name) in chain.policies:
        return f"remove the policy {CAUSES[name]}, which causes this"
    if name == "early":
        return _against_early(chain)
    if name == "late":
        return _against_late(chain)
    if name == "overfitting":
        return _against_overfitting(chain)
    if name in HELP:
        return HELP[name]
    check = f"resizing and guidance{_now(chain)}" if chain.guided else "resizing"
    return f"train on the original images: the look has changed; check {check}"


def _against_early(chain: Chain) -> str:
    steps = [_real_images(chain)]
    if chain.guided:
        steps.append(f"lower guidance{_now(chain)}")
    for policy in chain.policies:
        if policy in NARROWING:
            steps.append(f"remove the policy {policy}, which reduces variety")
    text = _joined(steps)
    return text if chain.real == 1 else f"{text}; only real data brings tails back"


def _against_late(chain: Chain) -> str:
    steps = ["go back to the previous generation"]
    if chain.start_from == "previous":
        steps.append("train from the base instead of the previous model")
    if "verifier" not in chain.policies:
        steps.append("filter samples by a judge trained on real images")
    if chain.real is not None:
        steps.append(_real_images(chain))
    return _joined(steps)


def _against_overfitting(chain: Chain) -> str:
    steps = ["train for fewer images seen or on more real images"]
    if "early_stop" in chain.policies:
        steps = ["train on more real images"]
    if "deduplicate" not in chain.policies:
        steps.append("remove duplicates from the training set")
    return _joined(steps)


def _now(chain: Chain) -> str:
    return "" if chain.guidance is None else f" (now {chain.guidance:g})"


def _real_images(chain: Chain) -> str:
    """What to do about the real images in training sets."""
    if chain.real == 1:
        return "train for longer, or train a larger model: the training set has real images only"
    if chain.fresh:
        return f"raise the share of fresh real images in every training set (now {chain.fresh:.0%})"
    if chain.real:
        return (
            f"add fresh real images to every training set (this one is {chain.real:.0%} real, but always the "
            "same images)"
        )
    return "add real images to every training set (fresh ones, or keep accumulating)"


def _joined(steps: Sequence[str]) -> str:
    """'a', 'a and b', or 'a, b, and c'."""
    *others, last = steps
    if not others:
        return last
    comma = "," if len(others) > 1 else ""
    return f"{', '.join(others)}{comma} and {last}"
