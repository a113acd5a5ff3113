"""What a report shows, as plain data: the verdict, the curves, and of every arm its pictures, its map, its concepts, its cost.

Nothing here knows of HTML, and everything is strings, numbers, lists and dicts, so that it can be looked at, tested and saved as JSON.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from difflab.core.errors import ConfigError, StoreError
from difflab.report.detail import detail, in_common, rounded
from difflab.report.table import number
from difflab.runs.run import EcosystemRun, Run
from difflab.studies.budgets import budgets
from difflab.studies.compare_runs import Arm, arms_of, compare_runs

GROUPS = {
    "Fidelity": ("fd", "fid", "fd_infinity", "kid", "cmmd", "cmmd_biased", "precision", "density"),
    "Diversity": (
        *(
            "recall",
            "coverage",
            "vendi",
            "knn_entropy",
            "trace_ratio",
            "logdet_ratio",
            "within_class_ratio",
            "class_entropy",
        ),
        *("repeats", "spacing_ratio"),
    ),
    "Concepts": (
        "class_accuracy",
        "class_margin",
        "between_class_ratio",
        "judge_frozen",
        "judge_retrained",
        "judge_rebased",
    ),
    "Aesthetics and texture": ("aesthetic", "texture_distance"),
    "Memorisation": ("loss_gap",),
    "Tails": (
        "tail_recall",
        "rare_class_survival",
        "concept_survival",
        "rare_concept_survival",
        "held_out_loss_rare",
    ),
    "Process": (),
    "Other": (),
}
"""Headings of the curves, and what stands under them by name; the others follow from what they need."""
TITLES = {
    "held_out_loss": "held-out loss, all noise levels",
    "held_out_loss_1": "held-out loss, least noise",
    "held_out_loss_2": "held-out loss, low noise",
    "held_out_loss_3": "held-out loss, high noise",
    "held_out_loss_4": "held-out loss, most noise",
    "held_out_loss_rare": "held-out loss, rarest classes",
    "loss_gap": "loss gap to training images",
    "flagged_share": "images of one colour",
}
"""Of curves whose name alone does not say what they are."""
BY_NEED = {
    "concepts": "Concepts",
    "judge": "Concepts",
    "texture": "Aesthetics and texture",
    "train": "Memorisation",
    "own": "Memorisation",
    "prompts": "Diversity",
}
DETAILED = 8
"""Arms whose pictures are shown."""


def contents(
    runs: Sequence[Run],
    names: Sequence[str] | None = None,
    verdict: Callable[[Run], dict[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """Everything that a report of `runs` shows. An ecosystem counts as its labs.

    Args:
        names: the arm of each run, as for `difflab.studies.compare_runs.arms_of`.
        verdict: the diagnosis of a run as plain data, None where it has none; None = no diagnoses.

    Raises StoreError where there is nothing to show.
    """
    runs, names = _labs(runs, names)
    if not any(run.generations for run in runs):
        raise StoreError(
            f"{runs[0].path} has no measured generation yet; go on with difflab run, then make the report"
        )
    runs, names = _measured(runs, names)
    arms = arms_of(runs, names)
    shown = [next(iter(arm.runs.values())) for arm in arms][:DETAILED]
    last = max(t for run in runs for t in run.generations)
    compared = _compared(arms) if len(arms) > 1 else None
    details = [detail(arm.name, run, len(shown), verdict) for arm, run in zip(arms, shown, strict=False)]
    pictures = [one["pictures"] for one in details if one["pictures"]]
    return {
        "title": ", ".join(arm.name for arm in arms[:4])
        + (f" and {len(arms) - 4} more" if len(arms) > 4 else ""),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": version("difflab"),
        "generations": list(range(last + 1)),
        "planned": max(run.config.generations for run in runs),
        "arms": [{"name": arm.name, "seeds": sorted(arm.runs)} for arm in arms],
        "left": [arm.name for arm in arms[DETAILED:]],
        "groups": _groups(arms),
        "runs": details,
        "fewer": in_common(pictures) if pictures else "",
        "compared": compared,
        "budget": budgets(arms) if len(arms) > 1 else None,
    }


def _labs(runs: Sequence[Run], names: Sequence[str] | None) -> tuple[list[Run], list[str] | None]:
    """The runs with ecosystems taken apart; the names of labs are then given."""
    if not any(isinstance(run, EcosystemRun) for run in runs):
        return list(runs), None if names is None else list(names)
    own = names or [run.config.name for run in runs]
    parts = [
        (lab, f"{name}, lab {i}" if len(run.parts) > 1 else name)
        for run, name in zip(runs, own, strict=True)
        for i, lab in enumerate(run.parts)
    ]
    return [lab for lab, _ in parts], [name for _, name in parts]


def _measured(runs: list[Run], names: list[str] | None) -> tuple[list[Run], list[str] | None]:
    """Those that have a measured generation."""
    kept = [i for i, run in enumerate(runs) if run.generations]
    return [runs[i] for i in kept], None if names is None else [names[i] for i in kept]


# ---------------------------------------------------------------------------------------------------------- curves
def group_of(metric: str, extractor: str) -> str:
    """The heading that a measure stands under.

    >>> group_of("recall", "pixels"), group_of("gradient_norm", "training"), group_of("held_out_loss_2", "training")
    ('Diversity', 'Process', 'Process')
    """
    from difflab.metrics import METRICS

    for group, own in GROUPS.items():
        if metric in own:
            return group
    if extractor == "training" or metric == "flagged_share":
        return "Process"
    needs = METRICS[metric].needs if metric in METRICS else ""
    return BY_NEED.get(needs, "Other")


def _groups(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Curves by heading: of every measure its points per arm, the mean over seeds where there are several.

    Flagged images are a check, not a result: they have no curve where there are none.
    """
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for arm in arms:
        for row in _rows(arm):
            if row["value"] is not None:
                found.setdefault((row["metric"], row["extractor"]), {}).setdefault(arm.name, []).append(row)
    spaces = {extractor for _, extractor in found if extractor not in ("none", "training", "texture")}
    charts = [
        _chart(metric, extractor, own, arms, len(spaces) > 1)
        for (metric, extractor), own in found.items()
        if metric != "flagged_share" or any(row["value"] for rows in own.values() for row in rows)
    ]
    groups: list[dict[str, Any]] = [
        {"title": title, "charts": [c for c in charts if c["group"] == title], "note": ""} for title in GROUPS
    ]
    if not all(run.config.exact for arm in arms for run in arm.runs.values()):
        next(group for group in groups if group["title"] == "Memorisation")["note"] = _not_looked_for(
            [c["metric"] for c in charts]
        )
    return [group for group in groups if group["charts"] or group["note"]]


def _not_looked_for(taken: Sequence[str]) -> str:
    """A line where none of the measures compares samples with training images, one by one."""
    from difflab.metrics import METRICS

    known = [name for name, metric in METRICS.items() if metric.needs in ("train", "own")]
    if set(taken) & set(known):
        return ""
    return f"No measure was taken of whether samples are copies of training images; there are {', '.join(known)} (measure.metrics)."


def _rows(arm: Arm) -> list[dict[str, Any]]:
    """The rows of an arm: a single run's own with intervals over images, several seeds' means with intervals over seeds."""
    if len(arm.runs) == 1:
        return next(iter(arm.runs.values())).rows()
    common = set.intersection(*(set(run.generations) for run in arm.runs.values()))
    metrics = {row["metric"] for run in arm.runs.values() for row in run.rows() if row["value"] is not None}
    return compare_runs([arm], sorted(metrics), sorted(common)) if common else []


def _chart(
    metric: str, extractor: str, rows: dict[str, list[dict[str, Any]]], arms: Sequence[Arm], several: bool
) -> dict[str, Any]:
    from difflab.metrics import METRICS

    about = METRICS.get("fd" if metric == "fid" else metric)
    first, title = next(iter(rows.values())), TITLES.get(metric, metric.replace("_", " "))
    floor = next((row["floor"] for own in rows.values() for row in own if row["floor"] is not None), None)
    lines = [
        {
            "arm": i,
            "t": [row["generation"] for row in rows[arm.name]],
            "value": [rounded(row["value"]) for row in rows[arm.name]],
            "low": [rounded(row["ci_low"]) for row in rows[arm.name]],
            "high": [rounded(row["ci_high"]) for row in rows[arm.name]],
            "n": [row.get("n") or row.get("seeds") for row in rows[arm.name]],
            "over": "seeds"
            if len(arm.runs) > 1
            else "steps"
            if extractor == "training" and metric not in _ON_IMAGES
            else "images",
        }
        for i, arm in enumerate(arms)
        if arm.name in rows
    ]
    return {
        "metric": metric,
        "extractor": extractor,
        "title": title
        + (f" ({extractor})" if several and extractor not in ("none", "training", "texture") else ""),
        "group": group_of(metric, extractor),
        "about": _first_sentence(about.__doc__ or "") if about else PROCESS.get(metric, ""),
        "unit": about.unit if about else "",
        "better": about.better if about else "",
        "floor": rounded(floor),
        "lines": lines,
        "says": _says(title, first, floor),
    }


_ON_IMAGES = ("loss_gap", *(f"held_out_loss{end}" for end in ("", "_1", "_2", "_3", "_4", "_rare")))
PROCESS = {
    "train_loss": "Mean loss over all images seen in training.",
    "gradient_norm": "Mean norm of the gradient before clipping.",
    "clipped_share": "Share of steps whose gradient was clipped.",
    "nonfinite_share": "Share of steps that the loss scaler left out.",
    "drift_from_base": "How far the weights are from the pretrained base (without one: from generation 0), relative to its norm.",
    "drift_from_previous": "How far the weights are from those of the generation before, relative to their norm.",
    "held_out_loss": "Denoising loss on real images that were never trained on: the likelihood bound, the nearest thing to the KL divergence from real data.",
    "held_out_loss_1": "Denoising loss on held-out real images at the quarter of the noise levels with the least noise: the finest structure.",
    "held_out_loss_2": "Denoising loss on held-out real images at the second quarter of the noise levels, from the least noise.",
    "held_out_loss_3": "Denoising loss on held-out real images at the third quarter of the noise levels, from the least noise.",
    "held_out_loss_4": "Denoising loss on held-out real images at the quarter of the noise levels with the most noise: the coarsest structure.",
    "held_out_loss_rare": "Denoising loss, over all noise levels, on held-out real images of the classes that are rarest in the first training set.",
    "loss_gap": "Held-out loss minus that on as many images of the first training set: above 0 = memorised.",
    "flagged_share": "Share of samples that are of one colour, such as black: failures of the sampler.",
    "judge_frozen": "Class accuracy by a judge trained on real images once.",
    "judge_retrained": "Class accuracy by a judge trained on the samples of the generation before: one that drifts with the model.",
    "judge_rebased": "Class accuracy by a judge trained on fresh real images each time.",
    "aesthetic": "Mean score of the aesthetic head.",
    "lab_distance": "Frechet distance between the samples of two labs, mean over pairs.",
}


def _first_sentence(text: str) -> str:
    """The beginning of a docstring, as plain text."""
    words = re.sub(r"\s+", " ", text.split("\n\n")[0].replace("`", "")).strip()
    return words if len(words) < 240 else words[:240].rsplit(" ", 1)[0] + " …"


def _says(title: str, rows: list[dict[str, Any]], floor: float | None) -> str:
    """A curve in words, for those who do not see it."""
    start, end = rows[0], rows[-1]
    text = f"{title}: {number(start['value'])} in generation {start['generation']}"
    if end is not start:
        text += f", {number(end['value'])} in generation {end['generation']}"
    return text + (f"; floor {number(floor)}" if floor is not None else "")


def _compared(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Arms against the first one in the last generation that all have: the rows of `compare_runs`, but those of the training."""
    try:
        return [
            {k: rounded(v) if isinstance(v, float) else v for k, v in row.items()}
            for row in compare_runs(arms)
        ]
    except ConfigError as error:  # no generation that all have: the report says so and shows the rest
        return [{"error": str(error)}]
