"""Denoisers with perfectly known scores, and what steers make of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from difflab.config import PixelMLP as Spec
from difflab.config import Sample, parse
from difflab.core.shape import Shape
from difflab.models.pixel_mlp import PixelMLP

BARS = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()
# diffusers (0.35 to 0.42) itself hands tensors to np.array() in the set_timesteps of most schedulers.
QUIET = [
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:diffusers.schedulers"
    ),
    pytest.mark.filterwarnings(
        "ignore:__array_wrap__ must accept context:DeprecationWarning:diffusers.schedulers"
    ),
]


class Normal(torch.nn.Module):
    """The perfect v-prediction for pixels that are N(mean, sd^2) in each class; the last entry is "none"."""

    def __init__(self, mean: list[float], sd: list[float]):
        super().__init__()
        self.label: Any = None
        self.parameter = torch.nn.Parameter(torch.zeros(()))
        self.mean, self.sd = (torch.tensor(values).double().view(-1, 1, 1, 1) for values in (mean, sd))
        self.asked: list[list[int]] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.asked.append(labels.tolist())
        mean = self.mean[labels] if self.label is None else self.label(labels).double().view(x.shape)
        ab, variance = BARS[t.long()].view(-1, 1, 1, 1), self.sd[labels] ** 2
        a, s = ab.sqrt(), (1 - ab).sqrt()
        clean = mean + a * variance / (ab * variance + 1 - ab) * (x.double() - a * mean)
        return (a * (x.double() - a * clean) / s - s * clean).float()


def exact(mean: list[float], sd: list[float]) -> PixelMLP:
    """A pixel family of 8 x 8 images with that network."""
    model = PixelMLP(Spec(family="pixel-mlp"), Shape((8, 8, 1), len(mean) - 1))
    model.net = Normal(mean, sd)
    return model


def shown(table: torch.Tensor, sd: float) -> PixelMLP:
    """One whose embeddings `table` [classes + 1, 64] are the mean images."""
    model = exact([0.0] * len(table), [sd] * len(table))
    model.net.label = torch.nn.Embedding.from_pretrained(table)
    model.prepare_sampling(Sample(), "cpu")
    return model


def small(seed: int = 0) -> PixelMLP:
    """A pixel family with random weights, ready to sample: 4 x 4 images, 3 classes."""
    model = PixelMLP(Spec(family="pixel-mlp", width=16, depth=1), Shape((4, 4, 1), 3))
    model.initialise(seed)
    with torch.no_grad():
        model.net.label.weight.mul_(5)  # else the label hardly matters
    model.prepare_sampling(Sample(), "cpu")
    return model


@torch.inference_mode()
def floats(model: Any, conditions: Any, seeds: list[int], **how: Any) -> torch.Tensor:
    """Samples as they are before they are rounded, [n, C, H, W]."""
    return model._denoised(conditions, seeds, Sample(**how))


def at(generation: int = 1, base: Any = None, previous: Any = None, **sections: Any) -> Any:
    """Where a policy stands that may ask for these other models."""
    config = parse({"model": {"family": "pixel-mlp"}, "generations": 3, **sections})
    return SimpleNamespace(
        generation=generation,
        config=config,
        device="cpu",
        model=lambda which: {"base": base, "previous": previous}[which],
    )
