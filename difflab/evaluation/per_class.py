"""Damage to single classes, which averages over all classes hide.

Samples of each class are compared with real images of the class, image by image:

    looks      the statistics of `difflab.evaluation.signs.LOOKS`
    variety    the distance to the nearest other image of the class, and that between all of them, in each
               feature space
    content    whether a class judge recognises the class; it did not learn from the real images compared

Tests are one-sided: that of Mann and Whitney for statistics, a permutation test for distances, Fisher's exact
test for the share of recognised images.
A class is damaged if a test is significant at `LEVEL`, by Holm's correction for all classes and tests, and
the effect is relevant. Damage that more than half of the classes seem to share, or that the other classes
together show, is none of single classes: the rules about all images name it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from difflab.core.errors import MeasureError
from difflab.core.seeds import numpy_generator
from difflab.evaluation.readings import Images, RealSide
from difflab.evaluation.signs import LOOKS, RANK
from difflab.evaluation.signs import REPEATS as REPEATING
from difflab.metrics import METRICS, Extractor
from difflab.metrics.distances import squared_distances
from difflab.metrics.texture import Shift

LEVEL = 0.01
"""Probability that any class of a healthy set is called damaged."""
SHARED = 0.001
"""Probability by chance below which a class seems to share damage. Each is tested about 20 times."""
LEAST_P, LEAST_Z = 1e-15, -1.0
"""Limits of one class among the others: a p of 0 says too much, and one of 1 is often not computed."""
FEWEST = 12
"""Fewest images of a class on a side. Fewer cannot be significant among hundreds of tests."""
DRAWS, MOST = 400, 100
"""Draws of a permutation test, and most images that it reads."""
SHIFT = 4.0
"""Shift of a look that is relevant in one class, as a multiple of what is relevant for all images."""
CLOSER = 0.15
"""Decrease of distances that is relevant, as a share of those of real images."""
CONTENT = 0.25
"""Decrease of the share of recognised images that is relevant."""
OTHERS, REPEATS, NARROWED = "shows other classes", "repeats few images", "less variety"
REST = -1
"""Stands for all classes that are too small to be tested: together they are one more class that may share
damage.
"""


@dataclass(frozen=True)
class ClassTest:
    """A one-sided test of one class.

    Attributes:
        what: the damage, in words.
        p: by chance.
        harm: the effect in units of what is relevant: from 1 on it is.
    """

    label: int
    what: str
    p: float
    harm: float

    def is_like(self, what: str) -> bool:
        """Whether it tests damage `what`, or another kind of lost variety if that is one."""
        variety = (REPEATS, NARROWED)
        return self.what == what or (self.what in variety and what in variety)

    def suggests(self, what: str) -> bool:
        """Whether the class seems to share damage `what`: half of what is relevant is enough."""
        return self.is_like(what) and self.p < SHARED and self.harm >= 0.5


def damaged_classes(
    real: RealSide, images: Images, generation_0: Images | None = None
) -> dict[int, list[str]]:
    """The damaged classes by label, and what is wrong with each in words.

    Args:
        images: samples with the class that each was asked for; without labels nothing is tested.
        generation_0: samples of the first model. Damage counts only as far as it exceeds theirs.
    """
    sides = [[images], [real.reference, real.other]] + ([[generation_0]] if generation_0 is not None else [])
    if any(part.labels is None for parts in sides for part in parts):
        return {}
    enough = _classes_with_enough(sides)
    spaces = [*real.extractors, *real.statistics]
    samples, *controls = [_Side.of(real, parts, enough, spaces) for parts in sides]

    def tested(encoded: _Side | None) -> dict[int, list[str]]:
        tests: list[ClassTest] = []
        for label in enough | {REST}:
            tests += _tests(real, label, samples, controls, encoded)
        return named(tests)

    damaged = tested(None)
    if not any(word in LOOKS for words in damaged.values() for word in words):
        return damaged
    saved = [real.encoded(part) for part in (real.reference, real.other)]
    return tested(_Side.of(real, saved, enough, real.statistics))


def named(tests: Sequence[ClassTest]) -> dict[int, list[str]]:
    """The damage that is significant, relevant and not shared by more than half of the classes, by class."""
    labels = {test.label for test in tests}
    found: dict[int, list[str]] = {}
    for test in holm(tests, LEVEL):
        if test.harm >= 1 and test.label != REST:
            found.setdefault(test.label, []).append(test.what)
    damaged = {}
    for label in sorted(found):
        alone = []
        for what in _main(found[label]):
            sharing = {test.label for test in tests if test.suggests(what)}
            if 2 * len(sharing) <= len(labels) and elsewhere(tests, found, what) > SHARED:
                alone.append(what)
        if alone:
            damaged[label] = alone
    return damaged


def elsewhere(tests: Sequence[ClassTest], damaged: Collection[int], what: str) -> float:
    """Probability that all classes but the `damaged` ones show as much of a damage by chance (Stouffer's
    method).

    A change of all images has a larger effect on some classes than on others. The tests of one class depend
    on each other, so their mean counts.
    """
    from scipy.stats import norm

    by_class: dict[int, list[float]] = {}
    for test in tests:
        if test.label not in damaged and test.is_like(what):
            z = norm.isf(min(max(test.p, LEAST_P), 1 - LEAST_P))
            by_class.setdefault(test.label, []).append(max(float(z), LEAST_Z))
    if not by_class:
        return 1.0
    return float(norm.sf(sum(np.mean(z) for z in by_class.values()) / len(by_class) ** 0.5))


def _main(words: Sequence[str]) -> list[str]:
    """The words that explain the others.

    A few images that repeat have any look. An odd look confuses the judge and lowers distances. Images of
    another class can be nearer to each other.
    """
    if REPEATS in words:
        return [REPEATS]
    looks = [word for word in dict.fromkeys(words) if word in LOOKS]
    if looks:
        return sorted(looks, key=lambda look: RANK.get(look, 2))
    return [OTHERS] if OTHERS in words else [NARROWED]


def holm(tests: Sequence[ClassTest], level: float) -> list[ClassTest]:
    """The tests that are significant at `level` for all of them together (Holm 1979), the surest first.

    >>> [test.p for test in holm([ClassTest(0, "", p, 1.0) for p in (0.02, 0.004, 0.001)], 0.01)]
    [0.001, 0.004]
    """
    ordered = sorted(tests, key=lambda test: test.p)
    for i, test in enumerate(ordered):
        if test.p > level / (len(ordered) - i):
            return ordered[:i]
    return ordered


def _classes_with_enough(sides: Sequence[Sequence[Images]]) -> set[int]:
    """The classes with `FEWEST` images on every side."""
    enough: list[set[int]] = []
    for parts in sides:
        labels = [part.labels for part in parts if part.labels is not None]
        classes, counts = np.unique(np.concatenate(labels), return_counts=True)
        enough.append(set(classes[counts >= FEWEST].tolist()))
    return set.intersection(*enough)


@dataclass(frozen=True)
class _Side:
    """Images that are compared class by class.

    Attributes:
        features: float64 [n, d], by extractor.
        labels: the class of each image, int64 [n].
        shown: the class that the last judge sees in each image, int64 [n]; without a judge as `labels`.
        groups: int64 [n], as `labels`, but `REST` for the classes that are too small.
        right: bool [n], by extractor: whether the judge recognises the class.
        unseen: bool [n]: whether the judges have not learned from the image.
    """

    features: dict[str, np.ndarray]
    labels: np.ndarray
    shown: np.ndarray
    groups: np.ndarray
    right: dict[str, np.ndarray]
    unseen: np.ndarray

    @classmethod
    def of(
        cls, real: RealSide, parts: Sequence[Images], enough: set[int], spaces: Sequence[Extractor]
    ) -> _Side:
        labels = np.concatenate([part.labels for part in parts if part.labels is not None])
        learned = np.concatenate([np.full(len(part), part is real.reference) for part in parts])
        groups = np.where(np.isin(labels, list(enough)), labels, REST)
        features, right, shown = {}, {}, labels
        for extractor in spaces:
            rows = torch.cat([real.features(extractor, part) for part in parts])
            features[extractor.name] = rows.double().cpu().numpy()
            judge = real.judges.get(extractor.name)
            if judge is not None:
                shown = judge.predict(rows).cpu().numpy()
                right[extractor.name] = shown == labels
        return cls(features, labels, shown, groups, right, ~learned)


def _tests(
    real: RealSide, label: int, samples: _Side, controls: Sequence[_Side], encoded: _Side | None
) -> Iterator[ClassTest]:
    """All tests of one class. Re-encoded real images are a control of looks, if they are given."""
    sides = [_Class(side, side.groups == label) for side in (samples, *controls)]
    if min(int(side.rows.sum()) for side in sides) < FEWEST:
        return
    contents = [_content(name, label, sides) for name in real.judges]
    yield from contents
    saved = None if encoded is None else _Class(encoded, encoded.groups == label)
    yield from _looks(real, label, sides, saved, any(test.suggests(OTHERS) for test in contents))
    variety = [_variety(extractor.name, label, sides) for extractor in real.extractors]
    repeats = all(nearest.harm * CLOSER >= REPEATING.relevant for nearest, _ in variety)
    for nearest, apart in variety:
        yield replace(nearest, what=REPEATS if repeats else NARROWED)
        yield apart


@dataclass(frozen=True)
class _Class:
    """The images of one class on one side."""

    side: _Side
    rows: np.ndarray

    def right(self, extractor: str) -> np.ndarray:
        return self.side.right[extractor][self.rows & self.side.unseen]


def _test(
    label: int, what: str, worse: str, values: Sequence[np.ndarray], harm: Callable[..., float]
) -> ClassTest:
    """Samples against the control that explains most.

    Args:
        worse: 'higher' or 'lower'.
        values: of the samples, and of each control.
        harm: of the values of the samples and of a control, in units of what is relevant.
    """
    from scipy.stats import mannwhitneyu

    alternative = {"higher": "greater", "lower": "less"}[worse]
    samples, *controls = values
    p = [mannwhitneyu(samples, c, alternative=alternative, method="asymptotic").pvalue for c in controls]
    # All values equal: no p, and no difference.
    return ClassTest(
        label, what, float(np.nan_to_num(p, nan=1.0).max()), min(harm(samples, c) for c in controls)
    )


def _looks(
    real: RealSide, label: int, sides: Sequence[_Class], saved: _Class | None, confused: bool
) -> Iterator[ClassTest]:
    """A test for each sign of each look.

    Args:
        sides: samples and controls.
        saved: real images that are saved as JPEG; None = no control.
        confused: whether samples may show other classes, which look different by themselves. They are then
            compared with real images of the classes that they show, too.
    """
    for what, signs in LOOKS.items():
        for sign in signs:
            shift = METRICS[sign.metric]
            assert issubclass(shift, Shift)
            column = shift.statistics.index(shift.statistic())
            values = [side.side.features[shift.extractor][:, column] for side in sides]
            try:
                unit = shift.unit_of(torch.from_numpy(values[1]))
            except MeasureError:  # the statistic is the same in all real images
                continue
            unit *= SHIFT * sign.relevant * (1 if sign.worse == "higher" else -1)
            harm = partial(_shifted, shift, unit)
            of_class = [v[side.rows] for v, side in zip(values, sides, strict=True)]
            tests = [_test(label, what, sign.worse, of_class, harm)]
            if saved is not None:
                # Of what is left beyond JPEG, less is relevant: as much as for all images.
                encoded = saved.side.features[shift.extractor][saved.rows, column]
                beyond = partial(_shifted, shift, unit / SHIFT)
                tests.append(_test(label, what, sign.worse, [of_class[0], encoded], beyond))
            if confused:
                samples, known = sides[0], sides[1].side
                centres = {c: _centre(shift, values[1][known.labels == c]) for c in np.unique(known.labels)}
                own = _centre(shift, of_class[1])
                expected = np.array([centres.get(c, own) for c in samples.side.shown[samples.rows]])
                as_shown = of_class[0] - expected + own
                tests.append(_test(label, what, sign.worse, [as_shown, *of_class[1:]], harm))
            yield ClassTest(label, what, max(t.p for t in tests), min(t.harm for t in tests))


def _shifted(shift: type[Shift], unit: float, samples: np.ndarray, control: np.ndarray) -> float:
    return (_centre(shift, samples) - _centre(shift, control)) / unit


def _centre(shift: type[Shift], values: np.ndarray) -> float:
    return float(shift.centre(torch.from_numpy(values)))


def _variety(extractor: str, label: int, sides: Sequence[_Class]) -> list[ClassTest]:
    """The tests of the distances to the nearest image and between all images."""
    samples, *controls = (side.side.features[extractor][side.rows] for side in sides)
    compared = [closer(samples, control, CLOSER / 2) for control in controls]
    return [
        ClassTest(label, NARROWED, max(p for p, _ in tests), min(harm for _, harm in tests) / CLOSER)
        for tests in zip(*compared, strict=True)
    ]


def closer(samples: np.ndarray, control: np.ndarray, least: float = -np.inf) -> list[tuple[float, float]]:
    """Whether samples [n, d] are closer together than a control [m, d]: (p, decrease as a share of the
    distances of the control) of the mean distance to the nearest image, and of that between all images.

    Distances depend on each other, and the nearest ones on the number of images. So as many images are drawn
    from both sides together, `DRAWS` times. p is the normal tail of the distribution of their distances (a
    permutation test); 1 without a draw for a decrease below `least`. Of large classes the first `MOST` images
    are read.
    """
    from scipy.stats import norm

    samples, control = samples[:MOST], control[: 2 * MOST]
    n = min(len(samples), len(control))
    both = torch.from_numpy(np.concatenate([samples[:n], control]))
    distances = squared_distances(both, both).sqrt().double().numpy()
    rng = numpy_generator("per class")
    draws = [rng.permutation(len(both))[:n] for _ in range(DRAWS)]
    groups = [np.arange(start, start + n) for start in range(n, len(both) - n + 1, n)]
    found = []
    for mean in (_to_nearest, _apart):
        own = mean(distances, np.arange(n))
        of_control = np.mean([mean(distances, group) for group in groups])
        decrease = float(1 - own / of_control) if of_control else 0.0
        if decrease < least:
            found.append((1.0, decrease))
            continue
        drawn = np.array([mean(distances, draw) for draw in draws])
        z = (own - drawn.mean()) / drawn.std() if drawn.std() else 0.0
        found.append((float(norm.cdf(z)), decrease))
    return found


def _to_nearest(distances: np.ndarray, rows: np.ndarray) -> float:
    among = distances[np.ix_(rows, rows)]
    np.fill_diagonal(among, np.inf)
    return float(among.min(1).mean())


def _apart(distances: np.ndarray, rows: np.ndarray) -> float:
    return float(distances[np.ix_(rows, rows)].sum() / (len(rows) * (len(rows) - 1)))


def _content(extractor: str, label: int, sides: Sequence[_Class]) -> ClassTest:
    """The share of samples that the judge recognises, by Fisher's exact test."""
    from scipy.stats import fisher_exact

    tables = [(int(right.sum()), int((~right).sum())) for right in (side.right(extractor) for side in sides)]
    shares = [right / max(1, right + wrong) for right, wrong in tables]
    p = max(fisher_exact([tables[0], table], alternative="less").pvalue for table in tables[1:])
    return ClassTest(label, OTHERS, float(p), (min(shares[1:]) - shares[0]) / CONTENT)
