from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import NUMBERS, UNCONDITIONAL, candidates, checked
from safetensors.torch import save_file

from difflab.core.errors import ConfigError, MeasureError
from difflab.features.texture import STATISTICS, texture
from difflab.policies import rewards

RNG = np.random.default_rng(0)
CLIP = {"extractors": ["pixels", "open_clip:tiny-clip"], "metrics": ["fd"]}


def of(name, at, all_):
    return rewards.scores(name, at, all_)


def test_every_reward_says_what_it_is():
    assert len(rewards.REWARDS) >= 9
    for name, found in rewards.REWARDS.items():
        assert len(found.of.__doc__ or "") > 10, name


@pytest.mark.parametrize("name", ["saturation", "sharpness"])
def test_pixel_rewards_are_the_statistics_of_texture(name):
    images = RNG.integers(0, 256, (700, 8, 9, 3), dtype=np.uint8)  # more than one block
    images[3] = 0
    wanted = texture(torch.from_numpy(images))[:, STATISTICS.index(name)].numpy()
    assert np.allclose(of(name, *candidates(images=images)), wanted, atol=1e-5)


def test_brightness_is_mean_luminance():
    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    images[1], images[2, ..., 1] = 255, 255
    assert np.allclose(of("brightness", *candidates(images=images)), [0, 1, 0.587])
    assert np.allclose(of("brightness", *candidates(images=np.full((2, 8, 8, 1), 51, dtype=np.uint8))), 0.2)


def test_grey_images_have_no_saturation():
    with pytest.raises(MeasureError, match="grey images have no colour"):
        of("saturation", *candidates(images=np.zeros((3, 8, 8, 1), dtype=np.uint8)))


def test_likeness_is_minus_the_distance_to_the_nearest_real_image():
    real, fake = RNG.normal(size=(20, 3)), RNG.normal(size=(10, 3))
    wanted = -np.linalg.norm(fake[:, None] - real, axis=2).min(1)
    assert np.allclose(of("likeness", *candidates(fake, real)), wanted, atol=1e-5)


def test_class_confidence_is_the_judges_probability_of_what_was_asked_for():
    real_labels = np.arange(60) % 3
    real = np.eye(3)[real_labels] + 0.1 * RNG.normal(size=(60, 3))
    at, all_ = candidates(np.eye(3), real, [0, 1, 0], real_labels)
    found = of("class_confidence", at, all_)
    assert found[0] > 0.8 and found[1] > 0.8 and found[2] < 0.1
    assert np.array_equal(of("class_confidence", at, all_.only(np.array([2]))), found[2:])
    at, unasked = candidates(np.eye(3), real, None, real_labels)
    with pytest.raises(MeasureError, match="have no requested class"):
        of("class_confidence", at, unasked)
    at, unlabelled = candidates(np.eye(3), real, [0, 1, 2])
    with pytest.raises(MeasureError, match="fitted to labelled real images"):
        of("class_confidence", at, unlabelled)


def test_confidence_and_shows_are_the_judges_whatever_was_asked_for():
    real_labels = np.arange(60) % 3
    real = np.eye(3)[real_labels] + 0.1 * RNG.normal(size=(60, 3))
    at, all_ = candidates(np.array([[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]), real, None, real_labels)
    sure, bee = of("confidence", at, all_), of("shows:bee", at, all_)
    assert sure[0] > 0.8 and sure[1] > 0.8 and sure[2] < 0.7
    assert bee[1] == sure[1] and bee[0] < 0.1 < bee[2] < 0.7
    with pytest.raises(ConfigError, match="shows:dog: 'dog' is not one of the classes ant, bee, cat"):
        of("shows:dog", at, all_)
    checked({"policy": "luce", "k": 2, "reward": "shows:bee"}, base=UNCONDITIONAL)
    with pytest.raises(ConfigError, match="needs the name of a class as its argument: shows"):
        checked({"policy": "luce", "k": 2, "reward": "shows"})


def reader(texts):
    """An extractor that reads these texts."""
    return SimpleNamespace(
        key="clip",
        name="open_clip:x",
        dim=2,
        recipe={},
        encode_text=lambda asked: torch.stack([texts[t] for t in asked]),
    )


def test_clip_score_is_the_cosine_with_the_prompt_or_else_the_class():
    texts = {
        "north": torch.tensor([0.0, 2.0]),
        "east": torch.tensor([3.0, 0.0]),
        "ant": torch.tensor([1.0, 1.0]),
    }
    fake = np.array([[0.0, 5.0], [0.0, 1.0], [3.0, 4.0]])
    plain = SimpleNamespace(key="pixels", name="pixels", encode_text=None)
    at, all_ = candidates(fake, prompts=["north", "east", "north"], extractors=[plain, reader(texts)])
    assert np.allclose(of("clip_score", at, all_), [1, 0, 0.8])
    at, all_ = candidates(fake, labels=[0, 0, 0], extractors=[reader(texts)])
    assert np.allclose(of("clip_score", at, all_), np.array([1, 1, 1.4]) / np.sqrt(2))
    at, unasked = candidates(fake, extractors=[reader(texts)])
    with pytest.raises(MeasureError, match="have neither a prompt nor a requested class"):
        of("clip_score", at, unasked)


def test_aesthetic_is_the_score_of_a_head(tmp_path):
    save_file(
        {"weight": torch.tensor([[2.0, 1.0]]), "bias": torch.tensor([5.0])}, tmp_path / "head.safetensors"
    )
    at, all_ = candidates([[0.0, 3.0], [4.0, 3.0]], extractors=[reader({})])
    assert np.allclose(of(f"aesthetic:{tmp_path}/head.safetensors", at, all_), [6.0, 5 + 1.6 + 0.6])
    with pytest.raises(MeasureError, match="pickles can run code"):
        of("aesthetic:head.pth", at, all_)


def test_value_is_the_number_and_of_mixtures_the_one_beside_the_component():
    values = RNG.normal(size=(5, 1, 1))
    assert np.array_equal(of("value", *candidates(images=values, base=NUMBERS)), values[:, 0, 0])
    pairs = RNG.normal(size=(5, 1, 2))
    assert np.array_equal(of("value", *candidates(images=pairs, base=NUMBERS)), pairs[:, 0, 1])


def test_chance_belongs_to_the_sample_and_not_to_the_others():
    at, all_ = candidates(n=20)
    found = of("chance", at, all_)
    assert len(set(found)) == 20 and np.array_equal(of("chance", at, all_.only(np.arange(5, 9))), found[5:9])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_sample_without_a_finite_reward_is_named(value):
    values = np.zeros((6, 1, 1))
    values[[3, 5]] = value
    at, all_ = candidates(images=values, base=NUMBERS, generation=2)
    with pytest.raises(
        MeasureError, match=r"reward value: sample 3 of generation 2 has the reward -?(nan|inf) \(2 of 6"
    ):
        of("value", at, all_)
    with pytest.raises(MeasureError, match="sample 5 of generation 2"):
        of("value", at, all_.only(np.array([0, 5])))


def test_features_that_are_not_finite_are_named():
    fake = np.zeros((4, 2))
    fake[2, 1] = np.nan
    with pytest.raises(MeasureError, match="sample 2 of generation 1 has features that are NaN"):
        of("likeness", *candidates(fake, np.zeros((3, 2))))
    with pytest.raises(MeasureError, match="real image 2 has features"):
        of("likeness", *candidates(np.zeros((3, 2)), fake))


def test_a_new_reward_is_one_function(monkeypatch):
    monkeypatch.setattr(rewards, "REWARDS", dict(rewards.REWARDS))

    @rewards.reward("index", "nothing")
    def index(at, candidates, argument):
        """The later the better."""
        return candidates.index

    at, all_ = candidates(n=3)
    assert of("index", at, all_).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="defined twice"):
        rewards.reward("index")(candidates)
    rewards.reward("index", "nothing")(index)
    assert of("index", at, all_).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("spec", "more", "message"),
    [
        ("clip_score", {}, "needs CLIP features; add open_clip"),
        ("clip_score", {"measure": {**CLIP, "metrics": []}}, "extracts features only if it has measures"),
        ("aesthetic:x.npz", {}, "needs CLIP features"),
        ("class_confidence", {"base": UNCONDITIONAL}, "have no requested class"),
        ("class_confidence:inception", {}, "'inception' is not in"),
        ("value", {}, "those of model.family=pixel-mlp are not"),
        ("likeness", {"base": NUMBERS}, "is computed from images"),
    ],
)
def test_a_reward_that_the_samples_do_not_have_is_refused(spec, more, message):
    with pytest.raises(ConfigError, match=message):
        checked({"policy": "top_share", "share": 0.5, "reward": spec}, **more)


def test_rewards_that_fit_pass():
    for spec, more in (
        ("clip_score", {"measure": CLIP}),
        ("class_confidence:pixels", {}),
        ("chance", {"base": NUMBERS}),
        ("brightness", {}),
    ):
        checked({"policy": "top_share", "share": 0.5, "reward": spec}, **more)
    with pytest.raises(ConfigError, match="'clip_score' takes no argument"):
        checked({"policy": "top_share", "share": 0.5, "reward": "clip_score:x"})
