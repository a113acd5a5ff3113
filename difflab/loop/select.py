"""Stage 4, select: chooses the samples that later generations may train on.

The policies of the config decide, in their order. Each gets the samples that the previous policies kept. A
sample that is not kept has a reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from difflab.core.errors import ConfigError
from difflab.core.files import write_table
from difflab.loop.work import Work
from difflab.policies import acting
from difflab.policies.candidates import Candidates
from difflab.runs.run import Run


def select(work: Work, generation: int) -> None:
    """Stage 4 of one generation: write selected.parquet."""
    if work.main:
        rows = decide(work.run, generation, work.extractors)
        write_table(work.run.gen(generation) / "selected.parquet", rows)


def decide(run: Run, generation: int, extractors: Any) -> pa.Table:
    """One row per sample: index, kept, reason (null = kept).

    Raises ConfigError if all samples of a generation are rejected and a later generation needs them.
    """
    count = run.config.sample.count_of(generation)
    reasons: list[str | None] = [None] * count
    all_samples = Candidates(run, generation, np.arange(count), extractors)
    for policy, at in acting("select", run.config, generation, run=run, extractors=extractors):
        kept = np.array([i for i in range(count) if reasons[i] is None], dtype=np.int64)
        if not len(kept):  # only in the last generation, whose samples no generation trains on
            break
        remaining = all_samples.only(kept)
        for i, reason in zip(kept, policy.select(at, remaining), strict=True):
            reasons[i] = reason
        if all(reasons) and generation < run.config.generations:
            most_frequent = max(set(reasons), key=reasons.count)
            raise ConfigError(
                f"policies: {policy.policy} keeps none of the {count} samples of generation {generation} "
                f"({most_frequent}); loosen it"
            )
    return pa.table(
        {
            "index": pa.array(range(count), pa.int64()),
            "kept": [reason is None for reason in reasons],
            "reason": pa.array(reasons, pa.string()),
        }
    )
