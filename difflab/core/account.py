"""The account of a set of images: how many were found, read, skipped, cropped or duplicated.

Every reader (folder, parquet, arrays, hub) fills one `Account`. The commands print it; a run stores it in
real/about.json.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from difflab.core.text import plain

SHOWN = 5  # names that are kept of each kind

# kind -> the end of "12 of 40 images ..."; the order is the order of printing.
KINDS = {
    "skipped": "cannot be read and are left out",
    "unlisted": "are not listed in the metadata and are left out",
    "cropped": "are not square and are cropped to their centre",
    "duplicated": "have the same content as an earlier image of the set",
    "frames": "have several frames, of which the first is read",
    "metadata": "have damaged or oversized metadata, which is ignored",
}


@dataclass
class Entry:
    """How many images are of one kind, and the first of them: (key, detail)."""

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Account:
    """How many images of a set were found and read, and why others were not.

    found: images that the set holds. read: images that are used. entries: kind of `KINDS` -> which images,
    and why. ignored: files that are no images and were not opened, suffix -> count. lost_area: mean share of
    the area of the cropped images that is cut away, 0 to 1. notes: further sentences about how the set was
    read.
    """

    found: int = 0
    read: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    lost_area: float = 0.0
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, key: str, detail: str = "") -> None:
        """Count one image under `kind`, a key of `KINDS`."""
        if kind not in KINDS:
            raise KeyError(kind)
        entry = self.entries.setdefault(kind, Entry())
        entry.count += 1
        if len(entry.first) < SHOWN:
            entry.first.append((key, detail))

    def count(self, kind: str) -> int:
        """How many images are of one kind."""
        return self.entries[kind].count if kind in self.entries else 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        entries = {
            kind: {"count": e.count, "first": [list(pair) for pair in e.first]}
            for kind, e in self.entries.items()
        }
        return {
            "found": self.found,
            "read": self.read,
            "entries": entries,
            "ignored": self.ignored,
            "lost_area": self.lost_area,
            "notes": self.notes,
        }

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Account:
        """Raises ValueError for what is no account."""
        return TypeAdapter(cls).validate_python(given)

    def lines(self, reasons: bool = True) -> list[str]:
        """The account in one or two lines: first how many images are read, then what was skipped or changed,
        if anything.

        reasons: add the reason for the first image of each kind, which may name folders of this machine.
        """
        whole = (
            f"{self.read:,} of {self.found:,} images are read"
            if self.read != self.found
            else f"all {self.found:,} images are read"
        )
        parts = self.parts(reasons=reasons)
        return [whole, *(["; ".join(parts)] if parts else [])]

    def parts(self, without: Collection[str] = (), reasons: bool = True) -> list[str]:
        """What is not read or not as it was, one part for each kind of `KINDS` but those of `without`, then
        files and notes.
        """
        kinds = [(kind, text) for kind, text in KINDS.items() if self.count(kind) and kind not in without]
        parts = [f"{self.count(kind):,} {text}{self._example(kind, reasons)}" for kind, text in kinds]
        if self.ignored:
            files = ", ".join(
                f"{count:,} {suffix or 'without suffix'}" for suffix, count in sorted(self.ignored.items())
            )
            parts.append(f"files that are no images were not opened: {files}")
        return [*parts, *self.notes]

    def told(self, name: str, used: int | None = None) -> list[str]:
        """`lines` for a terminal, under the name of the set. used: images that are left where a config takes
        a part of the set.
        """
        first, *rest = self.lines()
        part = f", of which {used:,} are used" if used is not None and used < self.read else ""
        return [plain(line) for line in (f"{name}: {first}{part}", *(f"{name}: {line}" for line in rest))]

    def _example(self, kind: str, reasons: bool) -> str:
        key, detail = self.entries[kind].first[0]
        if kind == "cropped":
            return f" ({self.lost_area:.0%} of their area is lost)"
        return f" (the first: {key}{', ' + detail if detail and reasons else ''})"
