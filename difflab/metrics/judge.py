"""The class judge: a linear probe on the features of real images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.files import write_tensors


def _in_own_span(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` [n, d] in an orthonormal basis [d, k] of its rows, k = min(n, d), and that basis.

    A rotation leaves the penalty of the regression as it is, and the solution lies in the span of the rows.
    So the fit in k dimensions is the fit in d, in less time.
    """
    n, d = x.shape
    if n >= d:
        return x, torch.eye(d, dtype=x.dtype)
    basis, triangle = torch.linalg.qr(x.T)
    return triangle.T.contiguous(), basis


class Judge:
    """Multinomial logistic regression on standardised features of real training images (scikit-learn, lbfgs:
    deterministic).

    `recipe` says how it was made. `n_classes` counts all classes of the data, including those without a
    training image, which the judge never predicts.

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

    @property
    def known(self) -> Tensor:
        """The classes that have training images, int64, ascending."""
        return self._tensors["classes"]

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, n_classes: int) -> Judge:
        """Fit on features [n, d] and labels int64 [n] in 0..n_classes-1. Raises MeasureError when that is
        not possible.
        """
        from sklearn.linear_model import LogisticRegression

        x, y = features.detach().double().cpu(), labels.detach().cpu()
        if x.ndim != 2 or y.shape != (len(x),):
            raise MeasureError(
                f"a judge needs features [n, d] and labels [n], got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        if not torch.isfinite(x).all():
            raise MeasureError("a judge cannot be fitted: some training features are NaN or infinite")
        if len(y.unique()) < 2:
            raise MeasureError(f"a judge needs training images of at least 2 classes, got {len(y.unique())}")
        if int(y.min()) < 0 or int(y.max()) >= n_classes:
            raise MeasureError(
                f"judge labels run from {int(y.min())} to {int(y.max())}; {n_classes} classes are 0 to "
                f"{n_classes - 1}"
            )
        mean, scale = x.mean(0), x.std(0, correction=0)
        scale = scale.where(scale > 0, 1)  # a constant feature says nothing; dividing by 0 would say NaN
        settings = {"C": 1.0, "max_iter": 5000, "tol": 1e-4}
        coordinates, rotation = _in_own_span((x - mean) / scale)
        probe = LogisticRegression(**settings).fit(coordinates.numpy(), y.numpy())
        if probe.n_iter_.max() >= settings["max_iter"]:
            raise MeasureError(
                "the class judge did not converge in 5000 iterations; measure with another judge extractor"
            )
        weight, bias = torch.from_numpy(probe.coef_) @ rotation.T, torch.from_numpy(probe.intercept_)
        if len(weight) == 1:  # scikit-learn keeps one row for two classes; argmax needs two
            weight = torch.cat([torch.zeros_like(weight), weight])
            bias = torch.cat([torch.zeros_like(bias), bias])
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
        """The predicted class of each row of `features` [n, d]: int64 [n], on the device of the features."""
        return self._tensors["classes"][self._logits(features).argmax(1)].to(features.device)

    def probabilities(self, features: Tensor) -> Tensor:
        """The probability of each class for each row of `features` [n, d]: float64 [n, n_classes], 0 for
        classes without training images.
        """
        out = torch.zeros(len(features), self.n_classes, dtype=torch.float64)
        out[:, self._tensors["classes"]] = self._logits(features).softmax(1)
        return out.to(features.device)

    def _logits(self, features: Tensor) -> Tensor:
        t = self._tensors
        if features.ndim != 2 or features.shape[1] != len(t["mean"]):
            raise MeasureError(
                f"the judge reads features [n, {len(t['mean'])}], got {tuple(features.shape)}: use the "
                "extractor it was fitted on"
            )
        return ((features.detach().double().cpu() - t["mean"]) / t["scale"]) @ t["weight"].T + t["bias"]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, recipe included. It is written under a temporary name first."""
        write_tensors(Path(path), self._tensors, {"recipe": json.dumps(self.recipe)})

    @classmethod
    def load(cls, path: str | Path) -> Judge:
        """Read what `save` wrote. Raises MeasureError when the file is missing or holds no judge."""
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
