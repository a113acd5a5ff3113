"""What an image file declares about its origin. Nothing is detected in pixels, and nothing is decoded.

Five layers are read, in this order. The first one that says real or synthetic decides:

1. `table`: a row of metadata.jsonl, metadata.csv or a parquet file with the columns that difflab writes
   (`origin`, `depth`, `kind`, `generation`).
2. `difflab`: the PNG text chunk `difflab`, JSON with the same keys, which `difflab export` writes.
3. `c2pa`: a C2PA manifest. Without a reader that validates it, it is only known to be there: unknown.
4. `iptc`: the XMP property DigitalSourceType (IPTC Photo Metadata Standard 2025.1, newscodes
   http://cv.iptc.org/newscodes/digitalsourcetype/).
5. `generator`: text that an image generator writes into its files (`difflab.data.generators`).

A declaration is what somebody wrote into a file. It can be wrong or missing: most tools remove it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from difflab.core.text import plain
from difflab.data.embedded import Embedded, read_embedded
from difflab.data.generators import properties, trace_of

Origin = Literal["real", "synthetic", "unknown"]
LAYERS = ("table", "difflab", "c2pa", "iptc", "generator")
NONE = "none"
"""`declared_by` of an image that declares nothing."""
EVIDENCE = 160
"""Largest number of characters of the evidence."""
DEEPEST = 10**6
"""Larger depths and generations are not believed."""
CHUNK = "difflab"
"""Keyword of the PNG text chunk that difflab writes."""
COLUMNS = ("origin", "depth", "kind", "generation", "seed", "sha256")
"""Columns of a table that are read. `seed` and `sha256` only show that `generation` is meant as ours."""

# The newscodes. All others, such as composite or screenCapture, leave the origin open.
SYNTHETIC_SOURCES = frozenset(
    (
        "trainedalgorithmicmedia",
        "compositewithtrainedalgorithmicmedia",
        "algorithmicmedia",
        "compositesynthetic",
    )
)
REAL_SOURCES = frozenset(
    (
        "digitalcapture",
        "computationalcapture",
        "compositecapture",
        "negativefilm",
        "positivefilm",
        "print",
        "minorhumanedits",
        "humanedits",
        "digitalart",
        "digitalcreation",
    )
)


@dataclass(frozen=True)
class Declared:
    """What one layer, or a file as a whole, declares.

    Attributes:
        origin: real, synthetic or unknown.
        depth: generations of models between the image and real images. 0 = real. A sample of a run has the
            depth that its run stored. 1 = a sample of an unknown generator, which has at least this depth.
            None = unknown.
        declared_by: the layer, one of `LAYERS`; "none" = nothing is declared.
        evidence: what it says, one line of printable text of at most `EVIDENCE` characters. It comes from the
            file: escape it in HTML.
    """

    origin: Origin
    depth: int | None
    declared_by: str
    evidence: str = ""


NOTHING = Declared("unknown", None, NONE)
ReadC2pa = Callable[[Path | bytes], Declared | None]
"""Validates the C2PA manifest of a file and says what it declares; None = it is not valid or says nothing."""


def declared(item: Any, row: Mapping[str, Any] | None = None, read_c2pa: ReadC2pa | None = None) -> Declared:
    """What an image declares about its origin: the first layer that says real or synthetic.

    If no layer does, the first one that says anything, with the origin unknown; else `NOTHING`. Never raises
    for the content of a file.

    Args:
        item: the path of the image file, or its bytes. Of an array or a PIL image only `row` is read.
        row: the row of a table about the image, see `COLUMNS`; other columns are ignored.
        read_c2pa: see `declarations`.
    """
    return decided(declarations(item, row, read_c2pa))


def decided(layers: list[Declared]) -> Declared:
    """The declaration that decides among those of `declarations`."""
    return next((layer for layer in layers if layer.origin != "unknown"), layers[0] if layers else NOTHING)


def declarations(
    item: Any, row: Mapping[str, Any] | None = None, read_c2pa: ReadC2pa | None = None
) -> list[Declared]:
    """What each layer that is present declares, in the order of `LAYERS`. A layer occurs at most once.

    Args:
        item, row: as for `declared`.
        read_c2pa: called with `item` if it has a C2PA manifest. Without it, or if it returns None, the
            manifest counts as unknown: a manifest that nobody validated is no evidence.
    """
    found = [of_row(row, "table")] if row is not None else []
    if isinstance(item, Path | bytes):
        embedded = read_embedded(item)
        found += [_of_chunk(embedded), _of_c2pa(embedded, item, read_c2pa), _of_iptc(embedded)]
        found.append(_of_generator(embedded))
    return [layer for layer in found if layer is not None]


# -------------------------------------------------------------------------------- layers 1 and 2
def of_row(row: Mapping[str, Any], layer: str) -> Declared | None:
    """What columns with the names of difflab's declare; None if they say nothing.

    Values of other types or meanings are ignored, because other data sets use these names too. `depth` counts
    only beside `origin` or `kind`. `generation` counts only beside one of them, or beside a seed and a
    SHA-256, as `difflab export` always wrote it. If the columns contradict each other, synthetic wins.
    """
    origin, kind = _word(row.get("origin")), _word(row.get("kind"))
    said = {word for word in (origin, kind) if word in ("real", "synthetic")}
    named = bool(said) or origin == "unknown"
    depth = _number(row.get("depth"), 0) if named else None
    generation = _number(row.get("generation"), -1) if named or _is_export(row) else None
    if generation is not None:
        said.add("real" if generation < 0 else "synthetic")
    if depth is not None and said:
        said.add("synthetic" if depth else "real")
    if not said and origin != "unknown":
        return None
    shown = {
        name: row[name] for name in ("origin", "kind", "depth", "generation") if row.get(name) is not None
    }
    evidence = _line(", ".join(f"{name}={str(value)[:20]}" for name, value in shown.items()))
    if not said:
        return Declared("unknown", None, layer, evidence)
    if "synthetic" not in said:
        return Declared("real", 0, layer, evidence)
    from_generation = 1 if generation is None else generation + 1
    return Declared("synthetic", depth or max(1, from_generation), layer, evidence)


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value in ("real", "synthetic", "unknown") else None


def _number(value: Any, least: int) -> int | None:
    """A whole number from `least` to `DEEPEST`, also as text (cells of CSV files); None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,7}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if least <= value <= DEEPEST else None


def _is_export(row: Mapping[str, Any]) -> bool:
    """Whether a row has a seed and a SHA-256, as those of `difflab export` and of the ledger have."""
    sha256 = row.get("sha256")
    has_hash = isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256) is not None
    return has_hash and "seed" in row


def _of_chunk(embedded: Embedded) -> Declared | None:
    text = embedded.texts.get(CHUNK)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    found = of_row(content, "difflab") if isinstance(content, dict) else None
    return found or Declared("unknown", None, "difflab", _line(f"unreadable: {text[:EVIDENCE]}"))


# -------------------------------------------------------------------------------- layers 3 to 5
def _of_c2pa(embedded: Embedded, item: Path | bytes, read_c2pa: ReadC2pa | None) -> Declared | None:
    if not embedded.c2pa:
        return None
    validated = None if read_c2pa is None else read_c2pa(item)
    return validated or Declared("unknown", None, "c2pa", "a C2PA manifest that was not validated")


def _of_iptc(embedded: Embedded) -> Declared | None:
    values = properties(embedded.xmp, "DigitalSourceType") if embedded.xmp else []
    if not values:
        return None
    codes = {re.split(r"[/:#]", value)[-1].lower() for value in values}
    evidence = _line(f"DigitalSourceType {', '.join(values)}")
    if codes & SYNTHETIC_SOURCES:
        return Declared("synthetic", 1, "iptc", evidence)
    if codes <= REAL_SOURCES:
        return Declared("real", 0, "iptc", evidence)
    return Declared("unknown", None, "iptc", evidence)


def _of_generator(embedded: Embedded) -> Declared | None:
    found = trace_of(embedded)
    if found is None:
        return None
    trace, text = found
    where = trace.key or "XMP"
    return Declared("synthetic", 1, "generator", _line(f"{trace.generator}: {where} = {text}"))


def _line(text: str) -> str:
    """One printable line of at most `EVIDENCE` characters."""
    line = plain(" ".join(text[: 4 * EVIDENCE].split()))
    return line if len(line) <= EVIDENCE else line[: EVIDENCE - 3] + "..."
