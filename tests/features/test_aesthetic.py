"""Aesthetic heads score like the module they come from; files that are no heads are refused."""

import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from difflab.core.errors import MeasureError
from difflab.metrics import AestheticHead, open_extractor

WIDTH = 12
BACKBONE = SimpleNamespace(
    name="open_clip:ViT-L-14/openai", dim=WIDTH, recipe={"name": "open_clip:ViT-L-14/openai", "sha256": "1"}
)


class MLP(nn.Module):
    """The published head in small: linear layers with dropout between, in one version with ReLU too."""

    def __init__(self, relu):
        super().__init__()
        widths, dropout = (WIDTH, 10, 8, 6, 4, 1), (0.2, 0.2, 0.1, None, None)
        layers = []
        for at, p in enumerate(dropout):
            layers.append(nn.Linear(widths[at], widths[at + 1]))
            layers += [nn.ReLU()] if relu and at < 4 else []
            layers += [nn.Dropout(p)] if p else []
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


def test_a_linear_head_of_either_kind_of_file_scores_normalised_features(tmp_path):
    linear, features = nn.Linear(WIDTH, 1), torch.randn(20, WIDTH) * 30
    save_file(linear.state_dict(), tmp_path / "head.safetensors")
    np.savez(tmp_path / "head.npz", **{k: v.numpy() for k, v in linear.state_dict().items()})
    wanted = linear(features / features.norm(dim=1, keepdim=True)).squeeze(1).detach()
    heads = [AestheticHead.load(tmp_path / name, BACKBONE) for name in ("head.safetensors", "head.npz")]
    for head in heads:
        torch.testing.assert_close(head(features), wanted)
        torch.testing.assert_close(head(features * 7), wanted)  # so that scores of 20 to 30 cannot come
    assert (
        heads[0].recipe["sha256"] == heads[1].recipe["sha256"]
        and heads[0].recipe["head"] == "head.safetensors"
    )
    assert heads[0].recipe["backbone"] == BACKBONE.recipe and heads[0].recipe["layers"] == [WIDTH, 1]
    assert torch.isfinite(heads[0](torch.zeros(1, WIDTH))).all() and heads[0](features[:0]).shape == (0,)


@pytest.mark.parametrize("relu", [False, True])
def test_the_mlp_is_the_module_it_came_from(tmp_path, relu):
    mlp, features = MLP(relu).eval(), torch.randn(30, WIDTH)
    save_file(mlp.state_dict(), tmp_path / "head.safetensors")
    head = AestheticHead.load(tmp_path / "head.safetensors", BACKBONE)
    torch.testing.assert_close(head(features), mlp(nn.functional.normalize(features)).squeeze(1).detach())
    assert head.recipe["relu"] is relu and head.recipe["layers"] == [WIDTH, 10, 8, 6, 4, 1]


def test_another_head_has_another_recipe(tmp_path):
    for name in "ab":
        save_file(nn.Linear(WIDTH, 1).state_dict(), tmp_path / f"{name}.safetensors")
    a, b = (AestheticHead.load(tmp_path / f"{name}.safetensors", BACKBONE).recipe for name in "ab")
    assert a["sha256"] != b["sha256"]


def test_pickles_are_never_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    torch.save(nn.Linear(WIDTH, 1).state_dict(), tmp_path / "head.pth")
    np.savez(tmp_path / "objects.npz", weight=np.array([Bomb()], dtype=object), bias=np.zeros(1))
    for name in ("bomb.npz", "bomb.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(MeasureError, match="pickles can run code and are not read"):
        AestheticHead.load(tmp_path / "head.pth", BACKBONE)
    for name in ("objects.npz", "bomb.npz", "bomb.safetensors"):
        with pytest.raises(MeasureError, match="cannot read an aesthetic head"):
            AestheticHead.load(tmp_path / name, BACKBONE)
    assert not (tmp_path / "exploded").exists()


def test_heads_that_are_none(tmp_path):
    path = tmp_path / "head.safetensors"
    weight, bias = torch.randn(1, WIDTH), torch.zeros(1)
    for state, match in (
        ({"weight": weight}, "not a known aesthetic head: it holds weight; expected"),
        ({"weight": weight, "bias": bias, "scale": bias}, "not a known aesthetic head"),
        ({"other.weight": weight, "other.bias": bias}, "not a known aesthetic head"),
        (
            {
                "layers.0.weight": weight,
                "layers.0.bias": bias,
                "layers.1.weight": bias.view(1, 1),
                "layers.1.bias": bias,
            },
            "not a known aesthetic head",
        ),
        (
            {"weight": weight.expand(2, -1).contiguous(), "bias": torch.zeros(2)},
            "do not lead from features to one finite score",
        ),
        ({"weight": weight, "bias": torch.zeros(3)}, "do not lead"),
        ({"weight": weight * float("nan"), "bias": bias}, "do not lead"),
        ({"weight": weight[0], "bias": bias}, "do not lead"),
        (
            {"weight": weight[:, 1:].contiguous(), "bias": bias},
            f"reads {WIDTH - 1} features, open_clip:ViT-L-14/openai makes {WIDTH}",
        ),
    ):
        save_file({key: tensor.clone() for key, tensor in state.items()}, path)
        with pytest.raises(MeasureError, match=match):
            AestheticHead.load(path, BACKBONE)
    for content, name in (
        (b"", "empty.npz"),
        (b"junk", "junk.npz"),
        (b"PK\x03\x04", "cut.npz"),
        (b"junk", "junk.safetensors"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MeasureError, match="cannot read an aesthetic head"):
            AestheticHead.load(tmp_path / name, BACKBONE)
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name in ("array.npz", "absent.npz", "absent.safetensors"):
        with pytest.raises(MeasureError, match="cannot read an aesthetic head"):
            AestheticHead.load(tmp_path / name, BACKBONE)


def test_features_of_something_else_are_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    save_file(nn.Linear(WIDTH, 1).state_dict(), path)
    with pytest.raises(MeasureError, match="scores CLIP features; pixels makes others"):
        AestheticHead.load(path, open_extractor("pixels"))
    head = AestheticHead.load(path, BACKBONE)
    for bad in (torch.randn(3, WIDTH + 1), torch.randn(WIDTH), torch.full((2, WIDTH), math.nan)):
        with pytest.raises(MeasureError, match=rf"finite features \[n, {WIDTH}\]"):
            head(bad)
