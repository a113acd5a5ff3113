"""The page as text. In a browser: test_page_in_use.py and test_page_layout.py."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import HOSTILE, VERDICT, settings

from difflab.cli.main import main
from difflab.report.contents import contents
from difflab.report.page import LARGEST, plain, render, report
from difflab.runs.probe import SameSeeds
from difflab.runs.run import Run


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
    assert ("cannot be tested" in section) == (seeds == 1) and "cannot tell" not in section
    assert ". Budgets do NOT match" in section


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


def test_evidence_is_read_at_a_glance(hostile: Run, tmp_path: Path) -> None:
    line = "5 collapsing variance: trace_ratio (pixels) 0.3 ± 0.02 (real images 1.01, generation 0 0.6)"
    diagnosis = VERDICT | {"evidence": [line, "copies: all 60 samples are <b>equal</b>, pixel for pixel"]}
    text = report([hostile], tmp_path / "page.html", None, lambda run: diagnosis).read_text()
    assert "<strong>5 collapsing variance: </strong>trace ratio (pixels) 0.3 ± 0.02 " in text
    assert '<span class="faint">(real images 1.01, generation 0 0.6)</span>' in text
    assert "<strong>copies: </strong>all 60 samples are &lt;b&gt;equal&lt;/b&gt;, pixel for pixel" in text


@pytest.mark.parametrize("losses", [[], ["7 lost tails: recall (pixels) 0.1 ± 0.02 (real images 0.9)"]])
def test_a_changed_look_or_encoding_is_not_listed_as_lost(
    hostile: Run, tmp_path: Path, losses: list[str]
) -> None:
    encoding = "encoding: texture_distance (texture) 0.495 ± 0.054 (real images 0.0742)"
    look = "look: more contrast: contrast_shift (texture) 0.826 ± 0.2 (real images 0.0967)"
    diagnosis = VERDICT | {"evidence": [encoding, *losses, look]}
    text = report([hostile], tmp_path / "page.html", None, lambda run: diagnosis).read_text()
    card = text.split('<article class="verdict')[1].split("</article>")[0]
    lost, changed, *_ = card.split("<h3>")[1:]
    assert lost.startswith("What was lost<") and "encoding" not in lost and "contrast" not in lost
    assert changed.startswith("What else changed, without a loss of content<")
    assert changed.index("<strong>encoding: </strong>") < changed.index("<strong>look: </strong>")
    assert ("7 lost tails" in lost) == bool(losses) and "7 lost tails" not in changed
    assert ("No measure of content is worse than every control." in lost) == (not losses)
    assert card.count("follows in brackets") == 1


def test_nothing_else_changed_has_no_heading(single: Path) -> None:
    assert "What else changed" not in single.read_text()


def test_what_is_excluded_is_said_where_no_collapse_is_found(
    hostile: Run, single: Path, tmp_path: Path
) -> None:
    excluded = "with 95% confidence per measure, less than 4% of recall is lost"
    healthy = VERDICT | {"stage": "none", "alarm": False, "evidence": [], "excluded": excluded}
    page = report([hostile], tmp_path / "healthy.html", ["a"], lambda run: healthy)
    assert f"No collapse is found: {excluded}." in page.read_text()
    assert "No collapse is found" not in single.read_text()


def test_damaged_classes_are_listed_and_their_names_do_no_harm(
    hostile: Run, single: Path, tmp_path: Path
) -> None:
    damaged = VERDICT | {"damaged": {HOSTILE[0]: ["blurred", "less contrast"], "cat": ["less variety"]}}
    text = report([hostile], tmp_path / "damaged.html", ["a"], lambda run: damaged).read_text()
    shown = text.split("Classes that are damaged by themselves:")[1].split("</ul>")[0]
    assert "<bdi>cat</bdi>: less variety" in shown and "</bdi>: blurred, less contrast" in shown
    assert "<img src" not in shown and "&lt;img src" in shown
    assert "damaged by themselves" not in single.read_text()


def test_many_arms_have_short_verdicts(hostile: Run, tmp_path: Path) -> None:
    path = report([hostile] * 3, tmp_path / "three.html", ["a", "b", "c"], lambda run: VERDICT)
    card = path.read_text().split('<article class="verdict')[1].split("</article>")[0]
    outside, folded = card.split("<summary>What was lost, how sure, since when</summary>")
    assert "First alarm in generation 1, by recall." in outside and "Add real images." in outside
    assert "7 lost tails:" in folded and "7 lost tails:" not in outside
    assert "<h3>What could help</h3>" not in card, "the advice stands once"


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
