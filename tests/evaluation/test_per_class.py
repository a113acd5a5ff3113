"""Damage to one class is found, named and told from damage to all classes."""

from __future__ import annotations

import numpy as np
import pytest
from changed_digits import changed, examined
from scipy.spatial.distance import pdist, squareform
from scipy.stats import kstest, norm

from difflab.core.rows import STATISTICS
from difflab.evaluation import examine as examine_module
from difflab.evaluation.controls import reencoded
from difflab.evaluation.finding import DAMAGED
from difflab.evaluation.per_class import (
    FEWEST,
    LEVEL,
    NARROWED,
    OTHERS,
    REPEATS,
    REST,
    ClassTest,
    closer,
    damaged_classes,
    elsewhere,
    holm,
    named,
)
from difflab.evaluation.readings import Images, RealSide
from difflab.evaluation.simulate import struck_class
from difflab.metrics import open_extractor
from difflab.report.table import diagnosis
from difflab.report.verdict import as_data


def real_side(digits: dict[str, Images], n_classes: int = 10) -> RealSide:
    return RealSide(
        digits["reference"],
        digits["other"],
        None,
        None,
        [open_extractor("pixels")],
        [open_extractor(spec) for spec in STATISTICS],
        [str(i) for i in range(n_classes)],
        neighbours=5,
        resamples=12,
        seed=0,
    )


def blurred(images: Images, *labels: int) -> Images:
    """The images with those of some classes replaced by their means over 3 x 3 pixels."""
    pixels = images.pixels.astype(float)
    means = sum(np.roll(pixels, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    rows = images.of(np.array(labels))
    pixels[rows] = means[rows]
    return Images(pixels.round().astype(np.uint8), images.labels)


def struck(digits: dict[str, Images], seed: int = 0) -> int:
    label = struck_class(digits["pool"].labels, 200, seed)
    assert label is not None
    return label


# ------------------------------------------------------------------------------------------- what is named
@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("one_class_blurred", "blurred"),
        ("one_class_repeated", REPEATS),
        ("one_class_narrowed", NARROWED),
        ("one_class_replaced", OTHERS),
    ],
)
def test_the_damaged_class_is_named_and_what_is_wrong_with_it(digits, kind, wrong):
    finding = examined(digits, changed(digits, kind, 1.0)).findings[0]
    name = str(struck(digits))
    assert list(finding.classes) == [name] and wrong in finding.classes[name]
    assert finding.name == DAMAGED and finding.alarm and finding.stage in ("none", "cannot tell")
    assert f"{DAMAGED} ({name}: {finding.classes[name][0]}" in finding.words
    assert "changed encoding" not in finding.words and not finding.excluded
    assert "these classes" in finding.advice
    assert all(row["damaged_classes"] == finding.classes for row in finding.rows())


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("blurred", "blurred"),
        ("permuted", "poisoned labels"),
        ("swapped", "poisoned labels"),
        ("tails_cut", "early"),
        ("blended", "late"),
        ("repeated", "catastrophic"),
    ],
)
def test_damage_to_all_classes_is_none_of_single_classes(digits, kind, name):
    finding = examined(digits, changed(digits, kind, 0.8)).findings[0]
    assert finding.name == name and finding.classes == {} and DAMAGED not in finding.words


def test_the_look_of_a_class_is_explained_by_an_encoding_that_all_images_have(digits, monkeypatch):
    saved = changed(digits, "reencoded", 0.8)
    for wrong, named_classes in (([OTHERS], {"3": [OTHERS]}), (["blurred"], {})):
        monkeypatch.setattr(examine_module, "damaged_classes", lambda *args, _wrong=wrong: {3: _wrong})
        finding = examined(digits, saved).findings[0]
        assert finding.classes == named_classes and finding.alarm == bool(named_classes)
        assert "changed encoding" in finding.instead
    blurry = examined(digits, changed(digits, "nothing", 1.0)).findings[0]
    assert blurry.classes == {"3": ["blurred"]}


def test_two_damaged_classes_are_named(digits):
    result = examined(digits, blurred(digits["pool"][:200], 3, 6))
    finding = result.findings[0]
    assert as_data(result)["damaged"] == finding.classes
    assert f"6: {', '.join(finding.classes['6'])}" in str(diagnosis(result).renderables[-1])
    assert list(finding.classes) == ["3", "6"] and all(
        "blurred" in wrong for wrong in finding.classes.values()
    )


def test_a_missing_class_and_a_damaged_one_are_both_named(digits):
    kept = digits["pool"][digits["pool"].labels != 0][:200]
    finding = examined(digits, blurred(kept, 3)).findings[0]
    assert finding.instead[:2] == ["forgetting", DAMAGED] and finding.gone == ["0"]
    assert list(finding.classes) == ["3"]


def test_the_look_of_another_class_is_no_look_of_this_one(digits):
    """Images of ones have other strokes than those of threes."""
    samples = digits["pool"][:200]
    ones = digits["pool"].pixels[200:][digits["pool"].labels[200:] == 1]
    pixels, rows = samples.pixels.copy(), np.flatnonzero(samples.labels == 3)
    pixels[rows] = ones[: len(rows)]
    assert damaged_classes(real_side(digits), Images(pixels, samples.labels)) == {3: [OTHERS]}


def test_damage_that_generation_0_has_does_not_count(digits):
    real, blurry = real_side(digits), blurred(digits["pool"][:200], 3)
    later = blurred(digits["pool"][200:400], 3)
    assert list(damaged_classes(real, later)) == [3]
    assert damaged_classes(real, later, blurry) == {}
    assert list(damaged_classes(real, later, digits["pool"][:200])) == [3]


# ------------------------------------------------------------------------------------------- healthy, and few
def test_classes_of_chance_are_not_damaged(digits):
    """Real images, labelled by chance: 40 draws of about 50 to 170 tests."""
    rng = np.random.default_rng(0)
    alarms = 0
    for n_classes in (4, 8, 12, 16) * 10:
        rows = rng.permutation(len(digits["pool"]))[:600]
        labelled = Images(digits["pool"].pixels[rows], rng.integers(0, n_classes, 600))
        parts = {"reference": labelled[:200], "other": labelled[200:400]}
        alarms += bool(damaged_classes(real_side(parts, n_classes), labelled[400:]))
    assert alarms <= 2


def test_without_labels_nothing_is_tested(digits):
    real, samples = real_side(digits), blurred(digits["pool"][:200], 3)
    assert damaged_classes(real, Images(samples.pixels)) == {}
    assert damaged_classes(real, samples, Images(digits["other"].pixels)) == {}
    finding = examined(digits, Images(samples.pixels)).findings[0]
    assert finding.classes == {} and DAMAGED not in finding.words


def test_a_class_of_few_images_is_not_tested(digits):
    samples = blurred(digits["pool"][:200], 3)
    rows = np.concatenate(
        [np.flatnonzero(samples.labels == 3)[: FEWEST - 1], np.flatnonzero(samples.labels != 3)]
    )
    assert damaged_classes(real_side(digits), samples[rows]) == {}


# ------------------------------------------------------------------------------------------- the rules
def made(*rows: tuple[int, str, float, float]) -> list[ClassTest]:
    return [ClassTest(*row) for row in rows]


def test_holm_on_his_own_terms():
    """0.005 and 0.01 are below 0.05 / 4 and 0.05 / 3, but 0.03 is not below 0.05 / 2."""
    found = holm(made(*((0, "", p, 1.0) for p in (0.01, 0.04, 0.03, 0.005))), 0.05)
    assert [test.p for test in found] == [0.005, 0.01]
    assert holm([], 0.05) == [] and len(holm(made((0, "", 0.05, 1.0)), 0.05)) == 1


def test_damage_has_to_be_sure_relevant_and_of_few_classes():
    healthy = [(label, NARROWED, 0.5, 0.0) for label in range(4)]
    assert named(made((0, "blurred", 1e-9, 1.2), *healthy)) == {0: ["blurred"]}
    assert named(made((0, "blurred", 1e-9, 0.9), *healthy)) == {}
    assert named(made((0, "blurred", 2 * LEVEL / 5, 1.2), *healthy)) == {}
    assert named(made((REST, "blurred", 1e-9, 1.2), *healthy)) == {}
    two = [(label, "blurred", 1e-9, 1.2) for label in (0, 1)]
    assert named(made(*two, *healthy)) == {0: ["blurred"], 1: ["blurred"]}
    assert named(made(*two, (2, "blurred", 1e-4, 0.6), *healthy)) == {}


def test_a_change_that_the_other_classes_show_together_is_none_of_one_class():
    """Eight classes with p = 0.02 each: Stouffer's z is 2.05 * 8^0.5 = 5.8."""
    strong = (0, "blurred", 1e-9, 1.2)
    weak = [(label, "blurred", 0.02, 0.2) for label in range(1, 9)]
    assert elsewhere(made(strong, *weak), [0], "blurred") == pytest.approx(norm.sf(2.0537 * 8**0.5), rel=1e-2)
    assert named(made(strong, *weak)) == {}
    assert named(made(strong, *weak[:1], *((label, "blurred", 0.5, 0.0) for label in range(2, 9)))) != {}
    assert elsewhere(made(strong), [0], "blurred") == 1.0


def test_what_saving_as_jpeg_does_to_one_class_is_no_damage():
    """Eight flat classes, and a ninth of noise, to which JPEG does most."""
    rng = np.random.default_rng(0)

    def drawn(n: int) -> Images:
        labels = np.arange(n) % 9
        ramp = (8 * labels[:, None, None] + 2 * np.arange(16)).repeat(16, 1) + rng.integers(0, 3, (n, 16, 16))
        noise = rng.normal(128, 25, (n, 16, 16)).clip(0, 255)
        return Images(np.where((labels == 8)[:, None, None], noise, ramp).astype(np.uint8)[..., None], labels)

    parts = {"reference": drawn(270), "other": drawn(270)}
    real, samples = real_side(parts, 9), drawn(270)
    saved = Images(reencoded(samples.pixels, 75), samples.labels)
    assert damaged_classes(real, saved) == {}
    assert "blurred" in damaged_classes(real, blurred(samples, 8))[8]


def test_what_explains_the_rest_is_named():
    def main(*words: str) -> list[str]:
        healthy = [(label, "faded", 0.5, 0.0) for label in range(1, 9)]
        return named(made(*((0, word, 1e-9, 2.0) for word in words), *healthy))[0]

    assert main(NARROWED, "blurred", OTHERS) == ["blurred"]
    assert main("blurred", REPEATS, NARROWED) == [REPEATS]
    assert main(NARROWED, OTHERS) == [OTHERS] and main(NARROWED) == [NARROWED]
    assert main("less contrast", "posterised", "blurred") == ["posterised", "blurred", "less contrast"]


def test_damage_to_most_classes_explains_what_it_does_to_few():
    """All are blurred, which confuses the judge of one class: it shows no other class."""
    blurry = [(label, "blurred", 1e-9, 2.0) for label in range(4)]
    assert named(made(*blurry, (0, OTHERS, 1e-9, 2.0))) == {}


# ------------------------------------------------------------------------------------------- distances
def test_images_nearer_together_are_found_by_the_difference_of_their_means():
    rng = np.random.default_rng(0)
    near, control = rng.normal(size=(40, 3)) / 2, rng.normal(size=(80, 3))
    (p_nearest, nearest), (p_apart, apart) = closer(near, control)
    assert max(p_nearest, p_apart) < 1e-5
    among = [pdist(x).mean() for x in (near, control[:40], control[40:])]
    assert apart == pytest.approx(1 - among[0] / np.mean(among[1:]), abs=1e-6)
    smallest = [
        np.sort(squareform(pdist(x)), axis=1)[:, 1].mean() for x in (near, control[:40], control[40:])
    ]
    assert nearest == pytest.approx(1 - smallest[0] / np.mean(smallest[1:]), abs=1e-6)
    assert min(p for p, _ in closer(2 * control[:40], control)) > 0.99
    assert closer(near, control, 0.9) == [(1.0, nearest), (1.0, apart)]


def test_equal_sides_have_even_probabilities():
    """p is even between 0 and 1 for sides of one kind, whatever their numbers: Kolmogorov and Smirnov."""
    rng = np.random.default_rng(0)
    found = [closer(rng.normal(size=(20, 5)), rng.normal(size=(n, 5))) for n in (15, 20, 45) * 40]
    for statistic in (0, 1):
        assert kstest([tests[statistic][0] for tests in found], "uniform").pvalue > 0.01


def test_images_that_are_all_equal_are_no_nearer():
    assert closer(np.zeros((12, 2)), np.zeros((24, 2))) == [(0.5, 0.0), (0.5, 0.0)]


def test_no_image_goes_through_an_extractor_twice(digits, monkeypatch):
    """What the other classes show is measured on known features; only controls are new images."""
    seen: list[bytes] = []
    extractor = open_extractor("pixels")
    original = type(extractor).__call__

    def counting(self, images):
        if self.name == "pixels":
            seen.extend(image.tobytes() for image in images.numpy())
        return original(self, images)

    monkeypatch.setattr(type(extractor), "__call__", counting)
    samples = blurred(digits["pool"][:200], 3)
    finding = examined(digits, samples, extractors=[extractor]).findings[0]
    assert list(finding.classes) == ["3"]
    assert max(seen.count(image.tobytes()) for image in samples.pixels) == 1
