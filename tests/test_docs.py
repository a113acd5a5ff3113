"""Pages made from the code match it, marked blocks are replaced, and links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_make", ROOT / "docs" / "make.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_match_the_code(make):
    assert list(make.stale()) == [], "run: make docs"


def test_every_measure_policy_and_command_has_its_place(make):
    from difflab.metrics import METRICS
    from difflab.policies import known

    written = make.wanted()
    assert {f"docs/measures/{name}.md" for name in METRICS} | {
        f"docs/policies/{name}.md" for name in known()
    } <= written.keys()
    assert all(f"## {name}\n" in written["docs/cli.md"] for name in make.commands())
    for word in (
        "difflab.open_run",
        "difflab.compare",
        "difflab.diagnose",
        "difflab.Monitor",
        "Run.strip",
        "PairMetric.update",
        "simulate.simulate",
    ):
        assert f"# {word}" in written["docs/api.md"] or f".{word}\n" in written["docs/api.md"], word


def test_check_names_what_does_not_match_and_writing_mends_it(make, tmp_path, monkeypatch, capsys):
    (tmp_path / "docs" / "measures").mkdir(parents=True)
    (tmp_path / "docs" / "measures" / "gone.md").write_text("x")
    (tmp_path / "README.md").write_text("by hand\n\n<!-- generated: two -->\nold\n<!-- end -->\n\nby hand\n")
    monkeypatch.setattr(make, "ROOT", tmp_path)
    monkeypatch.setattr(make, "PAGES", [lambda: {"docs/one.md": "one"}])
    monkeypatch.setattr(make, "BLOCKS", {"two": lambda: "new\n"})
    monkeypatch.setattr(make, "stale", lambda stale=make.stale: stale(tmp_path))
    monkeypatch.setattr(make, "wanted", lambda root, wanted=make.wanted: wanted(tmp_path))
    assert make.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert (
        all(name in said for name in ("docs/one.md", "docs/measures/gone.md", "README.md"))
        and not (tmp_path / "docs" / "one.md").exists()
    )
    assert make.main([]) == 0 and make.main(["--check"]) == 0
    assert (tmp_path / "docs" / "one.md").read_text() == "one\n" and not (
        tmp_path / "docs" / "measures" / "gone.md"
    ).exists()
    assert (
        tmp_path / "README.md"
    ).read_text() == "by hand\n\n<!-- generated: two -->\nnew\n<!-- end -->\n\nby hand\n"


def test_blocks_that_cannot_be_filled_are_refused(make):
    assert make.filled("no block") == "no block"
    with pytest.raises(ValueError, match="no block is named 'measurs'; known: "):
        make.filled("<!-- generated: measurs -->\n<!-- end -->")
    with pytest.raises(ValueError, match="has no end"):
        make.filled("<!-- generated: measures -->\ntext")


def test_markup_in_docstrings_is_shown_as_it_is_meant(make):
    assert make.prose("a*b <c> `x*y` *all* rows, arXiv 2405.15613") == (
        "a\\*b \\<c> `x*y` *all* rows, [2405.15613](https://arxiv.org/abs/2405.15613)"
    )
    assert make.table(("a", "b"), [("x|y", "z\nw")]).splitlines()[-1] == "| x\\|y | z w |"


# ------------------------------------------------------------------------------------------------------- links
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: list[str] = []
    for heading in re.findall(r"(?m)^#+ +(.+?) *$", without_code(page)):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return set(found)


def without_code(page: Path) -> str:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    return re.sub(r"(?m)^    .*$", "", text)


def test_links_lead_to_files_and_headings_that_exist():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_code(page))):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = page if not path else (page.parent / path).resolve()
            if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
