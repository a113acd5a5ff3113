"""The packages themselves are the oracles; for ADM, whose evaluator needs TensorFlow, its formulas in NumPy."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest
import torch
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from difflab.core.errors import MeasureError
from difflab.metrics import published


def sides(n=60, m=50, d=8, shift=0.3, scale=1.0, seed=0):
    """Features with a few exact copies inside and between the sets, whose distances are ties."""
    draw = torch.Generator().manual_seed(seed)
    real = scale * torch.randn(n, d, generator=draw)
    fake = scale * (0.7 * torch.randn(m, d, generator=draw) + shift)
    fake[:4], real[5:7] = real[:4], real[4]
    return real, fake


def test_subsets_are_those_of_the_packages():
    fid = pytest.importorskip("cleanfid.fid")
    subsets = (published.KID_SUBSETS, published.KID_SUBSET_SIZE)
    assert subsets == (DEFAULTS["kid_subsets"], DEFAULTS["kid_subset_size"])
    defaults = signature(fid.kernel_distance).parameters
    assert subsets == (defaults["num_subsets"].default, defaults["max_subset_size"].default)


def test_kid_of_clean_fid_is_clean_fid_s(monkeypatch):
    """With fewer and with more images than a subset has."""
    fid = pytest.importorskip("cleanfid.fid")
    monkeypatch.setattr(published, "KID_SUBSET_SIZE", 100)
    for n, m in ((60, 50), (120, 110)):
        real, fake = sides(n, m)
        for seed in (0, 7):
            np.random.seed(seed)
            theirs = fid.kernel_distance(real.numpy(), fake.numpy(), max_subset_size=100)
            assert published.kid_of_clean_fid(real, fake, seed) == theirs
        assert published.kid_of_clean_fid(real, fake, 0) != theirs
    with pytest.raises(MeasureError, match="at least 2 images"):
        published.kid_of_clean_fid(real[:1], fake)


def test_kid_of_torch_fidelity_has_the_generated_images_first(monkeypatch):
    monkeypatch.setattr(published, "KID_SUBSET_SIZE", 100)
    real, fake = sides(110, 105)
    theirs = kid_features_to_metric(features_1=fake, features_2=real, kid_subset_size=100, verbose=False)
    assert published.kid_of_torch_fidelity(real, fake) == tuple(theirs.values())
    assert published.kid_of_torch_fidelity(fake, real) != tuple(theirs.values())
    monkeypatch.undo()
    with pytest.raises(MeasureError, match=r"needs 1000 images .* got 1100 real and 999 generated"):
        published.kid_of_torch_fidelity(torch.zeros(1100, 2), torch.zeros(999, 2))


def test_precision_and_recall_of_torch_fidelity_do_not_depend_on_the_blocks():
    """Theirs holds all distances at once by default."""
    real, fake = sides(230, 170)
    theirs = prc_features_to_metric(fake, real, verbose=False)
    for block in (1000, 64):
        found = published.prc_of_torch_fidelity(real, fake, block)
        assert found == pytest.approx(
            (theirs["precision"], theirs["recall"], theirs["f_score"]), abs=1e-7, rel=0
        )
    assert found[0] != found[1]
    with pytest.raises(MeasureError, match="at least 4 images on each side, got 3 real"):
        published.prc_of_torch_fidelity(real[:3], fake)


def adm_distances(u, v):
    """`_batch_pairwise_distances` in float16, or in float32 where that overflows."""
    for dtype in (np.float16, np.float32):
        a, b = u.astype(dtype), v.astype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            norm_u, norm_v = ((x**2).sum(1, dtype=np.float32).astype(dtype) for x in (a, b))
            products = (a.astype(np.float32) @ b.astype(np.float32).T).astype(dtype)
            found = np.maximum(norm_u[:, None] - dtype(2) * products + norm_v[None], dtype(0))
        if np.isfinite(found).all():
            break
    return found.astype(np.float32)


def adm_precision_recall(ref, sample):
    """`ManifoldEstimator` with nhood_sizes=(3,), for sets of one block."""
    radii_ref, radii_sample = (
        np.partition(adm_distances(x, x), [0, 1, 2, 3], 1)[:, 3] for x in (ref, sample)
    )
    between = adm_distances(ref, sample)
    return (between <= radii_ref[:, None]).any(0).mean(), (between <= radii_sample[None]).any(1).mean()


@pytest.mark.parametrize("scale", [1.0, 40.0, 1000.0])
def test_precision_and_recall_of_adm_are_its_formulas(scale):
    """At scale 1000 float16 overflows; at 40 it may, and does not."""
    for seed in range(3):
        real, fake = sides(150, 130, scale=scale, seed=seed)
        theirs = adm_precision_recall(real.numpy(), fake.numpy())
        assert published.precision_recall_of_adm(real, fake) == pytest.approx(theirs, abs=1e-12)
        # No value overflows in one part and not in another here, so the parts do not matter.
        assert published.precision_recall_of_adm(real, fake, block=64) == pytest.approx(theirs, abs=1e-12)
    assert 0 < theirs[0] < 1 and 0 < theirs[1] < 1 and theirs[0] != theirs[1]
    with pytest.raises(MeasureError, match="at least 4 images"):
        published.precision_recall_of_adm(real, fake[:3])


def test_float16_is_what_adm_uses():
    """Rounding moves points across spheres: exact distances give another number."""
    draw = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(300, 64, generator=draw) + 2 for _ in range(2))
    exact = prc_features_to_metric(fake, real, verbose=False)
    found = published.precision_recall_of_adm(real, fake)
    assert found == pytest.approx(adm_precision_recall(real.numpy(), fake.numpy()), abs=1e-12)
    assert found != pytest.approx((exact["precision"], exact["recall"]), abs=1e-3)


def test_inception_score_of_torch_fidelity():
    logits = 3 * torch.randn(123, 10, generator=torch.Generator().manual_seed(0))
    parts = published.parts_of_torch_fidelity(123)
    found = published.inception_scores(lambda rows: logits[rows], parts)
    assert found == pytest.approx(tuple(isc_features_to_metric(logits).values()), rel=1e-12)
    assert sorted(torch.cat(parts).tolist()) == list(range(123))
    with pytest.raises(MeasureError, match="needs 10 images for its parts, got 9"):
        published.parts_of_torch_fidelity(9)


def test_inception_score_of_adm():
    logits = 3 * torch.randn(123, 10, generator=torch.Generator().manual_seed(0))
    found = published.inception_scores(lambda rows: logits[rows], published.parts_of_adm(123, 50))
    scores = []
    for part in (
        logits.softmax(1).numpy()[:50],
        logits.softmax(1).numpy()[50:100],
        logits.softmax(1).numpy()[100:],
    ):
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()))
    assert found[0] == pytest.approx(np.mean(scores), rel=1e-5)
    assert len(published.parts_of_adm(5000)) == 1 and len(published.parts_of_adm(5001)) == 2
