"""Diagnose which kind of collapse a model shows, since when, and how sure that is, or what else explains its
images.

    result = difflab.diagnose("real_images/", ["gen0/", "gen1/", "gen2/"])
    result.findings[-1].name, result.first_alarm

Here image sets and runs are read. The measures are taken in `difflab.evaluation.examine`, and the rules that
decide are in `difflab.evaluation.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch

from difflab.core.errors import DataError, MeasureError, reading
from difflab.core.imports import import_ahead
from difflab.core.seeds import numpy_generator
from difflab.data.image_sets import open_sides
from difflab.data.source import Source
from difflab.evaluation.advice import Chain
from difflab.evaluation.examine import examine
from difflab.evaluation.extract import default_extractor, notes_on_copies, notes_on_precision
from difflab.evaluation.finding import Diagnosis
from difflab.evaluation.overlap import Contents, shared_in_words, split, without_trained
from difflab.evaluation.readings import LEAST, Images
from difflab.metrics import Extractor, assign, open_extractor, read_concepts
from difflab.models.registry import unguided_scale
from difflab.runs.sizes import first_size, fresh_needed, measured_count

MOST = 1000
"""Images on a side where no count is given."""
NEEDED_LATER = ("timm", "sklearn.linear_model")
"""Slow libraries that most diagnoses need. They are imported while the images are read."""
Labelling = Callable[[str, np.ndarray], np.ndarray | None]
"""(name of a set, rows) -> the class of each row, int64 [n]; None = not labelled."""


# ------------------------------------------------------------------------------------------------- image sets
def diagnose(
    reference: Any,
    generations: Sequence[Any],
    *,
    train: Any = None,
    extractors: Sequence[str] | None = None,
    concepts: str | Path | Sequence[str] | None = None,
    count: int | None = None,
    neighbours: int = 5,
    resamples: int = 40,
    image_size: int | Sequence[int] | None = None,
    max_bad: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
    precision: str = "auto",
) -> Diagnosis:
    """Diagnose `generations` against `reference`, real images that no model was trained on.

    Args:
        reference, generations, train: image sets as in `difflab.compare`. generations[0] is the first model.
            With later generations it is a control for them; alone it is compared with real images. `train` is
            what the first model was trained on; without it copies of training images cannot be found.
        extractors: feature spaces, all of which are read; None = pixels (for images of up to 64 pixels a
            side), and efficientnet-lite0 if its package is installed.
        concepts: names of concepts, or a file of them (one per line), which captions name and which are then
            the classes; None = the classes are the class folders.
        count: images on every side; None = as many as all sides have (half of the reference), at most 1,000.
        resamples: half-samples behind each standard error.
        neighbours, image_size, max_bad, seed, device, precision: as in `difflab.compare`.

    Raises DataError for unusable sets, MeasureError for fewer than 30 images.
    """
    if not len(generations):
        raise DataError(
            "there is no generation to diagnose; give at least one set of images beside the reference"
        )
    import_ahead(*NEEDED_LATER)
    notes: list[str] = []
    sources = _open(reference, generations, train, image_size, max_bad, notes)
    n = _count(sources, count)
    classes, labelling = _labelling(sources, concepts)
    sets = {name: _read(name, source, n, labelling, seed) for name, source in sources.items()}
    contents = {name: Contents.of(images.pixels) for name, images in sets.items()}
    notes += [line for name in contents for line in notes_on_copies(name, contents[name].hashes)]
    real, of_real = sets.pop("reference"), contents["reference"]
    kept, left_out = without_trained("reference", of_real, contents.get("train"), 2 * LEAST)
    notes[:0] = [*shared_in_words(contents), *left_out]
    first, second = split(of_real, kept, n)
    return examine(
        real[first],
        real[second],
        train=sets.pop("train", None),
        generations=list(sets.values()),
        classes=classes,
        extractors=_opened(extractors or spaces(max(real.pixels.shape[1:3])), device, precision, notes),
        neighbours=neighbours,
        resamples=resamples,
        seed=seed,
        notes=notes,
    )


def _opened(
    specs: Sequence[str], device: str | torch.device, precision: str, notes: list[str]
) -> list[Extractor]:
    """The extractors of a diagnosis. A network in bfloat16 is added to `notes`."""
    opened = [open_extractor(spec, device=device, precision=precision) for spec in specs]
    notes += notes_on_precision(opened)
    return opened


def spaces(side: int) -> list[str]:
    """The extractors of a diagnosis of images whose longest side has `side` pixels: one may see what another
    misses. Pixels only if there are few of them.
    """
    return list(dict.fromkeys((["pixels"] if side <= 64 else []) + [default_extractor()]))


def _open(
    reference: Any,
    generations: Sequence[Any],
    train: Any,
    image_size: int | Sequence[int] | None,
    max_bad: float,
    notes: list[str],
) -> dict[str, Source]:
    """The sets as sources of one size: 'reference', 'generation 0', ..., and 'train' if it is given."""
    sets = {"reference": reference}
    sets |= {f"generation {t}": images for t, images in enumerate(generations)}
    if train is not None:
        sets["train"] = train
    with reading(" and ".join(sets)):
        sources = open_sides(sets, image_size, max_bad, notes)
    for name, source in sources.items():
        notes += source.account.told(name)
    return sources


def _count(sources: Mapping[str, Source], wanted: int | None) -> int:
    """Images on every side. Raises MeasureError if `wanted` is more than there are."""
    counts = [len(source) for name, source in sources.items() if name.startswith("generation")]
    most = min(len(sources["reference"]) // 2, *counts)
    if wanted is None:
        return min(most, MOST)
    if wanted > most:
        raise MeasureError(
            f"count {wanted} is more than the {most} images that half of the reference and every generation "
            "have"
        )
    return wanted


def _read(name: str, source: Source, n: int, labelling: Labelling, seed: int) -> Images:
    """The images of a set: 2 n of the reference, n of a generation, all training images."""
    most = {"reference": 2 * n, "train": len(source)}.get(name, n)
    stream = "samples" if name.startswith("generation") else name
    rows = numpy_generator("diagnose", seed, stream).permutation(len(source))[:most]
    with reading(name):
        pixels = np.stack([source.read(int(i)) for i in rows])
    return Images(pixels, labelling(name, rows))


def _labelling(sources: Mapping[str, Source], concepts: Any) -> tuple[list[str] | None, Labelling]:
    """Names of the classes, and how a set is labelled: by concepts in captions, else by class folders."""
    if concepts is not None:
        names = concepts
        if isinstance(concepts, (str, Path)):
            names = read_concepts(concepts, sources["reference"].prompts)
        return _by_caption(sources, list(names))
    classes = sources["reference"].classes
    if classes is None:
        return None, lambda name, rows: None
    return _by_class(sources, classes)


def _by_caption(sources: Mapping[str, Source], concepts: list[str]) -> tuple[list[str], Labelling]:
    def labels(name: str, rows: np.ndarray) -> np.ndarray | None:
        prompts = sources[name].prompts
        if prompts is None:
            return None
        labels = assign([prompts[i] for i in rows], concepts).numpy()
        if (labels < 0).any():
            prompt = prompts[rows[int((labels < 0).argmax())]]
            raise DataError(f"{name}: the caption '{prompt}' names no concept; add it to the concepts")
        return np.asarray(labels)

    return concepts, labels


def _by_class(sources: Mapping[str, Source], classes: list[str]) -> tuple[list[str], Labelling]:
    number = {name: i for i, name in enumerate(classes)}

    def labels(name: str, rows: np.ndarray) -> np.ndarray | None:
        source = sources[name]
        if source.labels is None or source.classes is None:
            return None
        for foreign in source.classes:
            if foreign not in number:
                raise DataError(
                    f"{name}: class '{foreign}' is none of the reference's ({', '.join(classes[:8])}); "
                    "use the same names for the folders"
                )
        return np.array([number[source.classes[i]] for i in source.labels[rows]], dtype=np.int64)

    return classes, labels


# ------------------------------------------------------------------------------------------------------- runs
def diagnose_run(
    run: Any,
    *,
    extractors: Sequence[str] | None = None,
    count: int | None = None,
    resamples: int = 40,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Diagnosis:
    """Diagnose a difflab run: the reference is its held-out images, and copies are searched in its train
    split.

    Args:
        extractors: None = those of the run except `texture`, and the default ones of `diagnose`.
        count: images on every side; None = as many as the run measures, at most 1,000.
        resamples, seed, device: as in `diagnose`.

    Raises MeasureError for exact families, which make no images, and for a run without a measured generation.
    """
    config, about = run.config, run.about
    n = _count_of_run(run, count)
    specs = extractors or list(
        dict.fromkeys([*config.measure.feature_extractors, *spaces(max(about["record"][:2]))])
    )
    n_train = about["n_train"]
    first = first_size(config, n_train)
    n_trained = n_train if fresh_needed(config, first) else first
    generations = run.generations
    fitted = run.path / "real" / "fitted.safetensors"
    result = examine(
        _real_images(run, n_train, n_train + n),
        _real_images(run, 0, n),
        [_samples(run, generation, n) for generation in generations],
        train=_real_images(run, 0, n_trained),
        unseen=_real_images(run, n, n_train) if n_train > n else None,
        classes=about["classes"],
        extractors=[open_extractor(spec, fitted=fitted, device=device) for spec in specs],
        neighbours=config.measure.neighbours,
        resamples=resamples,
        seed=seed,
        numbers=generations,
    )
    for finding in result.findings:
        finding.chain = chain_of(run, finding.generation)
    return result


def _count_of_run(run: Any, wanted: int | None) -> int:
    """Images on every side. Raises MeasureError if there are none, or fewer than `wanted`."""
    if run.config.exact:
        raise MeasureError(
            f"family {run.config.model.family} makes no images to diagnose; its laws are checked by difflab "
            "theory"
        )
    if run.sizes:
        raise MeasureError(
            f"{run.path} has images of several sizes (data.buckets), which a diagnosis does not compare; "
            "write generations as folders with difflab export, and diagnose these with --reference"
        )
    if not run.generations:
        raise MeasureError(f"{run.path} has no measured generation yet; continue it with difflab run")
    most = measured_count(run)
    if wanted is None:
        return min(most, MOST)
    if wanted > most:
        raise MeasureError(
            f"count {wanted} is more than the {most} images that samples, train split and held-out all have"
        )
    return wanted


def _real_images(run: Any, start: int, stop: int) -> Images:
    labels = run.real.labels()
    return Images(run.real.gather(np.arange(start, stop)), None if labels is None else labels[start:stop])


def _samples(run: Any, generation: int, n: int) -> Images:
    """The first n samples with the classes they were asked for."""
    shards = run.samples(generation)
    labels = shards.labels()
    if labels is not None:
        labels = None if run.real.labels() is None else labels[:n]
    return Images(shards.gather(np.arange(n)), labels)


def chain_of(run: Any, generation: int) -> Chain:
    """What a run does already, from the training set of `generation` and from its config."""
    config = run.config
    table = parquet.read_table(run.gen(generation) / "train_set.parquet", columns=["pool"])
    pools = table["pool"].to_pylist()
    fresh, real = pools.count("fresh_real") / len(pools), 1 - pools.count("synthetic") / len(pools)
    guidance = config.sample.guidance_scale
    policies = []
    for policy in config.policies:
        if policy.policy == "guidance_by_generation" and policy.acts("sampling", generation):
            guidance = policy.scale(generation, guidance)
        if policy.policy != "temperature" or policy.scale < 1:
            policies.append(policy.policy)
    unguided = unguided_scale(config.model)
    return Chain(real, fresh, guidance, config.train.start_from, tuple(policies), unguided)
