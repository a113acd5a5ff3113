"""The rows of families that are fitted by a formula: moments of the model over independent chains."""

from __future__ import annotations

import numpy as np
import torch

from difflab.core.files import write_tensors
from difflab.core.hashing import digest
from difflab.core.rows import Row, row
from difflab.models.family import Exact
from difflab.runs.run import Run


def measure_exact(run: Run, generation: int, model: Exact) -> list[Row]:
    """The rows of the moments that the closed-form laws predict. n is the number of independent chains.

    Also writes the values of all chains to replicates.safetensors. The floor is the measure of a model fitted
    to the held-out records, a second real set of the same size.
    """
    values = model.measures()
    write_tensors(
        run.gen(generation) / "replicates.safetensors",
        {name: torch.from_numpy(np.ascontiguousarray(chains)) for name, chains in values.items()},
    )
    reference = type(model)(model.spec, model.shape)
    n_train, n_held_out = run.about["n_train"], run.about["n_held_out"]
    reference.fit(run.real.gather(np.arange(n_train, n_train + n_held_out)), None)
    floors = reference.measures()
    return [
        over_chains(run, generation, name, chains, float(floors[name].mean()))
        for name, chains in values.items()
    ]


def over_chains(run: Run, generation: int, name: str, chains: np.ndarray, floor: float) -> Row:
    """The row of one measure: mean and normal 95% interval over independent chains.

    Args:
        chains: the value of each chain, [R].
    """
    n = len(chains)
    recipe = digest(
        {"measure": name, "model": run.config.model.model_dump(), "n": run.config.data.train_size}
    )
    n_infinite = int((~np.isfinite(chains)).sum())
    if n_infinite or not np.isfinite(floor):
        reason = f"{n_infinite} of {n} chains have no finite {name}"
        return row(generation, name, "model", None, None, n, None, recipe, reason)
    mean, ci = float(chains.mean()), None
    if n > 1:
        half_width = 1.96 * float(chains.std(ddof=1)) / np.sqrt(n)
        ci = (mean - half_width, mean + half_width)
    return row(generation, name, "model", mean, ci, n, floor, recipe)
