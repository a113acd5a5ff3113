"""Weight decay towards other weights."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.models.weights import like, trainable
from difflab.policies.interface import At, Policy
from difflab.policies.train.interpolation import other, weights_of
from difflab.policies.watch import Moment, Watch


class Pull(Watch):
    """w -= learning_rate * strength * (w - anchor) after every optimiser step, before the EMA is updated."""

    def __init__(self, strength: float, anchor: dict[str, torch.Tensor]):
        self.strength, self.anchor = strength, anchor
        self.laid: list[Any] = []  # the anchor, on the device and in the layout of the weights

    @torch.no_grad()
    def adjust(self, now: Moment) -> None:
        if not self.laid:
            self.laid = [like(self.anchor.pop(name), w) for name, w in now.weights.items()]
        torch._foreach_lerp_(list(now.weights.values()), self.laid, now.learning_rate * self.strength)


@policy("anchor")
class Anchor(Policy):
    """Weights decay towards an anchor, as AdamW's weight decay lets them decay towards 0.

    The decay is decoupled from the gradient and scaled by the learning rate (Loshchilov & Hutter
    1711.05101). It acts on the weights after the step. The same decay as a penalty on the loss is L2-SP (Li
    et al. 1802.01483). Exact: without gradients, the distance to the anchor is multiplied by 1 -
    learning_rate * strength in every step. With LoRA, the two factors of each layer decay.
    """

    source: ClassVar[str] = "Li et al., arXiv 1802.01483"

    first: int = Field(
        1,
        ge=0,
        description="First generation in which the policy acts; 0 is possible only if the anchor exists "
        "before generation 0.",
    )
    strength: float = Field(
        0.1,
        ge=0,
        description="Decay per step and per unit of learning rate, like train.weight_decay; 0 = off.",
    )
    to: Literal["start", "base", "generation_0"] = Field(
        "start",
        description="The anchor: start = the weights that the training of this generation started from; "
        "base = the pretrained base, or generation 0 if there is no pretrained base; generation_0 = the "
        "weights of generation 0.",
    )

    def check(self, config: Any) -> None:
        if not config.denoises:
            raise ConfigError(
                f"policies: anchor acts in the steps of the optimiser, but the family {config.model.family} "
                "is fitted by a formula"
            )
        if self.first == 0 and (self.to == "generation_0" or (self.to == "base" and not config.text)):
            raise ConfigError(
                f"policies: the anchor {self.to} does not exist yet in generation 0; set first to 1 or more"
            )
        if config.train.learning_rate * self.strength >= 1:
            raise ConfigError(
                f"policies: anchor with strength {self.strength:g} at train.learning_rate "
                f"{config.train.learning_rate:g} would overshoot the anchor in each step; set strength below "
                f"{1 / config.train.learning_rate:g}"
            )
        if (
            config.model.trains_lora
            and self.to != "start"
            and not (self.to == "generation_0" and config.train.start_from == "previous")
        ):
            raise ConfigError(
                f"policies: anchor to {self.to}: LoRA layers of train.start_from={config.train.start_from} "
                "have other factors than the anchor; set to: start (with train.start_from=base that is the "
                "base), or train all weights with model.lora_rank=0"
            )

    def decides(self) -> tuple[str, ...]:
        return (f"the pull to {self.to}",)

    def trainer(self, at: At, model: Any) -> Watch:
        trained = trainable(model.net)
        if self.to == "start":
            anchor = {name: w.detach() for name, w in trained.items()}
        else:
            anchor = weights_of(other(at, self.to), trained)
        return Pull(self.strength, {name: w.clone() for name, w in anchor.items()})
