"""Check laws of self-consuming loops by running exact families through the chain, the store and the measures.

The unit of replication is the chain, because samples inside one chain share their ancestry. A |z| of 4 or
more is a failure. The laws are in `difflab.studies.laws`, their formulas in `difflab.studies.closed_forms`.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from difflab import config as configs
from difflab.core.errors import ConfigError
from difflab.core.files import read_tensors
from difflab.core.hashing import digest
from difflab.core.seeds import seed_of
from difflab.core.suggest import nearest
from difflab.loop.chain import run_chain
from difflab.runs.run import EcosystemRun
from difflab.studies.law import Law
from difflab.studies.laws import LAWS

APART = 2
"""Number of chains of a law with a known spread. These chains have a selector and run one by one."""


def check(names: list[str], chains: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
    """Run the chains of these laws and compare each statistic with its expectation.

    Laws about the same chain share one run. Returns rows with the keys law, what, theory, measured, z and
    chains. Raises ConfigError for an unknown law, fewer than 2 chains, or chains that are all equal.
    """
    for name in names:
        if name not in LAWS:
            raise ConfigError(f"unknown law '{name}'; {nearest(name, list(LAWS))}")
    if chains < 2:
        raise ConfigError("theory needs at least 2 chains: the chain is the unit of replication")
    measures_by_chain: dict[str, dict[str, np.ndarray]] = {}
    rows = []
    for name in names:
        law = LAWS[name]
        key = digest(law.chain)
        if key not in measures_by_chain:
            run_chains = _through_the_engine if law.spread is None else _one_by_one
            measures_by_chain[key] = run_chains(law.chain, law.fit - 1, chains, seed)
        rows.append(_row(name, law, law.statistic(measures_by_chain[key])))
    return rows


def _row(name: str, law: Law, values: np.ndarray) -> dict[str, Any]:
    spread = law.spread or float(values.std(ddof=1))
    mean, error = float(values.mean()), spread / math.sqrt(len(values))
    if not error:
        raise ConfigError(f"{len(values)} chains show no spread in {name}; raise --chains")
    return {
        "law": name,
        "what": law.what,
        "theory": law.theory,
        "measured": mean,
        "z": (mean - law.theory) / error,
        "chains": len(values),
    }


def _through_the_engine(
    chain: dict[str, Any], generation: int, chains: int, seed: int
) -> dict[str, np.ndarray]:
    """Statistics of `chains` replicates of a chain in one generation: arrays [chains] by name.

    Of an ecosystem they are means over labs.
    """
    raw = {
        **chain,
        "seed": seed_of("theory", seed, digest(chain)),
        "model": {**chain["model"], "replicates": chains},
    }
    with tempfile.TemporaryDirectory(prefix="difflab-theory-") as folder:
        run = run_chain(configs.parse(raw), Path(folder) / "run")
        labs = [read_tensors(part.gen(generation) / "replicates.safetensors") for part in run.parts]
        measures = {name: np.mean([lab[name].numpy() for lab in labs], axis=0) for name in labs[0]}
        if isinstance(run, EcosystemRun):
            between = read_tensors(run.between(generation).with_suffix(".safetensors"))
            measures |= {name: tensor.numpy() for name, tensor in between.items()}
    return measures


def _one_by_one(chain: dict[str, Any], generation: int, chains: int, seed: int) -> dict[str, np.ndarray]:
    """The same for chains that cannot be replicated in one run.

    There are at most `APART` runs, each with its own seed.
    """
    each = [_through_the_engine(chain, generation, 1, seed_of(seed, i)) for i in range(min(chains, APART))]
    return {name: np.concatenate([measures[name] for measures in each]) for name in each[0]}
