"""Every measure on features that are hardly any: a number in its range, or a sentence that says why there is
none.
"""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.core.seeds import seed_of
from difflab.metrics import METRICS, Concepts, Judge, Pair, resampled
from difflab.metrics.detectors import probe
from difflab.metrics.evaluate import ComparedSets, MeasureSettings, Side, measured
from difflab.metrics.kernel import cmmd_biased
from difflab.metrics.vendi import vendi_score

N, D = 120, 8  # the tail wants a hundred images


def normal(seed: int) -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed)) + 0.5


def holed(value: float, *rows: int) -> torch.Tensor:
    x = normal(1)
    x[list(rows)] = value
    return x


def constant() -> torch.Tensor:
    x = normal(1)
    x[:, 2:] = 3.0
    return x


SAMPLES = {
    "all zero": torch.zeros(N, D),
    "few zero": holed(0.0, 3, 5, 90),
    "all equal": torch.full((N, D), 0.7),
    "two points": normal(1)[:2].repeat(N // 2, 1),
    "one NaN": holed(math.nan, 7),
    "few infinite": holed(-math.inf, 7, 8),
    "all NaN": torch.full((N, D), math.nan),
    "constant dimensions": constant(),
    "duplicates": normal(1)[: N // 2].repeat(2, 1),
    "copies of real images": normal(0),
    "huge": normal(1) * 1e18,
    "tiny": normal(1) * 1e-30,
}
CLASSES = torch.arange(N) % 3
# Classes with one image.
ONE_CLASS, RARE = (
    torch.zeros(N, dtype=torch.long),
    torch.tensor([1, 2] + [0] * (N - 2)),
)


def rows(
    name: str, real: torch.Tensor, fake: torch.Tensor, labels: torch.Tensor = CLASSES, resamples: int = 0
):
    """The row of one measure, as a run takes it, with all that any measure asks for."""
    clean = normal(2)
    concepts = Concepts(["cat", "dog", "seal"], torch.eye(D)[:3] + 0.1)
    own = METRICS[name].extractor
    space = SimpleNamespace(name=own or "pixels", recipe={}, statistics=own)
    sets = ComparedSets(Side(real, labels), Side(fake, labels), Side(clean, labels), normal(3))
    judges = {"judge": Judge.fit(normal(3), CLASSES, 3), "detector": probe(normal(5), normal(6))}
    settings = MeasureSettings(
        [name],
        lambda metric, pair: resampled(metric, pair, range(resamples), seed_of(metric.name)),
        judge=judges.get(METRICS[name].needs),
        concepts=concepts,
    )
    return measured(space, sets, settings)


def sentence(text: object) -> bool:
    """'ct has no value: all are one', and not '(36.12, 1.70)'."""
    return (
        isinstance(text, str)
        and bool(re.match(r"[a-z0-9]", text, re.I))
        and len(text.split()) >= 4
        and not re.search(r"\([-\d.]+, [-\d.]+\)", text)
    )


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_measure_has_a_value_or_says_why_not(name):
    metric = METRICS[name]
    sides = [(normal(0), fake) for fake in SAMPLES.values()] + [
        (real, normal(4)) for real in SAMPLES.values()
    ]
    for at, (real, fake) in enumerate(sides):
        for labels in (CLASSES, ONE_CLASS, RARE) if at < 3 else (CLASSES,):
            (row,) = rows(name, real, fake, labels)
            where = (name, [*SAMPLES, *SAMPLES][at], row)
            if row["value"] is None:
                assert sentence(row["reason"]), where
            else:
                assert math.isfinite(row["value"]) and metric.range[0] <= row["value"] <= metric.range[1], (
                    where
                )
                assert row["floor"] is None or math.isfinite(row["floor"]), where
                assert row["reason"] is None or sentence(row["reason"]), where


@pytest.mark.parametrize(
    "name", ["vendi", "cmmd", "cmmd_biased", "zero_shot_accuracy", "silhouette", "concept_survival"]
)
def test_few_rows_without_a_direction_are_left_out_and_counted(name):
    """What is left is measured as if the others had never been there; n = d and n > d take different ways."""
    fake = SAMPLES["few zero"]
    kept = fake.norm(dim=1) > 0
    (row,) = rows(name, normal(0), fake, resamples=20)
    concepts = Concepts(["cat", "dog", "seal"], torch.eye(D)[:3] + 0.1)
    rest = Pair(normal(0), fake[kept], real_labels=CLASSES, fake_labels=CLASSES[kept], concepts=concepts)
    assert row["value"] == pytest.approx(METRICS[name].of(rest), rel=1e-5) and row["ci_low"] <= row["ci_high"]
    assert row["reason"] == "3 of 120 images have features of length 0, hence no direction, and are left out"
    wide = torch.cat([fake, torch.zeros(N, 2 * N)], 1)
    assert METRICS["vendi"].of(Pair(wide, wide)) == pytest.approx(vendi_score(fake[kept]), rel=1e-9)


def test_real_images_without_a_direction_are_said_as_such_and_of_the_floor():
    (row,) = rows("cmmd", SAMPLES["few zero"], normal(0))
    said = "3 of 120 {} have features of length 0, hence no direction, and are left out"
    assert (
        row["value"] is not None
        and row["reason"] == f"{said.format('real images')}; its floor: {said.format('images')}"
    )
    (row,) = rows("vendi", SAMPLES["few zero"], normal(0))  # which reads the samples alone
    assert row["reason"] == f"its floor: {said.format('images')}"


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", ["fd", "recall", "vendi", "ct"])
def test_features_that_are_no_numbers_are_left_out_and_counted(name, side):
    sides = [normal(0), normal(1)]
    for value, row_numbers in ((math.nan, [7]), (math.inf, [1, 2, 3])):
        holes = [x.clone() for x in sides]
        holes[side][row_numbers, 2] = value
        (row,) = rows(name, *holes)
        kept = [x[torch.isfinite(x).all(1)] for x in holes]
        assert row["value"] == pytest.approx(METRICS[name].of(Pair(*kept, train=normal(3))), rel=1e-9)
        what = ("real images", "samples")[side]
        assert (
            row["n"] == len(kept[1])
            and f"{len(row_numbers)} of 120 {what} have features that are no finite numbers" in row["reason"]
        )


def test_a_metric_of_torchmetrics_warns_of_what_it_leaves_out():
    metric = METRICS["vendi"]()
    metric.update(normal(0), real=True)
    metric.update(SAMPLES["few zero"], real=False)
    with pytest.warns(UserWarning, match="vendi: 3 of 120 images have features of length 0"):
        metric.compute()


def test_functions_have_no_place_to_say_it_and_refuse():
    for call in (
        lambda: vendi_score(SAMPLES["few zero"]),
        lambda: cmmd_biased(normal(0), SAMPLES["few zero"]),
    ):
        with pytest.raises(MeasureError, match="3 of 120 images have features of length 0"):
            call()
