"""Which config fields to change so that a text-to-image run fits a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from difflab.config import Config
from difflab.core.errors import DifflabError
from difflab.loop.gpu_memory import GIB, StageMemory, stages

SMALL_RANK = 16
"""The LoRA rank that is suggested instead of training all weights."""


@dataclass(frozen=True)
class Change:
    """A change of a config.

    Attributes:
        settings: the fields with their new values, as on the command line.
        saved: bytes by which the need of a stage falls, after the changes before it.
        needed: bytes of GPU memory that are needed with this change and those before it.
    """

    settings: str
    saved: float
    needed: float


@dataclass(frozen=True)
class Fit:
    """Whether a run fits a GPU.

    Attributes:
        gib: memory of the GPU in GiB.
        stages: the memory of each stage.
        after: the memory of each stage with all changes.
        changes: changes in their order, until the run fits or none is left; [] if it fits.
        note: a sentence about what no field changes; "" = nothing.
    """

    gib: float
    stages: list[StageMemory]
    after: list[StageMemory]
    changes: list[Change]
    note: str = ""

    @property
    def needed(self) -> float:
        """Bytes that the run needs without changes."""
        return max(stage.needed for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether the run fits without changes."""
        return self.needed <= self.gib * GIB

    @property
    def fits_with_changes(self) -> bool:
        """Whether the run fits with all changes."""
        return _largest(self.after) <= self.gib * GIB


def fit(config: Config, gib: float) -> Fit:
    """Whether a run fits a GPU with `gib` GiB, and what to change if it does not.

    The changes that keep the results, except for rounding, come first; then those that lower the precision,
    those that train fewer weights, and last smaller images. A change that frees nothing is left out.

    Raises ConfigError if the config is not one of a text-to-image family, or if its base cannot be opened.
    """
    before = current = stages(config)
    changes: list[Change] = []
    changed = config
    for settings in _possible(config):
        if not _excess(current, gib):
            break
        tried = _with(changed, settings)
        if tried is None:
            continue
        try:
            then = stages(tried)
        except DifflabError:  # for example model.lora_targets that this network does not have
            continue
        if _excess(then, gib) < _excess(current, gib):
            text = " ".join(f"{key}={_text(value)}" for key, value in settings.items())
            changes.append(Change(text, _saved(current, then), _largest(then)))
            current, changed = then, tried
    return Fit(gib, before, current, changes, _note_on_texts(current, gib))


def _note_on_texts(listed: list[StageMemory], gib: float) -> str:
    texts = max((stage.needed for stage in listed if stage.stage == "texts"), default=0.0)
    if texts <= gib * GIB:
        return ""
    return (
        f"the text encoders need {texts / GIB:.1f} GiB: start the run on a larger GPU with the same "
        "DIFFLAB_CACHE; the embeddings are then read from disk"
    )


def _excess(listed: list[StageMemory], gib: float) -> float:
    """Bytes that the stages need more than there are, summed over the stages."""
    return sum(max(0.0, stage.needed - gib * GIB) for stage in listed)


def _saved(before: list[StageMemory], after: list[StageMemory]) -> float:
    """The largest fall of a stage's need."""
    needed = {stage.stage: stage.needed for stage in after}
    return max(stage.needed - needed.get(stage.stage, 0.0) for stage in before)


def _largest(listed: list[StageMemory]) -> float:
    return max(stage.needed for stage in listed)


def _possible(config: Config) -> Iterator[dict[str, Any]]:
    """Changes from those that keep the results to those that change them most."""
    train, sample, model = config.train, config.sample, config.model
    if not train.gradient_checkpointing:
        yield {"train.gradient_checkpointing": True}
    if (train.micro_batch_size or train.batch_size) > 1:
        yield {"train.micro_batch_size": 1}
    if sample.batch_size > 1:
        yield {"sample.batch_size": 1}
    if train.precision in ("no", "tf32"):
        yield {"train.precision": "bf16"}
    if sample.precision in ("no", "tf32"):
        yield {"sample.precision": "bf16"}
    if not model.trains_lora:
        yield {"train.optimizer": "adamw8bit"}
        yield {"train.ema_decay": 0.0}
        yield {"model.lora_rank": SMALL_RANK}
    if model.quantized == "none":
        yield {"model.quantize": "int8"}
    if model.quantized != "nf4":
        yield {"model.quantize": "nf4"}
    if config.data.size is not None:
        height, width = (side // 2 for side in config.data.size)
        yield {"data.image_size": height if height == width else [height, width]}


def _with(config: Config, settings: dict[str, Any]) -> Config | None:
    """The config with other values; None if they do not go together."""
    raw = config.model_dump(mode="json")
    for key, value in settings.items():
        section, field = key.split(".")
        raw[section][field] = value
    if raw["model"].get("lora_rank") and raw["model"].get("train_text_encoder"):
        return None
    try:
        return type(config).model_validate(raw)
    except (ValueError, DifflabError):
        return None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
