"""Default file names and sizes of generators, and names that are none."""

from __future__ import annotations

import pytest

from difflab.evaluation.audit.names import generator_of_name, size_of_generators


@pytest.mark.parametrize(
    ("key", "generator"),
    [
        ("out/ComfyUI_00001_.png", "ComfyUI"),
        ("ComfyUI_temp_abcde_00003_.png", "ComfyUI"),
        ("00007-1234567890.png", "A1111 or Forge"),
        ("00007-1234567890-a photo of a cat.jpg", "A1111 or Forge"),
        ("2024-05-01_12-30-59_4821.png", "Fooocus"),
        ("a girl, best quality s-3951262135.png", "NovelAI"),
        ("user_a_red_house_0d1f2a3b-1111-2222-3333-444455556666.png", "Midjourney"),
        ("DALL·E 2024-01-02 10.11.12 - A cat.png", "DALL-E"),
        ("ChatGPT Image Apr 2, 2025, 10_11_12 AM.png", "ChatGPT"),
        ("Gemini_Generated_Image_abc123.jpeg", "Gemini"),
    ],
)
def test_default_names(key: str, generator: str) -> None:
    assert generator_of_name(key) == generator


@pytest.mark.parametrize(
    "key",
    [
        "IMG_2041.JPG",
        "DSC00012.jpg",
        "00001.png",
        "photo-1521747116042.jpg",
        "cat/000123.png",
        "Screenshot 1.png",
        "a" * 5000,
    ],
)
def test_names_of_cameras_and_data_sets_are_none(key: str) -> None:
    assert generator_of_name(key) is None


def test_sizes_in_both_orientations() -> None:
    assert size_of_generators(1216, 832) == "832 x 1216"
    assert size_of_generators(832, 1216) == "1216 x 832"
    assert size_of_generators(1024, 1024) == "1024 x 1024"
    assert [size_of_generators(*size) for size in ((32, 32), (256, 256), (1080, 1920), (3000, 4000))] == [
        None
    ] * 4
