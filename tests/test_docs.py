"""Pages made from the code match it, marked blocks are replaced, and links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import posixpath
import re
from pathlib import Path
from types import ModuleType

import pytest
import tiny
import yaml

import difflab
from difflab.evaluation import simulate
from difflab.metrics.metric import PairMetric
from difflab.metrics.pair import Pair
from difflab.policies.interface import Policy

pytestmark = tiny.LIBRARIES  # the table of architectures makes their networks

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def loaded(name: str) -> ModuleType:
    """A file of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make() -> ModuleType:
    return loaded("make")


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


def located(name: str) -> object:
    """What a dotted name of mkdocstrings names: a module, or what a module defines."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


def test_every_public_name_is_in_the_reference_and_has_a_docstring():
    """Each ``::: name`` of docs/reference is an object with a docstring, and each public name is among them."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/reference/*.md"))
    names = re.findall(r"(?m)^::: (.+)$", pages)
    objects = [located(name) for name in names]
    assert [
        name for name, thing in zip(names, objects, strict=True) if not getattr(thing, "__doc__", "")
    ] == []
    assert [name for name in difflab.__all__ if f"difflab.{name}" not in pages] == []
    public = [getattr(difflab, name) for name in difflab.__all__ if name != "DifflabError"]
    assert [thing for thing in public if not any(thing is other for other in objects)] == []
    for thing in (simulate.simulate, PairMetric, Pair, Policy):
        assert any(thing is other for other in objects), thing
    for method in ("Run.strip", "PairMetric.update"):
        owner, name = method.split(".")
        assert inspect.getdoc(getattr({"Run": difflab.Run, "PairMetric": PairMetric}[owner], name)), method


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


# ------------------------------------------------------------------------------------------------------- the site
class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml: the values of ``!!python/...`` tags are not needed."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def nav_pages(nav: object) -> list[str]:
    """The pages of a nav of mkdocs, in order."""
    if isinstance(nav, str):
        return [nav]
    children = nav.values() if isinstance(nav, dict) else nav
    return [page for child in children for page in nav_pages(child)]


def test_the_nav_of_the_site_and_its_files_match():
    site = loaded("site_files")
    pages = nav_pages(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    there = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}
    there |= {name for name in site.joined() if name.endswith(".md")}
    assert [page for page in pages if page not in there] == []
    assert len(set(pages)) == len(pages)
    listed = {page for page in there if page.startswith(("measures/", "policies/")) and "README" not in page}
    assert sorted(there - set(pages) - listed) == [], "pages that the nav does not have"
    for folder in ("measures", "policies"):
        index = (ROOT / "docs" / folder / "README.md").read_text(encoding="utf-8")
        names = [page.removeprefix(f"{folder}/") for page in listed if page.startswith(folder)]
        assert [name for name in names if f"]({name})" not in index] == []


def test_links_of_the_site_lead_to_its_files():
    """Links are set right by the hook; every relative link that remains leads to a file of the site."""
    site = loaded("site_files")
    joined = site.joined()
    files = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*") if path.is_file()} | set(
        joined
    )
    broken = []
    for name in sorted(name for name in files if name.endswith(".md")):
        source = joined.get(name, ROOT / "docs" / name)
        text = site.relinked(source.read_text(encoding="utf-8"), name)
        for target in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"(?ms)^```.*?^```|`[^`\n]*`|^    .*?$", "", text)
        ):
            path = target.partition("#")[0]
            if (
                path
                and not re.match(r"[a-z]+:", path)
                and posixpath.normpath(Path(name).parent / path) not in files
            ):
                broken.append(f"{name}: {target}")
    assert broken == []


def test_the_hook_sets_links_right():
    site = loaded("site_files")
    assert site.relinked("![a](../samples/emoji-strip.png)", "x.md") == "![a](samples/emoji-strip.png)"
    assert site.relinked("[code](../../difflab/metrics/vendi.py)", "measures/x.md") == "code"
    assert site.relinked("[m](../docs/monitor.md#a)", "findings/README.md") == "[m](../monitor.md#a)"
    assert (
        site.relinked("`[a](../b.py)` [w](https://x.org/y)", "x.md") == "`[a](../b.py)` [w](https://x.org/y)"
    )


def test_examples_in_docstrings_become_code():
    lines = ["text", "", ">>> f(1)  # doctest: +SKIP", "2", "", "text"]
    assert loaded("site_files").fenced(lines) == ["text", "", "```python", ">>> f(1)", "2", "```", "", "text"]
    assert loaded("site_files").fenced([">>> f()"]) == ["```python", ">>> f()", "```"]
