"""Classifier-free guidance (Ho & Salimans 2207.12598), and the changes of sampling policies to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from difflab.models.steer import Steer, Step, overrides

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(noisy images [n, C, H, W], timesteps [n], conditions int64 [n] or None) -> prediction [n, C, H, W]."""


class EmbeddingChange:
    """A change of the condition embeddings that is active inside a `with` block only.

    A model sends every condition embedding through this object while its network runs. The object stays in
    place for the model's whole life, because torch.compile does not notice a forward hook that is added after
    the network was compiled.
    """

    def __init__(self) -> None:
        self._change: Callable[[torch.Tensor], torch.Tensor] | None = None

    @contextmanager
    def active(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Apply `change` to every condition embedding [n, ...] while the block runs."""
        self._change = change
        try:
            yield
        finally:
            self._change = None

    def __call__(self, embedding: torch.Tensor) -> torch.Tensor:
        return embedding if self._change is None else self._apply(embedding)

    @torch.compiler.disable
    def _apply(self, embedding: torch.Tensor) -> torch.Tensor:
        assert self._change is not None
        return self._change(embedding)


Combine = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(unconditional prediction, conditional prediction, guidance scale) -> guided prediction."""


def combine(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """The guided prediction eps_u + g (eps_c - eps_u), where g = 1 + w of the paper: [n, C, H, W]."""
    return unconditional + scale * (conditional - unconditional)


def guided(
    predict: Predict,
    step: Step,
    null: int,
    steers: Sequence[Steer],
    embedding_change: EmbeddingChange,
    combine: Combine = combine,
    unguided: float = 1.0,
) -> torch.Tensor:
    """The guided prediction, see `combine`: [n, C, H, W].

    As in the pipelines of diffusers there is no guidance if g is at most `unguided`: the conditional
    prediction is returned unchanged. Distilled models are sampled in this way (guidance_scale 0).

    Args:
        step: noisy images, timesteps, conditions and the guidance scale g.
        null: the condition that means "no condition".
        steers: the active sampling policies. They may change the condition embedding, or replace eps_u.
        embedding_change: the object through which the network passes its condition embeddings.
        combine: combines the two predictions.
        unguided: the largest guidance scale that means no guidance.
    """
    x, t, conditions, scale = step.x, step.t, step.conditions, step.scale
    changes_embedding, replaces_null = overrides(steers, "embedding"), overrides(steers, "without")
    if conditions is None or (scale <= unguided and not changes_embedding):
        return predict(x, t, conditions)
    null_conditions = torch.full_like(conditions, null)
    if not changes_embedding and not replaces_null:
        # One pass over [unconditional, conditional].
        both = torch.cat([null_conditions, conditions])
        unconditional, conditional = predict(torch.cat([x, x]), t.repeat(2), both).chunk(2)
        return combine(unconditional, conditional, scale)
    conditional = conditional_prediction(predict, step, steers, embedding_change)
    if scale <= unguided:
        return conditional
    replaced = _replaced_null(steers, step)
    unconditional = predict(x, t, null_conditions) if replaced is None else replaced
    return combine(unconditional, conditional, scale)


def conditional_prediction(
    predict: Predict, step: Step, steers: Sequence[Steer], embedding_change: EmbeddingChange
) -> torch.Tensor:
    """The prediction for the conditions of a step, with the embedding that the policies ask for."""
    if step.conditions is None or not overrides(steers, "embedding"):
        return predict(step.x, step.t, step.conditions)

    def change(embedding: torch.Tensor) -> torch.Tensor:
        for steer in steers:
            embedding = steer.embedding(embedding, step)
        return embedding

    with embedding_change.active(change):
        return predict(step.x, step.t, step.conditions)


def _replaced_null(steers: Sequence[Steer], step: Step) -> torch.Tensor | None:
    """The unconditional prediction of the first policy that has one; None = the model's own."""
    for steer in steers:
        prediction = steer.without(step)
        if prediction is not None:
            return prediction
    return None
