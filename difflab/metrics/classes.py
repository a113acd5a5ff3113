"""Class measures: what a judge trained on real images sees in the samples.

`class_accuracy`, `class_entropy`, `rare_class_survival`. The judge is a linear probe, so its own errors are part of every
number: read them beside the floor, which is the same measure with held-out real images in the place of the samples.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.base import Pair, PairMetric, Rows, measure


class Judge:
    """Multinomial logistic regression on standardised features of real train images (scikit-learn, lbfgs: deterministic).

    `recipe` says how it was made; `n_classes` counts all classes of the data, also those without a training image, which
    it never answers.

    >>> judge = Judge.fit(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]), n_classes=2)
    >>> judge.predict(torch.tensor([[-1.0], [2.0]]))
    tensor([0, 1])
    """

    def __init__(self, tensors: dict[str, Tensor], recipe: dict[str, Any]) -> None:
        self._tensors = tensors
        self.recipe = recipe

    @property
    def n_classes(self) -> int:
        return int(self.recipe["n_classes"])

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, n_classes: int) -> Judge:
        """Fit on features [n, d] and labels int64 [n] in 0..n_classes-1. Raises MeasureError when that cannot be done."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        x, y = features.detach().double().cpu(), labels.detach().cpu()
        if x.ndim != 2 or y.shape != (len(x),):
            raise MeasureError(
                f"a judge wants features [n, d] and labels [n], got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        if not torch.isfinite(x).all():
            raise MeasureError("a judge cannot be fitted: some training features are NaN or infinite")
        if len(y.unique()) < 2:
            raise MeasureError(f"a judge needs training images of at least 2 classes, got {len(y.unique())}")
        if int(y.min()) < 0 or int(y.max()) >= n_classes:
            raise MeasureError(
                f"judge labels run from {int(y.min())} to {int(y.max())}; {n_classes} classes are 0 to {n_classes - 1}"
            )
        mean, scale = x.mean(0), x.std(0, correction=0)
        scale = scale.where(scale > 0, 1)  # a constant feature says nothing; dividing by 0 would say NaN
        settings = {"C": 1.0, "max_iter": 5000, "tol": 1e-4}
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                probe = LogisticRegression(**settings).fit(((x - mean) / scale).numpy(), y.numpy())
            except ConvergenceWarning as warning:
                raise MeasureError(
                    "the class judge did not converge in 5000 iterations; measure with another judge extractor"
                ) from warning
        weight, bias = torch.from_numpy(probe.coef_), torch.from_numpy(probe.intercept_)
        if (
            len(weight) == 1
        ):  # scikit-learn keeps one row for two classes; with a zero row the same argmax serves both cases
            weight, bias = (
                torch.cat([torch.zeros_like(weight), weight]),
                torch.cat([torch.zeros_like(bias), bias]),
            )
        tensors = {
            "weight": weight,
            "bias": bias,
            "mean": mean,
            "scale": scale,
            "classes": torch.from_numpy(probe.classes_).long(),
        }
        recipe = {
            "judge": "logistic regression on standardised features",
            **settings,
            "n_train": len(x),
            "dim": x.shape[1],
            "n_classes": n_classes,
        }
        return cls(tensors, recipe)

    def predict(self, features: Tensor) -> Tensor:
        """The class seen in each row of `features` [n, d]: int64 [n], on the features' device."""
        return self._tensors["classes"][self._logits(features).argmax(1)].to(features.device)

    def probabilities(self, features: Tensor) -> Tensor:
        """The probability of each class in each row of `features` [n, d]: float64 [n, n_classes], 0 for classes it never learned."""
        out = torch.zeros(len(features), self.n_classes, dtype=torch.float64)
        out[:, self._tensors["classes"]] = self._logits(features).softmax(1)
        return out.to(features.device)

    def _logits(self, features: Tensor) -> Tensor:
        t = self._tensors
        if features.ndim != 2 or features.shape[1] != len(t["mean"]):
            raise MeasureError(
                f"the judge reads features [n, {len(t['mean'])}], got {tuple(features.shape)}: use the extractor it was fitted on"
            )
        return ((features.detach().double().cpu() - t["mean"]) / t["scale"]) @ t["weight"].T + t["bias"]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, recipe included, under a temporary name first."""
        partial = Path(f"{path}.partial")
        save_file(
            {name: tensor.contiguous() for name, tensor in self._tensors.items()},
            partial,
            {"recipe": json.dumps(self.recipe)},
        )
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> Judge:
        """Read what `save` wrote. Raises MeasureError when the file is missing or is no judge."""
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {
                    name: file.get_tensor(name) for name in ("weight", "bias", "mean", "scale", "classes")
                }
                return cls(tensors, json.loads(file.metadata()["recipe"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise MeasureError(
                f"cannot read a class judge from {path}: {error}; delete it and measure again to refit it"
            ) from error


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
