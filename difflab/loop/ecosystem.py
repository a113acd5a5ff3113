"""Labs that train on each other's samples: what must fit together, and how far apart their models are.

The chain runs the labs in lock-step, one generation of each in turn; mixing splits every pool of samples over
them (regimes.exchanged).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from difflab.config import Config
from difflab.core.errors import ConfigError, MeasureError
from difflab.core.files import atomic, write_tensors
from difflab.core.hashing import digest
from difflab.core.rows import Row, RowKind, row, write_lines
from difflab.core.seeds import seed_of
from difflab.loop.exact_rows import over_chains
from difflab.loop.measure import collect
from difflab.loop.resamples import shared
from difflab.loop.run_extractors import extract_features
from difflab.metrics import Pair, interval
from difflab.metrics.frechet import FrechetDistance
from difflab.metrics.interval import half_rows
from difflab.models import family_of
from difflab.models.family import Exact
from difflab.runs.run import EcosystemRun, Run
from difflab.runs.sizes import measured_count

DISTANCE = "lab_distance"
ROWS = (
    RowKind(
        DISTANCE,
        unit="squared distance",
        better="none",
        about="Distance between the labs, mean over pairs of labs: the Frechet distance between their "
        "samples, or for "
        "exact families the squared distance between the fitted parameters.",
        topic="Between labs",
    ),
)


# --------------------------------------------------------------------------------------- what fits together
def check(labs: Sequence[Config]) -> None:
    """Raise ConfigError where labs cannot be run by one call, before anything is opened."""
    for i, own in enumerate(labs):
        if own.train.precision != labs[0].train.precision:
            raise ConfigError(
                f"train.precision is {own.train.precision} in lab {i} and {labs[0].train.precision} in lab "
                "0: one for all labs"
            )


def check_labs(run: EcosystemRun) -> None:
    """Raise ConfigError where a lab could not read what it gets from another, or would train on what the
    other holds out.
    """
    labs, shares = run.labs, run.config.ecosystem.matrix  # type: ignore[union-attr]
    for i, j in itertools.permutations(range(len(labs)), 2):
        if shares[i][j]:
            _check_readable(labs[i], labs[j], f"lab {i} trains on samples of lab {j}")
    if any(shares[i][i] < 1 for i in range(len(labs))):
        for i, j in itertools.permutations(range(len(labs)), 2):
            _check_held_out(labs[i], labs[j])


def _check_readable(own: Run, other: Run, who: str) -> None:
    mine, theirs = own.config, other.config
    if own.about["record"] != other.about["record"]:
        raise ConfigError(
            f"{who}, which are {other.about['record']} instead of {own.about['record']}; use one "
            "data.image_size and data.color"
        )
    if mine.exact or theirs.exact:
        if mine.model.family != theirs.model.family:
            raise ConfigError(
                f"{who}, which are numbers of family {theirs.model.family}; use {mine.model.family} in both"
            )
        return
    if not mine.conditional:
        return
    kind = "captions" if mine.text else "classes"
    known = own.prompts if mine.text else own.about["classes"]
    given = (
        (other.prompts if theirs.text else None)
        if mine.text
        else other.about["classes"]
        if theirs.conditional
        else None
    )
    if given is None:
        raise ConfigError(
            f"{who} and is conditioned on {kind}, which those have not; use a model there that is, or "
            "model.conditional=false here"
        )
    if list(given) != list(known):
        raise ConfigError(
            f"{who}, whose {kind} are others: {_some(given)} there, {_some(known)} here. Labs that are "
            f"conditioned need equal lists of {kind}: use one "
            "data.source (ecosystem.real=disjoint gives each lab its own part), or model.conditional=false"
        )


def _some(names: Sequence[str]) -> str:
    return (
        f"{len(names)} ({', '.join(str(name)[:30] for name in names[:4])}{', ...' if len(names) > 4 else ''})"
    )


def _check_held_out(own: Run, other: Run) -> None:
    """Images that one lab measures with must not train the other, whose samples come back."""
    if own.config.exact or own.about["source"] != other.about["source"]:
        return
    held, trained = (
        {k for k, s in zip(*(r.real.column(c) for c in ("key", "split")), strict=True) if s == side}
        for r, side in ((own, "held_out"), (other, "train"))
    )
    if both := len(held & trained):
        i, j = own.config.lab, other.config.lab
        raise ConfigError(
            f"{both} images that lab {i} holds out are in the train split of lab {j}, since their data "
            "sections differ; "
            "leave data.held_out, split_seed, limit, tail, label and styles as they are in all labs that "
            "share a source"
        )


# --------------------------------------------------------------------------------------------- between labs
def between(
    run: EcosystemRun, generation: int, extractors: Sequence[Sequence[Any]], accelerator: Accelerator
) -> None:
    """Write the rows between the labs of one generation, and metrics.jsonl of the ecosystem anew.

    All processes take part.

    Args:
        extractors: the opened feature extractors of each lab.
    """
    if run.labs[0].config.exact:
        rows = _models_apart(run, generation) if accelerator.is_main_process else []
    else:
        rows = _samples_apart(run.labs, generation, extractors, accelerator)
    if accelerator.is_main_process:
        write_lines(run.between(generation), [{**row, "lab": None} for row in rows])
        collect(run)


def _models_apart(run: EcosystemRun, generation: int) -> list[Row]:
    """Squared distance of the parameters (see Exact.apart), mean over pairs of labs, then over chains, whose
    number is n.

    The floor is the same between two models fitted to real records: lab 0's training set 0 and its held-out
    ones.
    """
    labs = run.labs
    models: list[Any] = [
        family_of(lab.config.model).load(lab.config.model, lab.shape, lab.gen(generation) / "model")
        for lab in labs
    ]
    chains = np.mean([a.apart(b) for a, b in itertools.combinations(models, 2)], axis=0)
    write_tensors(
        run.between(generation).with_suffix(".safetensors"),
        {DISTANCE: torch.from_numpy(np.ascontiguousarray(chains))},
    )
    n_train, n_held_out = labs[0].about["n_train"], labs[0].about["n_held_out"]
    halves: list[Exact] = []
    for part in (np.arange(n_held_out), np.arange(n_train, n_train + n_held_out)):
        halves.append(type(models[0])(models[0].spec, models[0].shape))
        halves[-1].fit(labs[0].real.gather(part), None)
    return [over_chains(labs[0], generation, DISTANCE, chains, float(halves[0].apart(halves[1]).mean()))]


def _samples_apart(
    labs: Sequence[Run], generation: int, extractors: Sequence[Sequence[Any]], accelerator: Accelerator
) -> list[Row]:
    """Frechet distance of the samples on the first extractor but texture, mean over pairs of labs; the floor
    is that of two real sets of lab 0.
    """
    readers: list[Any] = [next((e for e in opened if not e.is_texture), None) for opened in extractors]
    if readers[0] is None:
        return []
    config, first, name = labs[0].config, labs[0], readers[0].name
    n = min(measured_count(lab) for lab in labs)
    recipe = digest(
        {
            "measure": DISTANCE,
            "extractor": readers[0].recipe,
            "n": n,
            "labs": len(labs),
            "real": first.real.hash(),
        }
    )
    alike = {None if reader is None else digest(reader.recipe) for reader in readers}
    if len(alike) > 1 or len({tuple(lab.about["record"]) for lab in labs}) > 1:
        reason = "the labs see their samples through different extractors (measure.extractors, or one that is fitted to other real images) or sizes"
        return [row(generation, DISTANCE, name, None, None, n, None, recipe, reason)]
    for lab, reader in zip(labs, readers, strict=True):
        extract_features(
            lab.samples(generation), [reader], accelerator
        )  # a no-op unless feature files were lost since sampling
    features = [
        lab.samples(generation).features(reader.key)[:n] for lab, reader in zip(labs, readers, strict=True)
    ]
    real, n_train = first.real.features(readers[0].key), first.about["n_train"]
    seeds = [seed_of("interval", config.seed, generation, DISTANCE, lab) for lab in range(len(labs))]

    def value(rows: Sequence[torch.Tensor | None]) -> float:
        pairs = itertools.combinations(range(len(labs)), 2)
        return float(
            np.mean([FrechetDistance.of(Pair(features[i], features[j]), rows[i], rows[j]) for i, j in pairs])
        )

    def halves(numbers: Iterable[int]) -> list[float]:
        # A half-sample of a lab stands in all of its pairs, so that what these have in common is not taken
        # for independent.
        return [value([half_rows(n, n, number, seed)[0] for seed in seeds]) for number in numbers]

    try:
        whole = value([None] * len(labs))
        floor = FrechetDistance.of(Pair(real[:n], real[n_train : n_train + n]))
        drawn = shared(accelerator, halves, config.measure.resamples)
        ci = interval(whole, sorted(drawn), FrechetDistance.range) if drawn else None
        return [row(generation, DISTANCE, name, whole, ci, n, floor, recipe)]
    except MeasureError as error:
        return [row(generation, DISTANCE, name, None, None, n, None, recipe, str(error))]


def finish(run: EcosystemRun, plots: bool = True) -> None:
    """metrics.jsonl of all labs, their strips below each other, and their curves in one plot."""
    collect(run)
    if run.labs[0].config.exact:
        return
    if all((lab.path / "strip.png").exists() for lab in run.labs):
        with atomic(run.path / "strip.png") as temporary:
            run.strip().save(temporary, "PNG")
    if plots:
        with atomic(run.path / "curves.png") as temporary:
            run.curves().savefig(temporary, format="png", dpi=110)
