"""The rows about the training of a generation: loss, gradients, drift of the weights and held-out loss.

Their extractor is "training". They are computed from training.json, model/ and held_out_loss.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difflab.config import Config, recipe_of
from difflab.core.errors import MeasureError, StoreError
from difflab.core.files import read_json
from difflab.core.hashing import digest
from difflab.core.rows import Row, RowKind, row
from difflab.metrics.held_out_loss import LEVELS
from difflab.models import family_of
from difflab.models.weights import distance
from difflab.runs.run import Run

DRIFT_FROM_BASE = RowKind(
    "drift_from_base",
    unit="share of the norm",
    better="none",
    about="Distance of the weights from those of the pretrained base, or of generation 0 if there is no "
    "base, relative to their norm.",
    topic="Training",
    counts="steps",
)
DRIFT_FROM_PREVIOUS = RowKind(
    "drift_from_previous",
    unit="share of the norm",
    better="none",
    about="Distance of the weights from those of the previous generation, relative to their norm.",
    topic="Training",
    counts="steps",
)
ROWS = (DRIFT_FROM_BASE, DRIFT_FROM_PREVIOUS)


def measure_training(run: Run, generation: int) -> list[Row]:
    """Rows of the training (n = steps) and of the held-out loss (n = images).

    The list is empty for families that are fitted by a formula. Raises StoreError for a damaged file.
    """
    config = run.config
    if not config.denoises:
        return []
    training = run.training(generation)
    rows = _Rows(generation, _model_fields(config))
    steps, settings = training.get("steps", 0), config.train.model_dump(mode="json")
    settings = {key: value for key, value in settings.items() if key != "checkpoint_every"}
    for name, value in training.get("means", {}).items():
        reason = None if value is not None else "no step had a finite gradient"
        rows.add(name, steps, {"train": settings}, value, reason)
    family: Any = family_of(config.model)(config.model, run.shape)
    model = family.trained_files(run.gen(generation) / "model")
    for name, earlier in _earlier_models(run, generation, family).items():
        value, reason = None, None
        try:
            value = distance(model, earlier)
        except MeasureError as error:
            reason = str(error)
        rows.add(name, steps, {"train": settings}, value, reason)
    path = run.gen(generation) / "held_out_loss.json"
    if path.exists():
        identity = run.real.hash()
        for loss in _losses(path):
            ci = None if loss.low is None or loss.high is None else (loss.low, loss.high)
            recipe = {"n": loss.n, "levels": LEVELS, "real": identity}
            rows.add(loss.name, loss.n, recipe, loss.value, loss.reason, ci)
    return rows.rows


class _Rows:
    """The rows of one generation, in the order in which they are added."""

    def __init__(self, generation: int, model: dict[str, Any]) -> None:
        self.generation, self.model = generation, model
        self.rows: list[Row] = []

    def add(
        self,
        name: str,
        n: int,
        recipe: dict[str, Any],
        value: float | None,
        reason: str | None = None,
        ci: tuple[float, float] | None = None,
    ) -> None:
        recipe_hash = digest({"measure": name, "model": self.model} | recipe)
        self.rows.append(row(self.generation, name, "training", value, ci, n, None, recipe_hash, reason))


def _model_fields(config: Config) -> dict[str, Any]:
    """The fields of the section `model` that are part of the recipe."""
    fields = recipe_of(config).items()
    return {key.removeprefix("model."): value for key, value in fields if key.startswith("model.")}


def _earlier_models(run: Run, generation: int, family: Any) -> dict[str, Any]:
    """Row name -> the files of the model that this generation's weights are compared with."""
    models = {DRIFT_FROM_BASE.name: family.base_files() or family.trained_files(run.gen(0) / "model")}
    if generation:
        models[DRIFT_FROM_PREVIOUS.name] = family.trained_files(run.gen(generation - 1) / "model")
    return models


@dataclass(frozen=True)
class _Loss:
    """One measure of held_out_loss.json, see `difflab.metrics.held_out_loss.summary`."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None


def _losses(path: Path) -> list[_Loss]:
    try:
        return [
            _Loss(name, entry["value"], entry["low"], entry["high"], entry["n"], entry["reason"])
            for name, entry in read_json(path)["measures"].items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} is damaged ({type(error).__name__}); delete it to leave its rows out"
        ) from error
