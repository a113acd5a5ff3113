"""Measures that are taken where none are named, by what they need."""

from __future__ import annotations

COMMON = [
    "fd",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "vendi",
    "trace_ratio",
    "repeats",
    "tail_recall",
]
"""Need real images and samples."""
TEXTURE = [
    "texture_distance",
    "colourfulness_shift",
    "saturation_shift",
    "contrast_shift",
    "sharpness_shift",
    "high_frequency_shift",
]
"""Need the extractor `texture`."""
CONCEPTS = [
    "zero_shot_accuracy",
    "zero_shot_margin",
    "within_between",
    "concept_auroc",
    "concept_survival",
    "prompt_alignment",
]
"""Need concepts and a CLIP extractor."""
MEMORY = ["auth_pct", "ct", "near_duplicates", "generalisation_score"]
"""Need the training images."""
