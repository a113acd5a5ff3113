"""The feature extractors of a run: check them against the measures, open them, and extract features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from difflab.config import Config
from difflab.core.errors import ConfigError, MeasureError
from difflab.core.rows import spec_of, statistics_of
from difflab.core.seeds import seed_of
from difflab.features.extractor import Extractor
from difflab.features.fitted import fit_extractor
from difflab.features.registry import known_extractor, open_extractor
from difflab.loop.run_concepts import aesthetic_head, check_concepts
from difflab.metrics.metric import METRICS
from difflab.runs.run import Run
from difflab.runs.store import Shards


def check_measure_settings(config: Config) -> None:
    """Check the measures, extractors and judge of a config before any image is read.

    Raises:
        ConfigError: measure.judge is not among measure.extractors.
        MeasureError: a measure or extractor is unknown, or they do not fit together.
    """
    measure = config.measure
    if measure.judge is not None and measure.judge not in measure.extractors:
        raise ConfigError(
            f"measure.judge '{measure.judge}' is not among measure.extractors {measure.extractors}"
        )
    if config.exact:
        return
    for spec in measure.extractors:
        known_extractor(spec)
    for name in measure.metrics:
        required = METRICS[name].extractor
        if required is not None and required not in map(statistics_of, measure.extractors):
            raise MeasureError(
                f"measure.metrics: {name} is measured on the extractor '{spec_of(required)}'; add it to "
                "measure.extractors"
            )
        if required is None and measure.statistics_extractors and not measure.feature_extractors:
            raise MeasureError(
                f"measure.metrics: {name} is not measured on the extractor '{measure.extractors[0]}'; add "
                "another to measure.extractors, such as pixels"
            )
    if measure.judge is not None and measure.judge not in measure.feature_extractors:
        raise MeasureError(
            f"measure.judge: class judges cannot use '{measure.judge}' features; name another extractor of "
            "measure.extractors, or null"
        )
    if measure.judge_drift and not measure.feature_extractors:
        raise MeasureError(
            "measure.judge_drift: the judges need features; add an extractor to measure.extractors, such "
            "as pixels"
        )


def extractors_of(run: Run, accelerator: Accelerator) -> list[Extractor]:
    """Open the extractors of a run and extract the features of its real set. All processes must call this.

    The extractor `fitted` is trained once per run. Raises MeasureError if extractors, concepts and class
    labels do not fit together.
    """
    config = run.config
    if config.exact or not _needs_features(run):
        return []
    fitted = run.path / "real" / "fitted.safetensors"
    if "fitted" in config.measure.extractors:
        if run.real.labels() is None:  # raised on every process, so that none waits for another
            raise MeasureError(
                "measure.extractors: 'fitted' needs class labels and this set has none; use pixels, "
                "efficientnet-lite0 or open_clip:NAME"
            )
        if accelerator.is_main_process and not fitted.exists():
            _fit_extractor(run, fitted)
        accelerator.wait_for_everyone()
    device = str(accelerator.device)
    extractors = [open_extractor(spec, fitted=fitted, device=device) for spec in config.measure.extractors]
    check_concepts(config.measure, extractors)
    aesthetic_head(config.measure, extractors)
    extract_features(run.real, extractors, accelerator)
    return extractors


def extract_features(shards: Shards, extractors: Sequence[Extractor], accelerator: Accelerator) -> None:
    """Extract and store the missing features of a set. Each process takes its own shards."""
    for shard in shards.shards[accelerator.process_index :: accelerator.num_processes]:
        for extractor in extractors:
            shards.derive(extractor.key, shard, extractor)
    accelerator.wait_for_everyone()


def _needs_features(run: Run) -> bool:
    measure = run.config.measure
    return bool((measure.metrics and measure.extractors) or measure.judge_drift or measure.aesthetic)


def _fit_extractor(run: Run, path: Path) -> None:
    labels, n_train = run.real.labels(), run.about["n_train"]
    assert labels is not None  # see extractors_of
    images = torch.from_numpy(run.real.gather(np.arange(n_train)))
    n_classes, seed = len(run.about["classes"]), seed_of("fitted", run.config.seed)
    fit_extractor(images, torch.from_numpy(labels[:n_train]), n_classes, path, seed)
