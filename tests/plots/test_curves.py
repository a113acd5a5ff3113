from __future__ import annotations

import pytest
from curve_runs import legend, made_of_rows, numbers
from matplotlib.backends.backend_agg import FigureCanvasAgg

from difflab.plots.curves import COLOURS
from difflab.report.arms import curves
from difflab.runs.run import Run

FLOOR, INTERVAL = "floor (real against real)", "95% interval"


@pytest.fixture
def run(tmp_path) -> Run:
    rows = [
        *numbers("flagged_share", [0, 0.1], 0.0, "none"),
        *numbers("fd", [1.0, 3.0]),
        *numbers("recall", [0.9, 0.2], 0.95),
    ]
    return made_of_rows(tmp_path / "one", "one", rows)


def test_each_measure_is_a_plot_with_values_interval_and_floor(run):
    figure = curves([run])
    fd, recall, flagged = (a for a in figure.axes if a.axison)
    assert [a.get_title() for a in (fd, recall, flagged)] == ["fd", "recall", "flagged share"]
    line, floor = fd.lines
    assert line.get_xydata().tolist() == [[0, 1.0], [1, 3.0]]
    assert set(floor.get_ydata()) == {0.1} and set(recall.lines[1].get_ydata()) == {0.95}
    band = fd.collections[0].get_paths()[0].vertices
    for t, value in ((0, 1.0), (1, 3.0)):
        heights = band[band[:, 0] == t, 1]
        assert heights.min() == pytest.approx(value - 0.2) and heights.max() == pytest.approx(value + 0.3)
    assert legend(figure) == ["one", INTERVAL, FLOOR]


def test_several_runs_share_the_plots_and_have_a_colour_each(run, tmp_path):
    two = made_of_rows(
        tmp_path / "two", "two", [*numbers("fd", [1.5, 2.5, 2.0], 0.7), *numbers("kid", [0.1, 0.2], None)]
    )
    figure = curves([run, two])
    fd = next(a for a in figure.axes if a.get_title() == "fd")
    first, floor, second = fd.lines
    assert (first.get_color(), second.get_color()) == COLOURS[:2] and second.get_xydata().tolist() == [
        [0, 1.5],
        [1, 2.5],
        [2, 2.0],
    ]
    assert set(floor.get_ydata()) == {0.1}  # the floor of the first
    assert len(fd.collections) == 2
    assert [a.get_title() for a in figure.axes if a.axison] == ["fd", "recall", "kid", "flagged share"]
    assert legend(figure) == ["one", "two", INTERVAL, FLOOR]


def test_flagged_images_are_drawn_where_there_are_any(tmp_path):
    clean = made_of_rows(
        tmp_path / "clean",
        "clean",
        [*numbers("flagged_share", [0, 0], 0.0, "none"), *numbers("fd", [1.0, 3.0])],
    )
    assert [a.get_title() for a in curves([clean]).axes if a.axison] == ["fd"]


def test_more_runs_than_colours_have_lines_of_another_kind(tmp_path):
    runs = [
        made_of_rows(tmp_path / str(k), str(k), numbers("kid", [0.1, 0.2], None))
        for k in range(len(COLOURS) + 2)
    ]
    lines = next(iter(curves(runs).axes)).lines
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines]
    assert len(set(looks)) == len(runs) and looks[0][0] == looks[len(COLOURS)][0]
    assert "--" not in {style for _, style, _ in looks}  # those are floors


def test_a_run_that_lacks_the_first_measure_is_in_the_legend_too(run, tmp_path):
    figure = curves([run, made_of_rows(tmp_path / "two", "two", numbers("kid", [0.1], None, ci=False))])
    assert legend(figure) == ["one", "two", INTERVAL, FLOOR]


def test_runs_of_the_same_name_are_told_apart_by_their_folders(run, tmp_path):
    figure = curves([run, made_of_rows(tmp_path / "other", "one", numbers("fd", [2.0]))])
    assert legend(figure)[:2] == ["one", "other"]


def test_metrics_can_be_chosen_and_the_figure_shrinks(run):
    figure = curves([run], ["recall"])
    assert [a.get_title() for a in figure.axes] == ["recall"]
    assert figure.get_size_inches()[0] < curves([run]).get_size_inches()[0]


def test_without_intervals_floors_or_values_nothing_is_made_up(tmp_path):
    figure = curves(
        [
            made_of_rows(
                tmp_path / "r",
                "r",
                [*numbers("fd", [1.0, None, 2.0], None, ci=False), *numbers("kid", [None, None])],
            )
        ]
    )
    (fd,) = (a for a in figure.axes if a.axison)
    assert [line.get_xydata().tolist() for line in fd.lines] == [[[0, 1.0], [2, 2.0]]] and not fd.collections
    assert legend(figure) == ["r"]


def test_extractors_are_named_when_there_are_several(tmp_path):
    figure = curves(
        [
            made_of_rows(
                tmp_path / "r", "r", [*numbers("fd", [1.0]), *numbers("fd", [2.0], extractor="fitted")]
            )
        ]
    )
    assert [a.get_title() for a in figure.axes] == ["fd (pixels)", "fd (fitted)"]


def test_a_run_without_numbers_gives_an_empty_figure(tmp_path):
    figure = curves([made_of_rows(tmp_path / "r", "r", [])])
    assert not figure.legends and not any(a.axison for a in figure.axes)


@pytest.mark.parametrize("measures", [1, 2, 4, 5, 11])
def test_nothing_overlaps_or_leaves_the_page(tmp_path, measures):
    rows = [r for i in range(measures) for r in numbers(f"a_rather_long_{i}", [1e-4 * 10**i, 2.0])]
    runs = [made_of_rows(tmp_path / n, n, rows) for n in ("digits-accumulate", "digits-fresh", "digits")]
    figure = curves(runs)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    page, box = figure.bbox, figure.legends[0].get_window_extent(renderer)
    plots = [a.get_tightbbox(renderer) for a in figure.axes if a.axison]
    for part in (box, *plots):
        assert part.x0 >= -1 and part.y0 >= -1 and part.x1 <= page.x1 + 1 and part.y1 <= page.y1 + 1
    assert not any(box.overlaps(plot) for plot in plots)
    assert not any(a.overlaps(b) for i, a in enumerate(plots) for b in plots[:i])
    labelled = [bool(a.get_xlabel()) for a in figure.axes if a.axison]
    assert labelled == [i >= (len(labelled) - 1) // 4 * 4 for i in range(len(labelled))]
