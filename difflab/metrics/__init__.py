"""Measures between real images and samples, their intervals, and the feature extractors they read.

pair = Pair(real_features, fake_features, neighbours=5)
value = METRICS["recall"].of(pair)
low, high = interval(value, resampled(METRICS["recall"], pair, range(100), seed=0), METRICS["recall"].range)
"""

import importlib
import pkgutil

from difflab.features.aesthetic import AestheticHead
from difflab.features.extractor import Extractor
from difflab.features.fitted import fit_extractor
from difflab.features.registry import open_extractor
from difflab.features.resize import resized
from difflab.metrics.classes import ClassAccuracy, ClassEntropy, RareClassSurvival
from difflab.metrics.concept_graph import components, confusion, merged, per_concept
from difflab.metrics.concept_set import Concepts, assign, concepts_of, read_concepts, split_by
from difflab.metrics.covariance import TraceRatio
from difflab.metrics.distances import squared_distances
from difflab.metrics.entropy import knn_entropy
from difflab.metrics.frechet import (
    FrechetDistance,
    FrechetInceptionDistance,
    fd_infinity,
    frechet_distance,
    frechet_from_moments,
)
from difflab.metrics.interval import half_rows, interval, resampled
from difflab.metrics.judge import Judge
from difflab.metrics.judge_drift import judge_drift
from difflab.metrics.kernel import KernelDistance, cmmd_biased
from difflab.metrics.memorisation import nearest_real
from difflab.metrics.metric import METRICS, PairMetric, measure
from difflab.metrics.pair import Pair
from difflab.metrics.precision_recall import Coverage, Density, Precision, Recall
from difflab.metrics.vendi import vendi_score

for _module in pkgutil.iter_modules(__path__):  # a new measure is one new file in this folder
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "METRICS",
    "AestheticHead",
    "ClassAccuracy",
    "ClassEntropy",
    "Concepts",
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
    "assign",
    "cmmd_biased",
    "components",
    "concepts_of",
    "confusion",
    "fd_infinity",
    "fit_extractor",
    "frechet_distance",
    "frechet_from_moments",
    "half_rows",
    "interval",
    "judge_drift",
    "knn_entropy",
    "measure",
    "merged",
    "nearest_real",
    "open_extractor",
    "per_concept",
    "read_concepts",
    "resampled",
    "resized",
    "split_by",
    "squared_distances",
    "vendi_score",
]
