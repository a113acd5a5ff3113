"""Class measures: which classes a judge trained on real images recognises in the samples.

`class_accuracy`, `class_margin`, `class_confidence`, `unlikely_labels`, `class_entropy`,
`rare_class_survival`. The judge is a linear probe and
makes errors, which are part of every number. Read each number beside its floor, the same measure with
held-out real images in the place of the samples.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.influence import Influence
from difflab.metrics.interval import Z95
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows


class _ByClass(PairMetric):
    needs = "judge"
    min_n = 1


class _Mean(_ByClass):
    """The mean of one value of each sample."""

    @staticmethod
    def per_sample(pair: Pair) -> Tensor:
        """Float64 [n_f]."""
        raise NotImplementedError

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(cls.per_sample)[fake].mean())

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        values = pair.once(cls.per_sample)[fake]
        return Influence.of(values.new_zeros(len(pair.real[real])), values)


@measure("class_accuracy")
class ClassAccuracy(_Mean):
    """Share of samples that the judge recognises as the class they were conditioned on.

    Unconditional samples have no value: MeasureError.

    >>> judge = Judge.fit(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> ClassAccuracy.of(Pair(x, x, fake_labels=torch.tensor([0, 0]), judge=judge))
    0.5
    """

    unit = "share of samples"
    range = (0.0, 1.0)
    better = "higher"
    topic = "Concepts"

    @staticmethod
    def per_sample(pair: Pair) -> Tensor:
        if pair.fake_labels is None:
            raise MeasureError("class_accuracy has no value: the samples are unconditional")
        return (pair.judged_fake == pair.fake_labels).double()


@measure("class_margin")
class ClassMargin(_Mean):
    """Mean margin of the class of the condition over the likeliest other class, in the judge's
    probabilities: 1 = certain and right, -1 = certain and wrong.

    Images that show a little of two classes lie between. `class_accuracy` counts these as right until the
    other class is likelier. The judge is also less certain of blurred images: compare with real images of
    the same look.

    >>> judge = Judge.fit(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> x, between = torch.tensor([[0.0], [1.1]]), torch.tensor([[0.55], [0.55]])
    >>> labels = torch.tensor([0, 1])
    >>> a, b = (ClassMargin.of(Pair(y, y, fake_labels=labels, judge=judge)) for y in (x, between))
    >>> round(a, 2), abs(round(b, 2))
    (0.51, 0.0)
    """

    unit = "difference of probabilities"
    range = (-1.0, 1.0)
    better = "higher"
    topic = "Concepts"

    @staticmethod
    def per_sample(pair: Pair) -> Tensor:
        """Probability of the class of the condition minus that of the likeliest other class, -1 to 1."""
        if pair.fake_labels is None:
            raise MeasureError("class_margin has no value: the samples are unconditional")
        probabilities, labels = pair.judge_of.probabilities(pair.fake), pair.fake_labels.unsqueeze(1)
        return probabilities.gather(1, labels).squeeze(1) - probabilities.scatter(1, labels, -1).amax(1)


@measure("class_confidence")
class ClassConfidence(_Mean):
    """Mean difference between the probabilities that the judge gives to the likeliest class and to the
    second: 1 = certain, 0 = undecided between two classes.

    No label is read. Images between two classes lower it, and wrong labels do not, so it tells blended
    concepts from wrong labels. The judge is also less certain of blurred images: compare with real images of
    the same look.

    >>> judge = Judge.fit(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> x, between = torch.tensor([[0.0], [1.1]]), torch.tensor([[0.55], [0.55]])
    >>> [round(ClassConfidence.of(Pair(y, y, judge=judge)), 2) for y in (x, between)]
    [0.51, 0.0]
    """

    unit = "difference of probabilities"
    range = (0.0, 1.0)
    better = "real"
    topic = "Concepts"

    @staticmethod
    def per_sample(pair: Pair) -> Tensor:
        """Probability of the likeliest class minus that of the second, 0 to 1."""
        likeliest = pair.judge_of.probabilities(pair.fake).topk(2, 1).values
        return likeliest[:, 0] - likeliest[:, 1]


FEWEST_CLASSES = 4
"""With fewer classes a class that is not the likeliest one is already among the least likely half."""


@measure("unlikely_labels")
class UnlikelyLabels(_Mean):
    """Share of samples for which the judge finds more than half of the other classes likelier than the class
    they were conditioned on: about 1/2 if labels are drawn at random.

    An image between two classes still shows some of its own, so blended concepts raise it little. A share q
    of random labels raises it by about q/2. MeasureError for unconditional samples and for judges of fewer
    than 4 classes.

    >>> features = torch.eye(4).repeat(2, 1)
    >>> judge = Judge.fit(features, torch.arange(4).repeat(2), 4)
    >>> x = torch.tensor([[1.0, 0.6, 0.4, 0.0]] * 2)  # shows class 0, then 1, then 2, and none of class 3
    >>> UnlikelyLabels.of(Pair(x, x, fake_labels=torch.tensor([1, 3]), judge=judge))
    0.5
    """

    unit = "share of samples"
    range = (0.0, 1.0)
    better = "lower"
    topic = "Concepts"

    @staticmethod
    def per_sample(pair: Pair) -> Tensor:
        """Whether more than half of the other classes are likelier than the label, 0 or 1."""
        if pair.fake_labels is None:
            raise MeasureError("unlikely_labels has no value: the samples are unconditional")
        others = len(pair.judge_of.known) - 1
        if others + 1 < FEWEST_CLASSES:
            raise MeasureError(
                f"unlikely_labels has no value: it needs {FEWEST_CLASSES} classes, the judge knows "
                f"{others + 1}"
            )
        probabilities, labels = pair.judge_of.probabilities(pair.fake), pair.fake_labels.unsqueeze(1)
        likelier = (probabilities > probabilities.gather(1, labels)).sum(1)
        return (likelier > others / 2).double()


@measure("class_entropy")
class ClassEntropy(_ByClass):
    """Entropy in nats of the classes that the judge recognises in the samples: ln(number of classes) when
    balanced, 0 when all samples are of one class.

    The plug-in estimate is about (classes - 1)/(2n) nats too low (Miller 1955), and equally so for real
    images at the same n.

    >>> judge = Judge.fit(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> round(ClassEntropy.of(Pair(x, x, judge=judge)), 4)
    0.6931
    """

    unit = "nats"
    range = (0.0, float("inf"))
    better = "real"
    topic = "Diversity"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        share = torch.bincount(pair.judged_fake[fake]).double()
        share = share[share > 0] / share.sum()
        return float(-(share * share.log()).sum()) + 0.0  # + 0.0: one class alone is 0, not -0

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        judged = pair.judged_fake[fake]
        share = torch.bincount(judged).double() / len(judged)
        # The second-order term is -chi^2 / 2n, with as many degrees of freedom as classes but one.
        n, freedom = len(judged), int((share > 0).sum()) - 1
        quadratic = freedom / (2 * n**2)
        whole = Influence.of(share.new_zeros(len(pair.real[real])), -share[judged].log(), quadratic)
        below = math.log(freedom + 1) - cls.evaluate(pair, real, fake)
        return replace(whole, bounds=_entropy_bounds(below, freedom, n, float(whole.fake.square().sum())))


def _entropy_bounds(below: float, freedom: int, n: int, first: float) -> tuple[float, float]:
    """95% interval of the entropy of `freedom` + 1 classes, of which n samples show `below` nats less than
    the most.

    Their expectation is `freedom` / 2n below the most when all classes are equally frequent, with the
    variance of the second-order term alone. From there the variance grows in proportion, as that of a
    noncentral chi^2. The bounds solve (below - E)^2 = z^2 variance(E), as Wilson's do for a share. Where
    equal classes are not excluded, the interval reaches to the most: with quotas of classes the entropy is
    higher than that of images drawn at random.

    Args:
        first: variance of the first-order term.
    """
    least, slope = freedom / (2 * n), first / below if below > 1e-9 else 2 / n
    middle = below + Z95**2 * slope / 2
    half = max(middle**2 - below**2 + Z95**2 * (freedom / (2 * n**2) - slope * least), 0.0) ** 0.5
    most = math.log(freedom + 1)
    fewest = middle - half if middle - half > least else 0.0
    return max(most - max(middle + half, least), 0.0), most - fewest


def rare_classes(pair: Pair) -> Tensor:
    """The rarest quarter (at least one) of the classes that the judge finds in the real set: int64 [max(1,
    classes // 4)].

    Rarity is the frequency among the real labels, ties by index. A class that the judge finds in no real
    image is left out: its share of the samples could not be measured either. Raises MeasureError without
    real labels.
    """
    if pair.real_labels is None:
        raise MeasureError(
            "rare_class_survival has no value: the real images carry no labels, so no class is known to be "
            "rare"
        )
    classes = pair.judged_real.unique()  # ascending, so that the stable sort breaks ties by index
    count = torch.bincount(pair.real_labels, minlength=int(classes.max()) + 1)[classes]
    return classes[count.argsort(stable=True)[: max(1, len(classes) // 4)]]


@measure("rare_class_survival")
class RareClassSurvival(_ByClass):
    """Mean over the rarest quarter of the classes of min(1, share among samples / share among real images):
    1 = each at least as frequent as among real images, 0 = all are lost.

    Both shares are the judge's, see `rare_classes`. Excess in one class does not compensate for loss in
    another. Between two real sets it is below 1, because each ratio is cut at 1: compare with the floor.
    In a half-sample without a real image that is judged as some class, that class counts 1.

    >>> judge = Judge.fit(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> real, fake = torch.tensor([[0.0], [0.1], [1.0]]), torch.tensor([[0.0], [0.0], [0.1]])
    >>> RareClassSurvival.of(Pair(real, fake, real_labels=torch.tensor([0, 0, 1]), judge=judge))
    0.0
    """

    unit = "share of rare classes"
    range = (0.0, 1.0)
    better = "higher"
    topic = "Tails and likelihood"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        rare = pair.once(rare_classes)
        in_real, in_fake = (
            (judged.unsqueeze(1) == rare).double().mean(0)
            for judged in (pair.judged_real[real], pair.judged_fake[fake])
        )
        return float((in_fake / in_real).where(in_real > 0, 1.0).clamp(max=1).mean())

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        """Of the ratios of both shares, each times the part of its spread that the cut at 1 leaves."""
        rare = pair.once(rare_classes)
        x, y = (
            (judged.unsqueeze(1) == rare).double()
            for judged in (pair.judged_real[real], pair.judged_fake[fake])
        )
        of_real, of_fake = x.new_zeros(len(x)), y.new_zeros(len(y))
        for in_real, in_fake in zip(x.T, y.T, strict=True):
            share, ratio = in_real.mean(), float(in_fake.mean() / in_real.mean())
            whole = Influence.of(-ratio * in_real / share, in_fake / share)
            if whole.error:
                kept = _spread_below_1(ratio, whole.error) / whole.error / len(rare)
                of_real, of_fake = of_real + kept * whole.real, of_fake + kept * whole.fake
        return Influence(of_real, of_fake)


def _spread_below_1(mean: float, deviation: float) -> float:
    """Standard deviation of min(1, R) for a normal R, whose mean is known from one draw with this deviation.

    >>> round(_spread_below_1(-9.0, 1.0), 4), round(_spread_below_1(9.0, 1.0), 4)
    (1.0, 0.0)
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    z = (1 - mean) / deviation + nodes
    from scipy import special

    density, below = np.exp(-z * z / 2) / math.sqrt(2 * math.pi), (1 + special.erf(z / math.sqrt(2))) / 2
    variance = (1 + z * z) * below + z * density - (density + z * below) ** 2
    return deviation * float(np.average(variance.clip(0), weights=weights)) ** 0.5
