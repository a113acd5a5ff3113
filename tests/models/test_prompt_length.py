"""Prompts that a base does not read to their end are counted to the token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from difflab.models.pretrained import open_base
from difflab.models.prompt_length import too_long
from difflab.models.text_to_image.registry import architectures, pipelines_of

pytestmark = tiny.LIBRARIES
WORD = "~"  # one token each: it is in no merge
FITS, CUT = " ".join([WORD] * (tiny.LENGTH - 2)), " ".join([WORD] * (tiny.LENGTH - 1))


def opened(folder: Path, family: str = "stable-diffusion") -> Any:
    return open_base(str(folder), pipelines_of(family), family)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_prompts_are_counted_to_the_token(kind, tmp_path):
    base = opened(tiny.make(kind, tmp_path / kind))
    assert len(tiny.tokenizer()("~ ~ ~").input_ids) == 5
    assert too_long(base, [FITS]) == 0 and too_long(base, [CUT]) == 1
    assert too_long(base, [CUT, *tiny.CAPTIONS, CUT + " ~", FITS]) == 2
    assert too_long(base, []) == 0 and too_long(base, [""]) == 0
    texts = base.texts([CUT, CUT + " noto seal", FITS], "cpu")["states"]
    assert torch.equal(texts[0], texts[1])  # and read to where they are cut


def test_a_prompt_that_one_of_the_encoders_reads_is_not_cut(tmp_path):
    """SD 3 with T5: CLIP reads 77 tokens and T5 256, of which each letter is one."""
    base = opened(tiny.make("sd3-t5", tmp_path / "sd3-t5"), "flow")
    assert len(tiny.tokenizer()("seal " * 40).input_ids) > tiny.LENGTH
    assert too_long(base, ["seal " * 40]) == 0
    assert too_long(base, ["seal " * 80]) == 1
    without = opened(tiny.make("sd3", tmp_path / "sd3"), "flow")
    assert too_long(without, ["seal " * 40]) == 1


@pytest.mark.parametrize("pipeline", architectures())
def test_the_limit_of_every_pipeline_is_a_number_of_tokens(pipeline):
    from difflab.models.prompt_length import _pipeline_limit

    assert 77 <= _pipeline_limit(pipeline, 77) <= 2048
