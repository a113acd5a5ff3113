"""The table of rows against the code that makes them: no row without an entry, no entry without code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difflab.config import parse
from difflab.core.rows import TOPICS
from difflab.core.shape import Shape
from difflab.loop import row_kinds as table
from difflab.loop.chain import run_chain
from difflab.loop.gradients import Gradients
from difflab.loop.judge_drift_rows import JUDGES
from difflab.loop.row_kinds import DECLARED, first_sentence, row_kinds
from difflab.metrics import METRICS
from difflab.metrics.held_out_loss import summary
from difflab.metrics.row_name import row_name
from difflab.models import family_of
from difflab.models.family import Exact
from difflab.runs.run import open_run

CLIP_WIDTH = 256
"""Features of the bundled tiny-clip."""
EXACT = (
    {"family": "gaussian", "replicates": 3},
    {"family": "gaussian", "replicates": 3, "dim": 2},
    {"family": "categorical", "replicates": 3},
    {"family": "mixture", "replicates": 3},
)


def exact_names(model: dict[str, Any]) -> set[str]:
    """The measures of a fitted exact model."""
    spec = parse(
        {
            "generations": 1,
            "data": {"source": "exact", "train_size": 20},
            "model": model,
            "sample": {"count": 20},
        }
    ).model
    family = family_of(spec)
    records = family.truth(spec, list(range(20)))
    fitted = family(spec, Shape(records.shape[1:]))
    assert isinstance(fitted, Exact)
    fitted.fit(records)
    return set(fitted.measures())


def ecosystem_names(path: Path) -> set[str]:
    """The rows of a run of two labs of Gaussians."""
    config = {
        "generations": 1,
        "data": {"source": "exact", "train_size": 20},
        "model": {"family": "gaussian", "replicates": 3},
        "sample": {"count": 20},
        "ecosystem": {"labs": 2, "exchange": [[0.5, 0.5], [0.5, 0.5]]},
    }
    run_chain(parse(config), path)
    return {row["metric"] for row in open_run(path).rows()}


def image_names(path: Path) -> set[str]:
    """The rows of a run of a small pixel model with every measure that is no `PairMetric`."""
    head = {"weight": np.ones((1, CLIP_WIDTH), np.float32), "bias": np.zeros(1, np.float32)}
    np.savez(path / "head.npz", **head)
    config = {
        "generations": 1,
        "data": {"source": "digits", "limit": 120},
        "model": {"family": "pixel-mlp", "conditional": True, "width": 16},
        "train": {"start_from": "scratch", "images_seen": 64, "batch_size": 32},
        "sample": {"count": 40, "steps": 2},
        "measure": {
            "extractors": ["pixels", "open_clip:tiny-clip"],
            "metrics": ["recall"],
            "resamples": 0,
            "held_out_loss": 8,
            "judge_drift": True,
            "aesthetic": str(path / "head.npz"),
        },
    }
    run_chain(parse(config), path / "run")
    return {row["metric"] for row in open_run(path / "run").rows()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The name of every row that code makes, found by running the code."""
    base = tmp_path_factory.mktemp("rows")
    classes = (["a", "b"], np.array([0, 1]), np.array([0, 1]))
    gradients = Gradients(torch.zeros(4), torch.ones(4, dtype=torch.float64))
    inception = "inception-v3"
    names = (
        {row_name(name, inception) for name in METRICS}
        | set(METRICS)
        | image_names(base)
        | ecosystem_names(base / "labs")
    )
    names |= set(summary(np.ones((2, 8)), np.ones((2, 8)), classes)["measures"])
    names |= set(gradients.means(scaled=True))
    for model in EXACT:
        names |= exact_names(model)
    return names


def test_every_row_that_code_makes_has_an_entry(made: set[str]) -> None:
    assert made - set(row_kinds()) == set() and set(JUDGES) <= made


def test_every_entry_is_of_a_row_that_code_makes(made: set[str]) -> None:
    assert set(row_kinds()) - made == set()


def test_no_name_is_declared_twice() -> None:
    names = [kind.name for kind in DECLARED]
    assert sorted(names) == sorted(set(names)) and not set(names) & set(METRICS)


def test_an_entry_says_everything() -> None:
    for kind in row_kinds().values():
        assert kind.unit and kind.about.endswith((".", "?", "…")), kind
        assert kind.better in ("higher", "lower", "real", "none"), kind
        assert kind.counts in ("images", "steps", "chains"), kind


def test_every_row_has_a_topic() -> None:
    topics = {name: kind.topic for name, kind in row_kinds().items()}
    assert {name for name, topic in topics.items() if topic == "Other"} == set()
    assert set(topics.values()) | {"Other"} == set(TOPICS)
    some = {
        "precision": "Fidelity",
        "recall": "Diversity",
        "between_class_ratio": "Concepts",
        "zero_shot_accuracy": "Concepts",
        "judge_retrained_on_real": "Concepts",
        "prompt_diversity": "Diversity",
        "saturation_shift": "Aesthetics and texture",
        "aesthetic_score": "Aesthetics and texture",
        "auth_pct": "Memorisation",
        "loss_gap": "Memorisation",
        "drift_from_base": "Training",
        "held_out_loss_1": "Training",
        "held_out_loss_rare": "Tails and likelihood",
        "fid": "Fidelity",
        "variance": "Fitted distribution",
    }
    assert {name: topics[name] for name in some} == some


def test_a_measure_that_is_added_later_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(METRICS["recall"]):  # type: ignore[misc]
        """My measure: says nothing."""

        name = "mine"

    monkeypatch.setitem(table.METRICS, "mine", Mine)
    kind = row_kinds()["mine"]
    assert (kind.about, kind.topic) == ("My measure: says nothing.", "Diversity")


def test_the_first_paragraph_of_a_docstring_as_text() -> None:
    assert first_sentence("One `two`\n    three.\n\nMore.") == "One two three."
    assert len(first_sentence("word " * 100)) < 243 and first_sentence("word " * 100).endswith(" …")
