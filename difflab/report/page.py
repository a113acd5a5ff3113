"""The report as one self-contained HTML file: no network, nothing to install, opens from disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from difflab.core.files import write_text
from difflab.report.contents import contents
from difflab.report.table import left_out, number
from difflab.runs.run import Run

FILE = "report.html"
LARGEST = 15_000_000
"""Bytes that a report may have."""


def report(
    runs: Sequence[Run],
    path: Path,
    names: Sequence[str] | None = None,
    verdict: Callable[[Run], dict[str, Any] | None] | None = None,
    live: bool = False,
) -> Path:
    """Write the report of `runs` to `path` and return it.

    Args:
        names, verdict: as for `difflab.report.contents.contents`.
        live: the run goes on, so that the page looks for a newer version of itself.

    Raises StoreError where nothing has been measured yet.
    """
    write_text(path, render(contents(runs, names, verdict) | {"live": live}))
    return path


def render(found: dict[str, Any]) -> str:
    """The page of `found`, see `difflab.report.contents.contents`. What came from files and users stands in it as text only."""
    from jinja2 import Environment, StrictUndefined

    asset = files("difflab") / "assets" / "report"
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters = {"capitalised": _capitalised, "reasons": left_out, "number": _number, "signed": _signed}
    page.filters.update(filters)
    found = plain(found)
    parts = ("pictures", "map", "concepts", "nearest", "spectra")
    shown = {key: found[key] for key in ("arms", "generations", "groups", "live")}
    shown["runs"] = [{key: run[key] for key in ("name", *parts)} for run in found["runs"]]
    return page.from_string((asset / "page.html").read_text()).render(
        c=found,
        has={part: any(run[part] for run in found["runs"]) for part in parts},
        data=_script(shown),
        **{
            name: (asset / file).read_text()
            for name, file in (("css", "page.css"), ("js", "page.js"), ("echarts", "echarts.min.js"))
        },
    )


def plain(thing: Any) -> Any:
    """`thing` with the characters of its texts that are not seen, or turn the text around, spelled out.

    >>> plain(["a\\u202eb", 1])
    ['a⟨U+202E⟩b', 1]
    """
    if isinstance(thing, str):
        return (
            thing
            if thing.isprintable()
            else "".join(c if c.isprintable() or c in "\n\t\u200d" else f"⟨U+{ord(c):04X}⟩" for c in thing)
        )
    if isinstance(thing, dict):
        return {plain(key): plain(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [plain(value) for value in thing]
    return thing


def _script(thing: Any) -> str:
    """JSON that nothing inside can end: no angle bracket of it is an angle bracket to HTML."""
    text = json.dumps(thing, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return (
        text.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _number(value: Any) -> str:
    return number(value) if isinstance(value, float | int | None) else str(value)


def _signed(value: float | None) -> str:
    """A difference with its sign.

    >>> _signed(0.25), _signed(-0.25), _signed(None)
    ('+0.25', '-0.25', '-')
    """
    return f"+{number(value)}" if value is not None and value > 0 else number(value)
