"""Stable Diffusion 1.5, 2.1, XL and 3: the folders of tiny.py."""

from __future__ import annotations

import tiny

from tiny_bases import TinyBase

BASES = [
    TinyBase(kind, make, family="stable-diffusion", scheduler="DDIMScheduler", variant=kind == "sd21")
    for kind, make in tiny.KINDS.items()
    if kind != "sd3"
] + [TinyBase("sd3", tiny.KINDS["sd3"], absent=("text_encoder_3", "tokenizer_3"))]
