"""Class measures."""

from __future__ import annotations

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows


class _ByClass(PairMetric):
    needs = "judge"
    min_n = 1


@measure("class_accuracy")
class ClassAccuracy(_ByClass):
    """Share of samples in which the judge sees the class they were asked for. Unconditional samples have none: MeasureError.

    >>> judge = Judge.fit(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> ClassAccuracy.of(Pair(x, x, fake_labels=torch.tensor([0, 0]), judge=judge))
    0.5
    """

    unit = "share of samples"
    range = (0.0, 1.0)
    better = "higher"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        if pair.fake_labels is None:
            raise MeasureError(
                "class_accuracy has no value: the samples are unconditional, no class was asked for"
            )
        return float((pair.judged_fake[fake] == pair.fake_labels[fake]).double().mean())


def margins(pair: Pair) -> Tensor:
    """Probability that the judge gives the class asked for minus that of the likeliest other one, float64 [n_f], -1 to 1."""
    if pair.fake_labels is None:
        raise MeasureError("class_margin has no value: the samples are unconditional, no class was asked for")
    chances, own = pair.judge_of.probabilities(pair.fake), pair.fake_labels.unsqueeze(1)
    return chances.gather(1, own).squeeze(1) - chances.scatter(1, own, -1).amax(1)


@measure("class_margin")
class ClassMargin(_ByClass):
    """Mean lead of the class asked for over the likeliest other one, in the judge's probabilities: 1 = sure and right, -1 = sure and wrong.

    Between those lie images that show a little of two classes, which `class_accuracy` counts as right until the other one wins.
    A judge is less sure of blurred images too: compare with real ones of the same look.

    >>> judge = Judge.fit(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> x, between = torch.tensor([[0.0], [1.1]]), torch.tensor([[0.55], [0.55]])
    >>> a, b = (ClassMargin.of(Pair(y, y, fake_labels=torch.tensor([0, 1]), judge=judge)) for y in (x, between))
    >>> round(a, 2), abs(round(b, 2))
    (0.51, 0.0)
    """

    unit = "difference of probabilities"
    range = (-1.0, 1.0)
    better = "higher"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(margins)[fake].mean())


@measure("class_entropy")
class ClassEntropy(_ByClass):
    """Entropy in nats of the classes the judge sees in the samples: ln(number of classes) when balanced, 0 when all are one.

    The plug-in estimate; it lies about (classes - 1)/(2n) nats low (Miller 1955), equally for real images at the same n.

    >>> judge = Judge.fit(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> round(ClassEntropy.of(Pair(x, x, judge=judge)), 4)
    0.6931
    """

    unit = "nats"
    range = (0.0, float("inf"))
    better = "real"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        share = torch.bincount(pair.judged_fake[fake]).double()
        share = share[share > 0] / share.sum()
        return float(-(share * share.log()).sum()) + 0.0  # + 0.0: one class alone is 0, not -0


def rare_classes(pair: Pair) -> Tensor:
    """The rarest quarter (at least one) of the classes that the judge finds in the real set, by their frequency among the
    real labels, ties by index: int64 [max(1, classes // 4)]. Raises MeasureError without real labels.

    A class that the judge finds in no real image is left out: its share of the samples could not be read either.
    """
    if pair.real_labels is None:
        raise MeasureError(
            "rare_class_survival has no value: the real images carry no labels, so no class is known to be rare"
        )
    found = pair.judged_real.unique()  # ascending, so that the stable sort breaks ties by index
    count = torch.bincount(pair.real_labels, minlength=int(found.max()) + 1)[found]
    return found[count.argsort(stable=True)[: max(1, len(found) // 4)]]


@measure("rare_class_survival")
class RareClassSurvival(_ByClass):
    """How much of the rare classes is left: mean over `rare_classes` of min(1, share judged in fake / share judged in real).

    1 = each is at least as frequent as among real images, 0 = all are gone. Excess in one class does not make up for loss in
    another. Between two real sets it is below 1, because each ratio is cut at 1: compare with the floor. In a half-sample that
    happens to hold no real image judged as some class, that class has nothing to lose and counts 1.

    >>> judge = Judge.fit(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> real, fake = torch.tensor([[0.0], [0.1], [1.0]]), torch.tensor([[0.0], [0.0], [0.1]])
    >>> RareClassSurvival.of(Pair(real, fake, real_labels=torch.tensor([0, 0, 1]), judge=judge))
    0.0
    """

    unit = "share of rare classes"
    range = (0.0, 1.0)
    better = "higher"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        rare = pair.once(rare_classes)
        in_real, in_fake = (
            (judged.unsqueeze(1) == rare).double().mean(0)
            for judged in (pair.judged_real[real], pair.judged_fake[fake])
        )
        return float((in_fake / in_real).where(in_real > 0, 1.0).clamp(max=1).mean())
