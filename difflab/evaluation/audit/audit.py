"""`difflab.audit`: how much of an image set is synthetic, and how sure that is.

Each image is read once, and seen by several layers: what its metadata declares, its name and size,
invisible watermarks, copies, and a probe if images of known origin are given. The layers are counted apart.
The share of synthetic images is *at least* what is declared; an *estimate* with an interval if the errors of
the probe were measured on images of known origin, or if a part of the set is labelled; or *cannot tell*.

It never says that an image is real because nothing was found in it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab.config import Data
from difflab.config.data import AUDIT_FILES
from difflab.core.errors import DataError
from difflab.core.files import write_json
from difflab.core.hashing import digest
from difflab.core.size import Size, size_of
from difflab.data.audit_record import VERSION
from difflab.data.hub import list_hub
from difflab.data.image_sets import listing_of
from difflab.data.listing import Listing
from difflab.evaluation.audit import clean
from difflab.evaluation.audit.copies import Known, Thumbnails, drawn, read_known
from difflab.evaluation.audit.labels import read_labels
from difflab.evaluation.audit.layers import Counts, Tally
from difflab.evaluation.audit.probe import Probe, fit_probe
from difflab.evaluation.audit.record import Record, line_of
from difflab.evaluation.audit.result import Audit
from difflab.evaluation.audit.share import Evidence, share_of
from difflab.evaluation.audit.stream import Options, View, stream
from difflab.evaluation.extract import default_extractor
from difflab.features.registry import open_extractor

FILE, RESULT = AUDIT_FILES
Progress = Callable[[int, int], None]
"""Called with the number of images that were looked at, and of all."""


def audit(
    dataset: Any,
    *,
    calibrate: tuple[Any, Any] | None = None,
    labels: str | Path | None = None,
    known_synthetic: Any = None,
    known_real: Any = None,
    extractors: Sequence[str] | None = None,
    image_size: int | Sequence[int] | None = None,
    metadata_only: bool = False,
    keep_text: bool = False,
    out: str | Path | None = None,
    write: str | Path | None = None,
    leave_out: Sequence[str] | None = None,
    weight: Mapping[str, float] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Audit:
    """Count what each layer says about the origin of the images, and estimate the share of synthetic ones.

    Args:
        dataset: what `difflab.compare` takes, or hub:NAME.
        calibrate: (real, synthetic), image sets of known origin for the probe, disjoint from `dataset`.
        labels: CSV file with file_name,label (real or synthetic) of images of `dataset` drawn at random.
        known_synthetic, known_real: image sets that are searched for copies.
        extractors: feature spaces of the probe; None = texture, and efficientnet-lite0 or else pixels.
        image_size: of the probe, as in `compare`; None = the typical shorter side, at most 256.
        metadata_only: read headers only; no pixels, copies, watermarks or probe.
        keep_text: store names and metadata texts in `out`, not only hashes and counts.
        out: folder of the record, with which a second call goes on.
        write: folder for the images that no layer of `leave_out` finds, see `clean.write_clean`.
        leave_out: of `clean.LAYERS`; None = those of `clean.DEFAULT` that have no weight.
        weight: layer -> weight from 0 to 1 in the loss of the images that it finds, in what is written.
        seed, device, progress: of random choices; where networks run; called after each part.

    Raises DataError for unusable sets, labels and folders, StoreError for a damaged record.

    >>> found = audit(np.zeros((3, 8, 8, 3), np.uint8))
    >>> found["exact copies"].count, found.share.declared, found.share.estimate
    (2, 0.0, None)
    """
    chosen = _layers_to_leave_out(leave_out, weight, write)
    _check_metadata_only(metadata_only, calibrate, known_synthetic, known_real)
    notes: list[str] = []
    listing = _listing(dataset, notes)
    probe = None if calibrate is None else _probe(calibrate, extractors, image_size, seed, device, notes)
    evidence = Evidence(probe, None if labels is None else read_labels(Path(labels), listing.keys))
    sets = {"known synthetic": known_synthetic, "known real": known_real}
    known = [read_known(images, name, seed, notes) for name, images in sets.items() if images is not None]
    work = _Work(listing, evidence, known, not metadata_only, keep_text, seed, progress)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if out is None else Path(out).expanduser()
        counts = work.counts(folder / FILE)
        result = work.result(counts, notes)
        if out is not None:
            write_json(folder / RESULT, result.as_dict(keep_text) | work.per_image(counts))
    if write is not None:
        work.write_clean(counts, chosen, weight, Path(write).expanduser())
    return result


def _layers_to_leave_out(
    leave_out: Sequence[str] | None, weight: Mapping[str, float] | None, write: str | Path | None
) -> tuple[str, ...]:
    """Raises DataError for unknown layers and impossible weights, and if `write` exists."""
    weighted = weight or {}
    if leave_out is None:
        leave_out = [name for name in clean.DEFAULT if name not in weighted]
    chosen = tuple(leave_out)
    clean.check_layers(chosen)
    clean.check_weights(weighted, chosen)
    if write is not None:
        clean.check_out(Path(write).expanduser())
    return chosen


def _check_metadata_only(metadata_only: bool, *sets: Any) -> None:
    if metadata_only and any(images is not None for images in sets):
        raise DataError(
            "metadata only: calibrate, known synthetic and known real need pixels; leave one of them out"
        )


def _listing(dataset: Any, notes: list[str]) -> Listing:
    """The images of any kind of set; a string may begin with hub:, imagefolder: or parquet:."""
    if isinstance(dataset, (str, Path)):
        kind, colon, argument = str(dataset).partition(":")
        if colon and kind == "hub":
            return list_hub(Data(source=f"hub:{argument}"), argument)
        dataset = re.sub(r"^(imagefolder|parquet):", "", str(dataset))
    return listing_of(dataset, "audit", notes)


def _probe(
    calibrate: tuple[Any, Any],
    extractors: Sequence[str] | None,
    image_size: int | Sequence[int] | None,
    seed: int,
    device: str | torch.device,
    notes: list[str],
) -> Probe:
    try:
        size: Size | None = None if image_size is None else size_of(image_size)
    except ValueError as error:
        raise DataError(f"image_size {error} (got {image_size!r})") from error
    names = list(extractors or (default_extractor(), "texture"))
    opened = [open_extractor(name, device=device) for name in names]
    return fit_probe(*calibrate, opened, size, seed, notes)


@dataclass
class _Work:
    """One audit: its images, what is known, and how they are looked at."""

    listing: Listing
    evidence: Evidence
    known: list[Known]
    pixels: bool
    keep_text: bool
    seed: int
    progress: Progress | None

    @property
    def settings(self) -> dict[str, Any]:
        """What determines the lines of the record."""
        probe = self.evidence.probe
        settings: dict[str, Any] = {
            "images": digest([self.listing.keys]),
            "pixels": self.pixels,
            "text": self.keep_text,
            "calibration": None,
        }
        if probe is not None:
            recipes = [extractor.recipe for extractor in probe.extractors]
            settings["calibration"] = digest([sorted(probe.contents), recipes, list(probe.size), self.seed])
        return settings

    def counts(self, path: Path) -> Counts:
        """Look at all images that the record at `path` does not hold yet, then count."""
        keys, probe = self.listing.keys, self.evidence.probe
        record = Record(path, self.settings)
        thumbnails = Thumbnails(
            self.listing, drawn(len(keys), self.seed, "audit") if self.pixels else frozenset()
        )
        options = Options(self.pixels, self.pixels, None if probe is None else probe.size)
        for views in stream(self.listing, range(record.done, len(keys)), options, thumbnails.chosen):
            for view in views:
                if view.thumbnail is not None:
                    thumbnails.by_position[view.position] = view.thumbnail
            scores = self._scores(views)
            record.append(
                [
                    line_of(view, keys[view.position], scores.get(view.position), self.keep_text)
                    for view in views
                ]
            )
            if self.progress is not None:
                self.progress(record.done, len(keys))
        tally = Tally.of(record, len(keys))
        if not tally.readable.any():
            raise DataError(f"{self.listing.where}: none of the {len(keys):,} images can be read")
        counts = Counts(tally, keys)
        counts.add_readable()
        if self.pixels:
            compared = counts.add_copies(thumbnails)
            for known in self.known:
                counts.add_known(known, *compared)
        counts.add_of_one_image(self.pixels, self.pixels)
        if probe is not None:
            counts.add_probe(probe.threshold)
        return counts

    def _scores(self, views: Sequence[View]) -> dict[int, float]:
        """Position -> score of the probe; {} without one."""
        probe = self.evidence.probe
        small = [view for view in views if view.small is not None]
        if probe is None or not small:
            return {}
        scores = probe.score(np.stack([view.small for view in small]))  # type: ignore[misc]
        return dict(zip([view.position for view in small], scores.tolist(), strict=True))

    def per_image(self, counts: Counts) -> dict[str, Any]:
        """What a reader of the record cannot find in its lines: positions, and the threshold of the probe."""
        masks, probe = counts.masks, self.evidence.probe
        nothing = np.zeros(counts.tally.n, bool)
        per_image = {
            "known_synthetic": np.flatnonzero(masks.get("known synthetic", nothing)).tolist(),
            "known_real": np.flatnonzero(masks.get("known real", nothing)).tolist(),
            "probe_threshold": None if probe is None else probe.threshold,
        }
        return {"difflab_audit": VERSION, "per_image": per_image}

    def write_clean(
        self, counts: Counts, leave_out: Sequence[str], weight: Mapping[str, float] | None, out: Path
    ) -> None:
        """Write the set without what the layers of `leave_out` find, with weights for those of `weight`."""
        reasons = clean.reasons_of(counts.masks, counts.tally.readable, leave_out)
        weights = None if weight is None else clean.weights_of(counts.masks, weight)
        clean.write_clean(self.listing, reasons, out, weights)

    def result(self, counts: Counts, notes: list[str]) -> Audit:
        tally, probe = counts.tally, self.evidence.probe
        if probe is not None:
            trained = int(tally.equal_to(probe.contents).sum())
            if trained:
                notes.append(
                    f"{trained:,} audited images are calibration images; the rates do not hold for them: "
                    "give images "
                    "that are not in the set"
                )
        found = np.zeros(tally.n, bool)
        for name, mask in counts.masks.items():
            if name not in ("cannot be read", "exact copies", "near copies"):
                found |= mask
        return Audit(
            tally.n,
            int((~tally.readable).sum()),
            int((tally.readable & ~found).sum()),
            tuple(counts.layers),
            share_of(counts, self.listing.keys, self.evidence),
            tuple(notes + [f"audit: {line}" for line in self.listing.account.notes]),
        )
