"""Statistics on disk: what is written is read again, what other packages write is read too, the rest is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.core.errors import DataError, MeasureError
from difflab.evaluation.reference import (
    Reference,
    check_fit,
    holds_images,
    holds_statistics,
    moments,
    read_reference,
    write_reference,
)

RECIPE = {"input": "299x299", "resize": "a", "sha256": "0" * 64}


def features(n=50, d=6):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [3, 50, 2500])
def test_moments_are_numpy_s(n):
    x = features(n)
    mean, covariance = moments(x, block=1000)
    np.testing.assert_allclose(mean, x.double().numpy().mean(0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(x.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-12)
    with pytest.raises(MeasureError, match="at least 2 images, got 1"):
        moments(x[:1])


@pytest.mark.parametrize("name", ["r.safetensors", "r.npz", "sub/r.npz"])
@pytest.mark.parametrize("with_features", [True, False])
def test_what_is_written_is_read_again(tmp_path, name, with_features):
    x = features()
    kept = Reference(*moments(x), 50, RECIPE, "abc", x if with_features else None)
    write_reference(tmp_path / name, kept)
    found = read_reference(tmp_path / name)
    assert (found.count, found.recipe, found.images) == (50, RECIPE, "abc")
    assert torch.equal(found.mean, kept.mean) and torch.equal(found.covariance, kept.covariance)
    assert (found.features is not None) == with_features and (
        not with_features or torch.equal(found.features, x)
    )
    assert holds_statistics(tmp_path / name) and not holds_images(tmp_path / name)
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == ["r" + (tmp_path / name).suffix]


def test_files_of_other_packages(tmp_path):
    x = features()
    mean, covariance = (part.numpy() for part in moments(x))
    np.savez_compressed(tmp_path / "pytorch_fid.npz", mu=mean, sigma=covariance)
    np.savez(
        tmp_path / "adm.npz",
        arr_0=np.zeros((2, 4, 4, 3), np.uint8),
        mu=mean,
        sigma=covariance,
        mu_s=mean,
        sigma_s=covariance,
    )
    np.savez_compressed(tmp_path / "clean_kid.npz", feats=x.numpy())
    for name in ("pytorch_fid", "adm", "clean_kid"):
        found = read_reference(tmp_path / f"{name}.npz")
        assert found.recipe is None and (found.count is None) == (name != "clean_kid")
        torch.testing.assert_close(found.covariance, torch.from_numpy(covariance))
        assert "does not say" in check_fit(found, RECIPE, 6, name)[0]
    assert torch.equal(found.features, x)
    assert holds_statistics(tmp_path / "adm.npz") and holds_images(tmp_path / "adm.npz")
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    assert not any(
        map(holds_statistics, (tmp_path / "images.npz", tmp_path, tmp_path / "nope.npz", None, [1]))
    )


def test_a_recipe_that_does_not_fit_is_refused():
    kept = Reference(*moments(features()), 50, RECIPE)
    assert check_fit(kept, dict(RECIPE), 6, "it") == []
    for recipe, d, match in (
        (RECIPE, 7, "it has 6 features, the network here has 7"),
        (RECIPE | {"resize": "b"}, 6, "it was made with resize 'a', the images here are read with 'b'"),
        (RECIPE | {"sha256": "1" * 64}, 6, f"sha256 '{'0' * 12}', .* with '{'1' * 12}'"),
        (RECIPE | {"values": "x"}, 6, "made with values 'None'"),
    ):
        with pytest.raises(MeasureError, match=match):
            check_fit(kept, recipe, d, "it")


def test_bad_files_are_one_sentence(tmp_path):
    def saved(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    bad = {
        saved("one.npz", mu=np.zeros(3)): "holds mu, where mu and sigma are needed",
        saved("none.npz", other=np.zeros(3)): "holds nothing, where mu and sigma",
        saved("shape.npz", mu=np.zeros(3), sigma=np.zeros((2, 2))): r"mu \[3\] and sigma \[2, 2\] do not fit",
        saved("nan.npz", mu=np.zeros(2), sigma=np.full((2, 2), np.nan)): "no finite numbers",
        saved("object.npz", mu=np.array([None]), sigma=np.eye(1)): "object.npz cannot be read",
        saved(
            "recipe.npz", mu=np.zeros(1), sigma=np.eye(1), difflab_reference=np.array("{")
        ): "cannot be read",
        tmp_path / "text.npz": "text.npz cannot be read",
        tmp_path / "cut.safetensors": "cut.safetensors cannot be read",
    }
    for path, match in bad.items():
        with pytest.raises(MeasureError, match=match) as caught:
            read_reference(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"reference: .* does not exist"):
        read_reference(tmp_path / "nope.npz")
    with pytest.raises(MeasureError, match=r"statistics are written as .safetensors or .npz"):
        write_reference(tmp_path / "a.pt", Reference(*moments(features())))
