"""Stage 5, measure: every number of a generation from one feature pass, with n, floor and 95% interval.

The reference is the held-out real set. The floor is the same measure between two disjoint real sets of the same size
(train split and held-out): what "no difference" looks like. All processes share the half-samples of the intervals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from difflab import config as configs
from difflab.core.errors import ConfigError, MeasureError, StoreError
from difflab.core.files import read_json, write_tensors, write_text
from difflab.core.rows import RowKind
from difflab.core.seeds import numpy_generator, seed_of
from difflab.loop.held_out import LEVELS, mean
from difflab.metrics.measurement import take
from difflab.models import family_of
from difflab.models.family import Exact
from difflab.models.weights import distance
from difflab.runs.run import KEYS, Run
from difflab.runs.sizes import first_size, fresh_needed
from difflab.runs.store import Shards
from difflab.runs.train_set import TrainSet

Row = dict[str, Any]
JUDGES = ["judge_frozen", "judge_retrained", "judge_rebased", "judge_retrained_on_real"]
UNASKED = "samples are asked for no class"


FLAGGED = RowKind(
    "flagged_share",
    unit="share of samples",
    better="lower",
    about="Share of samples that are of one colour, such as black: failures of the sampler.",
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
DRIFT_FROM_BASE = RowKind(
    "drift_from_base",
    unit="share of the norm",
    better="none",
    about="Distance of the weights from those of the pretrained base, or of generation 0 where there is no base, "
    "relative to their norm.",
    topic="Training",
    counts="steps",
)
DRIFT_FROM_PREVIOUS = RowKind(
    "drift_from_previous",
    unit="share of the norm",
    better="none",
    about="Distance of the weights from those of the previous generation, relative to their norm.",
    topic="Training",
    counts="steps",
)
ROWS = (FLAGGED, AESTHETIC, DRIFT_FROM_BASE, DRIFT_FROM_PREVIOUS)


def row(
    generation: int,
    metric: str,
    extractor: str,
    value: float | None,
    ci: tuple[float, float] | None,
    n: int,
    floor: float | None,
    recipe: str,
    reason: str | None = None,
) -> Row:
    low, high = ci if ci else (None, None)
    return dict(
        zip(KEYS, (generation, 0, metric, extractor, value, low, high, n, floor, recipe, reason), strict=True)
    )


# ------------------------------------------------------------------------------------------------- images
def extractors_of(run: Run, accelerator: Accelerator) -> list[Any]:
    """Open the feature extractors of a run, fitting the fitted one once, and extract the real set's features."""
    from difflab.metrics import open_extractor

    config = run.config
    if config.exact or not needs_features(run):
        return []
    folder = run.path / "real"
    fitted = folder / "fitted.safetensors"
    if "fitted" in config.measure.extractors:
        if run.real.labels() is None:  # on every process, so that none waits
            raise MeasureError(
                "measure.extractors: 'fitted' learns from class labels and this set has none; use pixels, efficientnet-lite0 or open_clip:NAME"
            )
        if accelerator.is_main_process and not fitted.exists():
            _fit_extractor(run, fitted)
        accelerator.wait_for_everyone()
    opened = [
        open_extractor(spec, fitted=fitted, device=str(accelerator.device))
        for spec in config.measure.extractors
    ]
    reader_of(config.measure, opened)
    head_of(config.measure, opened)
    describe(run.real, opened, accelerator)
    return opened


def check(config: configs.Config) -> None:
    """Refuse measures, extractors and judges that are unknown or do not go together, before anything is read.

    Raises ConfigError for a judge that is no extractor of the run, MeasureError for the rest.
    """
    from difflab.features.registry import known_extractor
    from difflab.metrics import METRICS

    measure = config.measure
    if measure.judge is not None and measure.judge not in measure.extractors:
        raise ConfigError(
            f"measure.judge '{measure.judge}' is none of measure.extractors {measure.extractors}"
        )
    if config.exact:
        return
    for spec in measure.extractors:
        known_extractor(spec)
    of_texture = [name for name in measure.metrics if METRICS[name].needs == "texture"]
    others = [name for name in measure.metrics if name not in of_texture]
    if of_texture and "texture" not in measure.extractors:
        raise MeasureError(
            f"measure.metrics: {of_texture[0]} is read off the extractor 'texture'; add it to measure.extractors"
        )
    if others and set(measure.extractors) == {"texture"}:
        raise MeasureError(
            f"measure.metrics: {others[0]} is not taken on the extractor 'texture'; add another to measure.extractors, such as pixels"
        )
    if measure.judge == "texture":
        raise MeasureError(
            "measure.judge: 'texture' sees no classes; name another of measure.extractors, or null"
        )
    if measure.judge_drift and not set(measure.extractors) - {"texture"}:
        raise MeasureError(
            "measure.judge_drift: the judges read features; add an extractor to measure.extractors, such as pixels"
        )


def describe(shards: Shards, extractors: list[Any], accelerator: Accelerator) -> None:
    """Extract the features that a set still lacks; each process takes its own shards."""
    for shard in shards.shards[accelerator.process_index :: accelerator.num_processes]:
        for extractor in extractors:
            shards.derive(extractor.key, shard, extractor)
    accelerator.wait_for_everyone()


def needs_features(run: Run) -> bool:
    measure = run.config.measure
    return bool((measure.metrics and measure.extractors) or measure.judge_drift or measure.aesthetic)


def _fit_extractor(run: Run, path: Any) -> None:
    from difflab.features.fitted import fit_extractor

    labels, n_train = run.real.labels(), run.about["n_train"]
    assert labels is not None  # see extractors_of
    images = torch.from_numpy(run.real.gather(np.arange(n_train)))
    fit_extractor(
        images,
        torch.from_numpy(labels[:n_train]),
        len(run.about["classes"]),
        path,
        seed_of("fitted", run.config.seed),
    )


def measured_count(run: Run) -> int:
    """Images on either side of every measure: the same in all generations, also in those that extend the run later, and for the floor."""
    about, config = run.about, run.config
    counts = config.sample.count if isinstance(config.sample.count, list) else [config.sample.count]
    most = min(about["n_train"], about["n_held_out"], *counts)
    wanted = config.measure.count or most
    if wanted > most:
        raise MeasureError(
            f"measure.count {wanted} is more than the {most} images that samples, train split and held-out all have"
        )
    return wanted


def measure_images(
    run: Run, generation: int, extractors: list[Any], accelerator: Accelerator, advance: Callable[[int], None]
) -> list[Row]:
    """All rows of one generation of an image family."""
    fake_set = run.samples(generation)
    describe(fake_set, extractors, accelerator)  # a no-op unless feature files were lost since sampling

    def resample(metric: Any, pair: Any) -> list[float]:
        return _shared(
            accelerator,
            metric,
            pair,
            run.config.measure.resamples,
            seed_of("interval", run.config.seed, generation, metric.name),
        )

    rows = [_flagged(run, generation, configs.digest({"measure": FLAGGED.name, "real": run.real.hash()}))]
    for extractor in extractors:
        judge, no_judge = judge_of(run, extractor, extractors, accelerator)
        for part in passes(
            run,
            extractor,
            extractors,
            fake_set,
            lambda extractor: own_features(run, generation, extractor, accelerator),
        ):
            rows += measured(
                extractor,
                **part,
                judge=judge,
                no_judge=no_judge,
                generation=generation,
                resample=resample,
                advance=advance,
            )
        if run.config.measure.judge_drift and extractor is judged(run, extractors):
            rows += _judge_drift(
                run, generation, extractor, judge, no_judge, *_sides(run, extractor, fake_set)
            )
        if run.config.measure.aesthetic is not None and extractor is clip_of(extractors):
            rows.append(
                _aesthetic(
                    run,
                    generation,
                    extractor,
                    head_of(run.config.measure, extractors),
                    *_sides(run, extractor, fake_set)[1:],
                )
            )
    return rows


def judged(run: Run, extractors: Sequence[Any]) -> Any:
    """The extractor whose features the class judge reads: measure.judge, else the first but texture; None where there is none."""
    measure = run.config.measure
    spec = measure.judge_extractor
    return extractors[measure.extractors.index(spec)] if extractors and spec else None


def _sides(run: Run, extractor: Any, fake_set: Any) -> tuple[Side, Side, Side]:
    """The train split, as many held-out images as are measured, and as many samples, with their classes."""
    n, n_train, real_set = measured_count(run), run.about["n_train"], run.real
    real, labels, asked = (
        real_set.features(extractor.key),
        _tensor(real_set.labels()),
        _tensor(fake_set.labels()),
    )
    train, held_out, first = slice(0, n_train), slice(n_train, n_train + n), slice(0, n)
    fake = fake_set.features(extractor.key)[:n]
    return (
        Side(real[train], _cut(labels, train)),
        Side(real[held_out], _cut(labels, held_out)),
        Side(fake, _cut(asked, first)),
    )


def passes(
    run: Run, extractor: Any, extractors: Sequence[Any], fake_set: Any, own: Callable[[Any], torch.Tensor]
) -> Iterator[dict[str, Any]]:
    """What `measured` takes of one extractor, grouped by what the measures compare: their names, both sides, the floor's, and with whom.

    Args:
        fake_set: samples, or `Instead` of them.
        own: an extractor -> the features of the generation's own training images.
    """
    from difflab.metrics import METRICS

    config, real_set, n = run.config, run.real, measured_count(run)
    n_train, identity = run.about["n_train"], real_set.hash()
    train_side, held_out_side, fake_side = _sides(run, extractor, fake_set)
    # The reserve enters training by and by where fresh real images are drawn; elsewhere it never does.
    n_trained = n_train if fresh_needed(config, first_size(config, n_train)) else first_size(config, n_train)
    train, held_out = slice(0, n), slice(n_train, n_train + n)

    def part(
        needs: tuple[str, ...], real_asked: Any, fake_asked: Any, reference: str, **more: Any
    ) -> dict[str, Any]:
        # In the place of samples come held-out images, so that a judge trained on the train split never marks its own homework.
        return {
            "metrics": [name for name in config.measure.metrics if METRICS[name].needs in needs],
            "real": Side(held_out_side.features, _cut(real_asked, held_out)),
            "fake": Side(fake_side.features, _cut(fake_asked, slice(0, n))),
            "other": Side(train_side.features[train], _cut(real_asked, train)),
            "neighbours": config.measure.neighbours,
            "identity": reference,
            **more,
        }

    kinds = {METRICS[name].needs for name in config.measure.metrics}
    plain = ("features", "texture", "train") + (("judge",) if extractor is judged(run, extractors) else ())
    labels, asked = _tensor(real_set.labels()), _tensor(fake_set.labels())
    yield part(
        plain, labels, asked, identity, train=train_side.features[:n_trained] if "train" in kinds else None
    )
    if "own" in kinds and extractor.name != "texture":
        yield part(("own",), None, None, f"{identity} and its own", train=own(extractor))
    if "prompts" in kinds:
        by = f"{identity} by {'caption' if config.text else 'class'}"
        yield part(("prompts",), _tensor(run.conditions(real_set)), _tensor(run.conditions(fake_set)), by)
    if config.measure.concepts is not None and extractor is clip_of(extractors):
        real_told, fake_told, concepts = told(run, extractor, real_set, fake_set)
        yield part(("concepts",), real_told, fake_told, identity, concepts=concepts)


@dataclass(frozen=True)
class Instead:
    """Held-out real images in the place of samples, with what samples will be asked for: what can be measured at all is known from these."""

    run: Run

    def __post_init__(self) -> None:
        from difflab.loop.conditions import sample_conditions

        config, n = self.run.config, measured_count(self.run)
        found = (
            sample_conditions(self.run, 0, config.sample.count_of(0)).part(range(n))
            if config.conditional
            else None
        )
        object.__setattr__(self, "asked", found)

    def features(self, key: str) -> torch.Tensor:
        """The features of as many held-out images as are measured, float32 [n, d]."""
        start = self.run.about["n_train"]
        return self.run.real.features(key)[start : start + measured_count(self.run)]

    def labels(self) -> np.ndarray | None:
        """The class asked of each sample."""
        return self.asked and self.asked.labels  # type: ignore[attr-defined, no-any-return]

    def column(self, name: str) -> list[Any]:
        """The caption asked of each sample; None where none is."""
        given = {} if self.asked is None else self.asked.columns()  # type: ignore[attr-defined]
        return list(given.get(name) or [None] * measured_count(self.run))


def unmeasurable(run: Run, extractors: Sequence[Any], accelerator: Accelerator) -> dict[str, str]:
    """Measures that have no value even between real images, 'recall (pixels)', and why. All processes take part; nothing need be fitted.

    Raises MeasureError where none of measure.metrics can be taken, or where measure.concepts cannot be told apart.
    """
    from difflab.metrics.interval import half_rows

    config = run.config
    if config.exact or not extractors:
        return {}
    instead, some = Instead(run), bool(config.measure.resamples)

    def one_half(metric: Any, pair: Any) -> list[float]:
        if some:
            metric.of(pair, *half_rows(len(pair.real), len(pair.fake), 0, 0))
        return []

    rows: list[Row] = []
    for extractor in extractors:
        judge, no_judge = judge_of(run, extractor, extractors, accelerator)
        for part in passes(
            run,
            extractor,
            extractors,
            instead,
            lambda extractor: run.real.features(extractor.key)[: run.about["n_train"]],
        ):
            rows += measured(
                extractor, **{**part, "other": None}, judge=judge, no_judge=no_judge, resample=one_half
            )
        if (
            config.measure.judge_drift
            and extractor is judged(run, extractors)
            and (judge is None or instead.labels() is None)
        ):
            reason = f"judge_drift has no value: {no_judge or UNASKED}"
            rows.append(row(0, "judge_drift", extractor.name, None, None, 0, None, "", reason))
    lost = {f"{row['metric']} ({row['extractor']})": row["reason"] for row in rows if row["value"] is None}
    if lost and len(lost) == len(rows) and config.measure.metrics and config.measure.aesthetic is None:
        raise MeasureError(f"none of measure.metrics can be measured here: {'; '.join(left_out(lost))}")
    return lost


def own_features(run: Run, generation: int, extractor: Any, accelerator: Accelerator) -> torch.Tensor:
    """Features [n, d] of the images that a generation was trained on."""
    rows = pq.read_table(run.gen(generation) / "train_set.parquet", page_checksum_verification=True)
    data = TrainSet(
        rows,
        run.samples,
        read=lambda shards, indices: shards.features(extractor.key)[torch.from_numpy(indices)].numpy(),
    )
    for shards in data.sets.values():
        describe(shards, [extractor], accelerator)
    return torch.from_numpy(data.inputs(np.arange(len(data))))


def clip_of(extractors: Sequence[Any]) -> Any:
    """The first extractor that is a CLIP model, None = there is none."""
    return next((e for e in extractors if e.encode_text is not None), None)


def head_of(measure: Any, extractors: Sequence[Any]) -> Any:
    """The aesthetic head that measure.aesthetic names, None = none. Raises MeasureError where it cannot be read, or its backbone is not there."""
    from difflab.metrics import AestheticHead

    if measure.aesthetic is None:
        return None
    backbone = clip_of(extractors)
    if backbone is None:
        raise MeasureError(
            "measure.aesthetic scores CLIP features; add the head's backbone, open_clip:NAME/PRETRAINED, to measure.extractors"
        )
    return AestheticHead.load(measure.aesthetic, backbone)


def reader_of(measure: Any, extractors: Sequence[Any]) -> Any:
    """The extractor that the concept measures are taken on, None = none are asked for.

    Raises MeasureError where measure.concepts, the measures and an extractor that reads text do not go together.
    """
    from difflab.metrics import METRICS

    wanted = [name for name in measure.metrics if METRICS[name].needs == "concepts"]
    if measure.concepts is None and wanted:
        raise MeasureError(
            f"measure.metrics: {wanted[0]} wants measure.concepts: 'classes', or a file of names that captions hold"
        )
    if measure.concepts is None:
        return None
    reader = clip_of(extractors)
    if reader is None:
        raise MeasureError(
            "measure.concepts are told apart by a CLIP model; add open_clip:tiny-clip or open_clip:NAME_OR_PATH to measure.extractors"
        )
    return reader


def told(run: Run, reader: Any, real: Shards, fake: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """What each real image and each sample was asked for, int64, and the concepts with their texts."""
    from difflab.metrics import assign, concepts_of, read_concepts

    source = str(run.config.measure.concepts)
    if source == "classes":
        real_labels, fake_labels = _tensor(real.labels()), _tensor(fake.labels())
        if real_labels is None or fake_labels is None:
            raise MeasureError(
                "measure.concepts is 'classes' and there are none here: name a file of concepts"
            )
        return real_labels, fake_labels, concepts_of(reader, run.about["classes"])
    prompts = real.column("prompt"), fake.column("prompt")
    if None in (prompts[0][0], prompts[1][0]):
        raise MeasureError(
            f"measure.concepts is the file {source}, but these images were asked for by class, not by caption: use 'classes'"
        )
    names = read_concepts(source, prompts[0])
    asked = [assign(texts, list(names)) for texts in prompts]
    for side, texts, found in zip(("real images", "samples"), prompts, asked, strict=True):
        if (found < 0).any():
            raise MeasureError(
                f"{side}: caption '{texts[int((found < 0).int().argmax())]}' holds none of the concepts in {source}; add it there"
            )
    return asked[0], asked[1], concepts_of(reader, names)


@dataclass(frozen=True)
class Side:
    """Features [n, d] of one set of images, with labels int64 [n] where it has any."""

    features: torch.Tensor
    labels: torch.Tensor | None = None

    def finite(self, name: str) -> tuple[Side, list[str]]:
        """The rows whose features are all finite, and the sentence that says how many others there were, if any."""
        known = torch.isfinite(self.features).all(1)
        if known.all():
            return self, []
        said = f"{int((~known).sum())} of {len(known)} {name} have features that are no finite numbers, and are left out"
        return Side(self.features[known], None if self.labels is None else self.labels[known]), [said]


def measured(
    extractor: Any,
    metrics: Sequence[str],
    real: Side,
    fake: Side,
    other: Side | None,
    *,
    train: torch.Tensor | None = None,
    judge: Any = None,
    no_judge: str | None = None,
    concepts: Any = None,
    neighbours: int,
    identity: str,
    generation: int = 0,
    resample: Callable[[Any, Any], list[float]],
    advance: Callable[[int], None] = lambda n: None,
) -> list[Row]:
    """Rows of `metrics`, the texture measures on the texture extractor and all others elsewhere: `fake` against `real`, and as the floor `real` against `other`.

    A row has a value, or a reason why not; with a value the reason says which images were left out, or why there is no floor.

    Args:
        other: real images that are in neither set; None = no floor.
        train: features of what the model was trained on; memorisation is measured against these, the floor with `real` in the place of samples.
        judge, concepts: for class and concept measures, which have no value without.
        no_judge: why there is no judge.
        identity: hash of the real set, for the recipe.
        resample: (metric, pair) -> the measure on half-samples, [] = no interval.
    """
    from difflab.metrics import METRICS, Pair

    shared = {"judge": judge, "concepts": concepts, "neighbours": neighbours}
    (real, lost_real), (fake, lost_fake) = real.finite("real images"), fake.finite("samples")
    lost = [*lost_real, *lost_fake]
    if train is not None:
        (trained, lost_train) = Side(train).finite("training images")
        train, lost = trained.features, [*lost, *lost_train]
    n = len(fake.features)
    pair = Pair(
        real.features, fake.features, real_labels=real.labels, fake_labels=fake.labels, train=train, **shared
    )
    if other is not None:
        other, lost_other = other.finite("real images of the floor")
        lost += lost_other
    floor_pair = other and Pair(
        other.features, real.features, real_labels=other.labels, fake_labels=real.labels, **shared
    )
    unseen_pair = Pair(real.features, real.features, train=train, neighbours=neighbours)
    rows = []
    for name in metrics:
        metric = METRICS[name]
        if (metric.needs == "texture") != (extractor.name == "texture"):
            continue
        recipe = {
            "measure": name,
            "extractor": extractor.recipe,
            "n": n,
            "neighbours": neighbours,
            "real": identity,
        }
        if metric.needs in ("judge", "concepts"):
            used = judge if metric.needs == "judge" else concepts
            recipe[metric.needs] = used.recipe if used else None
        if metric.needs == "train":  # one's own training set is another one in every generation
            recipe["train"] = 0 if train is None else len(train)
        called = shown(name, extractor)
        try:
            if metric.needs == "judge" and no_judge:
                raise MeasureError(f"{name} has no value: {no_judge}")
            taken = take(metric, pair, resample)
            floor, why = _floor(metric, unseen_pair if metric.needs in ("train", "own") else floor_pair)
            value, ci = taken.value, taken.interval
            said = [taken.note, *lost, why]
        except MeasureError as error:
            value, ci, floor, said = None, None, None, [str(error), *lost]
        reason = "; ".join(filter(None, said)) or None
        rows.append(
            row(generation, called, extractor.name, value, ci, n, floor, configs.digest(recipe), reason)
        )
        advance(1)
    return rows


def shown(metric: str, extractor: Any) -> str:
    """What a measure is called in metrics.jsonl: the Frechet distance on Inception features has a name of its own."""
    return "fid" if metric == "fd" and extractor.name.startswith("inception") else metric


def left_out(reasons: Mapping[str, str]) -> list[str]:
    """Measures without a value and why, those of one reason together.

    >>> left_out({"recall (pixels)": "recall needs 6 images", "ct": "ct has no value: all are one", "kid": "kid needs 6 images"})
    ['recall (pixels), kid: needs 6 images', 'ct: all are one']
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        bare = name.partition(" (")[0]
        names.setdefault(reason.removeprefix(f"{bare} has no value: ").removeprefix(f"{bare} "), []).append(
            name
        )
    return [f"{', '.join(group)}: {reason}" for reason, group in names.items()]


def _floor(metric: Any, pair: Any) -> tuple[float | None, str | None]:
    """The floor and what it leaves out, or why there is none: captions of real images need not repeat."""
    if pair is None:
        return None, None
    try:
        value, left_out = metric.of(pair), metric.note(pair)
        return value, left_out and f"its floor: {left_out}"
    except MeasureError as error:
        return None, f"its floor: {error}"


def _judge_drift(
    run: Run,
    generation: int,
    extractor: Any,
    judge: Any,
    no_judge: str | None,
    train: Side,
    real: Side,
    fake: Side,
) -> list[Row]:
    """How the three judges of `difflab.metrics.judge_drift` read the half of the samples that the retrained one has not learned from.

    judge_frozen, judge_retrained, judge_rebased, and judge_retrained_on_real: the retrained one on held-out images. Fresh real images do not
    last for ever, so the re-based judge learns from a bootstrap of the train split, as many images and others in every generation: what
    parts it from the frozen one is luck in training images. Floor: all the same with held-out images in the place of samples, and
    images of the train split in theirs.
    """
    from difflab.metrics.judge_drift import three_judges

    seed = run.config.seed
    (train, a), (real, b), (fake, c) = (
        train.finite("training images"),
        real.finite("real images"),
        fake.finite("samples"),
    )
    lost, n = [*a, *b, *c], len(fake.features)
    wanted = dict(
        zip(
            JUDGES,
            (
                ("frozen", "on_samples"),
                ("retrained", "on_samples"),
                ("re-based", "on_samples"),
                ("retrained", "on_real"),
            ),
            strict=True,
        )
    )
    shared = {"extractor": extractor.recipe, "judge": judge and judge.recipe, "n": n, "real": run.real.hash()}
    recipes = {metric: configs.digest({"measure": metric, **shared}) for metric in wanted}
    try:
        if judge is None or fake.labels is None or real.labels is None or train.labels is None:
            raise MeasureError(
                f"judge drift has no value: it wants classes, of real images and of what was asked for: {no_judge or UNASKED}"
            )
        at = torch.from_numpy(
            numpy_generator("judge drift", seed, generation).integers(
                len(train.features), size=len(train.features)
            )
        )
        fresh = train.features[at], train.labels[at]
        held_out, trained = (real.features, real.labels), (train.features[:n], train.labels[:n])
        own = three_judges(judge, held_out, (fake.features, fake.labels), fresh, (seed, generation))
        floors = three_judges(judge, trained, held_out, fresh, (seed, generation))
    except MeasureError as error:
        why = "; ".join([str(error), *lost])
        return [
            row(generation, metric, extractor.name, None, None, n, None, recipes[metric], why)
            for metric in wanted
        ]
    rows = []
    for metric, (name, where) in wanted.items():
        found, floor = (next(r for r in side if r["judge"] == name) for side in (own, floors))
        value, said = (
            found[where],
            [found["reason"] or (floor["reason"] and f"its floor: {floor['reason']}"), *lost],
        )
        ci = None if value is None else (found[f"{where}_low"], found[f"{where}_high"])
        shown = None if value is None else floor[where]
        reason = "; ".join(filter(None, said)) or None
        rows.append(
            row(
                generation,
                metric,
                extractor.name,
                value,
                ci,
                found[f"{where}_n"],
                shown,
                recipes[metric],
                reason,
            )
        )
    return rows


def _aesthetic(run: Run, generation: int, extractor: Any, head: Any, real: Side, fake: Side) -> Row:
    """Mean score of the samples with its normal interval; floor: that of held-out real images."""
    (real, lost_real), (fake, lost_fake) = real.finite("real images"), fake.finite("samples")
    n = len(fake.features)
    scores, floor = (
        mean(head(side.features).double().numpy(), "the score is not finite", "no image is left")
        for side in (fake, real)
    )
    recipe = configs.digest({"measure": AESTHETIC.name, **head.recipe, "n": n, "real": run.real.hash()})
    reason = "; ".join(filter(None, [scores["reason"], *lost_real, *lost_fake])) or None
    ci = None if scores["low"] is None else (scores["low"], scores["high"])
    return row(
        generation, AESTHETIC.name, extractor.name, scores["value"], ci, n, floor["value"], recipe, reason
    )


def judge_of(
    run: Run, extractor: Any, extractors: Sequence[Any], accelerator: Accelerator
) -> tuple[Any, str | None]:
    """The class judge on one extractor's features, trained on the real train split once per run; None, and why, where there is none.

    No judge is made where no measure asks for one. All processes take part.
    """
    from difflab.metrics import METRICS, Judge

    wanted = run.config.measure.judge_drift or any(
        METRICS[name].needs == "judge" for name in run.config.measure.metrics
    )
    if not wanted or extractor is not judged(run, extractors):
        return None, None
    labels, n_train = _tensor(run.real.labels()), run.about["n_train"]
    if labels is None:
        return None, "the real images carry no class labels"
    path = run.path / "real" / f"judge-{extractor.key}.safetensors"
    why: list[Any] = [None]
    if accelerator.is_main_process and not path.exists():
        train, _ = Side(run.real.features(extractor.key)[:n_train], labels[:n_train]).finite(
            "training images"
        )
        try:
            Judge.fit(train.features, train.labels, len(run.about["classes"])).save(path)  # type: ignore[arg-type]
        except MeasureError as error:
            why = [str(error)]
    why = gather_object(why) if accelerator.num_processes > 1 else why
    accelerator.wait_for_everyone()
    reason = next((text for text in why if text), None)
    return (None, reason) if reason else (Judge.load(path), None)


def _shared(accelerator: Accelerator, metric: Any, pair: Any, count: int, seed: int) -> list[float]:
    from difflab.metrics.interval import resampled

    return shared(accelerator, lambda numbers: resampled(metric, pair, numbers, seed), count)


def shared(accelerator: Accelerator, take: Callable[[Iterable[int]], list[float]], count: int) -> list[float]:
    """`count` resamples, taken by all processes together. What one cannot take is an error in all, so that none waits.

    Args:
        take: the numbers of some resamples -> their values.
    """
    own: list[Any]
    try:
        own = take(range(count)[accelerator.process_index :: accelerator.num_processes])
    except MeasureError as error:
        own = [error]
    drawn = gather_object(own) if accelerator.num_processes > 1 else own
    for value in drawn:
        if isinstance(value, MeasureError):
            raise value
    return drawn


def _flagged(run: Run, generation: int, recipe: str) -> Row:
    """Share of degenerate samples, over all of them, with its Wilson interval."""
    from difflab.metrics.interval import wilson

    flags = run.samples(generation).column("flag")
    count, total = sum(f is not None for f in flags), len(flags)
    p = count / total
    real = run.real.column("flag")[run.about["n_train"] :]
    return row(
        generation,
        FLAGGED.name,
        "none",
        p,
        wilson(p, total),
        total,
        sum(f is not None for f in real) / len(real),
        recipe,
    )


def _tensor(labels: np.ndarray | None) -> torch.Tensor | None:
    return None if labels is None else torch.from_numpy(labels)


def _cut(labels: torch.Tensor | None, rows: slice) -> torch.Tensor | None:
    return None if labels is None else labels[rows]


# -------------------------------------------------------------------------------------------- training
def measure_training(run: Run, generation: int) -> list[Row]:
    """Rows of how the training went (n = steps) and of the loss on held-out images (n = images), extractor "training".

    From what the training left: training.json, model/ and held_out_loss.json. [] for families that are fitted by a formula.
    """
    config = run.config
    if not config.denoises:
        return []
    training, folder = run.training(generation), run.gen(generation)
    steps, model = training.get("steps", 0), config.model.model_dump(mode="json")
    family: Any = family_of(config.model)(config.model, run.shape)
    earlier = {DRIFT_FROM_BASE.name: family.base_files() or family.trained_files(run.gen(0) / "model")}
    if generation:
        earlier[DRIFT_FROM_PREVIOUS.name] = family.trained_files(run.gen(generation - 1) / "model")
    how = {
        key: value for key, value in config.train.model_dump(mode="json").items() if key != "checkpoint_every"
    }

    def of(
        name: str,
        value: float | None,
        ci: tuple[float, float] | None,
        n: int,
        reason: str | None,
        recipe: dict[str, Any],
    ) -> Row:
        return row(
            generation,
            name,
            "training",
            value,
            ci,
            n,
            None,
            configs.digest({"measure": name, "model": model} | recipe),
            reason,
        )

    rows = []
    for name, value in training.get("means", {}).items():
        rows.append(
            of(
                name,
                value,
                None,
                steps,
                None if value is not None else "no step had a finite gradient",
                {"train": how},
            )
        )
    for name, before in earlier.items():
        value, reason = None, None
        try:
            value = distance(family.trained_files(folder / "model"), before)
        except MeasureError as error:
            reason = str(error)
        rows.append(of(name, value, None, steps, reason, {"train": how}))
    path = folder / "held_out_loss.json"
    if path.exists():
        identity = run.real.hash()
        try:
            taken = [
                (name, *(m[key] for key in ("value", "low", "high", "n", "reason")))
                for name, m in read_json(path)["measures"].items()
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{path} is damaged ({type(error).__name__}); delete it, and its rows are left out"
            ) from error
        for name, value, low, high, n, reason in taken:
            rows.append(
                of(
                    name,
                    value,
                    None if low is None else (low, high),
                    n,
                    reason,
                    {"n": n, "levels": LEVELS, "real": identity},
                )
            )
    return rows


# -------------------------------------------------------------------------------------------- exact families
def measure_exact(run: Run, generation: int, model: Exact) -> list[Row]:
    """The moments that the laws speak of, over the independent chains; n counts chains, the unit of replication.

    The floor is the measure of a model fitted to the held-out records: a second real set of the same size.
    """
    values = model.measures()
    write_tensors(
        run.gen(generation) / "replicates.safetensors",
        {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in values.items()},
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
    """The row of a measure of the model, its values [R] of independent chains."""
    count = len(chains)
    recipe = configs.digest(
        {"measure": name, "model": run.config.model.model_dump(), "n": run.config.data.train_size}
    )
    lost = int((~np.isfinite(chains)).sum())
    if lost or not np.isfinite(floor):
        return row(
            generation,
            name,
            "model",
            None,
            None,
            count,
            None,
            recipe,
            f"{lost} of {count} chains have no finite {name}",
        )
    mean = float(chains.mean())
    error = 1.96 * float(chains.std(ddof=1)) / np.sqrt(count) if count > 1 else None
    ci = None if error is None else (mean - error, mean + error)
    return row(generation, name, "model", mean, ci, count, floor, recipe)


def write_rows(run: Run, generation: int, rows: list[Row]) -> None:
    """Write the generation's rows, then metrics.jsonl of the whole run anew."""
    write_lines(run.gen(generation) / "metrics.jsonl", [{**r, "lab": run.config.lab} for r in rows])
    collect(run)


def collect(run: Run) -> None:
    """Write metrics.jsonl of the whole run from those of its generations."""
    write_lines(run.path / "metrics.jsonl", run.rows())


def write_lines(path: Path, rows: list[Row]) -> None:
    write_text(path, "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))
