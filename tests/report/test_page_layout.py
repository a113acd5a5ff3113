"""The page in a browser: axes, widths, paper, and what axe-core finds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import Tab, browsing
from hostile import VERDICT

from difflab.report.contents import contents
from difflab.report.page import render, report
from difflab.runs.run import Run


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
        .map((node) => echarts.getInstanceByDom(node).getModel())
        .map((model) => model.getComponent('yAxis', 0).axis.scale.getExtent())"""
    )
    assert len(extents) > 15
    spectrum = extents.pop(
        tab.page.evaluate(
            "[...document.querySelectorAll('.chart[data-group], #spectrum')]"
            ".findIndex((node) => node.id === 'spectrum')"
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
        """(points) => {
            const chart = echarts.getInstanceByDom(document.getElementById('map-chart'));
            return points.map((p) => chart.convertToPixel({ gridIndex: 0 }, p));
        }""",
        points,
    )
    (x0, y0), (x1, y1) = at([[0, 0], [1, 1]])
    assert x1 - x0 == pytest.approx(y0 - y1, rel=1e-3) and x1 > x0
    found = json.loads(re.search(r'id="data">(.*?)</script>', single.read_text(), re.DOTALL)[1])["runs"][0][
        "map"
    ]  # type: ignore[index]
    box = tab.page.evaluate(
        "(({ clientWidth, clientHeight }) => [clientWidth, clientHeight])"
        "(document.getElementById('map-chart'))"
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
def test_no_two_of_many_arms_look_alike(hostile: Run, tmp_path: Path, chromium: Any) -> None:
    tab = Tab(chromium, report([hostile] * 15, tmp_path / "many.html", [f"arm {k}" for k in range(15)]))
    tab.through()
    drawn = tab.page.evaluate(
        """[...document.querySelectorAll('.chart[data-group]')]
        .map((chart) => echarts.getInstanceByDom(chart)?.getOption().series ?? [])
        .map((series) => series.filter((s) => s.name?.startsWith('arm ')))
        .map((series) => series.map((s) => [s.name, s.lineStyle.color, s.lineStyle.type, s.symbol]))"""
    )
    full = next(lines for lines in drawn if len(lines) == 15)
    for k in (0, 1):  # by line, and by symbol
        assert len({str([colour, kind[k]]) for _, colour, *kind in full}) == 15
    dots = tab.page.evaluate(
        """[...document.querySelectorAll('.legend .dot')].slice(0, 15)
        .map((dot) => getComputedStyle(dot))
        .map((s) => [s.backgroundColor, s.borderRadius, s.clipPath].join())"""
    )
    assert len(set(dots)) == 15, "the legend, too"
    assert tab.complaints == []


@browsing
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_no_row_of_charts_is_mostly_empty(single: Path, chromium: Any, width: int) -> None:
    tab = Tab(chromium, single, width=width)
    tab.through()
    rows = tab.page.evaluate(
        """[...document.querySelectorAll('#curves .charts > *')].map((node) => node.getBoundingClientRect())
        .map((box) => [Math.round(box.top), box.width])
        .reduce((rows, [top, width]) => ({ ...rows, [top]: (rows[top] ?? 0) + width }), {})"""
    )
    *full, last = rows.values()
    room = tab.page.evaluate("document.querySelector('#curves .charts').clientWidth")
    assert full and min(full) > 0.9 * room and last > 0


LINES = [
    f"{sign} ({space}) 0.414 ± 0.06 (real images 0.676, re-encoded 0.676, generation 0 0.66)"
    for sign, space in (
        ("7 lost tails: recall", "pixels"),
        ("look: more contrast: contrast_shift", "texture"),
        ("5 collapsing variance: trace_ratio", "pixels"),
        ("encoding: texture_distance", "texture"),
        ("7 lost tails: coverage", "pixels"),
        ("6 entangled modes: class_accuracy", "fitted"),
    )
]
ADVICE = "go back to the previous generation, train from the base and add real images to every training set"


@browsing
@pytest.mark.parametrize("findings", [0, 1, 2, 4, 6])
def test_the_verdict_fills_its_width_whatever_was_found(
    hostile: Run, tmp_path: Path, chromium: Any, findings: int
) -> None:
    diagnosis = VERDICT | {"evidence": LINES[:findings], "advice": ADVICE, "gone": []}
    path = report([hostile], tmp_path / "page.html", None, lambda run: diagnosis)
    for width, columns in ((1280, 2), (390, 1)):
        tab = Tab(chromium, path, width=width)
        left_and_bottom = tab.page.evaluate(
            """[...document.querySelectorAll('.answers > div > :last-child')]
            .map((node) => node.getBoundingClientRect())
            .map((box) => [Math.round(box.left), box.bottom])"""
        )
        box = tab.page.evaluate("document.querySelector('.answers').getBoundingClientRect().toJSON()")
        filled: dict[int, float] = {}
        for left, bottom in left_and_bottom:
            filled[left] = max(filled.get(left, 0.0), (bottom - box["top"]) / box["height"])
        assert len(filled) == columns and min(filled.values()) > 0.5, "no column is half empty"


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
    # Printing changes the layout and notifies no chart: what was drawn for the screen has to fit the paper,
    # which is A4 at 96 dpi without its margins.
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.evaluate(
        """document.querySelectorAll('.chart').forEach((node) => {
            const chart = echarts.getInstanceByDom(node);
            if (chart) chart.resize = () => {};
        })"""
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
