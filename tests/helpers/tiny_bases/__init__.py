"""Random diffusers folders of every architecture of difflab/models/text_to_image, a few hundred kilobytes each.

One file here for each architecture, with `BASES: list[TinyBase]`; it is found by being there. Nothing comes from a hub: tokenizers are
made in parts.py. Weights are large enough for pictures to have contrast and to depend on the prompt.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from parts import CAPTIONS

from difflab.config import parse
from difflab.core.shape import Shape
from difflab.models import family_of


@dataclass(frozen=True, repr=False, eq=False)
class TinyBase:
    """How a tiny random folder of one architecture is made, and how its pipeline is called.

    Attributes:
        name: for the names of tests.
        make: returns the pipeline.
        family: model.family.
        side: side of the images in pixels.
        scheduler: sample.scheduler.
        guidance: guidance scale -> the arguments of the pipeline's call for it.
        scale: a guidance scale at which guidance acts; None = this folder takes none.
        unguided: the largest guidance scale that means no guidance.
        call: further arguments of the pipeline's call.
        lora: model.lora_targets; None = diffusers has no LoRA loader for this pipeline.
        more: further settings of the section model.
        absent: components that the folder lacks.
        variant: it differs from another base only in settings, so no chain is run with it.
        one_by_one: the padding of a prompt has an influence, so the pipeline is called for each prompt alone.
    """

    name: str
    make: Callable[[], Any]
    family: str = "flow"
    side: int = 16
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    guidance: Callable[[float], dict[str, Any]] = lambda scale: {"guidance_scale": scale}
    scale: float | None = 3.0
    unguided: float = 1.0
    call: dict[str, Any] = field(default_factory=dict)
    lora: tuple[str, ...] | None = ("to_q", "to_k", "to_v", "to_out.0")
    more: dict[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    variant: bool = False
    one_by_one: bool = False

    def __repr__(self) -> str:  # tests are named by it, in every process alike
        return self.name

    def write(self, folder: Path, seed: int = 0) -> Path:
        """Write the folder; its weights are a pure function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.make().save_pretrained(folder)
        return folder

    def pipeline(self, folder: Path) -> Any:
        """The folder in plain diffusers, with the scheduler of `config`."""
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, **dict.fromkeys(self.absent)
        )
        pipe.scheduler = getattr(diffusers, self.scheduler).from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def model(self, folder: Path, **changes: Any) -> Any:
        """The difflab model with the folder's weights."""
        spec = {"family": self.family, "base": str(folder), **self.more, **changes}
        spec = parse({"model": spec, "train": {"start_from": "base"}}).model
        model = family_of(spec)(spec, Shape((self.side, self.side, 3), 0, CAPTIONS))
        model.initialise(0)
        return model

    def config(self, folder: Path, **sections: Any) -> dict[str, Any]:
        """A chain of generations 0 and 1 on 24 emoji, as the content of a config file."""
        raw: dict[str, Any] = {
            "generations": 1,
            "data": {"source": "emoji", "limit": 24, "image_size": self.side, "label": "style"},
            "model": {"family": self.family, "base": str(folder), **self.more},
            "train": {"start_from": "base", "images_seen": 16, "batch_size": 8, "learning_rate": 1e-3},
            "sample": {
                "scheduler": self.scheduler,
                "steps": 2,
                "count": 6,
                "shard_size": 3,
                "batch_size": 3,
                "guidance_scale": self.unguided,
            },
            "probe": {"per_condition": 0},
            "measure": {"extractors": ["pixels"], "metrics": [], "resamples": 0, "held_out_loss": 0},
        }
        for section, values in sections.items():
            raw[section] = {**raw[section], **values} if isinstance(values, dict) else values
        return raw


def bases() -> list[TinyBase]:
    """All tiny bases."""
    found: list[TinyBase] = []
    for module in pkgutil.iter_modules(__path__):
        found += import_module(f"{__name__}.{module.name}").BASES
    return found


def pictures(
    base: TinyBase, pipe: Any, prompts: list[str], seeds: list[int], steps: int, scale: float
) -> np.ndarray:
    """What plain diffusers paints for these prompts and seeds: uint8 [n, H, W, 3]."""
    if base.one_by_one and len(prompts) > 1:
        each = zip(prompts, seeds, strict=True)
        return np.concatenate([pictures(base, pipe, [text], [seed], steps, scale) for text, seed in each])
    guidance = base.guidance(scale)
    if "negative_prompt" in guidance:
        guidance["negative_prompt"] = [guidance["negative_prompt"]] * len(prompts)
    made = pipe(
        prompt=list(prompts),  # ZImagePipeline writes into the list that it gets
        height=base.side,
        width=base.side,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
        **guidance,
        **base.call,
    )
    return (made.images[..., :3] * 255).round().astype(np.uint8)
