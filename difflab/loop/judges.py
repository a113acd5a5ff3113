"""The class judge of a run. It is fitted once on the real train split.

The class measures and judge drift use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from difflab.core.errors import MeasureError
from difflab.features.extractor import Extractor
from difflab.loop.run_concepts import as_tensor
from difflab.metrics.evaluate import Side
from difflab.metrics.judge import Judge
from difflab.metrics.metric import METRICS
from difflab.runs.run import Run


def judge_extractor(run: Run, extractors: Sequence[Extractor]) -> Extractor | None:
    """The extractor whose features the class judge reads, or None. See `Measure.judge_extractor`."""
    spec = run.config.measure.judge_extractor
    if not extractors or spec is None:
        return None
    return extractors[run.config.measure.extractors.index(spec)]


def judge_of(
    run: Run, extractor: Extractor, extractors: Sequence[Extractor], accelerator: Accelerator
) -> tuple[Judge | None, str | None]:
    """The class judge on the features of `extractor`, and the reason why it is None.

    The judge is fitted on the real train split once per run and stored. It is None without a reason if
    `extractor` is not the judge's extractor, or if no measure needs a judge. It is None with a reason if it
    cannot be fitted. All processes take part.
    """
    measure = run.config.measure
    wanted = measure.judge_drift or any(METRICS[name].needs == "judge" for name in measure.metrics)
    if not wanted or extractor is not judge_extractor(run, extractors):
        return None, None
    labels, n_train = as_tensor(run.real.labels()), run.about["n_train"]
    if labels is None:
        return None, "the real images carry no class labels"
    path = run.path / "real" / f"judge-{extractor.key}.safetensors"
    reasons: list[Any] = [None]
    if accelerator.is_main_process and not path.exists():
        train = Side(run.real.features(extractor.key)[:n_train], labels[:n_train])
        train, _ = train.finite("training images")
        assert train.labels is not None
        try:
            Judge.fit(train.features, train.labels, len(run.about["classes"])).save(path)
        except MeasureError as error:
            reasons = [str(error)]
    if accelerator.num_processes > 1:
        reasons = gather_object(reasons)
    accelerator.wait_for_everyone()
    reason = next((text for text in reasons if text), None)
    if reason:
        return None, reason
    return Judge.load(path), None
