"""Measures between real images and samples, their intervals, and the feature extractors they read.

pair = Pair(real_features, fake_features, neighbours=5)
value = METRICS["recall"].of(pair)
low, high = interval(value, resampled(METRICS["recall"], pair, range(100), seed=0), METRICS["recall"].range)
"""

import importlib
import pkgutil

from difflab.metrics.base import METRICS, Pair, PairMetric, measure, squared_distances
from difflab.metrics.classes import ClassAccuracy, ClassEntropy, Judge, RareClassSurvival
from difflab.metrics.covariance import TraceRatio
from difflab.metrics.extractors import Extractor, fit_extractor, open_extractor
from difflab.metrics.frechet import FrechetDistance, FrechetInceptionDistance, frechet_distance, frechet_from_moments
from difflab.metrics.interval import half_rows, interval, resampled
from difflab.metrics.kernel import KernelDistance
from difflab.metrics.manifold import Coverage, Density, Precision, Recall

for _module in pkgutil.iter_modules(__path__):  # a new measure is one new file in this folder
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "METRICS",
    "ClassAccuracy",
    "ClassEntropy",
    "Coverage",
    "Density",
    "Extractor",
    "FrechetDistance",
    "FrechetInceptionDistance",
    "Judge",
    "KernelDistance",
    "Pair",
    "PairMetric",
    "Precision",
    "RareClassSurvival",
    "Recall",
    "TraceRatio",
    "fit_extractor",
    "frechet_distance",
    "frechet_from_moments",
    "half_rows",
    "interval",
    "measure",
    "open_extractor",
    "resampled",
    "squared_distances",
]
