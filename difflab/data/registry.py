"""Open the source that `data.source` names, then apply data.label, data.caption, data.tail and data.limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.core.suggest import closest
from difflab.data import builtin, emoji, hub, imagefolder, parquet
from difflab.data.source import NO_LABELS, Source
from difflab.data.subset import limited, subset, zipf

PLAIN = ("digits", "emoji", "mnist5k", "photos")
WITH_ARGUMENT = {"imagefolder": "imagefolder:PATH", "parquet": "parquet:PATH", "hub": "hub:NAME"}


def open_source(data: Data, seed: int) -> Source:
    """Open `data.source`, then apply data.label, data.caption, data.tail and data.limit.

    data.tail and data.limit draw images at random, with data.split_seed, or with `seed` if that is null.

    Raises DataError for an unknown source, missing files or packages, images that cannot be used, and options
    that do not apply to the source.
    """
    kind, colon, argument = data.source.partition(":")
    seed = data.drawn_with(seed)
    if data.styles is not None and kind != "emoji":
        raise DataError(
            f"data.styles applies only to data.source=emoji; remove it for data.source={data.source}"
        )
    if data.caption_column is not None and kind in PLAIN:
        raise DataError(
            f"data.caption_column applies only to your own images; remove it for data.source={data.source}, "
            "or set data.caption instead"
        )
    if data.buckets is not None and kind in PLAIN:
        raise DataError(
            f"data.buckets applies only to your own images: those of data.source={data.source} have one "
            "size; remove it, or set data.image_size"
        )
    source = _open(kind, argument if colon else None, data)
    if data.label == NO_LABELS:
        source = replace(source, labels=None, classes=None)
    if data.caption is not None:
        source = replace(source, prompts=_captions(source, data.caption))
    if data.tail.kind == "zipf":
        source = subset(source, zipf(source, data.tail.exponent, seed))
    if data.limit is not None and data.limit < len(source):
        source = subset(source, limited(source, data.limit, seed))
    return source


def _open(kind: str, argument: str | None, data: Data) -> Source:
    """Open a source of one kind.

    Raises DataError for an unknown kind, and for a wrong or missing argument.
    """
    if kind == "exact":
        raise DataError(
            "data.source=exact has no images; use it with model.family=gaussian, mixture or categorical"
        )
    if kind in PLAIN and argument is not None:
        raise DataError(f"data.source={data.source}: {kind} takes no argument; use data.source={kind}")
    if kind in WITH_ARGUMENT and not argument:
        raise DataError(f"data.source={data.source} needs an argument; use data.source={WITH_ARGUMENT[kind]}")
    openers: dict[str, Callable[..., Source]] = {
        "digits": builtin.open_digits,
        "mnist5k": builtin.open_mnist5k,
        "photos": builtin.open_photos,
        "emoji": emoji.open_emoji,
        "imagefolder": imagefolder.open_folder,
        "parquet": parquet.open_parquet,
        "hub": hub.open_hub,
    }
    if kind not in openers:
        known = [*PLAIN, *WITH_ARGUMENT.values(), "exact"]
        hint = ""
        for match in closest(kind, [*openers, "exact"], cutoff=0.5):
            hint = f"did you mean {WITH_ARGUMENT.get(match, match)}? "
        raise DataError(f"unknown data.source={data.source}; {hint}Known: {', '.join(known)}")
    return openers[kind](data) if argument is None else openers[kind](data, argument)


def _captions(source: Source, text: str) -> list[str]:
    """One caption per image from a template with fields: {class}, {prompt} or the name of an attribute.

    Raises DataError for a field that the images do not have.
    """
    known = dict(source.attributes)
    if source.labels is not None and source.classes is not None:
        known["class"] = [source.classes[label] for label in source.labels.tolist()]
    if source.prompts is not None:
        known["prompt"] = source.prompts
    try:
        return [
            text.format_map({name: values[i] for name, values in known.items()}) for i in range(len(source))
        ]
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        names = ", ".join(f"{{{name}}}" for name in known) or "none"
        if source.columns:
            names += f"; columns that data.caption_column may name: {', '.join(source.columns)}"
        raise DataError(
            f"data.caption '{text}': these images have no field {error}; known fields: {names}"
        ) from None
