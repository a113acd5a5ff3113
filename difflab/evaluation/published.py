"""Numbers as papers print them: all images of both sides, read, resized and measured as one package does it.

How the packages differ stands in `difflab.evaluation.protocols`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.hashing import content_hash, digest
from difflab.core.rows import Row, row
from difflab.data.near_copies import square_thumbnail
from difflab.data.stored import StoredImages, open_stored
from difflab.evaluation.extract import notes_on_copies, on_disk, with_consequences
from difflab.evaluation.overlap import Contents, shared_in_words
from difflab.evaluation.protocols import Printed, Protocol, Sides, protocol_of
from difflab.evaluation.reference import (
    Reference,
    check_fit,
    holds_images,
    holds_statistics,
    moments,
    read_reference,
)
from difflab.features.inception import Inception, open_inception_steps
from difflab.features.vgg import Vgg16, open_vgg_steps

BATCH = 64
"""Images in a forward pass."""
READERS = 4
"""Threads that decode and resize."""


def open_network(
    protocol: Protocol, extractors: Sequence[str] | None, device: str | torch.device = "cpu"
) -> Inception:
    """The Inception network with the resize of the protocol.

    Args:
        extractors: None, or one of `inception` and `inception:PATH`.

    Raises MeasureError for other extractors and for missing weights.
    """
    spec = "inception" if extractors is None else " ".join(extractors)
    name, _, path = spec.partition(":")
    if name != "inception" or (extractors is not None and len(extractors) != 1):
        raise MeasureError(
            f"published numbers are made on Inception, not on '{spec}'; give --extractors inception or "
            "inception:PATH"
        )
    return open_inception_steps(path or None, device, protocol.resize)


def open_second(
    protocol: Protocol, extractors: Sequence[str] | None, device: str | torch.device = "cpu"
) -> tuple[Vgg16 | None, list[str] | None]:
    """VGG-16 if `extractors` names it, and the other extractors; None = none is named.

    Raises MeasureError for a package that takes nothing on VGG-16.
    """
    named = [spec for spec in extractors or () if spec.partition(":")[0] == "vgg16"]
    others = [spec for spec in extractors or () if spec not in named] or None
    if not named:
        return None, others
    if all(printed.network != "vgg16" for printed in protocol.measures.values()):
        raise MeasureError(f"{protocol.package} takes no measure on VGG-16; leave vgg16 out")
    return open_vgg_steps(named[0].partition(":")[2] or None, device), others


def extracted(
    images: StoredImages, network: Inception | Vgg16, side: str, notes: list[str]
) -> tuple[Contents, Tensor]:
    """What identifies every image, and features float32 [n, d], mapped from a temporary file.

    Memory for images is that of one batch, and 3 KiB for each image. Copies within the set are added to
    `notes`.
    """

    def read(index: int) -> tuple[str, np.ndarray, Tensor]:
        image = images[index]
        return content_hash(image), square_thumbnail(image), network.prepared(torch.from_numpy(image))

    hashes: list[str] = []
    small: list[np.ndarray] = []
    features = torch.empty(0)
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(images), BATCH):
            batch = list(pool.map(read, range(start, min(len(images), start + BATCH))))
            hashes += [content for content, _, _ in batch]
            small += [thumbnail for _, thumbnail, _ in batch]
            part = network.features(torch.stack([prepared for _, _, prepared in batch]))
            if not start:
                features = on_disk(len(images), network.dim)
            features[start : start + len(part)] = part
    notes += notes_on_copies(side, hashes)
    return Contents(hashes, np.stack(small)), features


@dataclass(frozen=True)
class _Real:
    """The real side: features, statistics, or both."""

    features: Tensor | None
    reference: Reference | None
    hashes: list[str]

    @property
    def identity(self) -> str:
        """Hash of the real images, or of the moments where no images are known."""
        if self.reference is None:
            return digest(self.hashes)
        return self.reference.images or content_hash(self.reference.mean.numpy())[:12]

    @property
    def count(self) -> str:
        """How many real images there are, in words."""
        if self.reference is not None:
            return f"statistics of {self.reference.count or 'an unknown number of'} real images"
        return f"{len(self.hashes)} real images"


def compare_published(
    real: Any,
    generated: Any,
    name: str,
    reference: str | Path | None = None,
    metrics: Sequence[str] | None = None,
    extractors: Sequence[str] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[list[Row], list[str], str]:
    """The numbers of a published protocol.

    Args:
        real, generated: as for `difflab.compare`. `real` may be statistics, or None with `reference`.
        name: 'published' or 'published:PACKAGE'.
        reference: file of statistics that takes the place of the real images in FID.
        metrics: names of measures; None = all but the Inception Score.
        extractors: None, or `inception` or `inception:PATH`. `vgg16` or `vgg16:PATH` beside it takes
            precision and recall of torch-fidelity on VGG-16, as that package does by itself.
        seed: of KID of clean-fid, which sets no seed itself.

    Returns one row for every number that the package prints, notes, and the full name of the protocol. Raises
    DataError for unusable images, MeasureError for a protocol, measure or reference that cannot be used.
    """
    name, protocol = protocol_of(name)
    asked = protocol.asked(metrics)
    if reference is None and holds_statistics(real):
        reference, real = real, real if holds_images(real) else None
    statistics = None if reference is None else read_reference(reference)
    if real is None and statistics is None:
        raise MeasureError("give real images, or statistics of them with --reference STATS")
    notes: list[str] = []
    opened = {
        side: open_stored(what, side, notes)
        for side, what in (("real", real), ("generated", generated))
        if what is not None
    }
    second, others = open_second(protocol, extractors, device)
    network = open_network(protocol, others, device)
    if statistics is not None:
        notes += check_fit(statistics, network.recipe, network.dim, reference)
    found = {side: extracted(images, network, side, notes) for side, images in opened.items()}
    contents = {side: content for side, (content, _) in found.items()}
    fake, features = found["generated"][1], statistics.features if statistics else None
    if "real" in found:
        features = found["real"][1]
    notes[:0] = with_consequences(shared_in_words(contents))
    notes += _notes_on_files(protocol, opened)
    known = _Real(features, statistics, list(contents["real"].hashes) if "real" in contents else [])
    notes.append(f"{name}: {known.count} and {len(fake)} generated ones, all of them; {protocol.package}")
    sides = {"inception": Sides(features, fake, statistics, network.to_logits, seed)}
    recipes = {"inception": network.recipe}
    if second is not None:
        again = {side: extracted(images, second, side, [])[1] for side, images in opened.items()}
        sides["vgg16"] = replace(sides["inception"], real=again.get("real"), fake=again["generated"])
        recipes["vgg16"] = second.recipe
    return _rows(asked, sides, name, recipes, known), notes, name


def _notes_on_files(protocol: Protocol, opened: Mapping[str, StoredImages]) -> list[str]:
    """What the package's own command would not have read."""
    notes = []
    for side, images in opened.items():
        count = protocol.left_out(images)
        if count and protocol.suffixes:
            notes.append(
                f"{side}: {protocol.package} by itself reads only {', '.join(sorted(protocol.suffixes))}"
                f"{'' if protocol.deep else ' in the folder itself'}, so not {count} of these {len(images)}"
            )
    return notes


def _rows(
    asked: Mapping[str, Printed],
    sides: Mapping[str, Sides],
    name: str,
    recipes: Mapping[str, Mapping[str, Any]],
    real: _Real,
) -> list[Row]:
    """One row for every number; where a measure cannot be taken, rows with the reason.

    Args:
        sides, recipes: by network.
    """
    rows = []
    for key, printed in asked.items():
        network = printed.network if printed.network in sides else "inception"
        values: Sequence[float | None]
        try:
            values, reason = printed.take(sides[network]), None
        except MeasureError as error:
            values, reason = [None] * len(printed.names), str(error)
        recipe = digest(
            {"protocol": name, "measure": key, "extractor": recipes[network], "n": len(sides[network].fake)}
            | {"real": real.identity}
        )
        for label, value in zip(printed.names, values, strict=True):
            if value is not None:
                value = float(value)
            made = row(0, label, network, value, None, len(sides[network].fake), None, recipe, reason)
            rows.append(made | {"protocol": name})
    return rows


def make_reference(
    images: Any,
    name: str,
    *,
    extractors: Sequence[str] | None = None,
    with_features: bool = False,
    device: str | torch.device = "cpu",
) -> tuple[Reference, list[str]]:
    """Statistics of all images of a set for a published protocol, and notes.

    Args:
        images, name, extractors: as for `compare_published`.
        with_features: keep the features too, which KID, precision and recall need.

    Raises DataError for unusable images, MeasureError for an unknown protocol and missing weights.
    """
    _, protocol = protocol_of(name)
    notes: list[str] = []
    opened = {"real": open_stored(images, "real", notes)}
    network = open_network(protocol, extractors, device)
    contents, features = extracted(opened["real"], network, "real", notes)
    hashes = list(contents.hashes)
    notes += _notes_on_files(protocol, opened)
    kept = features if with_features else None
    return Reference(*moments(features), len(hashes), network.recipe, digest(hashes), kept), notes
