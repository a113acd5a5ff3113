"""The CLIP extractor of a run, and the concept of each of its real images and samples."""

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
    """The first extractor that is a CLIP model; None if there is none."""
    return next((extractor for extractor in extractors if extractor.encode_text is not None), None)


def aesthetic_head(measure: Measure, extractors: Sequence[Extractor]) -> AestheticHead | None:
    """The aesthetic head of measure.aesthetic; None if that is null.

    Raises MeasureError if the head cannot be read, or if its CLIP model is not among the extractors.
    """
    if measure.aesthetic is None:
        return None
    backbone = clip_of(extractors)
    if backbone is None:
        raise MeasureError(
            "measure.aesthetic needs CLIP features; add the CLIP model of the head, "
            "open_clip:NAME/PRETRAINED, to measure.extractors"
        )
    return AestheticHead.load(measure.aesthetic, backbone)


def check_concepts(measure: Measure, extractors: Sequence[Extractor]) -> None:
    """Check the settings of the concept measures.

    Raises MeasureError if a measure needs measure.concepts and that is null, or if measure.concepts is set
    and no extractor is a CLIP model.
    """
    concept_measures = [name for name in measure.metrics if METRICS[name].needs == "concepts"]
    if measure.concepts is None and concept_measures:
        raise MeasureError(
            f"measure.metrics: {concept_measures[0]} needs measure.concepts: 'classes', or a file of names "
            "that occur in the captions"
        )
    if measure.concepts is not None and clip_of(extractors) is None:
        raise MeasureError(
            "measure.concepts needs a CLIP model; add open_clip:tiny-clip or open_clip:NAME_OR_PATH to "
            "measure.extractors"
        )


def concept_labels(
    run: Run, clip: Extractor, real: Shards, fake: Any
) -> tuple[torch.Tensor, torch.Tensor, Concepts]:
    """The concepts of the images of a comparison.

    Args:
        run: the run.
        clip: the CLIP extractor that embeds the names of the concepts.
        real: the real images.
        fake: the samples: Shards, or an object with their methods `labels` and `column`.

    Returns:
        The concept of each real image, int64 [N], the concept of each sample, int64 [M], and the concepts
        with their text embeddings.

    Raises MeasureError for an image without a concept.
    """
    source = str(run.config.measure.concepts)
    if source == "classes":
        real_labels, fake_labels = as_tensor(real.labels()), as_tensor(fake.labels())
        if real_labels is None or fake_labels is None:
            raise MeasureError(
                "measure.concepts is 'classes', but these images have no classes: name a file of concepts"
            )
        return real_labels, fake_labels, concepts_of(clip, run.about["classes"])
    real_prompts, fake_prompts = real.column("prompt"), fake.column("prompt")
    if real_prompts[0] is None or fake_prompts[0] is None:
        raise MeasureError(
            f"measure.concepts is the file {source}, but these images are conditioned on classes, not on "
            "captions: use 'classes'"
        )
    names = read_concepts(source, real_prompts)
    labels = []
    for side, prompts in (("real images", real_prompts), ("samples", fake_prompts)):
        assigned = assign(prompts, list(names))
        if (assigned < 0).any():
            prompt = prompts[int((assigned < 0).int().argmax())]
            raise MeasureError(
                f"{side}: caption '{prompt}' has none of the concepts in {source}; add its concept there"
            )
        labels.append(assigned)
    return labels[0], labels[1], concepts_of(clip, names)


def as_tensor(labels: np.ndarray | None) -> torch.Tensor | None:
    """Labels as a tensor on the CPU; None stays None."""
    return None if labels is None else torch.from_numpy(labels)
