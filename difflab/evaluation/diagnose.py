"""Diagnose: what kind of collapse a model is in, since when, how sure that is, and what it is instead.

    result = difflab.diagnose("real_images/", ["gen0/", "gen1/", "gen2/"])
    result.findings[-1].name, result.first_alarm

Here the measures are read, on the samples and on every control; what follows from them is in `difflab.evaluation.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab.core.errors import DataError, MeasureError, reading
from difflab.core.seeds import numpy_generator, seed_of
from difflab.data.content import contents_of, doubled, halves, overlaps, within
from difflab.data.image_sets import open_sides
from difflab.evaluation import controls as look
from difflab.evaluation.extract import default_extractor, notes_on_copies
from difflab.evaluation.rules import (
    CONTENT,
    COPIES,
    EXPECTED,
    LEAST,
    LOOK,
    LOOKS,
    REPEATS,
    SIGNS,
    Chain,
    Diagnosis,
    Finding,
    Reading,
    Sign,
    Z,
    failed,
    judge,
    over_time,
)
from difflab.loop.measure import SHARES
from difflab.metrics import METRICS, Extractor, Judge, Pair, open_extractor
from difflab.metrics.covariance import trace_of_covariance
from difflab.metrics.interval import resampled, wilson


# -------------------------------------------------------------------------------------------------------- the sets
@dataclass(frozen=True)
class Images:
    """pixels uint8 [n, H, W, C]; labels int64 [n], the class each shows or was asked for, None = unlabelled."""

    pixels: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Any) -> Images:
        return Images(self.pixels[rows], None if self.labels is None else self.labels[rows])

    def of(self, classes: np.ndarray) -> np.ndarray:
        """bool [n]: whether an image is of one of `classes`."""
        return np.zeros(len(self), bool) if self.labels is None else np.isin(self.labels, classes)


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
    image_size: int | None = None,
    max_bad: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Diagnosis:
    """The profile, stage and alternatives of `generations` against `reference`, real images that no model was trained on.

    Args:
        reference, generations, train: image sets as in `difflab.compare`. generations[0] is the first model; alone it is compared
            with real images, otherwise it is a control for the later ones. `train`: what the first model was trained on; without it
            copies of training images cannot be told. Classes come from class folders, or from captions with `concepts`.
        extractors: feature spaces, all of which are looked at; None = pixels, up to 64 a side, and efficientnet-lite0 where installed.
        count: images on every side; None = as many as all sides have (half of the reference), at most 1,000.

    Raises DataError for unusable sets, MeasureError for fewer than 30 images.
    """
    if not len(generations):
        raise DataError(
            "there is no generation to diagnose; give at least one set of images beside the reference"
        )
    notes: list[str] = []
    names = ["reference", *(f"generation {t}" for t in range(len(generations)))]
    given = dict(zip(names, [reference, *generations], strict=True)) | (
        {} if train is None else {"train": train}
    )
    with reading(" and ".join(given)):
        sources = open_sides(given, image_size, max_bad, notes)
    notes += [line for side, source in sources.items() for line in source.account.told(side)]
    n = min(len(sources["reference"]) // 2, *(len(sources[name]) for name in names[1:]))
    if count is not None and count > n:
        raise MeasureError(
            f"count {count} is more than the {n} images that half of the reference and every generation have"
        )
    n = min(n, 1000) if count is None else count
    classes, label = _labelling(sources, concepts)

    def read(name: str, most: int) -> Images:
        rows = numpy_generator(
            "diagnose", seed, "samples" if name.startswith("generation") else name
        ).permutation(len(sources[name]))[:most]
        with reading(name):
            pixels = np.stack([sources[name].read(int(i)) for i in rows])
        return Images(pixels, label(name, rows))

    sets = {"reference": read("reference", 2 * n)} | {name: read(name, n) for name in names[1:]}
    sets |= {} if train is None else {"train": read("train", len(sources["train"]))}
    hashes = {name: contents_of(images.pixels) for name, images in sets.items()}
    notes += [note for name, own in hashes.items() for note in notes_on_copies(name, own)] + overlaps(hashes)
    both = sets["reference"]
    first, other = halves(hashes["reference"], n)  # copies of one image are all in one of them
    return examine(
        both[first],
        both[other],
        [sets[name] for name in names[1:]],
        train=sets.get("train"),
        classes=classes,
        extractors=[
            open_extractor(spec, device=device) for spec in extractors or spaces(both.pixels.shape[1])
        ],
        neighbours=neighbours,
        resamples=resamples,
        seed=seed,
        notes=notes,
    )


def diagnose_run(
    run: Any,
    *,
    extractors: Sequence[str] | None = None,
    count: int | None = None,
    resamples: int = 40,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Diagnosis:
    """The diagnosis of a difflab run: held-out images are the reference, generation 0 a control, copies are looked for in the train split.

    `extractors`: None = the run's own but `texture`, and those that `diagnose` takes by itself. Raises MeasureError for exact families, which have no images.
    """
    from difflab.loop.measure import measured_count
    from difflab.runs.sizes import first_size, fresh_needed

    config, about = run.config, run.about
    if config.exact:
        raise MeasureError(
            f"family {config.model.family} makes no images to diagnose; its laws are checked by difflab theory"
        )
    done = run.generations
    if not done:
        raise MeasureError(f"{run.path} has no measured generation yet; go on with difflab run")
    n_train, most = about["n_train"], measured_count(run)
    if count is not None and count > most:
        raise MeasureError(
            f"count {count} is more than the {most} images that samples, train split and held-out all have"
        )
    n = min(most, 1000) if count is None else count
    own = [spec for spec in config.measure.extractors if spec != "texture"]
    specs = extractors or list(dict.fromkeys([*own, *spaces(about["record"][0])]))
    labels = run.real.labels()

    def real(start: int, stop: int) -> Images:
        return Images(run.real.gather(np.arange(start, stop)), None if labels is None else labels[start:stop])

    def samples(t: int) -> Images:
        shards = run.samples(t)
        asked = shards.labels()
        return Images(shards.gather(np.arange(n)), None if asked is None or labels is None else asked[:n])

    trained = n_train if fresh_needed(config, first_size(config, n_train)) else first_size(config, n_train)
    result = examine(
        real(n_train, n_train + n),
        real(0, n),
        [samples(t) for t in done],
        train=real(0, trained),
        unseen=real(n, n_train) if n_train > n else None,
        classes=about["classes"],
        extractors=[
            open_extractor(spec, fitted=run.path / "real" / "fitted.safetensors", device=device)
            for spec in specs
        ],
        neighbours=config.measure.neighbours,
        resamples=resamples,
        seed=seed,
        numbers=done,
    )
    for finding in result.findings:
        finding.chain = chain_of(run, finding.generation)
    return result


def chain_of(run: Any, generation: int) -> Chain:
    """What a run does already, by the training set of `generation` and by its config."""
    import pyarrow.parquet as parquet

    config = run.config
    pools = parquet.read_table(run.gen(generation) / "train_set.parquet", columns=["pool"])[
        "pool"
    ].to_pylist()
    fresh, real = pools.count("fresh_real") / len(pools), 1 - pools.count("synthetic") / len(pools)
    guidance = config.sample.guidance_scale
    for policy in config.policies:
        if policy.policy == "guidance_by_generation" and policy.acts("sampling", generation):
            guidance = policy.scale(generation, guidance)
    acting = tuple(
        policy.policy for policy in config.policies if policy.policy != "temperature" or policy.scale < 1
    )
    return Chain(real, fresh, guidance, config.train.start_from, acting)


def spaces(side: int) -> list[str]:
    """The feature spaces of a diagnosis: what one does not see the other may. Pixels only while there are few of them."""
    return list(dict.fromkeys((["pixels"] if side <= 64 else []) + [default_extractor()]))


def _labelling(
    sources: Mapping[str, Any], concepts: Any
) -> tuple[list[str] | None, Callable[[str, np.ndarray], np.ndarray | None]]:
    """The names of the classes, and (side, rows) -> labels: of the concepts that captions name, else of the reference's class folders."""
    from difflab.metrics import assign, read_concepts

    if concepts is not None:
        told = list(
            read_concepts(concepts, sources["reference"].prompts)
            if isinstance(concepts, (str, Path))
            else concepts
        )

        def by_caption(side: str, rows: np.ndarray) -> np.ndarray | None:
            source = sources[side]
            if source.prompts is None:
                return None
            found = assign([source.prompts[i] for i in rows], told).numpy()
            if (found < 0).any():
                raise DataError(
                    f"{side}: the caption '{source.prompts[rows[int((found < 0).argmax())]]}' names no concept; add it to the concepts"
                )
            return found

        return told, by_caption
    names = sources["reference"].classes
    if names is None:
        return None, lambda side, rows: None
    at = {name: i for i, name in enumerate(names)}

    def by_class(side: str, rows: np.ndarray) -> np.ndarray | None:
        source = sources[side]
        if source.labels is None or source.classes is None:
            return None
        foreign = [name for name in source.classes if name not in at]
        if foreign:
            raise DataError(
                f"{side}: class '{foreign[0]}' is none of the reference's ({', '.join(names[:8])}); name the folders alike"
            )
        return np.array([at[source.classes[i]] for i in source.labels[rows]], dtype=np.int64)

    return names, by_class


# ------------------------------------------------------------------------------------------------------ the readings
@dataclass
class _Real:
    """The real side of all readings: what samples and controls are measured against, and what is derived from it once.

    Samples and controls, which are made from `other`, are measured against one and the same `reference`, so that its chance cancels. The
    judges learn from `reference` (and from `unseen`), so that they mark nobody's homework.
    """

    reference: Images
    other: Images
    train: Images | None
    unseen: Images | None
    extractors: Sequence[Extractor]
    texture: Extractor
    classes: list[str] | None
    neighbours: int
    resamples: int
    seed: int
    known: frozenset[str] = frozenset()
    """Content of the training images, where so many of the reference are among them that these show nothing of unseen images."""
    judges: dict[str, Judge] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[np.ndarray, torch.Tensor]] = {}
        self.notes: dict[str, None] = {}  # what measures left out, each once, in order
        parts = [self.reference] + ([] if self.unseen is None else [self.unseen])
        labels = (
            np.concatenate([part.labels for part in parts])
            if all(part.labels is not None for part in parts)
            else np.zeros(0, np.int64)
        )  # type: ignore[misc]
        if not self.judges and len(np.unique(labels)) > 1:
            assert self.classes is not None
            for space in self.extractors:
                seen = torch.cat([self.features(space, part) for part in parts])
                self.judges[space.name] = Judge.fit(seen, torch.from_numpy(labels), len(self.classes))

    def features(self, space: Extractor, images: Images) -> torch.Tensor:
        """Features of `images`, each set extracted once."""
        key = (space.name, id(images.pixels))
        if key not in self._known:
            self._known[key] = (
                images.pixels,
                space(torch.from_numpy(images.pixels)),
            )  # pixels kept: an id lasts as long as its object
        return self._known[key][1]

    @cached_property
    def encoded(self) -> Images:
        return replace(self.other, pixels=look.reencoded(self.other.pixels))

    def content(self, images: Images, copies: bool = False) -> dict[Key, Found]:
        """Readings of `images` in the place of samples, in all spaces. copies: also against the training images."""
        out: dict[Key, Found] = {}
        for space in self.extractors:
            pair = Pair(
                self.features(space, self.reference),
                self.features(space, images),
                real_labels=_tensor(self.reference.labels),
                fake_labels=_tensor(images.labels),
                judge=self.judges.get(space.name),
                neighbours=self.neighbours,
            )
            out |= self.read(space.name, pair, METRICS_OF_CONTENT)
            if copies:
                out |= self.copies(space, self.features(space, images))
        return out

    def copies(self, space: Extractor, samples: torch.Tensor | None) -> dict[Key, Found]:
        """Readings against the training images of `samples`; None = of real images that were not trained on, the control."""
        if self.train is None:
            return {}
        own = self.features(space, self.reference)
        if self.known:
            unseen = ~within(contents_of(self.reference.pixels), self.known)
            if unseen.sum() < LEAST:
                return {
                    (space.name, name): f"{name} has no control: the reference images are training images"
                    for name in METRICS_OF_COPIES
                }
            own = own[torch.from_numpy(unseen)]
        pair = Pair(
            own,
            own if samples is None else samples,
            train=self.features(space, self.train),
            neighbours=self.neighbours,
        )
        return self.read(space.name, pair, METRICS_OF_COPIES)

    def look(self, images: Images) -> dict[Key, Found]:
        return self.read(
            "texture",
            Pair(self.features(self.texture, self.reference), self.features(self.texture, images)),
            METRICS_OF_LOOK,
        )

    def read(self, space: str, pair: Pair, metrics: Sequence[str]) -> dict[Key, Found]:
        """(value, standard error) of each measure by half-samples, or the reason why it has none."""
        out: dict[Key, Found] = {}
        for name in metrics:
            metric = METRICS[name]
            try:
                value = metric.of(pair)
                error = float(
                    np.std(
                        resampled(metric, pair, range(self.resamples), seed_of("diagnose", self.seed, name)),
                        ddof=1,
                    )
                )
            except MeasureError as reason:
                out[space, name] = str(reason)
                continue
            if metric.unit in SHARES:  # at 0 and 1 all half-samples agree
                low, high = wilson(value, len(pair.fake))
                error = max(error, (high - low) / 3.92)
            out[space, name] = (value, error)
            if left_out := metric.note(pair):
                self.notes[f"{name} ({space}): {left_out}"] = None
        return out

    def controls(self) -> dict[str, dict[Key, Found]]:
        """Readings of other real images as they are and re-encoded, in the place of samples."""
        out = {
            name: self.content(images) | self.look(images)
            for name, images in (("real images", self.other), ("re-encoded", self.encoded))
        }
        for space in self.extractors:
            out["real images"] |= self.copies(space, None)
        return out

    def only(self, kept: np.ndarray, n: int) -> _Real:
        """The same with the classes `kept` alone, and at most n images."""

        def part(images: Images) -> Images:
            return images[images.of(kept)][:n]

        return replace(self, reference=part(self.reference), other=part(self.other))


Key = tuple[str, str]
"""Feature space and measure."""
Found = tuple[float, float] | str
"""Value and standard error, or the reason why there is none."""
METRICS_OF_CONTENT = [*dict.fromkeys(sign.metric for name in CONTENT for sign in SIGNS[name]), REPEATS.metric]
METRICS_OF_LOOK = [
    *dict.fromkeys(sign.metric for signs in LOOKS.values() for sign in signs),
    "texture_distance",
]
METRICS_OF_COPIES = [sign.metric for sign in COPIES]


def _tensor(labels: np.ndarray | None) -> torch.Tensor | None:
    return None if labels is None else torch.from_numpy(labels)


def examine(
    reference: Images,
    other: Images,
    generations: Sequence[Images],
    *,
    train: Images | None = None,
    unseen: Images | None = None,
    classes: list[str] | None = None,
    extractors: Sequence[Extractor],
    neighbours: int = 5,
    resamples: int = 40,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    notes: list[str] | None = None,
) -> Diagnosis:
    """The diagnosis of sets of images in memory; `reference` and `other` are disjoint real images, of one kind and number.

    `train` are those that the first model was trained on; `unseen` are further labelled ones, not in `other`, for the judge to learn from.

    All sides are cut to the smallest number of images. Raises MeasureError below 30.
    """
    n = min(len(reference), len(other), *(len(g) for g in generations))
    if n < LEAST:
        raise MeasureError(
            f"a diagnosis wants {LEAST} images or more of every generation and twice as many real ones, got {n}"
        )
    equal = _Equal(
        contents_of(reference.pixels),
        contents_of(other.pixels),
        [] if train is None else contents_of(train.pixels),
    )
    real = _Real(
        reference[:n],
        other[:n],
        train,
        unseen,
        extractors,
        open_extractor("texture"),
        classes,
        neighbours,
        resamples,
        seed,
        equal.known,
    )
    findings: list[Finding] = []
    first: tuple[Images, dict[Key, Found]] | None = None
    controls = real.controls()
    for number, images in zip(numbers or range(len(generations)), generations, strict=True):
        finding, first = _finding(real, images[:n], controls, number, first, several=len(generations) > 1)
        equal.judge(finding, contents_of(images[:n].pixels))
        findings.append(finding)
    over_time(findings)
    recipe = {
        "extractors": [e.recipe for e in extractors],
        "n": n,
        "neighbours": neighbours,
        "resamples": resamples,
        "z": Z,
    }
    return Diagnosis(findings, [*(notes or []), *real.notes], recipe, equal.doubts)


class _Equal:
    """What sets have in common, pixel for pixel, and what that says. Content hashes: of both halves of the real images, of the training images.

    Only the first half is the control of copies. The other may have been trained on: in a run it is a part of the train split.

    A model makes no image that exists unless it has kept it; real images do where a set holds copies. So as many as there are
    copies within the sets, and what counts as relevant for copies on top, say nothing.
    """

    def __init__(self, control: list[str], other: list[str], train: list[str]):
        reference = [*control, *other]
        self.reference, self.train = reference, train
        self.least = max(doubled(reference), doubled(train)) + COPIES[0].relevant
        trained = int(within(reference, train).sum())
        self.known = frozenset(train if within(control, train).sum() > self.least * len(control) else [])
        self.doubts: list[str] = []
        if self.known:
            same = set(reference) == set(train)
            said = (
                "reference and train are the same images"
                if same
                else f"{_part(trained, len(reference))} reference images are training images"
            )
            self.doubts.append(
                f"{said}, pixel for pixel: near copies of training images cannot be told from what unseen real images show, and samples "
                "are nearer to the reference than to unseen images; give a reference that no model was trained on"
            )

    def judge(self, finding: Finding, samples: list[str]) -> None:
        """Note in a finding how many samples are real images, and what they are where those are many."""
        trained, unseen = (
            within(samples, self.train),
            within(samples, self.reference) & ~within(samples, self.train),
        )
        finding.equal = {"training images": int(trained.sum()), "reference images": int(unseen.sum())}
        finding.copies_told = not self.known
        for name, count in (("reference images", int(unseen.sum())), ("overfitting", int(trained.sum()))):
            if wilson(count / len(samples), len(samples))[0] > self.least and name not in finding.instead:
                finding.instead = [name, *finding.instead]


def _part(count: int, n: int) -> str:
    return f"all {n}" if count == n else f"{count} of {n}"


def _finding(
    real: _Real,
    images: Images,
    controls: dict[str, dict[Key, Found]],
    number: int,
    first: tuple[Images, dict[Key, Found]] | None,
    several: bool,
) -> tuple[Finding, tuple[Images, dict[Key, Found]]]:
    """The finding of one generation, and generation 0 with its readings (these very ones where `first` is None)."""
    own = _measure(real, images)
    if first is None:
        against = controls | {f"real images {LOOK}": _in_look(real, real.other, images)}
    else:
        against = controls | {
            "generation 0": first[1],
            f"generation 0 {LOOK}": _in_look(real, first[0], images),
        }
    readings, left_out = _readings(real, own, against, len(images))
    finding = judge(readings, number)
    gone = _gone(real, images)
    finding.left_out, finding.gone, finding.n = left_out, _names(real, gone), len(images)
    if len(gone):
        # What is still asked for, against real images of those classes alone: whatever is then not found was the missing classes.
        assert real.reference.labels is not None
        rest = _rest(real, images, np.setdiff1d(real.reference.labels, gone), number)
        if rest is not None and rest.stage in ("none", "cannot tell"):
            finding.stage, finding.instead = rest.stage, ["forgetting", *rest.instead]
        else:
            finding.instead = ["forgetting", *finding.instead]
    if first is None and several:
        # The first model has lost nothing yet where it falls short of real images; it is a control from here on.
        if finding.stage not in ("none", "cannot tell"):
            finding.stage, finding.instead = "none", ["weak first model", *finding.instead]
    elif first is not None and not finding.alarm and failed(readings):
        finding.instead = ["weak first model"]
    return finding, first or (images, own)


def _measure(real: _Real, images: Images) -> dict[Key, Found]:
    return real.content(images, copies=True) | real.look(images)


def _in_look(real: _Real, base: Images, samples: Images) -> dict[Key, Found]:
    """Readings of `base` given the look of `samples`."""
    return real.content(replace(base, pixels=look.matched(base.pixels, samples.pixels)))


def _rest(real: _Real, images: Images, kept: np.ndarray, number: int) -> Finding | None:
    n = min(len(images), *(int(side.of(kept).sum()) for side in (real.reference, real.other)))
    if n < LEAST:
        return None
    part = real.only(kept, n)
    own = _measure(part, images[:n])
    against = part.controls() | {f"real images {LOOK}": _in_look(part, part.other, images[:n])}
    return judge(_readings(part, own, against, n)[0], number)


def _readings(
    real: _Real, own: dict[Key, Found], against: dict[str, dict[Key, Found]], n: int
) -> tuple[dict[str, list[Reading]], dict[str, str]]:
    """Readings by definition, and why measures were left out."""
    variance = {
        space.name: trace_of_covariance(real.features(space, real.reference)) for space in real.extractors
    }
    left_out: dict[str, str] = {}

    def readings(signs: Sequence[Sign]) -> list[Reading]:
        out = []
        for sign in signs:
            for space in [key[0] for key in own if key[1] == sign.metric]:
                value = own[space, sign.metric]
                unread = against["real images"].get((space, sign.metric), "not taken between real images")
                controls = {
                    name: c
                    for name, found in against.items()
                    if isinstance(c := found.get((space, sign.metric)), tuple)
                    and (sign.in_look or not name.endswith(LOOK))
                }
                if isinstance(value, str) or isinstance(unread, str):
                    left_out[sign.metric] = (
                        value
                        if isinstance(value, str)
                        else f"{sign.metric} has no value between real images: {unread}"
                    )
                    continue
                unit = {
                    "floor": abs(controls["real images"][0]),
                    "variance": variance.get(space, 1.0),
                    "one": 1.0,
                }.get(sign.of, 1.0)
                out.append(Reading(sign, *value, controls, unit, n, space))
        return out

    groups = SIGNS | {
        "repeats": (REPEATS,),
        "copies": COPIES,
        "encoding": (Sign("texture_distance", "higher", 0.0, "one"),),
    }
    groups |= {f"look: {name}": signs for name, signs in LOOKS.items()}
    return {name: readings(signs) for name, signs in groups.items()}, left_out


def _gone(real: _Real, images: Images) -> np.ndarray:
    """Classes that real images show often enough and no sample was asked for (where samples have no labels: no sample shows)."""
    if real.reference.labels is None:
        return np.zeros(0, np.int64)
    shown = images.labels
    if shown is None:
        if not real.judges:
            return np.zeros(0, np.int64)
        space = real.extractors[-1]
        shown = real.judges[space.name].predict(real.features(space, images)).numpy()
    classes, counts = np.unique(real.reference.labels, return_counts=True)
    return classes[(counts >= EXPECTED) & ~np.isin(classes, shown)]


def _names(real: _Real, classes: np.ndarray) -> list[str]:
    return [real.classes[c] if real.classes is not None else str(c) for c in classes]
