"""How often the 95% intervals of the share of synthetic images hold the true share, and how wide they are.

    python benchmarks/prevalence.py                 # writes the table of docs/audit.md, about a minute

A detector has normal scores that are d apart for synthetic and real images; a balanced threshold has the stated accuracy.
The threshold is the one of a classifier trained at the stated share of synthetic images: at .1 it moves by log(9) / d,
so sensitivity falls and specificity rises. Each draw scores a new set of n images with a fixed number of synthetic ones,
and measures the rates on new calibration images. `population` draws the number of synthetic images too.
Draws in which the detector "cannot tell" (sensitivity + specificity - 1 < .2 on the calibration) have no interval.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import norm

from difflab.metrics.prevalence import (
    Calibration,
    Labelled,
    ShareInterval,
    lang_reiczigel,
    post_stratified,
    prediction_powered,
    share_in_set,
)

SHARES = (0.0, 0.01, 0.05, 0.2, 0.5, 0.9)
ACCURACIES = (0.7, 0.8, 0.9, 0.95, 0.99)
CALIBRATIONS = (50, 200, 1000)
LABELS = (50, 200, 500)
TRAINED_AT = (0.5, 0.1)


@dataclass
class Cell:
    """Coverage and width of one interval in one setting."""

    name: str
    setting: str
    share: float
    covered: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    silent: int = 0

    def add(self, found: ShareInterval | None) -> None:
        if found is None:
            self.silent += 1
            return
        self.covered.append(found.low - 1e-9 <= self.share <= found.high + 1e-9)
        self.widths.append(found.high - found.low)

    @property
    def coverage(self) -> float:
        return float(np.mean(self.covered)) if self.covered else float("nan")


def rates(accuracy: float, trained_at: float) -> tuple[float, float]:
    """Sensitivity and specificity of the detector."""
    distance = 2 * norm.ppf(accuracy)
    shift = np.log((1 - trained_at) / trained_at) / distance
    return float(norm.cdf(distance / 2 - shift)), float(norm.cdf(distance / 2 + shift))


def with_calibration(draws: int, n: int, random: np.random.Generator) -> list[Cell]:
    cells = []
    for trained_at, accuracy, size, share in itertools.product(TRAINED_AT, ACCURACIES, CALIBRATIONS, SHARES):
        sensitivity, specificity = rates(accuracy, trained_at)
        setting = f"{accuracy:g} | {trained_at:g} | {size}"
        score, lang = Cell("score", setting, share), Cell("Lang and Reiczigel", setting, share)
        fixed = np.full(draws, round(share * n))
        for synthetic, cell, interval in (
            (fixed, score, share_in_set),
            (random.binomial(n, share, draws), lang, lang_reiczigel),
        ):
            flags = random.binomial(synthetic, sensitivity) + random.binomial(n - synthetic, 1 - specificity)
            detected, passed = (
                random.binomial(size, sensitivity, draws),
                random.binomial(size, specificity, draws),
            )
            for flagged, of_synthetic, of_real in zip(
                flags.tolist(), detected.tolist(), passed.tolist(), strict=True
            ):
                cell.add(interval(flagged, n, Calibration(of_synthetic, size, of_real, size)))
        cells += [score, lang]
    return cells


def with_labels(draws: int, n: int, random: np.random.Generator) -> list[Cell]:
    cells = []
    methods: dict[str, Callable[[int, int, Labelled], ShareInterval]] = {
        "post-stratified": post_stratified,
        "prediction-powered": prediction_powered,
    }
    for accuracy, count, share in itertools.product(ACCURACIES, LABELS, SHARES):
        setting = f"{accuracy:g} | {count}"
        of_methods = {name: Cell(name, setting, share) for name in methods}
        synthetic = round(share * n)
        true = random.binomial(synthetic, accuracy, draws)
        false = random.binomial(n - synthetic, 1 - accuracy, draws)
        for hit, wrong in zip(true.tolist(), false.tolist(), strict=True):
            drawn = random.multivariate_hypergeometric(
                [hit, wrong, synthetic - hit, n - synthetic - wrong], count
            )
            a, b, c, d = drawn.tolist()
            for name, method in methods.items():
                of_methods[name].add(method(hit + wrong, n, Labelled(a, a + b, c, c + d)))
        cells += of_methods.values()
    return cells


def printed(cells: Sequence[Cell], name: str, head: str) -> None:
    """A markdown table: one line a setting, coverage in % and mean width in points for each share."""
    chosen = [cell for cell in cells if cell.name == name]
    print(f"\n{name}: coverage in % (mean width in percentage points)\n")
    print(f"| {head} | {' | '.join(f'share {share:g}' for share in SHARES)} |")
    print("|" + "---|" * (head.count("|") + 1 + len(SHARES)))
    for setting in dict.fromkeys(cell.setting for cell in chosen):
        texts = []
        for cell in chosen:
            if cell.setting != setting:
                continue
            text = "cannot tell"
            if len(cell.covered) >= 0.02 * (len(cell.covered) + cell.silent):
                text = f"{100 * cell.coverage:.1f} ({100 * np.mean(cell.widths):.1f})"
                text += (
                    f" [{cell.silent / (len(cell.covered) + cell.silent):.0%} silent]" if cell.silent else ""
                )
            texts.append(text)
        print(f"| {setting} | {' | '.join(texts)} |")
    coverages = np.array([cell.coverage for cell in chosen if len(cell.covered) > 20])
    inside = int(((coverages >= 0.92) & (coverages <= 0.98)).sum())
    low, high = int((coverages < 0.92).sum()), int((coverages > 0.98).sum())
    print(
        f"\n{name}: {inside} of {len(coverages)} cells hold the share in 92 to 98% of draws; {high} in more, {low} in "
        f"less; the least is {coverages.min():.1%}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--images", type=int, default=10_000, help="n of a set")
    args = parser.parse_args()
    random = np.random.default_rng(2026)
    print(f"{args.draws:,} draws per cell, sets of {args.images:,} images, nominal coverage 95%")
    cells = with_calibration(args.draws, args.images, random)
    for name in ("score", "Lang and Reiczigel"):
        printed(cells, name, "accuracy | trained at share | calibration images a side")
    cells = with_labels(args.draws, args.images, random)
    for name in ("post-stratified", "prediction-powered"):
        printed(cells, name, "accuracy | labels")


if __name__ == "__main__":
    main()
