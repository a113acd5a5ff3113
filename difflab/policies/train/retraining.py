"""A different length and learning rate for the trainings after the first."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from difflab.config import Train
from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.policies.interface import At, Policy


@policy("retraining")
class Retraining(Policy):
    """Sets a different train.images_seen and train.learning_rate from generation `first` on.

    With it the first training is long and later ones are short. Published loops that continue from the
    previous weights do this: 50,000 images per generation (Bertrand et al. 2310.00429), one epoch at 1/400 of
    the learning rate (Gillman et al. 2402.07087), less than 1% of the compute (Alemohammad et al.
    2510.03597). Exact: in these generations the training is that of a config with these fields.
    """

    source: ClassVar[str] = (
        "Bertrand et al. 2310.00429; Gillman et al. 2402.07087; Alemohammad et al. 2510.03597"
    )

    first: int = Field(
        1, ge=0, description="First generation in which the policy acts. Generation 0 is the first training."
    )
    images_seen: int | None = Field(
        None, ge=1, description="Images seen in each of these trainings; null = train.images_seen."
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; null = train.learning_rate."
    )

    def check(self, config: Any) -> None:
        if self.images_seen is None and self.learning_rate is None:
            raise ConfigError("policies: retraining changes nothing; set images_seen or learning_rate")
        if not config.denoises:
            raise ConfigError(
                "policies: retraining changes training by gradient steps, but "
                f"model.family={config.model.family} is fitted by a formula"
            )
        for other in config.policies:
            if other.policy == "early_stop" and other.every > (self.images_seen or config.train.images_seen):
                raise ConfigError(
                    f"policies: early_stop evaluates every {other.every} images, but a retraining sees only "
                    f"{self.images_seen}"
                )

    def decides(self) -> tuple[str, ...]:
        return tuple(
            f"train.{name}" for name in ("images_seen", "learning_rate") if getattr(self, name) is not None
        )

    def training(self, at: At, train: Train) -> Train:
        settings = {"images_seen": self.images_seen, "learning_rate": self.learning_rate}
        return train.model_copy(update={name: value for name, value in settings.items() if value is not None})
