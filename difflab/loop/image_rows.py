"""The rows of one generation of images. This file chooses the image sets, the judge and the concepts of each
measure.

The reference is the held-out real set. The floor is the same measure between two disjoint real sets of the
same size, one from the train split and one of held-out images. It is the value of "no difference".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from accelerate import Accelerator

from difflab.core.hashing import digest
from difflab.core.rows import Row, RowKind, row
from difflab.core.seeds import seed_of
from difflab.features.aesthetic import AestheticHead
from difflab.features.extractor import Extractor
from difflab.loop.detector_sets import detector_sets
from difflab.loop.judge_drift_rows import judge_drift_rows
from difflab.loop.judges import judge_extractor, judge_of
from difflab.loop.resamples import shared_resamples
from difflab.loop.run_concepts import aesthetic_head, as_tensor, clip_of, concept_labels
from difflab.loop.run_extractors import extract_features
from difflab.metrics.concept_set import Concepts
from difflab.metrics.evaluate import ComparedSets, MeasureSettings, Side, measured
from difflab.metrics.held_out_loss import mean
from difflab.metrics.interval import wilson
from difflab.metrics.judge import Judge
from difflab.metrics.metric import METRICS, PairMetric
from difflab.metrics.pair import Pair
from difflab.runs.run import Run
from difflab.runs.sizes import first_size, fresh_needed, measured_count
from difflab.runs.train_set import TrainSet

FLAGGED = RowKind(
    "flagged_share",
    unit="share of samples",
    better="lower",
    about="Share of samples that have only one colour, such as black. Such images are failures of the "
    "sampler.",
    topic="Fidelity",
    title="images of one colour",
)
AESTHETIC = RowKind(
    "aesthetic_score",
    unit="score",
    better="higher",
    about="Mean score that the aesthetic head (measure.aesthetic) gives to the samples.",
    topic="Aesthetics and texture",
)
ROWS = (FLAGGED, AESTHETIC)


def measure_images(
    run: Run,
    generation: int,
    extractors: Sequence[Extractor],
    accelerator: Accelerator,
    advance: Callable[[int], None],
) -> list[Row]:
    """All rows of one generation of an image family. All processes take part and get the same rows."""
    samples, measure = run.samples(generation), run.config.measure
    # This does nothing unless feature files were lost since sampling.
    extract_features(samples, extractors, accelerator)
    first = samples
    if generation and any(METRICS[name].needs == "detector" for name in measure.metrics):
        first = run.samples(0)
        extract_features(first, extractors, accelerator)

    def resample(metric: type[PairMetric], pair: Pair) -> list[float]:
        seed = seed_of("interval", run.config.seed, generation, metric.name)
        return shared_resamples(accelerator, metric, pair, measure.resamples, seed)

    def trained_on(extractor: Extractor) -> torch.Tensor:
        return training_set_features(run, generation, extractor, accelerator)

    rows = [_flagged(run, generation)]
    for extractor in extractors:
        judge, no_judge = judge_of(run, extractor, extractors, accelerator)
        for comparison in comparisons(run, extractor, extractors, samples, first, trained_on):
            settings = MeasureSettings(
                comparison.metrics,
                resample if measure.resamples else None,
                measure.neighbours,
                *(comparison.probe or (judge, no_judge)),
                comparison.concepts,
                generation,
                advance,
            )
            rows += measured(extractor, comparison.sets, settings)
        if measure.judge_drift and extractor is judge_extractor(run, extractors):
            train, real, fake = _sides(run, extractor, samples)
            rows += judge_drift_rows(run, generation, extractor, judge, no_judge, train, real, fake)
        if measure.aesthetic is not None and extractor is clip_of(extractors):
            head = aesthetic_head(measure, extractors)
            assert head is not None
            _, real, fake = _sides(run, extractor, samples)
            rows.append(_aesthetic(run, generation, extractor, head, real, fake))
    return rows


@dataclass(frozen=True)
class Comparison:
    """Measures that compare the same image sets."""

    metrics: list[str]
    sets: ComparedSets
    concepts: Concepts | None = None
    probe: tuple[Judge | None, str | None] | None = None
    """The probe of the detector measures and why there is none; it takes the place of the class judge."""


def comparisons(
    run: Run,
    extractor: Extractor,
    extractors: Sequence[Extractor],
    samples: Any,
    first: Any,
    trained_on: Callable[[Extractor], torch.Tensor],
) -> Iterator[Comparison]:
    """The comparisons on one extractor. Only those that the measures of the run need are made.

    The first one has the classes as labels. Then follow the comparisons with the generation's own training
    set, by prompt, by concept, and by detector.

    Args:
        samples: Shards of the generation, or a `StandIn` for them.
        first: Those of generation 0; the same object in generation 0.
        trained_on: returns the features of the generation's training set on an extractor.
    """
    config, real, n_train = run.config, run.real, run.about["n_train"]
    train_side, held_out, fake = _sides(run, extractor, samples)
    n, identity = len(held_out.features), real.hash()

    def by_labels(
        needs: tuple[str, ...],
        real_labels: torch.Tensor | None,
        fake_labels: torch.Tensor | None,
        identity: str,
        train: torch.Tensor | None = None,
        concepts: Concepts | None = None,
    ) -> Comparison:
        names = [name for name in config.measure.metrics if METRICS[name].needs in needs]
        # Samples are compared with held-out images, so that a judge that was fitted on the train split never
        # judges its own training data.
        sets = ComparedSets(
            Side(held_out.features, _rows(real_labels, slice(n_train, n_train + n))),
            Side(fake.features, _rows(fake_labels, slice(0, n))),
            Side(train_side.features[:n], _rows(real_labels, slice(0, n))),
            train,
            identity,
        )
        return Comparison(names, sets, concepts)

    kinds = {METRICS[name].needs for name in config.measure.metrics}
    plain: tuple[str, ...] = ("features", "train")
    if extractor is judge_extractor(run, extractors):
        plain = (*plain, "judge")
    labels, fake_labels = as_tensor(real.labels()), as_tensor(samples.labels())
    trained = train_side.features[: _n_trained(run)] if "train" in kinds else None
    yield by_labels(plain, labels, fake_labels, identity, trained)
    if "own" in kinds and extractor.statistics is None:
        yield by_labels(("own",), None, None, f"{identity} and its own", trained_on(extractor))
    if "prompts" in kinds:
        prompts, fake_prompts = as_tensor(run.conditions(real)), as_tensor(run.conditions(samples))
        kind = "caption" if config.text else "class"
        yield by_labels(("prompts",), prompts, fake_prompts, f"{identity} by {kind}")
    if config.measure.concepts is not None and extractor is clip_of(extractors):
        concept, fake_concept, concepts = concept_labels(run, extractor, real, samples)
        yield by_labels(("concepts",), concept, fake_concept, identity, concepts=concepts)
    if "detector" in kinds and extractor.statistics is None:
        yield _by_detector(run, extractor, samples, first)


def _by_detector(run: Run, extractor: Extractor, samples: Any, first: Any) -> Comparison:
    """The comparison of the detector measures. The arguments are those of `comparisons`."""
    names = [name for name in run.config.measure.metrics if METRICS[name].needs == "detector"]
    train_side, held_out, fake = _sides(run, extractor, samples)
    real = train_side.features[: _n_trained(run)]
    first_fake = _sides(run, extractor, first)[2].features
    tested = None if samples is first else fake.features
    seed, identity = run.config.seed, run.real.hash()
    probe, sets = detector_sets(seed, real, held_out.features, first_fake, tested, identity)
    return Comparison(names, sets, probe=probe)


def _n_trained(run: Run) -> int:
    """The number of real images that the memorisation measures count as training images.

    If the chain draws fresh real images, this is the size of the train split, because later generations train
    on the rest of it. Otherwise it is the size of generation 0's training set.
    """
    n_train = run.about["n_train"]
    n_first = first_size(run.config, n_train)
    return n_train if fresh_needed(run.config, n_first) else n_first


def _sides(run: Run, extractor: Extractor, samples: Any) -> tuple[Side, Side, Side]:
    """The train split, the held-out images and the samples, with their classes.

    The last two have as many images as are measured.
    """
    n, n_train = measured_count(run), run.about["n_train"]
    real = Side(run.real.features(extractor.key), as_tensor(run.real.labels()))
    fake_labels = _rows(as_tensor(samples.labels()), slice(0, n))
    fake = Side(samples.features(extractor.key)[:n], fake_labels)
    return real[slice(0, n_train)], real[slice(n_train, n_train + n)], fake


def training_set_features(
    run: Run, generation: int, extractor: Extractor, accelerator: Accelerator
) -> torch.Tensor:
    """Features [n, d] of the images that a generation was trained on. All processes take part."""
    table = parquet.read_table(run.gen(generation) / "train_set.parquet", page_checksum_verification=True)

    def read(shards: Any, indices: np.ndarray) -> np.ndarray:
        return shards.features(extractor.key)[torch.from_numpy(indices)].numpy()

    train_set = TrainSet(table, run.samples, read=read)
    for shards in train_set.sets.values():
        extract_features(shards, [extractor], accelerator)
    return torch.from_numpy(train_set.inputs(np.arange(len(train_set))))


def _aesthetic(
    run: Run, generation: int, extractor: Extractor, head: AestheticHead, real: Side, fake: Side
) -> Row:
    """The mean score of the samples with its normal interval. The floor is that of held-out images."""
    (real, notes_real), (fake, notes_fake) = real.finite("real images"), fake.finite("samples")
    n = len(fake.features)
    scores, floor = (
        mean(head(side.features).double().numpy(), "the score is not finite", "no image is left")
        for side in (fake, real)
    )
    recipe = digest({"measure": AESTHETIC.name, **head.recipe, "n": n, "real": run.real.hash()})
    reason = "; ".join(filter(None, [scores["reason"], *notes_real, *notes_fake])) or None
    ci = None if scores["low"] is None else (scores["low"], scores["high"])
    return row(
        generation, AESTHETIC.name, extractor.name, scores["value"], ci, n, floor["value"], recipe, reason
    )


def _flagged(run: Run, generation: int) -> Row:
    """The share of flagged samples among all samples, with its Wilson interval.

    The floor is the share of flagged held-out images.
    """
    flags, real_flags = run.samples(generation).column("flag"), run.real.column("flag")
    share, real_share = (
        sum(flag is not None for flag in column) / len(column)
        for column in (flags, real_flags[run.about["n_train"] :])
    )
    recipe = digest({"measure": FLAGGED.name, "real": run.real.hash()})
    ci = wilson(share, len(flags))
    return row(generation, FLAGGED.name, "none", share, ci, len(flags), real_share, recipe)


def _rows(labels: torch.Tensor | None, rows: slice) -> torch.Tensor | None:
    """The labels of `rows`; None without labels."""
    return None if labels is None else labels[rows]
