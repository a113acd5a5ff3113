"""Counts the prompts that a base does not read to their end."""

from __future__ import annotations

import inspect
from typing import Any

from difflab.models.base_files import TOKENIZERS
from difflab.models.pretrained import Base


def too_long(base: Base, prompts: list[str]) -> int:
    """The number of prompts that every text encoder of the base cuts off.

    A base with several tokenizers, such as CLIP and T5, reads a prompt to its end if one of them does. The
    limit is that of the tokenizer or of the pipeline's ``encode_prompt``, whichever is smaller. The tokens of
    a chat template are not counted.
    """
    tokenizers = [name for name in base.components if name.startswith(TOKENIZERS)]
    if not prompts or not tokenizers:
        return 0
    cut_off = [_cut_off(base, name, prompts) for name in tokenizers]
    return len(set.intersection(*cut_off))


def _cut_off(base: Base, name: str, prompts: list[str]) -> set[int]:
    """The positions of the prompts that one tokenizer cuts off."""
    tokenizer = base.tokenizer(name)
    limit = min(tokenizer.model_max_length, _pipeline_limit(base.kind, tokenizer.model_max_length))
    lengths = [len(ids) for ids in tokenizer(prompts, truncation=False, verbose=False).input_ids]
    return {position for position, length in enumerate(lengths) if length > limit}


def _pipeline_limit(pipeline: str, otherwise: Any) -> int:
    """The default of ``max_sequence_length`` of a pipeline's ``encode_prompt``; else `otherwise`."""
    import diffusers

    parameters = inspect.signature(getattr(diffusers, pipeline).encode_prompt).parameters
    if "max_sequence_length" not in parameters:
        return otherwise
    return parameters["max_sequence_length"].default
