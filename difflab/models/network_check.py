"""Checks that the networks of a pretrained base fit together, before any weight is loaded."""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import init_empty_weights

from difflab.config import Sample
from difflab.core.errors import ConfigError, reading
from difflab.core.files import read_json
from difflab.core.hashing import digest
from difflab.core.precision import TYPES
from difflab.core.size import in_words

FITTING: set[str] = set()
"""Digests of the configs and sizes that were found to fit in this process. A sweep checks its base once."""


def check_networks(model: Any, sampling: Sample) -> None:
    """Pass one image through copies of the networks on the meta device, which computes only shapes.

    Networks with the same configs are checked once in a process. Raises ConfigError if the components of
    the base do not fit together.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    texts = model.base.texts([None], device, TYPES[sampling.precision])
    with reading(
        f"the networks of model.base {model.base.path}, with images of {in_words(model.shape.size)},",
        ConfigError,
    ):
        configs = [read_json(model.base.path / name / "config.json") for name in ("vae", model.component)]
        lengths = {name: tuple(tensor.shape) for name, tensor in texts.items()}
        checked = digest(
            [model.spec.family, model.base.kind, configs, model.shape.record, model.null, lengths]
        )
        if checked in FITTING:
            return
        with init_empty_weights(include_buffers=True), torch.random.fork_rng(devices=[]):
            vae_kind, kind = model.vae_class(), model.backbone_class()
            vae = vae_kind.from_config(vae_kind.load_config(model.base.path / "vae"))
            empty = copy.copy(model)
            empty.backbone = empty.net = kind.from_config(
                kind.load_config(model.base.path / model.component)
            ).eval()
        h, w, c = model.shape.record
        z, _ = model.architecture.encode(vae, torch.empty(1, c, h, w, device="meta"))
        x = model.architecture.normalise(z)
        empty.tables = {name: t.expand(model.null + 1, *t.shape[1:]) for name, t in texts.items()}
        out = empty.predict(empty.net, x, torch.zeros(1, device="meta"), None)
        decoded = model.architecture.decode(vae, model.architecture.denormalise(x))
    if x.shape[1:] != model.drawn or out.shape != x.shape or decoded.shape[2:] != (h, w):
        shapes = (
            f"latents {tuple(x.shape[1:])}, prediction {tuple(out.shape[1:])}, "
            f"image {tuple(decoded.shape[1:])}"
        )
        raise ConfigError(
            f"the networks of model.base {model.base.path} do not fit together for images of "
            f"{in_words((h, w))} ({shapes}); use another base"
        )
    FITTING.add(checked)
