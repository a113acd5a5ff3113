"""Early stopping on real validation images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from pydantic import Field
from torch.distributed.tensor import DTensor

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.metrics.held_out_loss import LEVELS, errors
from difflab.models.weights import like
from difflab.policies.interface import At, Policy
from difflab.policies.watch import Moment, Watch
from difflab.runs.sizes import first_size, fresh_needed


class Stopper(Watch):
    """Evaluates the EMA weights every `every` images and at the end, and keeps the best weights.

    Args:
        loss: Moment -> the validation error of the current network.
        patience: number of evaluations in a row without a new best after which the training ends.
        about: entries that are added to the record.
    """

    def __init__(self, loss: Callable[[Moment], float], every: int, patience: int, about: dict[str, Any]):
        self.loss, self.every, self.patience, self.about = loss, every, patience, about
        self.looks: list[tuple[int, float]] = []  # images seen, loss
        self.best = 0  # position of the best evaluation
        self.weights: dict[str, Any] = {}  # the weights of the best evaluation

    def step(self, now: Moment) -> bool:
        before = max(0, now.images_seen - now.train.batch_size)
        if now.images_seen < now.train.images_seen and now.images_seen // self.every == before // self.every:
            return False
        loss = self._look(now)
        if not self.looks or loss < self.looks[self.best][1]:
            self.best = len(self.looks)
            averaged = now.average.weights or now.weights
            self.weights = {
                name: w.detach().clone() if isinstance(w, DTensor) else w.detach().cpu().clone()
                for name, w in averaged.items()
            }
        self.looks.append((now.images_seen, loss))
        return len(self.looks) - 1 - self.best >= self.patience

    @torch.no_grad()
    def _look(self, now: Moment) -> float:
        trained = {}
        if now.average.weights:
            trained = {name: w.detach().clone() for name, w in now.weights.items()}
        now.average.copy_to(now.weights)
        now.net.eval()
        with (
            now.accelerator.autocast(),
            torch.compiler.set_stance("force_eager"),
        ):  # a network compiled for training would be compiled again for these shapes
            loss = [self.loss(now)]
        now.net.train()
        for name, w in trained.items():
            now.weights[name].copy_(w)
        if (
            now.accelerator.num_processes > 1
        ):  # all processes must take the same decision, even if their losses differ in the last bit
            broadcast_object_list(loss)
        return loss[0]

    def state(self) -> dict[str, Any]:
        looks = torch.tensor(self.looks, dtype=torch.float64).reshape(-1, 2)
        return {"looks": looks, "best": torch.tensor(self.best)} | {
            f"weights.{name}": w for name, w in self.weights.items()
        }

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.looks = [(int(seen), float(loss)) for seen, loss in state["looks"]]
        self.best = int(state["best"])
        self.weights = {
            name.removeprefix("weights."): w for name, w in state.items() if name.startswith("weights.")
        }

    @torch.no_grad()
    def end(self, weights: dict[str, Any]) -> None:
        for name, w in self.weights.items():
            weights[name].copy_(w if isinstance(w, DTensor) else like(w, weights[name]))

    def record(self) -> dict[str, Any]:
        return {
            "early_stop": {
                **self.about,
                "losses": self.looks,
                "best_images_seen": self.looks[self.best][0] if self.looks else None,
            }
        }


@policy("early_stop")
class EarlyStop(Policy):
    """Stops training when the denoising error on validation images no longer falls, and keeps the best
    weights.

    The validation set is the last `count` images of the reserve (see data.train_size). No generation is
    trained on them. Without a reserve it is the last `count` images of generation 0's training set.
    Generation 0 is trained on these, so it stops too late. Held-out images are never used. The error is that
    of the measure held_out_loss, computed with the EMA weights and with the same noise in every evaluation.
    Early stopping ends a learning-rate schedule early, so use train.decay=none.
    """

    source: ClassVar[str] = "Prechelt 1998, Early stopping - but when?"

    every: int = Field(
        10_000, ge=1, description="Images seen between two evaluations. The last step is evaluated too."
    )
    patience: int = Field(
        3,
        ge=1,
        description="Number of evaluations in a row without a new best after which training ends; a large "
        "number = training never ends early, but the best weights are still kept.",
    )
    count: int = Field(128, ge=2, description="Number of real images in the validation set.")

    def check(self, config: Any) -> None:
        if not config.denoises:
            raise ConfigError(
                "policies: early_stop acts in the steps of the optimiser, but the family "
                f"{config.model.family} is fitted by a formula"
            )
        if self.every > config.train.images_seen:
            raise ConfigError(
                f"policies: early_stop evaluates every {self.every} images, but a training sees only "
                f"{config.train.images_seen} (train.images_seen)"
            )

    def decides(self) -> tuple[str, ...]:
        return ("when a training ends",)

    def images(self, config: Any, n_train: int) -> tuple[np.ndarray, bool]:
        """The positions of the validation images in the real set, int64 [count], and whether they are in the
        reserve.

        Raises ConfigError if there are too few images.
        """
        n0 = first_size(config, n_train)
        reserve, used = n_train - n0, fresh_needed(config, n0)
        if reserve and self.count > reserve - used:
            raise ConfigError(
                f"policies: early_stop needs {self.count} real images, but the reserve has {reserve}, and "
                f"training uses {used} of them; lower count or data.train_size (null = no reserve)"
            )
        if self.count > n0 // 2 and not reserve:
            raise ConfigError(
                f"policies: early_stop needs {self.count} real images, which is more than half of the {n0} "
                "in the train split; lower count"
            )
        return np.arange(n_train - self.count, n_train), bool(reserve)

    def trainer(self, at: At, model: Any) -> Watch:
        config, real = at.config, at.run.real
        places, apart = self.images(config, at.run.about["n_train"])
        if at.generation == self.first and not apart:
            at.say(
                f"early_stop: there is no reserve, so the error is computed on {self.count} images of "
                "generation 0's training set; set data.train_size"
            )
        if model.encoder_key:
            lacking = sorted(set((places // real.shard_size).tolist()) & set(real.lacks(model.encoder_key)))
            encoder = model.encoder(at.device) if lacking else None
            for shard in lacking:
                real.encode(encoder, shard)
        inputs, conditions = model.inputs(real, places), at.run.conditions(real)
        known = None if conditions is None else conditions[places]
        size = max(1, (config.train.micro_batch_size or config.train.batch_size) // LEVELS)

        def loss(now: Moment) -> float:
            parts = [slice(k, k + size) for k in range(0, self.count, size)]
            key = ("early_stop", config.seed)
            errors_by_part = [
                errors(
                    now.model,
                    inputs[rows],
                    None if known is None else known[rows],
                    range(self.count)[rows],
                    key,
                ).ravel()
                for rows in parts
            ]
            return float(np.concatenate(errors_by_part).mean())

        return Stopper(
            loss,
            self.every,
            self.patience,
            {"images": "reserve" if apart else "training set 0", "count": self.count},
        )
