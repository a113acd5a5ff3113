"""Every scheduler of the installed diffusers on four tiny bases: accepted or refused, and the pictures beside those of the folder's own pipeline.

    python benchmarks/schedulers.py        prints one line per base and scheduler, writes docs/results/schedulers.jsonl (about 2 minutes on one core)

The bases are those of the tests: Stable Diffusion 1.5 (epsilon), 2.1 (v prediction, zero terminal SNR), XL (with statistics of its
latents) and 3. Same prompts, seeds and steps; guidance 0, 0.5, 1 and 4. The pipeline is run twice: where its own two pictures
differ, it draws noise that no seed determines, and there is nothing to compare with.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import tiny  # noqa: E402

from difflab.config import Sample  # noqa: E402
from difflab.core.errors import ConfigError  # noqa: E402
from difflab.models.schedulers import scheduler_names  # noqa: E402

GUIDANCE = (0.0, 0.5, 1.0, 4.0)
STEPS, PROMPTS, SEEDS = 10, (1, 4), [5, 6]


def bases(root: Path) -> dict[str, Path]:
    """The four bases in `root`."""
    made = {kind: tiny.make(kind, root / kind) for kind in tiny.KINDS}
    tiny.amend(
        made["sd21"] / "scheduler" / "scheduler_config.json",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    tiny.amend(
        made["sdxl"] / "vae" / "config.json",
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.8, 1.2, 1.0, 0.9],
        scaling_factor=0.5,
    )
    return made


def theirs(pipe: Any, settings: Any, how: Sample) -> np.ndarray:
    """The pictures of the folder's own pipeline, int [n, H, W, 3]."""
    pipe.scheduler = getattr(diffusers, how.scheduler).from_config(settings)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    prompts = [tiny.CAPTIONS[i] for i in PROMPTS]
    asked = {
        "num_inference_steps": how.steps,
        "guidance_scale": how.guidance_scale,
        "generator": generators,
        "output_type": "np",
    }
    return (pipe(prompts, height=tiny.SIDE, width=tiny.SIDE, **asked).images * 255).round().astype(int)


def tried(kind: str, base: Path, name: str, pipe: Any, settings: Any) -> dict[str, Any]:
    """One row: accepted, the reason where not, the largest difference in levels of 0..255, and over which guidance scales."""
    row: dict[str, Any] = {"base": kind, "scheduler": name, "accepted": True, "reason": None, "levels": None}
    model = tiny.model(kind, base)
    try:
        model.check_sampling(Sample(scheduler=name, steps=STEPS))
    except ConfigError as error:
        return row | {"accepted": False, "reason": str(error).removeprefix(f"sample.scheduler '{name}' ")}
    worst = 0
    for guidance in GUIDANCE:
        how = Sample(scheduler=name, steps=STEPS, guidance_scale=guidance, batch_size=len(SEEDS))
        model.prepare_sampling(how, "cpu")
        ours = model.sample(np.array(PROMPTS), SEEDS, how).astype(int)
        one, two = theirs(pipe, settings, how), theirs(pipe, settings, how)
        if (one != two).any():
            return row | {
                "reason": "the pipeline draws noise that no seed determines; difflab draws it from the images' seeds"
            }
        worst = max(worst, int(np.abs(ours - one).max()))
    return row | {"levels": worst}


def main() -> None:
    """Try all, print and store."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, base in bases(Path(folder)).items():
            pipe = tiny.pipeline(kind, base)
            settings = pipe.scheduler.config
            for name in scheduler_names():
                row = tried(kind, base, name, pipe, settings)
                row["reason"] = row["reason"] and row["reason"].replace(folder, "FOLDER")
                rows.append(row | {"diffusers": diffusers.__version__})
                print(
                    f"{kind:5} {name:36} {'accepted' if row['accepted'] else 'refused'} {row['levels'] if row['levels'] is not None else row['reason']}"
                )
    (ROOT / "docs" / "results" / "schedulers.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )


if __name__ == "__main__":
    main()
