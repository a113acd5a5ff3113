"""Classifier-free guidance as a formula, with a predictor whose answers are known."""

from __future__ import annotations

import pytest
import torch

from difflab.models.guidance import EmbeddingChange, guided
from difflab.models.steer import Steer, Step

NULL = 3


class Predictor:
    """Predicts 10 x condition + t / 100 for every pixel, after an embedding that policies can change; it keeps its calls."""

    def __init__(self) -> None:
        self.embedding_change, self.calls = EmbeddingChange(), []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None) -> torch.Tensor:
        self.calls.append(None if conditions is None else conditions.tolist())
        if conditions is None:
            return torch.full_like(x, -1.0)
        embedding = self.embedding_change(10.0 * conditions.float())
        return torch.zeros_like(x) + (embedding + t / 100).view(-1, 1, 1, 1)


def step(scale: float, conditions: tuple[int, ...] | None = (0, 2)) -> Step:
    labels = None if conditions is None else torch.tensor(conditions)
    return Step(torch.zeros(2, 1, 2, 2), torch.tensor([500, 500]), 0.5, labels, scale, [7, 8])


def values(predictor: Predictor, now: Step, *steers: Steer) -> list[float]:
    """The guided prediction of each image, which is the same in all pixels."""
    prediction = guided(predictor, now, NULL, steers, predictor.embedding_change)
    assert torch.equal(prediction, prediction[:, :, :1, :1].expand_as(prediction))
    return prediction[:, 0, 0, 0].tolist()


class Double(Steer):
    def embedding(self, e: torch.Tensor, step: Step) -> torch.Tensor:
        return 2 * e


class AddShare(Steer):
    def embedding(self, e: torch.Tensor, step: Step) -> torch.Tensor:
        return e + step.share


class Null(Steer):
    def __init__(self, value: float | None) -> None:
        self.value = value

    def without(self, step: Step) -> torch.Tensor | None:
        return None if self.value is None else torch.full_like(step.x, self.value)


def test_the_formula_in_one_pass() -> None:
    predictor = Predictor()
    # unconditional 30 + 5, conditional 5 and 25
    assert values(predictor, step(3.0)) == [35 + 3 * (5 - 35), 35 + 3 * (25 - 35)]
    assert predictor.calls == [[NULL, NULL, 0, 2]]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_a_scale_of_at_most_one_is_the_conditional_prediction(scale: float) -> None:
    predictor = Predictor()
    assert values(predictor, step(scale)) == [5, 25] and predictor.calls == [[0, 2]]


def test_a_family_may_have_guidance_at_a_scale_of_one() -> None:
    predictor = Predictor()
    plain, weak = (
        guided(predictor, step(scale), NULL, (), predictor.embedding_change, unguided=0.0)
        for scale in (0.0, 1.0)
    )
    assert predictor.calls == [[0, 2], [NULL, NULL, 0, 2]] and torch.equal(plain, weak)


def test_an_unconditional_model_is_called_once_without_conditions() -> None:
    predictor = Predictor()
    assert values(predictor, step(3.0, None), Double()) == [-1, -1] and predictor.calls == [None]


def test_policies_change_the_embedding_in_order_and_of_the_condition_only() -> None:
    predictor = Predictor()
    assert values(predictor, step(3.0), Double(), AddShare()) == [35 + 3 * (5.5 - 35), 35 + 3 * (45.5 - 35)]
    assert values(predictor, step(3.0), AddShare(), Double()) == [35 + 3 * (6 - 35), 35 + 3 * (46 - 35)]
    assert values(predictor, step(1.0), Double()) == [5, 45]
    assert predictor.calls == [[0, 2], [NULL, NULL], [0, 2], [NULL, NULL], [0, 2]]


def test_the_first_policy_with_an_unconditional_prediction_replaces_it() -> None:
    predictor = Predictor()
    assert values(predictor, step(3.0), Null(None), Null(1.0), Null(2.0)) == [1 + 3 * 4, 1 + 3 * 24]
    assert predictor.calls == [[0, 2]]
    assert values(predictor, step(3.0), Null(None)) == [35 + 3 * (5 - 35), 35 + 3 * (25 - 35)]


def test_a_change_of_embeddings_ends_with_its_block_even_after_an_error() -> None:
    change, e = EmbeddingChange(), torch.ones(2)
    with change.active(lambda embedding: 3 * embedding):
        assert torch.equal(change(e), 3 * e)
    assert change(e) is e
    with pytest.raises(ValueError, match="stop"), change.active(lambda embedding: 3 * embedding):
        raise ValueError("stop")
    assert change(e) is e
