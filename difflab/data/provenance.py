"""The origin of every image of a source, and its depth, under the setting `data.provenance`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.audited import Audited, with_audit
from difflab.data.declared import Declared, decided
from difflab.data.source import Source

BUNDLED = Declared("real", 0, "bundled")
"""The origin of images that ship with difflab."""
TRUSTED = Declared("real", 0, "trust")
"""The origin of every image with data.provenance=trust."""


def origins(source: Source, data: Data, audit: Audited | None = None) -> list[Declared]:
    """The origin of each image of a source. Only headers are read.

    Sentences about synthetic images and contradictions are added to the notes of the account.

    Raises DataError with data.provenance=require, if an image has no evidence of a real origin.

    Args:
        audit: decides about images that declare nothing; None = there is none.
    """
    if source.declare is None:
        return [BUNDLED] * len(source)
    if data.provenance == "trust":
        return [TRUSTED] * len(source)
    layers = [source.declare(i) for i in range(len(source))]
    found = [decided(of_image) for of_image in layers]
    declared_note = note_of(found)
    notes_of_audit: list[str] = []
    if audit is not None:
        found, notes_of_audit = with_audit(found, audit)
    if data.provenance == "require":
        _require_real(source, found)
    disagreeing = sum(len({layer.origin for layer in of_image} - {"unknown"}) == 2 for of_image in layers)
    notes = [declared_note, disagreement(disagreeing), *notes_of_audit]
    source.account.notes.extend(note for note in notes if note)
    return found


def note_of(found: Sequence[Declared]) -> str:
    """One sentence about the images that declare that they are synthetic; "" if there are none.

    >>> note_of([Declared("synthetic", 6, "table"), Declared("real", 0, "iptc")])
    '1 of 2 images (50%) declare that they are synthetic (table: 1; depth 6) and count as such'
    """
    synthetic = [entry for entry in found if entry.origin == "synthetic"]
    if not synthetic:
        return ""
    depths = [entry.depth or 1 for entry in synthetic]
    span = f"{min(depths)} to {max(depths)}" if min(depths) < max(depths) else f"{max(depths)}"
    by_layer = Counter(entry.declared_by for entry in synthetic)
    layers = ", ".join(f"{layer}: {count:,}" for layer, count in by_layer.most_common())
    return (
        f"{len(synthetic):,} of {len(found):,} images ({percent(len(synthetic), len(found))}) declare that "
        f"they are synthetic ({layers}; depth {span}) and count as such"
    )


def disagreement(count: int) -> str:
    """A sentence about images whose layers contradict each other; "" if there are none."""
    if not count:
        return ""
    return f"{count:,} images declare both a real and a synthetic origin, and the first layer counts"


def percent(part: int, whole: int) -> str:
    """A share in percent with three digits.

    >>> percent(1, 3), percent(1, 2)
    ('33.3%', '50%')
    """
    return f"{100 * part / whole:.3g}%"


def _require_real(source: Source, found: Sequence[Declared]) -> None:
    """Raise DataError if any image has no evidence of a real origin."""
    refused = [i for i, entry in enumerate(found) if entry.origin != "real"]
    if not refused:
        return
    synthetic = sum(found[i].origin == "synthetic" for i in refused)
    first = found[refused[0]]
    shown = f"{source.keys[refused[0]]}: {first.origin}, declared by {first.declared_by}"
    raise DataError(
        f"data.provenance=require: {len(refused):,} of {len(found):,} images of {source.name} have no "
        f"evidence of a real origin ({synthetic:,} declare that they are synthetic, "
        f"{len(refused) - synthetic:,} have an unknown origin; the first: {shown}); remove them, declare "
        "'origin' in metadata.jsonl, or set data.provenance=declared"
    )
