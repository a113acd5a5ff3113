"""Runs that consist of rows of metrics.jsonl alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from difflab.config import parse
from difflab.core.rows import row
from difflab.runs.run import Run


def made_of_rows(path: Path, name: str, rows: list[dict[str, Any]]) -> Run:
    run = Run(path, parse({"name": name, "model": {"family": "memoriser"}, "generations": 9}))
    for t in {r["generation"] for r in rows}:
        run.gen(t).mkdir(parents=True)
        (run.gen(t) / "metrics.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in rows if r["generation"] == t)
        )
    return run


def numbers(
    metric: str,
    values: list[float | None],
    floor: float | None = 0.1,
    extractor: str = "pixels",
    ci: bool = True,
) -> list[dict[str, Any]]:
    return [
        row(t, metric, extractor, v, (v - 0.2, v + 0.3) if ci and v is not None else None, 50, floor, "abc")
        for t, v in enumerate(values)
    ]


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]
