"""The small network trained on the real set: it knows its digits, the same bits again, no more than it can
take.
"""

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.features import fitted as module
from difflab.features.extractor import BATCH
from difflab.features.fitted import fit_extractor, one_thread
from difflab.features.registry import open_extractor


def images(n, size=8, channels=1, seed=0):
    return torch.randint(
        0, 256, (n, size, size, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images * 15.9375).to(torch.uint8).unsqueeze(-1), torch.from_numpy(
        data.target
    )


@pytest.fixture(scope="module")
def fitted(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("fitted") / "fitted.safetensors"
    return path, fit_extractor(digits[0][:900], digits[1][:900], 10, path, seed=3)


def test_fitted_reads_digits_and_is_deterministic(fitted, digits, tmp_path):
    path, extractor = fitted
    assert (
        extractor.dim == 64
        and extractor.recipe["held_out_accuracy"] > 0.93
        and extractor.recipe["n_train"] == 720
    )
    again = open_extractor("fitted", fitted=path)
    assert again.recipe == extractor.recipe and torch.equal(again(digits[0][:70]), extractor(digits[0][:70]))
    before = torch.get_rng_state()
    twin = fit_extractor(digits[0][:900], digits[1][:900], 10, tmp_path / "twin", seed=3)
    assert twin.recipe == extractor.recipe and torch.equal(torch.get_rng_state(), before)


def test_features_do_not_depend_on_company(fitted, digits):
    extractor, x = fitted[1], digits[0]
    assert torch.equal(extractor(x[: 3 * BATCH])[BATCH - 7 : BATCH + 5], extractor(x[BATCH - 7 : BATCH + 5]))
    assert extractor(x[:0]).shape == (0, 64)


@pytest.mark.parametrize(("size", "channels"), [(64, 3), (28, 1)])
def test_fitted_takes_other_sizes(size, channels, tmp_path, monkeypatch):
    monkeypatch.setattr(module._train, "__defaults__", (3, 16))
    x = images(40, size, channels)
    extractor = fit_extractor(x, torch.arange(40) % 3, 3, tmp_path / "f.safetensors", 0)
    assert extractor(x).shape == (40, 64) and torch.isfinite(extractor(x)).all()
    with pytest.raises(MeasureError, match=f"{channels}-channel"):
        extractor(images(2, size, 4 - channels))


def test_fitted_says_what_it_cannot_take(tmp_path):
    y = torch.arange(40) % 3
    for bad, match in (
        (lambda: fit_extractor(images(40, 96), y, 3, tmp_path / "f", 0), "8 to 64 pixels"),
        (lambda: fit_extractor(images(40).float(), y, 3, tmp_path / "f", 0), "uint8"),
        (lambda: fit_extractor(images(40), y, 2, tmp_path / "f", 0), "labels 0 to 1"),
        (lambda: fit_extractor(images(40), y * 0, 2, tmp_path / "f", 0), "at least 2 classes"),
        (lambda: open_extractor("fitted"), "fit_extractor"),
        (lambda: open_extractor("fitted", tmp_path / "absent"), "cannot read a fitted extractor"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()
    assert not list(tmp_path.iterdir())


def test_it_is_fitted_in_one_thread_and_the_number_of_threads_comes_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
