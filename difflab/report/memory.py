"""The GPU memory of a run as tables. For `difflab plan --gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from difflab.loop.gpu_advice import Fit
from difflab.loop.gpu_memory import GIB, RESERVE, StageMemory
from difflab.report.blocks import Blocks, Column

PARTS = ("weights", "optimiser", "gradients", "activations")


def gpu_stages(fit: Fit, title: str) -> Blocks:
    """One row per stage, in GiB."""
    heads = [
        Column("stage", "left"),
        *(Column(part) for part in PARTS),
        Column("peak"),
        Column("with reserve"),
    ]
    rows = [[stage.stage, *map(_gib, _sizes(stage)), _gib(stage.needed)] for stage in fit.stages]
    return Blocks(heads, rows, title)


def gpu_changes(fit: Fit) -> Blocks:
    """The changes in the order in which they are made."""
    heads = [Column("change", "left"), Column("saves GiB"), Column("needed GiB")]
    rows = [[change.settings, _gib(change.saved), _gib(change.needed)] for change in fit.changes]
    return Blocks(heads, rows, "changes, in this order")


def verdict(fit: Fit) -> str:
    """Whether the run fits, as one line or several."""
    largest = max(fit.stages, key=lambda stage: stage.needed)
    lines = []
    if fit.fits:
        lines.append(f"fits: stage {largest.stage} needs most, {_gib(fit.needed)} of {fit.gib:g} GiB")
    elif fit.fits_with_changes:
        text = " ".join(change.settings for change in fit.changes)
        lines.append(f"does not fit {fit.gib:g} GiB, but with: {text}")
    else:
        lines.append(
            f"does not fit {fit.gib:g} GiB, with these changes neither; use a larger GPU or a smaller base"
        )
    lines += [fit.note] if fit.note else []
    lines += [f"{stage.stage}: {stage.note}" for stage in fit.stages if stage.note]
    lines.append(
        f"reserve: {_gib(RESERVE)} GiB for CUDA, its libraries and the allocator; no estimate was compared "
        "with a GPU yet"
    )
    return "\n".join(lines)


def rows_of(fit: Fit) -> Iterator[dict[str, Any]]:
    """Rows for --json, in bytes: the stages, the changes, and whether the run fits."""
    for stage in fit.stages:
        sizes = {part: getattr(stage, part) for part in (*PARTS, "peak", "needed")}
        yield {"stage": stage.stage, **sizes, "note": stage.note}
    for change in fit.changes:
        yield {"change": change.settings, "saved": change.saved, "needed": change.needed}
    yield {
        "gpu_gib": fit.gib,
        "needed": fit.needed,
        "fits": fit.fits,
        "fits_with_changes": fit.fits_with_changes,
        "note": fit.note,
    }


def _sizes(stage: StageMemory) -> list[float]:
    return [*(getattr(stage, part) for part in PARTS), stage.peak]


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
