"""Stage 4, select: which samples may train later generations, and for those that may not, why. Policies decide, in the order of the config."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from difflab.core.errors import ConfigError
from difflab.policies import acting
from difflab.policies.candidates import Candidates
from difflab.runs.run import Run


def select(run: Run, generation: int, extractors: Any) -> pa.Table:
    """One row per sample: index, kept, reason (null = kept). Raises ConfigError when a later generation would find nothing."""
    count = run.config.sample.count_of(generation)
    reasons: list[str | None] = [None] * count
    every = Candidates(run, generation, np.arange(count), extractors)
    for policy, at in acting("select", run.config, generation, run=run, extractors=extractors):
        left = every.only(np.array([i for i in range(count) if reasons[i] is None], dtype=np.int64))
        if not len(left):  # of the last generation, which nothing follows
            break
        for i, reason in zip(left.index, policy.select(at, left), strict=True):
            reasons[i] = reason
        if all(reasons) and generation < run.config.generations:
            why = max(set(reasons), key=reasons.count)
            raise ConfigError(
                f"policies: {policy.policy} keeps none of the {count} samples of generation {generation} ({why}); loosen it"
            )
    kept = [reason is None for reason in reasons]
    return pa.table(
        {"index": pa.array(range(count), pa.int64()), "kept": kept, "reason": pa.array(reasons, pa.string())}
    )
