"""Labs that train on each other's samples: checks before they run, and distances between their models.

The chain makes one generation of each lab in turn. The stage mix splits every pool of samples over the labs
(regimes.exchanged).
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
        "samples, or for exact families the squared distance between the fitted parameters.",
        topic="Between labs",
    ),
)


# ----------------------------------------------------------------------------------------------------- checks
def check(labs: Sequence[Config]) -> None:
    """Raise ConfigError if one call cannot run all labs. Reads nothing but the configs."""
    for i, lab in enumerate(labs):
        if lab.train.precision != labs[0].train.precision:
            raise ConfigError(
                f"train.precision is {lab.train.precision} in lab {i} and {labs[0].train.precision} in lab "
                "0; set the same value in all labs"
            )


def check_labs(run: EcosystemRun) -> None:
    """Raise ConfigError if a lab cannot train on the samples that it gets, or if a lab trains on images that
    another lab holds out.
    """
    labs, shares = run.labs, run.config.ecosystem.matrix  # type: ignore[union-attr]
    pairs = list(itertools.permutations(range(len(labs)), 2))
    for i, j in pairs:
        if shares[i][j]:
            _check_readable(labs[i], labs[j], f"lab {i} trains on samples of lab {j}")
    if any(shares[i][i] < 1 for i in range(len(labs))):
        for i, j in pairs:
            _check_held_out(labs[i], labs[j])


def _check_readable(reader: Run, other: Run, who: str) -> None:
    """Raise ConfigError if `reader` cannot train on samples of `other`, because sizes, families or conditions
    differ. The message starts with `who`.
    """
    if (reader.about["record"], reader.sizes) != (other.about["record"], other.sizes):
        raise ConfigError(
            f"{who}, which are {_sizes(other)} instead of {_sizes(reader)}; "
            "use the same data.image_size or data.buckets, and data.color, in both labs"
        )
    if reader.config.exact or other.config.exact:
        family, other_family = reader.config.model.family, other.config.model.family
        if family != other_family:
            raise ConfigError(f"{who}, which are records of family {other_family}; use {family} in both labs")
        return
    if not reader.config.conditional:
        return
    kind = "captions" if reader.config.text else "classes"
    known, of_other = _conditions(reader, kind), _conditions(other, kind)
    if of_other is None:
        raise ConfigError(
            f"{who} and is conditioned on {kind}, which these samples do not have; use a model that is "
            f"conditioned on {kind} in lab {other.config.lab}, or model.conditional=false in lab "
            f"{reader.config.lab}"
        )
    if of_other != known:
        raise ConfigError(
            f"{who}, whose {kind} differ: lab {other.config.lab} has {_some(of_other)}, lab "
            f"{reader.config.lab} has {_some(known or [])}. Conditional labs need equal lists of {kind}: use "
            "the same data.source (ecosystem.real=disjoint gives each lab its own part), or "
            "model.conditional=false"
        )


def _sizes(run: Run) -> str:
    """The shape of the records of a lab, or its sizes."""
    return f"of the sizes {[list(size) for size in run.sizes]}" if run.sizes else str(run.about["record"])


def _conditions(run: Run, kind: str) -> list[str] | None:
    """The captions or classes that the samples of a lab are conditioned on; None = they have none."""
    if kind == "captions":
        return list(run.prompts) if run.config.text else None
    return list(run.about["classes"] or []) if run.config.conditional else None


def _some(names: Sequence[str]) -> str:
    """The number of names, and the first four of them."""
    first = ", ".join(str(name)[:30] for name in names[:4])
    if len(names) > 4:
        first += ", ..."
    return f"{len(names)} ({first})"


def _check_held_out(reader: Run, other: Run) -> None:
    """Raise ConfigError if `other` trains on images that `reader` holds out for its measures.

    Those images could come back to `reader` in the samples of `other`.
    """
    if reader.config.exact or reader.about["source"] != other.about["source"]:
        return
    n_shared = len(_keys(reader, "held_out") & _keys(other, "train"))
    if n_shared:
        i, j = reader.config.lab, other.config.lab
        raise ConfigError(
            f"{n_shared} images that lab {i} holds out are in the train split of lab {j}, because their "
            "settings of data differ; use the same data.held_out, split_seed, limit, tail, label and styles "
            "in all labs that share a source"
        )


def _keys(run: Run, split: str) -> set[str]:
    """The keys of the real images in one split. A key is the name of an image in its source."""
    columns = zip(run.real.column("key"), run.real.column("split"), strict=True)
    return {key for key, of_split in columns if of_split == split}


# --------------------------------------------------------------------------------------------- between labs
def between(
    run: EcosystemRun, generation: int, extractors: Sequence[Sequence[Any]], accelerator: Accelerator
) -> None:
    """Write the rows between the labs for one generation, and metrics.jsonl of the whole ecosystem.

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
    """The squared distance between the parameters of two labs (see Exact.apart): the mean over all pairs of
    labs, then over n independent chains.

    The noise floor is the distance between two models fitted to real records of lab 0: one to its held-out
    records, the other to equally many records of its train split.
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
    for positions in (np.arange(n_held_out), np.arange(n_train, n_train + n_held_out)):
        halves.append(type(models[0])(models[0].spec, models[0].shape))
        halves[-1].fit(labs[0].real.gather(positions), None)
    floor = float(halves[0].apart(halves[1]).mean())
    return [over_chains(labs[0], generation, DISTANCE, chains, floor)]


def _samples_apart(
    labs: Sequence[Run], generation: int, extractors: Sequence[Sequence[Any]], accelerator: Accelerator
) -> list[Row]:
    """The Frechet distance between the samples of two labs: the mean over all pairs of labs.

    It is measured on the first extractor whose features are not statistics (see `Extractor.statistics`).
    Without one there is no row. The noise floor is the distance between two real sets of lab 0. The interval
    is over half-samples.
    """
    readers = [_feature_extractor(of_lab) for of_lab in extractors]
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
    reader_recipes = {None if reader is None else digest(reader.recipe) for reader in readers}
    if len(reader_recipes) > 1 or len({tuple(lab.about["record"]) for lab in labs}) > 1:
        reason = (
            "the labs have different extractors (measure.extractors, or an extractor that is fitted to other "
            "real images) or different image sizes"
        )
        return [row(generation, DISTANCE, name, None, None, n, None, recipe, reason)]
    for lab, reader in zip(labs, readers, strict=True):
        # The features were extracted while sampling. Only files that were lost since then are written again.
        extract_features(lab.samples(generation), [reader], accelerator)
    features = [
        lab.samples(generation).features(reader.key)[:n] for lab, reader in zip(labs, readers, strict=True)
    ]
    real, n_train = first.real.features(readers[0].key), first.about["n_train"]
    seeds = [seed_of("interval", config.seed, generation, DISTANCE, lab) for lab in range(len(labs))]

    def value(rows: Sequence[torch.Tensor | None]) -> float:
        """The mean distance on these rows of the features of each lab; None = all rows."""
        pairs = itertools.combinations(range(len(labs)), 2)
        return float(
            np.mean([FrechetDistance.of(Pair(features[i], features[j]), rows[i], rows[j]) for i, j in pairs])
        )

    def halves(numbers: Iterable[int]) -> list[float]:
        # One half-sample of a lab is used in all of its pairs: the pairs are not independent.
        return [value([half_rows(n, n, number, seed)[0] for seed in seeds]) for number in numbers]

    try:
        whole = value([None] * len(labs))
        floor = FrechetDistance.of(Pair(real[:n], real[n_train : n_train + n]))
        drawn = shared(accelerator, halves, config.measure.resamples)
        ci = interval(whole, sorted(drawn), FrechetDistance.range) if drawn else None
        return [row(generation, DISTANCE, name, whole, ci, n, floor, recipe)]
    except MeasureError as error:
        return [row(generation, DISTANCE, name, None, None, n, None, recipe, str(error))]


def _feature_extractor(extractors: Sequence[Any]) -> Any:
    """The first extractor whose features are not statistics, or None."""
    return next((extractor for extractor in extractors if extractor.statistics is None), None)


def finish(run: EcosystemRun, plots: bool = True) -> None:
    """Write metrics.jsonl of all labs, strip.png with the strips of all labs, and curves.png if `plots`."""
    collect(run)
    if run.labs[0].config.exact:
        return
    if all((lab.path / "strip.png").exists() for lab in run.labs):
        with atomic(run.path / "strip.png") as temporary:
            run.strip().save(temporary, "PNG")
    if plots:
        with atomic(run.path / "curves.png") as temporary:
            run.curves().savefig(temporary, format="png", dpi=110)
