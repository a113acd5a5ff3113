from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from difflab.report.claims_page import HEAD, draw, lines, page, section

RESULT: dict[str, Any] = {
    "name": "tiny",
    "claim": "More is kept.",
    "verdict": "cannot tell",
    "source": "nobody",
    "setting": "none",
    "minutes": 1.25,
    "arms": ["all"],
    "statistics": {
        "kept": {
            "value": "at('all', 'variance', 5)",
            "unit": "",
            "effect": 0.25,
            "ci_low": 0.125,
            "ci_high": 0.5,
            "seeds": 3,
            "confirm": "> 0",
            "refute": "< 0",
            "verdict": "reproduced",
        },
        "alone": {
            "value": "1",
            "unit": "nats",
            "effect": 1.0,
            "ci_low": None,
            "ci_high": None,
            "seeds": 1,
            "confirm": "> 0",
            "refute": "< 0",
            "verdict": "cannot tell",
        },
    },
    "laws": [{"law": "A1", "what": "variance", "theory": 0.5, "measured": 0.75, "chains": 9, "z": 4.5}],
    "errors": {"all, seed 2": "it broke"},
    "revised": "the budget",
    "unshown": "",
    "later": "",
}


def test_the_terminal_shows_verdicts_statistics_laws_and_what_is_missing() -> None:
    text = lines([RESULT]).plain
    assert text.startswith("cannot tell  tiny: More is kept.\n")
    assert "kept: 0.25, 0.125 to 0.5, 3 seeds: reproduced\n" in text
    assert "alone: 1 nats, no interval, 1 seeds: cannot tell\n" in text
    assert "law A1: broken (z +4.5)\n" in text and "failed: all, seed 2: it broke\n" in text


def test_a_section_has_a_table_the_laws_and_only_the_notes_there_are() -> None:
    text = "\n".join(section(RESULT, drawn=False))
    assert "**More is kept.** *Cannot tell.*" in text
    row = "| kept: `at('all', 'variance', 5)` () | 0.25 | 0.125 to 0.5 | 3 | > 0 | < 0 | reproduced |"
    assert row in text
    assert "- law A1, variance: theory 0.5, measured 0.75 over 9 chains, z +4.50" in text
    assert (
        "Failed runs: all, seed 2 (it broke)" in text
        and "Changed after runs had been seen: the budget" in text
    )
    assert "What this setting cannot show" not in text and "claims/tiny.png" not in text
    assert "claims/tiny.png" in "\n".join(section(RESULT, drawn=True))
    bare = section(RESULT | {"statistics": {}, "laws": []}, drawn=False)
    assert not any(line.startswith("|") or line.startswith("- law") for line in bare)


def test_the_page_lists_every_claim_and_says_how_the_runs_were_made(tmp_path: Path) -> None:
    page([RESULT, RESULT | {"name": "other"}], tmp_path / "CLAIMS.md", tmp_path, about="On two cores.\n")
    text = (tmp_path / "CLAIMS.md").read_text()
    assert text.count("](#tiny) | **cannot tell** | 1.2 |") == 1 and "](#other)" in text
    assert "\n\nOn two cores.\n\n" in text


@pytest.mark.parametrize("change", [{"runs": {}}, {"statistics": {}}, {}])
def test_without_runs_or_measures_there_is_no_figure(tmp_path: Path, change: dict[str, Any]) -> None:
    assert not draw(RESULT | change, tmp_path / "tiny.png", tmp_path)
    assert not (tmp_path / "tiny.png").exists()


def test_the_page_of_the_repository_has_the_words_of_this_code() -> None:
    before, after = HEAD.split("{about}")
    text = Path("docs/CLAIMS.md").read_text()
    assert text.startswith(before) and after in text
