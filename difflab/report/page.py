"""The report as one self-contained HTML file. It opens from disk and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from difflab.core.files import write_text
from difflab.report.contents import contents
from difflab.report.table import left_out, number
from difflab.runs.run import Run

FILE = "report.html"
LARGEST = 15_000_000
"""Largest size of a report in bytes."""
PARTS = ("pictures", "map", "concepts", "nearest", "spectra")
"""Parts of the details of a run that the page's script draws. A run may lack any of them."""
NO_LOSS = ("look: ", "encoding: ")
"""Starts of the lines of evidence that show a change of the images, but no loss of content."""


def report(
    runs: Sequence[Run],
    path: Path,
    names: Sequence[str] | None = None,
    verdict: Callable[[Run], dict[str, Any] | None] | None = None,
    live: bool = False,
) -> Path:
    """Write the report of `runs` to `path` and return it.

    Args:
        names: the arm of each run, see `difflab.report.contents.contents`.
        verdict: a run -> its diagnosis, see `difflab.report.contents.contents`.
        live: whether the run is in progress; the page then reloads itself.

    Raises:
        StoreError: nothing has been measured yet.
    """
    write_text(path, render(contents(runs, names, verdict) | {"live": live}))
    return path


def render(shown: dict[str, Any]) -> str:
    """The HTML of a report.

    Texts of users and files are escaped in the HTML, and the script reads them as JSON.

    Args:
        shown: the result of `difflab.report.contents.contents`, with the further key `live`.
    """
    assets = files("difflab") / "assets" / "report"
    shown = plain(shown)
    scripted = {key: shown[key] for key in ("arms", "generations", "groups", "live")}
    scripted["runs"] = []
    for run in shown["runs"]:
        scripted["runs"].append({key: run[key] for key in ("name", *PARTS)})
    has = {}
    for part in PARTS:
        has[part] = any(run[part] for run in shown["runs"])
    return template((assets / "page.html").read_text()).render(
        c=shown,
        has=has,
        data=_script(scripted),
        css=(assets / "page.css").read_text(),
        js=(assets / "page.js").read_text(),
        echarts=(assets / "echarts.min.js").read_text(),
    )


@cache
def template(page: str) -> Any:
    """The compiled template `page`: a chain renders it after every generation."""
    from jinja2 import Environment, StrictUndefined

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters = {"capitalised": _capitalised, "reasons": left_out, "number": _number, "signed": _signed}
    made.filters.update(filters | {"by_loss": by_loss})
    return made.from_string(page)


def by_loss(evidence: Sequence[str]) -> tuple[list[str], list[str]]:
    """The lines of evidence of a diagnosis that show a loss, and those that show another change.

    >>> by_loss(["7 lost tails: recall 0.1", "encoding: texture_distance 0.5"])
    (['7 lost tails: recall 0.1'], ['encoding: texture_distance 0.5'])
    """
    lost = [line for line in evidence if not line.startswith(NO_LOSS)]
    changed = [line for line in evidence if line.startswith(NO_LOSS)]
    return lost, changed


def plain(thing: Any) -> Any:
    """`thing` with the invisible characters of its texts replaced by their code points.

    Some of these characters reverse the direction of writing.

    >>> plain(["a\\u202eb", 1])
    ['a⟨U+202E⟩b', 1]
    """
    if isinstance(thing, str):
        return thing if thing.isprintable() else "".join(map(_visible, thing))
    if isinstance(thing, dict):
        return {plain(key): plain(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [plain(value) for value in thing]
    return thing


def _visible(character: str) -> str:
    """The character if it is visible, a line end, a tab or the joiner of emoji; else its code point."""
    if character.isprintable() or character in "\n\t\u200d":
        return character
    return f"⟨U+{ord(character):04X}⟩"


def _script(thing: Any) -> str:
    """JSON for a script element. Angle brackets are escaped, so the text cannot end the element."""
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
