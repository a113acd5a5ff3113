"""Rewards: one number per sample, by which selection policies rank samples.

A reward is named in a config as `NAME` or `NAME:ARGUMENT`, for example `likeness:pixels` or
`aesthetic:heads/vit-l-14.safetensors`. To add one, write a function
(at, candidates, argument) -> float64 [n] under ``@reward``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch.nn.functional import normalize

from difflab.core.errors import ConfigError, MeasureError
from difflab.core.ragged import each_size
from difflab.core.suggest import nearest
from difflab.features.aesthetic import AestheticHead
from difflab.metrics.memorisation import nearest_real
from difflab.policies.interface import At

Scorer = Callable[[At, Any, str | None], np.ndarray]


@dataclass(frozen=True)
class Reward:
    """One reward.

    Attributes:
        of: the function (at, candidates, argument) -> float64 [n].
        reads: what the reward is computed from. features = features of one extractor; text = features of an
            open_clip extractor and texts; pixels; numbers = values of the exact families; nothing.
        argument: what the argument after the colon means; None = the reward takes no argument.
        required: whether the argument is required.
    """

    of: Scorer
    reads: Literal["features", "text", "pixels", "numbers", "nothing"]
    argument: str | None = None
    required: bool = False


REWARDS: dict[str, Reward] = {}


def reward(
    name: str, reads: Any = "pixels", argument: str | None = None, required: bool = False
) -> Callable[[Scorer], Scorer]:
    """Function decorator: register a reward under its name. The other arguments are those of `Reward`.

    A function with the same name replaces the earlier one, so a notebook cell can be run again.
    """

    def enter(of: Scorer) -> Scorer:
        if name in REWARDS and REWARDS[name].of.__qualname__ != of.__qualname__:
            raise ValueError(f"reward '{name}' is defined twice")
        REWARDS[name] = Reward(of, reads, argument, required)
        return of

    return enter


def find(spec: str) -> tuple[Reward, str | None]:
    """The reward that `spec` names, and its argument. Raises ValueError that lists the known rewards."""
    name, _, argument = spec.partition(":")
    if name not in REWARDS:
        raise ValueError(f"unknown reward '{name}'; {nearest(name, sorted(REWARDS), 0.6)}")
    entry = REWARDS[name]
    if argument and entry.argument is None:
        raise ValueError(f"reward '{name}' takes no argument; got '{argument}'")
    if entry.required and not argument:
        raise ValueError(f"reward '{name}' needs {entry.argument} as its argument: {name}:...")
    return entry, argument or None


def scores(spec: str, at: At, candidates: Any) -> np.ndarray:
    """The reward of each candidate, float64 [n].

    Raises MeasureError if a reward is not finite. The message names the first such sample.
    """
    scorer, argument = find(spec)
    out = np.asarray(scorer.of(at, candidates, argument), dtype=np.float64)
    bad = ~np.isfinite(out)
    if bad.any():
        first = int(bad.argmax())
        raise MeasureError(
            f"reward {spec}: sample {candidates.index[first]} of generation {candidates.generation} has the "
            f"reward {out[first]:g} ({int(bad.sum())} of {len(out)} samples have no finite reward); look at "
            "that image"
        )
    return out


def check(config: Any, policy: str, spec: str) -> None:
    """Raise ConfigError if samples of this config cannot have this reward."""
    reward, argument = find(spec)
    family = config.model.family
    if config.exact and reward.reads not in ("numbers", "nothing"):
        raise ConfigError(
            f"policies: {policy}: reward {spec} is computed from images, but the samples of "
            f"model.family={family} are numbers; use the reward value"
        )
    if reward.reads == "numbers" and (not config.exact or config.model.dimension > 1):
        raise ConfigError(
            f"policies: {policy}: reward {spec} needs samples that are one number each, but those of "
            f"model.family={family} are not"
        )
    if reward.reads == "features":
        check_features(config, policy, argument if reward.argument == "an extractor" else None)
    if reward.reads == "text":
        check_features(config, policy, None)
        if not any(name.startswith("open_clip") for name in config.measure.extractors):
            raise ConfigError(
                f"policies: {policy}: reward {spec} needs CLIP features; add open_clip:NAME_OR_PATH to "
                "measure.extractors"
            )
    if spec.startswith("class_confidence") and not config.conditional:
        raise ConfigError(
            f"policies: {policy}: reward {spec} compares a sample with its requested class, but the samples "
            "of this model have no requested class"
        )


def check_features(config: Any, policy: str, extractor: str | None) -> None:
    """Raise ConfigError if this run does not compute the features of `extractor`.

    None = the extractor of the class judge.
    """
    specs = config.measure.extractors
    if not config.measure.metrics or not config.measure.feature_extractors:
        raise ConfigError(
            f"policies: {policy} needs features, but a run extracts features only if it has measures; name "
            "an extractor in measure.extractors and a measure in measure.metrics"
        )
    if extractor is not None and extractor not in specs:
        raise ConfigError(
            f"policies: {policy}: extractor '{extractor}' is not in measure.extractors {specs}; add it there"
        )


@reward("chance", "nothing")
def chance(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """A uniform random number in [0, 1).

    It is the control of every other reward: it keeps equally many samples.
    """
    return at.rng("chance").random(at.config.sample.count_of(candidates.generation))[candidates.index]


@reward("value", "numbers")
def value(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """The sample itself, for the exact families: its value, or the number of its category."""
    return candidates.images()[:, 0, -1]


@reward("class_confidence", "features", "an extractor")
def class_confidence(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """The probability that the class judge gives to the requested class, 0 to 1."""
    labels = candidates.labels
    if labels is None:
        raise MeasureError("reward class_confidence: these samples have no requested class")
    extractor = at.extractor(argument)
    return (
        candidates.judge(extractor)
        .probabilities(candidates.features(extractor))
        .numpy()[np.arange(len(labels)), labels]
    )


@reward("confidence", "features", "an extractor")
def confidence(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """The largest probability that the class judge gives to any class, 0 to 1 (Ferbach et al. 2407.09499)."""
    extractor = at.extractor(argument)
    return candidates.judge(extractor).probabilities(candidates.features(extractor)).amax(1).numpy()


@reward("shows", "features", "the name of a class", required=True)
def shows(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """The probability that the class judge gives to one named class, 0 to 1 (Ferbach et al. 2407.09499)."""
    known, extractor = candidates.run.about["classes"], at.extractor()
    if argument not in known:
        raise ConfigError(
            f"policies: reward shows:{argument}: '{argument}' is not one of the classes "
            f"{', '.join(known[:20])}"
        )
    return (
        candidates.judge(extractor)
        .probabilities(candidates.features(extractor))[:, known.index(argument)]
        .numpy()
    )


@reward("likeness", "features", "an extractor")
def likeness(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """The negative feature distance to the nearest image of generation 0's training set; 0 for copies."""
    extractor = at.extractor(argument)
    return -nearest_real(candidates.features(extractor), candidates.real(extractor)[0])[0].double().numpy()


@reward("clip_score", "text")
def clip_score(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """The CLIP score: the cosine similarity of a sample and its prompt or class name, -1 to 1.

    The first open_clip extractor embeds both.
    """
    reader = _reader(at)
    rows = candidates.rows
    requested = next(
        (rows[name].to_pylist() for name in ("prompt", "class") if not rows[name].null_count), None
    )
    if requested is None:
        raise MeasureError("reward clip_score: these samples have neither a prompt nor a requested class")
    texts = sorted(set(requested))
    embeddings = candidates.once(
        ("texts", reader.key, *texts), lambda: normalize(reader.encode_text(texts).double(), dim=1)
    )
    wanted = embeddings[[texts.index(text) for text in requested]]
    return (normalize(candidates.features(reader).double(), dim=1) * wanted).sum(1).numpy()


@reward("aesthetic", "text", "the file of a head", required=True)
def aesthetic(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """The score of an aesthetic head (see AestheticHead) on the first open_clip extractor, about 1 to 10."""
    reader = _reader(at)
    head = candidates.once(("head", argument, reader.key), lambda: AestheticHead.load(str(argument), reader))
    return head(candidates.features(reader)).double().numpy()


@reward("brightness")
def brightness(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """Mean luminance, 0 to 1."""
    return _pixelwise(candidates, lambda x: _luminance(x).mean((1, 2)))


@reward("saturation")
def saturation(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """The saturation (max - min) / max over the channels, averaged over pixels, 0 to 1."""

    def per_image(x: np.ndarray) -> np.ndarray:
        if x.shape[-1] == 1:
            raise MeasureError("reward saturation: grey images have no colour")
        most = x.max(-1)
        return ((most - x.min(-1)) / np.maximum(most, 1 / 255)).mean((1, 2))

    return _pixelwise(candidates, per_image)


@reward("sharpness")
def sharpness(at: At, candidates: Any, argument: str | None) -> np.ndarray:
    """The variance of the 4-neighbour Laplacian of the luminance (0 to 1), without the border pixels."""

    def per_image(x: np.ndarray) -> np.ndarray:
        light = _luminance(x)
        return (
            light[:, :-2, 1:-1]
            + light[:, 2:, 1:-1]
            + light[:, 1:-1, :-2]
            + light[:, 1:-1, 2:]
            - 4 * light[:, 1:-1, 1:-1]
        ).var((1, 2))

    return _pixelwise(candidates, per_image)


def _pixelwise(candidates: Any, per_image: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`per_image`, applied to images float64 [n, H, W, C] in 0..1, block by block."""
    return np.concatenate(
        [each_size(block.images(), lambda images: per_image(images / 255)) for block in candidates.blocks()]
    )


def _luminance(x: np.ndarray) -> np.ndarray:
    return x[..., 0] if x.shape[-1] == 1 else x @ np.array([0.299, 0.587, 0.114])


def _reader(at: At) -> Any:
    """The first extractor that embeds texts."""
    for extractor in at.extractors:
        if extractor.encode_text is not None:
            return extractor
    raise MeasureError("this reward needs CLIP features; add open_clip:NAME_OR_PATH to measure.extractors")
