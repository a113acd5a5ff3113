"""The page in a browser: slider, tables, pictures, copying."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from browser import Tab, browsing

from difflab.report.contents import contents
from difflab.report.page import render
from difflab.runs.run import Run


@browsing
def test_the_slider_changes_pictures_map_and_values(page: Path, chromium: Any) -> None:
    tab = Tab(chromium, page)
    tab.through()
    show = lambda: tab.page.evaluate(  # noqa: E731
        "[...document.querySelectorAll('#cards img')].map((i) => i.src).join() + '|'"
        "+ document.getElementById('table').textContent"
    )
    drawn = lambda: tab.page.evaluate("document.querySelector('#map-chart canvas').toDataURL()")  # noqa: E731
    tab.page.evaluate("document.getElementById('map-chart').scrollIntoView()")
    tab.page.wait_for_timeout(300)
    seen, maps = [], []
    for t in range(3):
        tab.slide(t)
        tab.page.wait_for_timeout(150)
        seen.append(show())
        maps.append(drawn())
        assert tab.page.inner_text("#shown") == f"{t} of 2"
    assert len(set(seen)) == 3 and len(set(maps)) == 3
    tab.page.focus("#generation")
    tab.page.keyboard.press("ArrowLeft")
    assert tab.page.inner_text("#shown") == "1 of 2", "by keyboard, too"
    tab.page.select_option("#arm", "1")
    tab.page.wait_for_timeout(200)
    assert drawn() != maps[1], "the details of the other arm"
    tab.page.click("#play")
    tab.page.wait_for_timeout(1100)
    assert tab.page.inner_text("#shown") != "1 of 2"
    assert tab.complaints == [] and tab.requests == [page.as_uri()]


@browsing
def test_the_table_of_values_says_what_has_parted(hostile: Run, tmp_path: Path, chromium: Any) -> None:
    found = contents([hostile]) | {"live": False}
    lines = {chart["metric"]: chart["lines"][0] for group in found["groups"] for chart in group["charts"]}
    for metric, last in (("recall", (0.6, 0.7)), ("precision", (0.1, 0.2)), ("coverage", (0.45, 0.55))):
        value = [0.45, 0.45, sum(last) / 2]
        lines[metric] |= {"value": value, "low": [0.4, 0.4, last[0]], "high": [0.5, 0.5, last[1]]}
    (tmp_path / "page.html").write_text(render(found))
    tab = Tab(chromium, tmp_path / "page.html")
    tab.unfold()
    change = {**tab.column("#table", 6), **tab.column("#training-table", 4)}
    assert (change["recall ↑"], change["precision ↑"], change["coverage ↑"]) == ("higher", "lower", "no")
    assert change["train loss"] in ("", "-"), "without intervals nothing is said"
    classes = tab.column("#table", 6, "(cell) => cell.className")
    assert (classes["recall ↑"], classes["precision ↑"], classes["coverage ↑"]) == ("better", "worse", "")
    assert next(iter(change)) in ("recall ↑", "precision ↑"), "the strongest change stands first"


@browsing
def test_what_starts_later_has_no_value_at_generation_0(hostile: Run, tmp_path: Path, chromium: Any) -> None:
    found = contents([hostile]) | {"live": False}
    lines = {chart["metric"]: chart["lines"][0] for group in found["groups"] for chart in group["charts"]}
    lines["recall"] |= {key: lines["recall"][key][1:] for key in ("t", "value", "n")} | {
        "low": [0.4, 0.6],
        "high": [0.5, 0.7],
    }
    (tmp_path / "page.html").write_text(render(found))
    tab = Tab(chromium, tmp_path / "page.html")
    tab.unfold()
    assert tab.column("#training-table", 2)["drift from previous"] == "-"
    assert tab.column("#training-table", 3)["drift from previous"] != "-"
    before, change = tab.column("#table", 4), tab.column("#table", 6)
    assert before["recall ↑"] == "-" and change["recall ↑"] == "", (
        "generation 1 does not stand in for generation 0"
    )
    assert before["precision ↑"] != "-"


@browsing
def test_where_each_column_was_asked_for_something_else_one_table_shows_all(
    hostile: Run, other: Run, tmp_path: Path, chromium: Any
) -> None:
    found = contents([hostile]) | {"live": False}
    pictures = found["runs"][0]["pictures"]
    assert render(found).count("the columns of one class become alike") == 1
    pictures |= {"per": 1, "asked": [f"caption {c}" for c in range(10)]}
    text = render(found | {"runs": [run | {"pictures": pictures} for run in found["runs"]]})
    assert "of one class" not in text and "no longer shows its condition" in text
    assert "no longer shows" not in render(
        found | {"runs": [run | {"pictures": pictures | {"prompted": False}} for run in found["runs"]]}
    )
    (tmp_path / "page.html").write_text(text)
    tab = Tab(chromium, tmp_path / "page.html")
    assert tab.page.locator("#cards .card").count() == 1
    assert tab.page.locator("#cards thead th").all_inner_texts() == pictures["asked"]
    rows = lambda: tab.page.locator("#cards tbody th").all_inner_texts()  # noqa: E731
    sources = lambda row: tab.page.evaluate(  # noqa: E731
        f"[...document.querySelectorAll('#cards tbody tr:nth-child({row}) img')].map((i) => i.src)"
    )
    assert rows() == ["real", "generation 0", "generation 1", "generation 2"]
    assert sources(1) == pictures["real"] and sources(3) == pictures["generations"][1]
    assert tab.page.inner_text("#cards .now th") == "generation 2"
    tab.slide(1)
    assert tab.page.inner_text("#cards .now th") == "generation 1"
    found = contents([hostile, other]) | {"live": False}
    for run in found["runs"]:
        run["pictures"] |= {"per": 1}
    (tmp_path / "page.html").write_text(render(found))
    tab = Tab(chromium, tmp_path / "page.html")
    assert rows() == ["real", "generation 0", "hostile, gen. 2", "other, gen. 2"]
    tab.page.click("#cards .card button")
    assert tab.page.locator("#album tbody tr").count() == 4 and tab.complaints == []


@browsing
def test_tables_sort_and_the_album_opens(page: Path, chromium: Any) -> None:
    tab = Tab(chromium, page)
    column = lambda: [  # noqa: E731
        float(x.replace(",", ""))
        for x in tab.page.locator("#arms-table tbody td:nth-child(4)").all_inner_texts()
        if x != "-"
    ]
    tab.page.click("#arms thead th:nth-child(4) button")
    assert (
        column() == sorted(column()) and len(column()) == tab.page.locator("#arms-table tbody tr").count() > 5
    )
    assert tab.page.get_attribute("#arms thead th:nth-child(4)", "aria-sort") == "ascending"
    tab.page.click("#arms thead th:nth-child(4) button")
    assert column() == sorted(column(), reverse=True)
    tab.page.click("#cards .card button >> nth=0")
    assert tab.page.is_visible("#album") and tab.page.locator("#album .row").count() == 4, (
        "real and three generations"
    )
    tab.page.keyboard.press("Escape")
    assert not tab.page.is_visible("#album")


@browsing
def test_tables_are_copied_as_markdown_and_csv(hostile: Run, tmp_path: Path, chromium: Any) -> None:
    found = contents([hostile], ["a|b"]) | {"live": False}
    charts = {chart["metric"]: chart for group in found["groups"] for chart in group["charts"]}
    charts["recall"]["title"] = 'recall, "mine" a|b'
    charts["recall"]["lines"][0] |= {
        "value": [0.5, 0.5, 0.123456],
        "low": [0.4, 0.4, 0.1],
        "high": [0.6, 0.6, 0.2],
    }
    (tmp_path / "page.html").write_text(render(found))
    tab = Tab(chromium, tmp_path / "page.html")
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    copied = {}
    for name in ("markdown", "csv"):
        tab.page.click(f"#values [data-format={name}]")
        tab.page.wait_for_selector("#copied:not(:empty)")
        copied[name] = tab.page.evaluate("navigator.clipboard.readText()").splitlines()
    rows = tab.page.locator("#table tbody tr").count()
    head, rule, *body = copied["markdown"]
    assert head == "| measure | about | floor | generation 0 | generation 2 | change | n |"
    assert rule == "|---|---|---:|---:|---:|---|---:|" and len(body) == rows > 8
    line = next(line for line in body if "recall" in line)
    assert (
        line.startswith('| recall, "mine" a\\|b ↑ | Diversity |')
        and "| 0.123 [0.1, 0.2] | lower | 60 |" in line
    )
    head, *body = list(csv.reader(copied["csv"]))
    assert head[3:9] == [f"generation {t}{end}" for t in (0, 2) for end in ("", " low", " high")]
    line = next(line for line in body if line[0] == 'recall, "mine" a|b')
    assert line[6:] == ["0.123456", "0.1", "0.2", "lower", "60"]
    assert len(body) == rows and {len(line) for line in body} == {len(head)}


@browsing
def test_nothing_of_hostile_names_becomes_markup(page: Path, chromium: Any) -> None:
    tab = Tab(chromium, page)
    tab.through()
    for t in range(3):
        tab.slide(t)
    tab.page.click("#cards .card button >> nth=0")
    assert tab.page.evaluate("typeof hacked") == "undefined"
    assert tab.page.locator("main b, main u, main i, main img[src=x]").count() == 0
    text = tab.page.inner_text("#cards")
    assert "<img src=x onerror=hacked()>" in text and "evil⟨U+202E⟩txt.exe" in text and "{{ 7 * 7 }}" in text
    assert tab.complaints == []
