"""What the record of an audit says about the images of a source, and about the source as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.core.text import plain
from difflab.data.audit_record import BITS, AuditRecord
from difflab.data.declared import Declared

PREFIX = "audit: "
"""How `declared_by` begins of an image whose origin an audit found."""
DECISIONS = (
    # what was found, the layer of data.audit_layers that it belongs to, the origin; the first one decides
    ("signed", "declared synthetic", "synthetic"),
    ("declared synthetic", "declared synthetic", "synthetic"),
    ("known synthetic", "known synthetic", "synthetic"),
    ("watermark", "watermark", "synthetic"),
    ("hidden text", "hidden text", "synthetic"),
    ("declared real", None, "real"),
    ("known real", None, "real"),
    ("probe", "probe", "synthetic"),
    ("file name", "file name", "synthetic"),
)


@dataclass(frozen=True)
class Audited:
    """The images of a source in the record of an audit.

    Attributes:
        record: the record.
        found: what was found in each image of the source; None = the image is not in the record, or nothing
            decides its origin.
        missing: images of the source that are not in the record.
        whole: whether the share of the record is that of the source: all images of the source are in the
            record, and all of the record are in the source, or the source is a random part (data.limit,
            data.tail).
    """

    record: AuditRecord
    found: list[Declared | None]
    missing: int
    whole: bool

    def summary(self, origins: Sequence[Declared]) -> dict[str, Any]:
        """What a run stores of the audit, for JSON. `origins`: of the images, after the audit was used."""
        by_audit = Counter(entry.declared_by for entry in origins if entry.declared_by.startswith(PREFIX))
        return {
            "images": self.record.images,
            "used": len(self.found),
            "missing": self.missing,
            "found": dict(sorted(by_audit.items())),
            "share": self.record.share if self.whole else None,
        }


def audited(record: AuditRecord, identities: Sequence[str], data: Data) -> Audited:
    """Look up the images of a source. `identities`: of `audit_record.identities`, of all its images.

    Raises DataError if no image is in the record.
    """
    bits, present = record.look_up(identities)
    missing = int((bits < 0).sum())
    if missing == len(bits):
        raise DataError(
            f"data.audit={plain(record.path)} is the record of other images: none of the {len(bits):,} "
            f"images of {plain(data.source)} is in it; audit this set with difflab audit DATASET --out FOLDER"
        )
    decisions = {int(value): _decided(int(value), data) for value in np.unique(bits)}
    drawn = data.limit is not None or data.tail.kind != "none"
    whole = not missing and (drawn or present == record.readable)
    return Audited(record, [decisions[value] for value in bits.tolist()], missing, whole)


def _decided(bits: int, data: Data) -> Declared | None:
    """The origin that follows from what was found."""
    for name, layer, origin in DECISIONS:
        if bits > 0 and bits & BITS[name] and (layer is None or layer in data.audit_layers):
            depth = 1 if origin == "synthetic" else 0
            return Declared(origin, depth, PREFIX + name)  # type: ignore[arg-type]
    return None


def with_audit(declared: Sequence[Declared], audit: Audited) -> tuple[list[Declared], list[str]]:
    """The origins of images that declare nothing, as the audit found them; and sentences about it."""
    out, contradicted = [], 0
    for entry, found in zip(declared, audit.found, strict=True):
        contradicted += found is not None and {found.origin, entry.origin} == {"real", "synthetic"}
        out.append(found if found is not None and entry.origin == "unknown" else entry)
    used = Counter(entry.declared_by for entry in out if entry.declared_by.startswith(PREFIX))
    synthetic = sum(entry.origin == "synthetic" and entry.declared_by in used for entry in out)
    layers = ", ".join(f"{name.removeprefix(PREFIX)}: {count:,}" for name, count in used.most_common())
    notes = [
        f"of the images that declare nothing, the audit finds {synthetic:,} synthetic and "
        f"{used.total() - synthetic:,} real" + (f" ({layers})" if layers else "")
    ]
    if audit.missing:
        notes.append(
            f"{audit.missing:,} of {len(out):,} images are not in the audit, which says nothing about them"
        )
    if contradicted:
        notes.append(
            f"the audit contradicts the declaration of {contradicted:,} images; the declaration counts"
        )
    if share := share_text({"share": audit.record.share if audit.whole else None}):
        notes.append(share)
    elif not audit.whole:
        notes.append(
            "the share that the audit estimates is not used, because it is that of another set of images"
        )
    return out, notes


def share_text(summary: dict[str, Any] | None) -> str:
    """The share that the audit estimates, with its interval; "" if it has no estimate."""
    estimate = ((summary or {}).get("share") or {}).get("estimate")
    if estimate is None:
        return ""
    return (
        f"the audit estimates that {estimate['estimate']:.1%} of the whole set are synthetic, 95% interval "
        f"{estimate['low']:.1%} to {estimate['high']:.1%}"
    )
