"""How much each image moves a measure: standard errors without half-samples, and of paired differences.

A smooth measure is a function of two empirical distributions. Its first-order change when one image gets a
little more weight is the influence of that image. The sum of squared influences is the infinitesimal
jackknife variance (Jaeckel 1972; Efron 1982, The jackknife, the bootstrap and other resampling plans, ch. 6).

Two values on the same reference share the influences of its images. The error of their difference is that of
the difference of the influences, which is smaller than if the two were independent.

Between equal distributions the Frechet distance and the kernel distances have no first-order term. Their
variance is that of the second-order term, which the jackknife counts twice. `Influence.quadratic` is that
part, and it is subtracted once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Influence:
    """The influence of every image on one measure: value - expectation is about ``real.sum() + fake.sum()``.

    Attributes:
        real, fake: float64 [n_r] and [n_f], the influence of each image divided by the number of images of
            its side. Images that the measure does not read have 0.
        quadratic: the variance of the second-order term; 0 = the measure has a first-order term everywhere.
        bounds: 95% interval of a measure that is far from normal; None = it follows from the error.

    >>> x = torch.tensor([1.0, 2.0, 4.0, 5.0])
    >>> influence = Influence.of(torch.zeros(1), x)  # of the mean of x
    >>> round(influence.error, 4), round(float(x.std() / 4**0.5), 4)
    (0.9129, 0.9129)
    """

    real: Tensor
    fake: Tensor
    quadratic: float = 0.0
    bounds: tuple[float, float] | None = None

    @classmethod
    def of(cls, real: Tensor, fake: Tensor, quadratic: float = 0.0) -> Influence:
        """From the derivative of the measure in the direction of each image, [n_r] and [n_f], up to a
        constant for each side.
        """
        return cls(_centred(real), _centred(fake), quadratic)

    def spread_over(self, n_real: int, n_fake: int, real: Tensor | slice, fake: Tensor | slice) -> Influence:
        """The same for sides of `n_real` and `n_fake` images of which the measure reads only these rows."""
        whole = [torch.zeros(n, dtype=torch.float64, device=self.real.device) for n in (n_real, n_fake)]
        whole[0][real], whole[1][fake] = self.real, self.fake
        return Influence(whole[0], whole[1], self.quadratic, self.bounds)

    @property
    def variance(self) -> float:
        """Variance of the measure over draws of both sides."""
        return variance_of([self.real, self.fake], self.quadratic)

    @property
    def error(self) -> float:
        """Standard error of the measure."""
        return float(self.variance**0.5)


def variance_of(parts: list[Tensor], quadratic: float) -> float:
    """Variance from the influences of each independent set of images and from the second-order term.

    The second-order term is at most half of the jackknife variance. An estimate above that is cut.
    """
    first = sum(float(part.square().sum()) for part in parts)
    return max(first - quadratic, first / 2)


def _centred(derivative: Tensor) -> Tensor:
    """Influences divided by n, with the factor n / (n - 1) of an unbiased variance."""
    values = derivative.double()
    n = len(values)
    if n < 2:
        return torch.zeros_like(values)
    return (values - values.mean()) / (n * (n - 1)) ** 0.5
