"""The page in a real browser where there is one, else as text. Chromium: `apt install chromium`."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import HOSTILE, settings

from difflab.cli.main import main
from difflab.report.contents import contents
from difflab.report.page import LARGEST, plain, render, report
from difflab.runs.probe import SameSeeds
from difflab.runs.run import Run

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
browsing = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt install chromium")
VERDICT = {
    "generation": 2,
    "words": "early collapse <b>now</b>",
    "stage": "early",
    "alarm": True,
    "n": 60,
    "advice": "add real images",
    "gone": [HOSTILE[0]],
    "first_alarm": [1, ["recall"]],
    "evidence": ["7 lost tails: recall (pixels) 0.1"],
    "unknown": {
        "not answerable from one chain": ["4 change of scaling law"],
        "cannot tell at this n": ["6 entangled modes"],
    },
    "left_out": {"tail_recall": "too few <i>images</i>"},
    "findings": [
        {
            "generation": t,
            "words": "early collapse",
            "profile": {"2 any increase of risk": "present", "7 lost tails": "absent"},
        }
        for t in range(3)
    ],
}


@pytest.fixture(scope="module")
def page(hostile: Run, other: Run) -> Path:
    return report(
        [hostile, other], hostile.path.parent / "both.html", ["<u>first</u>", "other"], lambda run: VERDICT
    )


@pytest.fixture(scope="module")
def single(hostile: Run) -> Path:
    """Of one run: half of the nodes that axe-core has to look at."""
    return report([hostile], hostile.path.parent / "single.html", None, lambda run: VERDICT)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


class Tab:
    """An open page, what it complained about and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, width: int = 1200, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on(
            "request", lambda r: self.requests.append(r.url) if not r.url.startswith("data:") else None
        )
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#cards .card")

    def unfold(self) -> None:
        """Open everything that is folded, and show all rows of the table of values."""
        self.page.evaluate("document.querySelectorAll('details').forEach((node) => (node.open = true))")
        if self.page.is_visible("#more-values") and "all" in self.page.inner_text("#more-values"):
            self.page.click("#more-values")

    def column(self, table: str, k: int, read: str = "(cell) => cell.innerText") -> dict[str, str]:
        """What `read` makes of the k-th cell (from 1) of each row, by the text of the first."""
        rows = self.page.evaluate(
            f"[...document.querySelectorAll('{table} tbody tr')]"
            f".map((row) => [row.cells[0].innerText, ({read})(row.cells[{k - 1}])])"
        )
        return dict(rows)

    def through(self) -> None:
        """Scroll from top to bottom, so that all charts are drawn."""
        height = self.page.evaluate("document.documentElement.scrollHeight")
        for y in range(0, height, 600):
            self.page.evaluate(f"scrollTo(0, {y})")
            self.page.wait_for_timeout(30)

    def slide(self, t: int) -> None:
        self.page.evaluate(
            f"const s = document.getElementById('generation'); s.value = {t}; s.dispatchEvent(new Event('input'))"
        )


def test_one_file_that_asks_for_nothing(page: Path) -> None:
    text = page.read_text()
    assert len(text.encode()) < LARGEST
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    loaded: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            loaded.extend(
                value or ""
                for name, value in attributes
                if name in ("src", "href", "srcset", "action", "data")
            )

    Tags().feed(markup)
    assert loaded and all(value.startswith(("#", "data:")) for value in loaded), (
        "nothing is loaded from anywhere"
    )
    assert "default-src 'none'" in markup
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data and "<" not in data[1] and json.loads(data[1])["generations"] == [0, 1, 2]


def test_hostile_names_are_text(page: Path) -> None:
    markup = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)
    for name in (*HOSTILE[:2], "<u>first</u>", "<b>now</b>", "<i>images</i>"):
        assert name not in markup
    assert (
        "Not answerable from one chain: 4 change of scaling law." in markup
        and "Cannot tell at this n: 6 entangled modes." in markup
    )
    assert "&lt;u&gt;first&lt;/u&gt;" in markup and "\u202e" not in markup and "\u0007" not in markup
    assert plain("family 👨\u200d👩 ok\n") == "family 👨\u200d👩 ok\n", "joined emoji and line ends stay"


@browsing
def test_the_slider_changes_pictures_map_and_values(page: Path, chromium: Any) -> None:
    tab = Tab(chromium, page)
    tab.through()
    show = lambda: tab.page.evaluate(  # noqa: E731
        "[...document.querySelectorAll('#cards img')].map((i) => i.src).join() + '|' + document.getElementById('table').textContent"
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
def test_axes_are_as_long_as_values_and_bands(hostile: Run, tmp_path: Path, chromium: Any) -> None:
    found = contents([hostile]) | {"live": False}
    for group in found["groups"]:
        for chart in group["charts"]:
            line = chart["lines"][0]
            line["value"] = [0.97 - 0.01 * i for i in range(len(line["t"]))]
            line["low"], line["high"] = [v - 0.01 for v in line["value"]], [v + 0.02 for v in line["value"]]
            chart["floor"] = 0.98
    (tmp_path / "page.html").write_text(render(found))
    tab = Tab(chromium, tmp_path / "page.html")
    tab.unfold()
    tab.through()
    extents = tab.page.evaluate(
        """[...document.querySelectorAll('.chart[data-group], #spectrum')]
        .map((node) => echarts.getInstanceByDom(node).getModel().getComponent('yAxis', 0).axis.scale.getExtent())"""
    )
    assert len(extents) > 15
    spectrum = extents.pop(
        tab.page.evaluate(
            "[...document.querySelectorAll('.chart[data-group], #spectrum')].findIndex((node) => node.id === 'spectrum')"
        )
    )
    for low, high in extents:
        assert 0.9 <= low <= 0.95 and 0.99 <= high <= 1.05, (low, high)
    spectra = found["runs"][0]["spectra"]
    shown = [v for key in ("low", "high", "real") for v in spectra[key]] + [
        v for t in (0, 2) for v in spectra["generations"][t]
    ]
    assert min(shown) / 10 <= spectrum[0] <= min(shown) and max(shown) <= spectrum[1] <= 10 * max(shown)


@browsing
@pytest.mark.parametrize("width", [1200, 390])
def test_the_map_shows_every_dot_and_both_axes_to_one_scale(single: Path, chromium: Any, width: int) -> None:
    tab = Tab(chromium, single, width=width)
    tab.through()
    at = lambda points: tab.page.evaluate(  # noqa: E731
        "(points) => points.map((p) => echarts.getInstanceByDom(document.getElementById('map-chart')).convertToPixel({ gridIndex: 0 }, p))",
        points,
    )
    (x0, y0), (x1, y1) = at([[0, 0], [1, 1]])
    assert x1 - x0 == pytest.approx(y0 - y1, rel=1e-3) and x1 > x0
    found = json.loads(re.search(r'id="data">(.*?)</script>', single.read_text(), re.DOTALL)[1])["runs"][0][
        "map"
    ]  # type: ignore[index]
    box = tab.page.evaluate(
        "(({ clientWidth, clientHeight }) => [clientWidth, clientHeight])(document.getElementById('map-chart'))"
    )
    dots = at([*found["real"], *(p for points in found["generations"].values() for p in points)])
    assert all(0 <= x <= box[0] and 0 <= y <= box[1] for x, y in dots)
    assert (
        max(
            max(x for x, _ in dots) - min(x for x, _ in dots) - box[0],
            max(y for _, y in dots) - min(y for _, y in dots) - box[1],
        )
        > -60
    ), "no room wasted"
    assert "at the edge" not in tab.page.inner_text("#map-says")


@browsing
def test_samples_at_the_edge_of_the_map_are_counted(hostile: Run, tmp_path: Path, chromium: Any) -> None:
    found = contents([hostile]) | {"live": False}
    found["runs"][0]["map"]["outside"][2] = 3
    (tmp_path / "page.html").write_text(render(found))
    tab = Tab(chromium, tmp_path / "page.html")
    assert "3 of the 60 samples shown lie further out and are drawn at the edge" in tab.page.inner_text(
        "#map-says"
    )
    tab.slide(1)
    assert "at the edge" not in tab.page.inner_text("#map-says")


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


def test_many_photos_stay_within_the_limit(
    hostile: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    seeds = SameSeeds([name for name in "abcdef" for _ in range(4)], 4, noise, {t: noise for t in range(21)})
    monkeypatch.setattr("difflab.report.pictures.same_seeds", lambda run: seeds)
    path = report([hostile] * 8, tmp_path / "many.html", [f"arm {k}" for k in range(8)])
    assert path.stat().st_size < LARGEST
    assert path.read_text().count("All pictures would make this page too large") == 1


@pytest.mark.parametrize("seeds", [1, 2])
def test_intervals_of_arms_stand_where_there_are_any(
    page: Path, hostile: Run, other: Run, seeds: int
) -> None:
    found = contents([hostile, other]) | {"live": False}
    if seeds > 1:
        found["compared"]["paired"] = True
        for row in found["compared"]["rows"]:
            row["cells"][1] |= {"diff_low": 0.125, "diff_high": 0.25, "effect": "higher", "tone": "better"}
    section = render(found).split('<section id="arms"')[1].split("</section>")[0]
    assert ("95% interval" in section, "[0.125, 0.25]" in section) == (seeds > 1, seeds > 1)
    assert ('<span class="verdict-word better">higher</span>' in section) == (seeds > 1)
    assert ("nothing can be told apart" in section) == (seeds == 1) and "cannot tell" not in section
    assert ". Budgets do NOT match" in section


@browsing
def test_no_two_of_many_arms_look_alike(hostile: Run, tmp_path: Path, chromium: Any) -> None:
    tab = Tab(chromium, report([hostile] * 15, tmp_path / "many.html", [f"arm {k}" for k in range(15)]))
    tab.through()
    drawn = tab.page.evaluate(
        """[...document.querySelectorAll('.chart[data-group]')].map((chart) => echarts.getInstanceByDom(chart)?.getOption().series ?? [])
        .map((series) => series.filter((s) => s.name?.startsWith('arm ')).map((s) => [s.name, s.lineStyle.color, s.lineStyle.type, s.symbol]))"""
    )
    full = next(lines for lines in drawn if len(lines) == 15)
    for k in (0, 1):  # by line, and by symbol
        assert len({str([colour, kind[k]]) for _, colour, *kind in full}) == 15
    dots = tab.page.evaluate(
        """[...document.querySelectorAll('.legend .dot')].slice(0, 15)
        .map((dot) => getComputedStyle(dot)).map((s) => [s.backgroundColor, s.borderRadius, s.clipPath].join())"""
    )
    assert len(set(dots)) == 15, "the legend, too"
    assert tab.complaints == []


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


def test_the_page_answers_first_and_folds_the_training_last(single: Path, page: Path) -> None:
    order = lambda text: re.findall(r'<section id="(\w+)"', text)  # noqa: E731
    assert order(single.read_text())[:4] == ["verdict", "pictures", "values", "curves"]
    assert order(page.read_text())[:2] == ["verdict", "arms"], "what helps is asked by who gives several runs"
    text = single.read_text()
    answers = re.findall(r"<h3>(.*?)</h3>", text.split('<section id="pictures"')[0])
    assert answers == ["What was lost", "How sure", "Since when", "What could help"]
    assert order(text)[-1] == "internals"
    before, internals = text.split('<section id="internals"')
    for metric in ("gradient norm", "clipped share", "held-out loss, least noise"):
        assert f"<strong>{metric}</strong>" not in before and f"<strong>{metric}</strong>" in internals
    assert "<details open" not in internals


def test_many_arms_have_short_verdicts(hostile: Run, tmp_path: Path) -> None:
    path = report([hostile] * 3, tmp_path / "three.html", ["a", "b", "c"], lambda run: VERDICT)
    card = path.read_text().split('<article class="verdict')[1].split("</article>")[0]
    outside, folded = card.split("<summary>What was lost, how sure, since when</summary>")
    assert "First alarm in generation 1, by recall." in outside and "Add real images." in outside
    assert "7 lost tails:" in folded and "7 lost tails:" not in outside
    assert "<h3>What could help</h3>" not in card, "the advice stands once"


@browsing
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_no_row_of_charts_is_mostly_empty(single: Path, chromium: Any, width: int) -> None:
    tab = Tab(chromium, single, width=width)
    tab.through()
    rows = tab.page.evaluate(
        """[...document.querySelectorAll('#curves .charts > *')].map((node) => node.getBoundingClientRect())
        .reduce((rows, box) => ({ ...rows, [Math.round(box.top)]: (rows[Math.round(box.top)] ?? 0) + box.width }), {})"""
    )
    *full, last = rows.values()
    room = tab.page.evaluate("document.querySelector('#curves .charts').clientWidth")
    assert full and min(full) > 0.9 * room and last > 0


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


@browsing
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_for_everybody(page: Path, single: Path, chromium: Any, scheme: str) -> None:
    """axe-core: contrast, alt texts, names of controls, headings."""
    from axe_playwright_python.sync_playwright import Axe

    tab = Tab(chromium, page if scheme == "light" else single, scheme=scheme)
    tab.through()
    tab.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = Axe().run(tab.page)
    assert found.violations_count == 0, found.generate_report()


@browsing
def test_on_a_phone_nothing_sticks_out(page: Path, chromium: Any) -> None:
    tab = Tab(chromium, page, width=390)
    tab.through()
    tab.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 390
    heads = tab.page.evaluate(
        "[...document.querySelectorAll('table:not(.matrix) thead tr')].map((row) => row.offsetHeight)"
    )
    assert len(heads) > 4 and max(heads) < 120, "no head is broken letter by letter"
    assert tab.complaints == []


@browsing
def test_on_paper_nothing_is_folded_cut_off_or_left_blank(page: Path, chromium: Any) -> None:
    tab = chromium.new_page(viewport={"width": 1280, "height": 1000})
    tab.goto(page.as_uri())
    # Printing lays the page out anew and tells no chart: what was drawn for the screen has to fit the paper, A4 at 96 dpi less its margins.
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.evaluate(
        "document.querySelectorAll('.chart').forEach((node) => { const c = echarts.getInstanceByDom(node); if (c) c.resize = () => {}; })"
    )
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    tab.set_viewport_size({"width": 720, "height": 1000})
    shut = tab.evaluate("document.querySelectorAll('.verdict details:not([open])').length")
    tab.emulate_media(media="print")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.get_by_text("7 lost tails: recall (pixels) 0.1").first.is_visible()
    assert not tab.locator("#generation").is_visible() and not tab.locator("nav").is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 720, "no table is cut off"
    assert tab.locator("#table tbody tr").last.is_visible(), "all measures are printed"
    charts = tab.locator(".chart[data-group] svg")
    assert charts.count() == tab.locator(".chart[data-group]").count() > 10
    drawn = tab.locator(".chart svg, .chart canvas")
    assert drawn.count() > charts.count()
    for box in (drawn.nth(i).bounding_box() for i in range(drawn.count())):
        assert box["width"] > 150 and box["height"] > 100 and box["x"] + box["width"] <= 720
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate("document.querySelectorAll('.verdict details:not([open])').length") == shut > 0
    tab.close()


def test_while_the_run_goes_on_the_page_says_so(hostile: Run) -> None:
    found = contents([hostile]) | {"planned": 5, "generations": [0, 1]}
    assert "in progress: generation 1 of 5 is measured" in render(found | {"live": True})
    assert "is measured" not in render(found | {"live": False})
    assert "Not diagnosed yet" in render(found | {"live": False})


def test_while_it_goes_on_a_run_says_so_and_at_its_end_no_more(
    hostile: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from difflab.loop import chain
    from difflab.report import live

    written: list[tuple[int, bool]] = []

    def watched(runs: list[Run], path: Path, **options: Any) -> Path:
        written.append((runs[0].generations[-1], options["live"]))
        return report(runs, path, **options)

    monkeypatch.setattr(live, "report", watched)
    chain.run_chain(hostile.config, tmp_path / "run", after_generation=live.after_generation)
    assert written == [(0, True), (1, True), (2, False)]
    chain.run_chain(hostile.config, tmp_path / "run", after_generation=live.after_generation)
    assert len(written) == 3, "a finished run keeps its report"
    (tmp_path / "run" / "report.html").unlink()
    chain.run_chain(hostile.config, tmp_path / "run", after_generation=live.after_generation)
    assert written[3:] == [(2, False)], "and gets it back"


def test_a_run_writes_its_report_and_the_command_adds_the_verdict(
    hostile: Run,
    other: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("difflab.evaluation.diagnose.spaces", lambda side: ["pixels"])
    config = settings(Path(hostile.config.data.source.split(":", 1)[1]), generations=1)
    record = tmp_path / "config.yaml"
    record.write_text(json.dumps(config))
    path = tmp_path / "run"
    assert main(["run", str(record), "--out", str(path), "--json"]) == 0
    page = path / "report.html"
    assert "Not diagnosed yet" in page.read_text() and "is measured" not in page.read_text()
    capsys.readouterr()
    assert main(["report", str(path), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row == {"report": str(page), "bytes": page.stat().st_size, "runs": [str(path)]}
    assert "Not diagnosed yet" not in page.read_text() and (path / "diagnosis.json").exists()
    assert (
        main(["report", str(path), str(other.path), "--out", str(tmp_path / "two.html"), "--no-diagnosis"])
        == 0
    )
    assert "Arms side by side" in (tmp_path / "two.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{tmp}/none"], "no run"),
        (["{run}", "--out", "{tmp}"], "is a folder"),
        (["{tmp}/empty"], "no run"),
    ],
)
def test_bad_input_is_one_line(
    hostile: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [word.format(tmp=tmp_path, run=hostile.path) for word in words]
    assert main(["report", *filled, "--no-diagnosis"]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1
