"""What samples of each concept are recognised as, generation by generation, and which concepts have merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from difflab.core.errors import MeasureError
from difflab.loop.measure import told
from difflab.metrics import (
    Concepts,
    Judge,
    Pair,
    components,
    confusion,
    merged,
    open_extractor,
    per_concept,
)
from difflab.report.feature_map import feature_spaces, folder_name
from difflab.report.rounding import rounded
from difflab.runs.run import Run

ROWS = 24
"""Rows of a concept matrix. With more concepts, those that changed most and least."""
CHANGED = 40
"""Rows of the table of changed concepts, from both ends."""


@dataclass(frozen=True)
class Recognised:
    """Samples and held-out real images with their conditions, ready for the concept measures."""

    pairs: dict[int, Pair]
    """Samples of each generation against held-out real images."""
    floor: Pair
    """Held-out real images in the place of samples."""
    judge: str
    """Who recognises concepts, in words."""


def concept_matrix(run: Run) -> dict[str, Any] | None:
    """Matrices, changes and merged pairs of concepts as plain data; None where a run has no concepts to tell apart.

    Concepts are recognised by the CLIP model of measure.concepts, or else by the class judge.
    """
    recognised = by_clip(run) if run.config.measure.concepts is not None else by_judge(run)
    if recognised is None:
        return None
    pairs, floor = recognised.pairs, recognised.floor
    names = floor.concepts.names  # type: ignore[union-attr]
    tables = {t: confusion(pair) for t, pair in pairs.items()}
    real_table = confusion(floor)
    changed = changes(names, per_concept(pairs[min(pairs)]), per_concept(pairs[max(pairs)]))
    rows = sorted(_ends([i for i, _ in changed], ROWS))
    edges = {t: merged_pairs(pair, floor) for t, pair in pairs.items()}
    return {
        "judge": recognised.judge,
        "names": [names[i] for i in rows],
        "all": len(names),
        "tables": {t: table[rows][:, rows].tolist() for t, table in tables.items()},
        "asked": {t: table[rows].sum(1).tolist() for t, table in tables.items()},
        "real": real_table[rows][:, rows].tolist(),
        "real_asked": real_table[rows].sum(1).tolist(),
        "changed": [row for _, row in _ends(changed, CHANGED)],
        "merged": edges,
        "groups": {t: components(edges_of_generation) for t, edges_of_generation in edges.items()},
    }


def changes(
    names: list[str], first: list[dict[str, Any]], last: list[dict[str, Any]]
) -> list[tuple[int, dict[str, Any]]]:
    """The change in accuracy of every concept that both generations have samples of, largest fall first, by its index."""
    rows = []
    for i, (before, after) in enumerate(zip(first, last, strict=True)):
        if before["n"] and after["n"]:
            change = (after["accuracy"] or 0.0) - (before["accuracy"] or 0.0)
            row = {
                "concept": names[i],
                "n": after["n"],
                "before": rounded(before["accuracy"]),
                "after": rounded(after["accuracy"]),
                "low": rounded(after["ci_low"]),
                "high": rounded(after["ci_high"]),
                "change": rounded(change),
            }
            rows.append((change, i, row))
    rows.sort(key=lambda entry: entry[0])
    return [(i, row) for _, i, row in rows]


def _ends(entries: list[Any], count: int) -> list[Any]:
    """The first and the last half of `count` entries; all of them where there are no more."""
    return entries if len(entries) <= count else entries[: count // 2] + entries[-count // 2 :]


def merged_pairs(pair: Pair, floor: Pair) -> list[tuple[str, str, float]]:
    """Pairs of concepts that can be told apart among real images but not among samples, with the fall in AUROC."""
    try:
        return [(a, b, round(fall, 3)) for a, b, fall in merged(pair, floor)]
    except MeasureError:
        return []


def by_clip(run: Run) -> Recognised:
    """Concepts as the CLIP model of measure.concepts recognises them."""
    about = run.about
    held_out = slice(about["n_train"], about["n_train"] + about["n_held_out"])
    extractor = next(e for e in run.config.measure.extractors if e.startswith("open_clip"))
    reader = open_extractor(extractor)
    real = run.real.features(reader.key)[held_out]
    pairs, floor = {}, None
    for t in run.generations:
        real_labels, sample_labels, concepts = told(run, reader, run.real, run.samples(t))
        real_labels = real_labels[held_out]
        samples = run.samples(t).features(reader.key)
        pairs[t] = Pair(real, samples, real_labels=real_labels, fake_labels=sample_labels, concepts=concepts)
        floor = Pair(real, real, real_labels=real_labels, fake_labels=real_labels, concepts=concepts)
    assert floor is not None  # a report has at least one measured generation
    return Recognised(pairs, floor, extractor)


def by_judge(run: Run) -> Recognised | None:
    """Classes as the judge of the run recognises them; None for an unconditional run, or one without a judge.

    The judge's probabilities are the features, and each class is its own direction.
    """
    config, about, labels = run.config, run.about, run.real.labels()
    extractor = config.measure.judge_extractor
    key = feature_spaces(run).get(folder_name(extractor)) if extractor else None
    path = run.path / "real" / f"judge-{key}.safetensors"
    if labels is None or key is None or not path.exists() or len(about["classes"]) < 2:
        return None
    sample_labels = {t: run.samples(t).labels() for t in run.generations}
    if not config.conditional or any(own is None for own in sample_labels.values()):
        return None
    judge = Judge.load(path)
    held_out = slice(about["n_train"], about["n_train"] + about["n_held_out"])
    real = judge.probabilities(run.real.features(key)[held_out]).float()
    real_labels = torch.from_numpy(labels[held_out])
    concepts = Concepts(about["classes"], torch.eye(len(about["classes"])))
    pairs = {
        t: Pair(
            real,
            judge.probabilities(run.samples(t).features(key)).float(),
            real_labels=real_labels,
            fake_labels=torch.from_numpy(conditions),
            concepts=concepts,
        )
        for t, conditions in sample_labels.items()
    }
    floor = Pair(real, real, real_labels=real_labels, fake_labels=real_labels, concepts=concepts)
    return Recognised(pairs, floor, f"judge on {extractor}, trained on real images")
