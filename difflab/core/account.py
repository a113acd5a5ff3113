"""`Account`: the numbers of images of a set that were found, read, skipped, cropped or duplicated.

Every reader (folder, parquet, arrays, hub) fills one `Account`. Commands print it. A run stores it in
real/about.json.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from difflab.core.text import plain

SHOWN = 5  # images of each kind whose names are stored

# kind -> the end of a sentence such as "12 images ..."; kinds are printed in this order
KINDS = {
    "skipped": "cannot be read and are left out",
    "unlisted": "are not listed in the metadata and are left out",
    "cropped": "have another aspect ratio and are cropped to their centre",
    "duplicated": "have the same content as an earlier image of the set",
    "frames": "have several frames, of which the first is read",
    "metadata": "have damaged or oversized metadata, which is ignored",
}


@dataclass
class Entry:
    """The number of images of one kind, and (key, detail) of the first ones."""

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Account:
    """The numbers of images of a set that were found and read, and the images that were skipped or changed.

    found: number of images in the set. read: number of images that are used. entries: a kind of `KINDS` ->
    the images of this kind. ignored: suffix -> the number of files that are not images and were not opened.
    lost_area: mean share of the area that is cut off from cropped images, from 0 to 1. notes: further
    sentences about how the set was read.
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
        """The number of images of one kind."""
        return self.entries[kind].count if kind in self.entries else 0

    def as_dict(self) -> dict[str, Any]:
        """The account as a dict for JSON. `from_dict` converts it back."""
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
    def from_dict(cls, content: dict[str, Any]) -> Account:
        """The account from the result of `as_dict`. Raises ValueError for any other content."""
        return TypeAdapter(cls).validate_python(content)

    def lines(self, reasons: bool = True) -> list[str]:
        """The account in one or two lines: the number of images that are read, then the result of `parts`.

        reasons: add the reason for the first image of each kind. A reason may contain paths of this machine.
        """
        lines = [f"{self.read:,} of {self.found:,} images are read"]
        if self.read == self.found:
            lines = [f"all {self.found:,} images are read"]
        parts = self.parts(reasons=reasons)
        if parts:
            lines.append("; ".join(parts))
        return lines

    def parts(self, without: Collection[str] = (), reasons: bool = True) -> list[str]:
        """Images that are skipped or changed, ignored files, and notes: one part of a sentence for each.

        There is one part for each kind of `KINDS`, except the kinds in `without`.
        """
        kinds = [(kind, text) for kind, text in KINDS.items() if self.count(kind) and kind not in without]
        parts = [f"{self.count(kind):,} {text}{self._example(kind, reasons)}" for kind, text in kinds]
        if self.ignored:
            files = ", ".join(
                f"{count:,} {suffix or 'without suffix'}" for suffix, count in sorted(self.ignored.items())
            )
            parts.append(f"files that are not images were not opened: {files}")
        return [*parts, *self.notes]

    def told(self, name: str, used: int | None = None) -> list[str]:
        """The result of `lines` for a terminal. Each line starts with the name of the set.

        used: number of images that remain if the config selects a part of the set.
        """
        lines = self.lines()
        if used is not None and used < self.read:
            lines[0] += f", of which {used:,} are used"
        return [plain(f"{name}: {line}") for line in lines]

    def _example(self, kind: str, reasons: bool) -> str:
        """The first image of a kind, or the lost area of cropped images, in brackets."""
        key, detail = self.entries[kind].first[0]
        if kind == "cropped":
            return f" ({self.lost_area:.0%} of their area is lost)"
        return f" (the first: {key}{', ' + detail if detail and reasons else ''})"
