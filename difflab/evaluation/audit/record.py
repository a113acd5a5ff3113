"""The record of an audit: one line of JSON per image, which a second call goes on with.

A line holds hashes, the size and the format of the image, and what was found. It holds no name, path or text,
unless the audit keeps text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from difflab.core.errors import DataError, StoreError
from difflab.core.size import Size
from difflab.data.audit_record import VERSION, hash_of_key
from difflab.evaluation.audit.stream import View


@dataclass(frozen=True)
class Line:
    """One image of a record. `position`, `content`, `size`, `format` and `found` are those of `View`.

    Attributes:
        key: the first 16 hex digits of the SHA-256 of the key.
        failed: whether the image cannot be read.
        score: the probability of the probe that the image is synthetic; None without a probe.
        text: the key, the evidence and the failure, if the audit keeps text.
    """

    position: int
    key: str
    content: str = ""
    failed: bool = False
    size: Size = (0, 0)
    format: str = ""
    found: dict[str, str] = field(default_factory=dict)
    score: float | None = None
    text: dict[str, str] | None = None

    def as_json(self) -> str:
        content: dict[str, Any] = {"key": self.key}
        if self.failed:
            content["failed"] = True
        else:
            content |= {"size": list(self.size), "format": self.format}
        optional = {"content": self.content, "found": self.found, "text": self.text}
        content |= {name: value for name, value in optional.items() if value}
        if self.score is not None:
            content["score"] = self.score
        return json.dumps(content)


def line_of(view: View, key: str, score: float | None, keep_text: bool) -> Line:
    """The line of an image. `score` is rounded to six digits."""
    text = None
    if keep_text:
        text = {"key": key, "evidence": view.evidence, "failure": view.failure}
        text = {name: value for name, value in text.items() if value}
    return Line(
        view.position,
        hash_of_key(key),
        view.content,
        bool(view.failure),
        view.size,
        view.format,
        view.found,
        None if score is None else round(score, 6),
        text,
    )


class Record:
    """A record in a folder, or in a temporary file that its owner deletes.

    Args:
        path: of the file with the lines.
        settings: what must be equal for a call to go on with the record, JSON.

    Raises StoreError for a file that is no record, and DataError for one of other images or settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.head = json.dumps({"difflab_audit": VERSION, **settings}, sort_keys=True)
        self.done = 0
        if path.exists() and path.stat().st_size:
            self.done = self._kept()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.head + "\n")

    def _kept(self) -> int:
        """The number of complete lines. A line that was cut off is removed."""
        count, end = -1, 0
        with open(self.path, "rb+") as handle:
            for raw in handle:
                if not raw.endswith(b"\n"):
                    break
                if count < 0:
                    self._check(raw)
                count += 1
                end += len(raw)
            if count < 0:
                raise StoreError(f"{self.path} is damaged; delete it and run the same command again")
            handle.truncate(end)
        return count

    def _check(self, raw: bytes) -> None:
        try:
            head = json.loads(raw)
        except ValueError:
            head = None
        if not isinstance(head, dict) or "difflab_audit" not in head:
            raise StoreError(f"{self.path} is no record of an audit; give another folder with --out")
        wanted = json.loads(self.head)
        changed = sorted(name for name in {*head, *wanted} if head.get(name) != wanted.get(name))
        if changed:
            raise DataError(
                f"{self.path} is the record of an audit with other {', '.join(changed)}; give another folder "
                "with --out, or delete this one"
            )

    def append(self, lines: Sequence[Line]) -> None:
        """Add the lines of the next images."""
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.writelines(line.as_json() + "\n" for line in lines)
        self.done += len(lines)

    def __iter__(self) -> Iterator[Line]:
        """All lines, one at a time. Raises StoreError for a damaged line."""
        with open(self.path, encoding="utf-8") as handle:
            next(handle)
            for position, raw in enumerate(handle):
                try:
                    content = json.loads(raw)
                    content["size"] = tuple(content.get("size", (0, 0)))
                    line = Line(position, **content)
                except (ValueError, TypeError, AttributeError) as error:
                    raise StoreError(
                        f"{self.path}, line {position + 2} is damaged; delete it and run the same command "
                        "again"
                    ) from error
                yield line
