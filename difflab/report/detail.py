"""The data of one run that a report shows, as plain Python types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from difflab.data.audited import PREFIX, share_text
from difflab.features.texture import radial_spectrum
from difflab.report.concept_matrix import concept_matrix
from difflab.report.data_uri import BUDGET
from difflab.report.feature_map import POINTS, feature_map, nearest_pairs
from difflab.report.pictures import pictures
from difflab.report.rounding import rounded
from difflab.runs.folder import STAGES
from difflab.runs.origins import composition
from difflab.runs.probe import caption
from difflab.runs.run import Run

DOTS = 80_000
"""Largest number of dots on all feature maps of a page, unless a generation needs its `FEWEST_DOTS`."""
FEWEST_DOTS = 50
SPECTRA = 200
"""Largest number of images from which a radial spectrum is computed."""


def detail(
    name: str, run: Run, runs: int, verdict: Callable[[Run], dict[str, Any] | None] | None
) -> dict[str, Any]:
    """Everything that a page shows of one run. For exact families, the entries about images are None.

    Args:
        name: the arm of the run.
        runs: number of runs on the page.
        verdict: a run -> its diagnosis as plain data, or None; None = no diagnosis.
    """
    shown = {
        "name": name,
        "path": shown_path(run),
        "caption": caption(run),
        "asked": setup(run),
        "generations": run.generations,
        "planned": run.config.generations,
        "cost": cost(run),
        "origins": origins(run),
        "audit": audit(run),
        "config": yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False),
        "recipe": run.recipe,
        "versions": versions(run),
        "command": f"difflab run {shown_path(run)}/run.yaml --out runs/again",
    }
    if run.config.exact:
        return shown | dict.fromkeys(("verdict", "pictures", "map", "concepts", "nearest", "spectra"))
    dots = max(FEWEST_DOTS, DOTS // (runs * len(run.generations)))
    return shown | {
        "verdict": verdict(run) if verdict else None,
        "pictures": pictures(run, BUDGET // runs),
        "map": feature_map(run, min(POINTS, dots)),
        "concepts": concept_matrix(run),
        "nearest": nearest_pairs(run, BUDGET // (8 * runs)),
        "spectra": spectra(run),
    }


def shown_path(run: Run) -> str:
    """The path of a run's folder if it is relative, else its last two parts.

    A page that is passed on therefore does not show the folders of the machine that made it.
    """
    return str(run.path) if not run.path.is_absolute() else str(Path(*run.path.parts[-2:]))


def setup(run: Run) -> list[tuple[str, str]]:
    """The settings of a run in words: (term, text)."""
    config = run.config
    lines = [("model", config.model.shown_name)]
    if not config.exact:
        lines += _real_images(run)
    share = getattr(config.regime, "real_fraction", None)
    lines.append(("regime", config.regime.name + (f", {share:.0%} real" if share else "")))
    lines.append(("generations", f"0 to {config.generations}, each starting from {config.train.start_from}"))
    if not config.exact:
        seen, count = config.train.images_seen, config.sample.count_of(0)
        lines.append(("budget", f"{seen:,} images seen, {count:,} samples, in every generation"))
        guidance = f", guidance {config.sample.guidance_scale:g}" if config.conditional else ""
        lines.append(("sampler", f"{config.sample.scheduler}, {config.sample.steps} steps{guidance}"))
    if config.policies:
        lines.append(("policies", ", ".join(policy.policy for policy in config.policies)))
    lines.append(("seed", str(config.seed)))
    return lines


def origins(run: Run) -> list[dict[str, Any]]:
    """What each training set consists of.

    A row is {generation, images, real, synthetic, unknown, share, mean, depths: [{depth, count}]}.
    """
    rows = []
    for t in range(run.config.generations + 1):
        if run.done(t, "mix"):
            found = composition(run, t)
            row: dict[str, Any] = {"generation": t, "images": found.images}
            row |= {name: found.origins.get(name, 0) for name in ("real", "synthetic", "unknown")}
            row |= {"share": found.synthetic_share, "mean": rounded(found.mean_depth)}
            rows.append(row | {"depths": [{"depth": d, "count": n} for d, n in found.depths.items()]})
    return rows


def audit(run: Run) -> list[str]:
    """What the audit at data.audit says about the real images, in sentences; [] without one."""
    summary = run.about.get("audit")
    if summary is None:
        return []
    found = ", ".join(f"{name.removeprefix(PREFIX)}: {count:,}" for name, count in summary["found"].items())
    lines = [f"It decides about images that declare nothing: {found or 'none'}."]
    share = share_text(summary) or "the audit has no estimate of the share of synthetic images in this set"
    lines.append(f"{share[0].upper()}{share[1:]}.")
    if summary["missing"]:
        lines.append(f"{summary['missing']:,} of {summary['used']:,} images are not in it.")
    return lines


def _real_images(run: Run) -> list[tuple[str, str]]:
    """The source and the number of the real images, and an account of the files that were read."""
    about = run.about
    height, width = about["record"][:2]
    size = f"{len(run.sizes)} sizes" if run.sizes else f"{width} x {height} px"
    text = (
        f"{Path(str(run.config.data.source)).name}: {about['n_train']:,} to train on, "
        f"{about['n_held_out']:,} held out, {size}"
    )
    if about["classes"]:
        text += f", {len(about['classes'])} classes"
    lines = [("real images", text)]
    if run.account is not None:
        lines.append(("files read", "; ".join(run.account.lines(reasons=False))))
    return lines


def spectra(run: Run) -> dict[str, Any] | None:
    """The mean power of the luminance at each radial frequency, for every generation and for held-out images.

    `low` and `high` are the quartiles of the real images. Returns None if a side is shorter than 8 pixels,
    and for images of several sizes, whose rings are different frequencies.
    """
    about = run.about
    if run.sizes or min(about["record"][:2]) < 8:
        return None
    rows = np.arange(about["n_train"], about["n_train"] + min(about["n_held_out"], SPECTRA))
    frequency, real = radial_spectrum(torch.from_numpy(run.real.gather(rows)))
    generations = {}
    for t in run.generations:
        samples = run.samples(t)
        images = samples.gather(np.arange(min(len(samples), SPECTRA)))
        generations[t] = _mean_power(radial_spectrum(torch.from_numpy(images))[1])
    low, high = real.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), dim=0)
    return {
        "frequency": [rounded(float(f), 3) for f in frequency],
        "real": _mean_power(real),
        "low": [rounded(float(v)) for v in low],
        "high": [rounded(float(v)) for v in high],
        "generations": generations,
    }


def _mean_power(power: torch.Tensor) -> list[float | None]:
    """The geometric mean over images of their power [n, frequencies]."""
    return [rounded(float(value)) for value in power.log().mean(0).exp()]


def cost(run: Run) -> dict[str, Any]:
    """Seconds, images per second, MFU and peak memory of each stage.

    A stage that was reused from another run has no cost.
    """
    timings = run.timings()
    stages = []
    for stage in STAGES:
        rows = [row for row in timings if row["stage"] == stage]
        if rows:
            stages.append(_stage_cost(stage, rows))
    return {
        "stages": stages,
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "processes": max((row.get("processes", 1) for row in timings), default=1),
    }


def _stage_cost(stage: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row.get("images") or 0 for row in rows)
    mfu = [row["mfu"] for row in rows if row.get("mfu")]
    return {
        "stage": stage,
        "seconds": round(seconds, 2),
        "times": len(rows),
        "speed": round(images / seconds, 1) if images and seconds else None,
        "mfu": round(float(np.mean(mfu)), 3) if mfu else None,
        "peak_gb": max((row["peak_gb"] for row in rows if row.get("peak_gb")), default=None),
    }


def versions(run: Run) -> dict[str, str]:
    """The versions of Python and of the packages with which the run was started."""
    record = yaml.safe_load((run.path / "run.yaml").read_text())
    return {package: str(number) for package, number in (record.get("versions") or {}).items()}
