"""Hook of mkdocs: pages and pictures outside of docs/ join the site, and links to other files of the repository become plain text.

The pages of docs/ are also read in the repository itself, where ``../samples/emoji-strip.png`` or ``../../difflab/metrics/vendi.py`` are
links. The site has the pages of `JOINED`. A link to any other file outside of docs/ keeps its text and loses its target.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
JOINED = (
    "samples/README.md",
    "samples/*.png",
    "samples/*.html",
    "benchmarks/README.md",
    "benchmarks/faults.md",
    "findings/README.md",
    "CONTRIBUTING.md",
)
LINK = re.compile(
    r"^```.*?^```|`[^`\n]*`|(?P<image>!?)\[(?P<text>(?:[^\[\]]|!?\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)",
    re.S | re.M,
)
"""Code, which is left alone, or a link."""


def joined() -> dict[str, Path]:
    """Files outside of docs/ that join the site, by their place in it, which is their place in the repository."""
    paths = [path for pattern in JOINED for path in sorted(ROOT.glob(pattern))]
    return {str(path.relative_to(ROOT)): path for path in paths}


def fenced(lines: list[str]) -> list[str]:
    """Docstrings give examples as ``>>>`` lines, which Markdown would read as quotations: they become code."""
    out: list[str] = []
    inside = False
    for line in lines:
        if line.startswith(">>> ") and not inside:
            out.append("```python")
            inside = True
        elif inside and not line.strip():
            out.append("```")
            inside = False
        out.append(re.sub(r" +# doctest:.*", "", line) if inside else line)
    return [*out, "```"] if inside else out


def on_config(config: Any) -> Any:
    from markdown import Extension
    from markdown.preprocessors import Preprocessor

    class Examples(Preprocessor):
        def run(self, lines: list[str]) -> list[str]:
            return fenced(lines)

    class WithExamples(Extension):
        def extendMarkdown(self, md: Any) -> None:
            md.preprocessors.register(Examples(md), "examples", 100)

    config.markdown_extensions.append(WithExamples())
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, path in joined().items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return relinked(markdown, page.file.src_uri)


def relinked(markdown: str, page: str) -> str:
    """The text of a page of the site, with the links that lead out of docs/ set right. `page`: its place in the site."""
    outside = set(joined())
    folder = (ROOT if page in outside else ROOT / "docs") / Path(page).parent

    def link(match: re.Match[str]) -> str:
        if match["target"] is None:
            return match[0]
        path, mark, anchor = match["target"].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        place = site_place(Path(os.path.normpath(folder / path)), outside)
        if place is None:
            return match["text"]
        target = os.path.relpath(place, Path(page).parent)
        return f"{match['image']}[{match['text']}]({target}{mark}{anchor})"

    return LINK.sub(link, markdown)


def site_place(path: Path, outside: set[str]) -> str | None:
    """Where a file of the repository lies in the site; None if the site does not have it."""
    if path == ROOT / "README.md":
        return "README.md"
    if path.is_relative_to(ROOT / "docs"):
        return str(path.relative_to(ROOT / "docs"))
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""
    return name if name in outside else None
