"""Encode the captions of a run before any network is loaded."""

from __future__ import annotations

from itertools import product
from typing import Any

from difflab.core.memory import enough_memory
from difflab.loop.work import Work
from difflab.models import family_of

SILENT = 1000
"""Up to this number of captions nothing is reported."""
ADVICE = "use a GPU with more memory, or a base with smaller text encoders"


def encode_texts(work: Work) -> None:
    """Write the embeddings of all captions of a text-to-image run to disk, and free the text encoders.

    Text encoders and denoising network are therefore never in memory together. The processes share the
    captions. Nothing is done if the embeddings are on disk, if all stages that need them are done, and if
    the text encoder is trained.
    """
    run, config, accelerator = work.run, work.run.config, work.accelerator
    stages = product(work.generations, ("train", "sample"))
    if not config.text or config.model.trains_text_encoder or all(stage in work.done for stage in stages):
        return
    model: Any = family_of(config.model)(config.model, run.shape)
    if len(run.prompts) > SILENT:
        work.report.say(f"{len(run.prompts)} captions are encoded once, if they are not on disk")
    sections = (config.train, config.sample)  # with different precisions there are two files
    with enough_memory("texts", ADVICE):
        for settings in sections:
            model.encode_texts(
                settings, accelerator.device, accelerator.process_index, accelerator.num_processes
            )
    work.wait()
    with accelerator.main_process_first():
        for settings in sections:
            model.join_texts(settings, accelerator.device)
