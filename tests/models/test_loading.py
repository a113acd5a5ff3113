"""A component is loaded only if its config is that of the class that model_index.json names."""

from __future__ import annotations

import pytest
import tiny
from parts import gemma, t5
from transformers import CLIPTextModel, Gemma2Model, T5EncoderModel

from difflab.core.errors import StoreError
from difflab.models.loading import load_model

pytestmark = tiny.LIBRARIES


def test_a_model_of_another_type_is_named_before_its_weights_are_read(tmp_path):
    """Without the check transformers would make a random Gemma of full size from the config of a T5."""
    t5()[0].save_pretrained(tmp_path / "t5")
    with pytest.raises(
        StoreError, match=r"holds a model of type t5, but model_index\.json names a Gemma2Model"
    ):
        load_model(Gemma2Model, tmp_path / "t5")
    assert load_model(T5EncoderModel, tmp_path / "t5").training is False


def test_a_config_without_a_type_or_with_the_type_of_a_whole_clip_is_read(tmp_path):
    text = tiny.text_encoder(tiny.tokenizer())
    text.save_pretrained(tmp_path / "text")
    tiny.amend(tmp_path / "text" / "config.json", model_type=None)
    assert load_model(CLIPTextModel, tmp_path / "text").config.hidden_size == text.config.hidden_size
    whole = {"model_type": "clip", "text_config": text.config.to_dict()}
    tiny.amend(tmp_path / "text" / "config.json", **whole)
    assert load_model(CLIPTextModel, tmp_path / "text").config.hidden_size == text.config.hidden_size


def test_a_damaged_config_is_an_error_of_the_folder(tmp_path):
    gemma()[0].save_pretrained(tmp_path / "gemma")
    (tmp_path / "gemma" / "config.json").write_text("{")
    with pytest.raises(StoreError, match="holds no readable model"):
        load_model(Gemma2Model, tmp_path / "gemma")
