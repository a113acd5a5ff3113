"""The CLIP extractor of a run, and the concepts that its images and samples show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from difflab.config import Measure
from difflab.core.errors import MeasureError
from difflab.features.aesthetic import AestheticHead
from difflab.features.extractor import Extractor
from difflab.metrics.concept_set import Concepts, assign, concepts_of, read_concepts
from difflab.metrics.metric import METRICS
from difflab.runs.run import Run
from difflab.runs.store import Shards


def clip_of(extractors: Sequence[Extractor]) -> Extractor | None:
    """The first extractor that is a CLIP model; None where there is none."""
    return next((extractor for extractor in extractors if extractor.encode_text is not None), None)


def aesthetic_head(measure: Measure, extractors: Sequence[Extractor]) -> AestheticHead | None:
    """The head that measure.aesthetic names; None = none.

    Raises MeasureError where it cannot be read, or where its CLIP model is none of the extractors.
    """
    if measure.aesthetic is None:
        return None
    backbone = clip_of(extractors)
    if backbone is None:
        raise MeasureError(
            "measure.aesthetic scores CLIP features; add the head's backbone, open_clip:NAME/PRETRAINED, "
            "to measure.extractors"
        )
    return AestheticHead.load(measure.aesthetic, backbone)


def check_concepts(measure: Measure, extractors: Sequence[Extractor]) -> None:
    """Raise MeasureError where the concept measures lack measure.concepts, or those lack a CLIP extractor."""
    concept_measures = [name for name in measure.metrics if METRICS[name].needs == "concepts"]
    if measure.concepts is None and concept_measures:
        raise MeasureError(
            f"measure.metrics: {concept_measures[0]} needs measure.concepts: 'classes', or a file of names "
            "that captions hold"
        )
    if measure.concepts is not None and clip_of(extractors) is None:
        raise MeasureError(
            "measure.concepts needs a CLIP model; add open_clip:tiny-clip or open_clip:NAME_OR_PATH to "
            "measure.extractors"
        )


def concept_labels(
    run: Run, clip: Extractor, real: Shards, fake: Any
) -> tuple[torch.Tensor, torch.Tensor, Concepts]:
    """The concept of each real image and of each sample, int64, and the concepts with their text embeddings.

    `fake` has `labels` and `column` as Shards do. Raises MeasureError for an image without a concept.
    """
    source = str(run.config.measure.concepts)
    if source == "classes":
        real_labels, fake_labels = as_tensor(real.labels()), as_tensor(fake.labels())
        if real_labels is None or fake_labels is None:
            raise MeasureError(
                "measure.concepts is 'classes' and there are none here: name a file of concepts"
            )
        return real_labels, fake_labels, concepts_of(clip, run.about["classes"])
    real_prompts, fake_prompts = real.column("prompt"), fake.column("prompt")
    if real_prompts[0] is None or fake_prompts[0] is None:
        raise MeasureError(
            f"measure.concepts is the file {source}, but these images are conditioned on classes, not on "
            "caption: use 'classes'"
        )
    names = read_concepts(source, real_prompts)
    labels = []
    for side, prompts in (("real images", real_prompts), ("samples", fake_prompts)):
        assigned = assign(prompts, list(names))
        if (assigned < 0).any():
            prompt = prompts[int((assigned < 0).int().argmax())]
            raise MeasureError(
                f"{side}: caption '{prompt}' holds none of the concepts in {source}; add it there"
            )
        labels.append(assigned)
    return labels[0], labels[1], concepts_of(clip, names)


def as_tensor(labels: np.ndarray | None) -> torch.Tensor | None:
    """Labels as a tensor on the CPU; None stays None."""
    return None if labels is None else torch.from_numpy(labels)
