"""Simulated collapse: each change does what its name says, by its degree, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.registry import open_source
from difflab.evaluation.simulate import HARMLESS, KINDS, simulate

DEGREES = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.fixture(scope="module", params=["digits", "emoji"])
def pool(request) -> tuple[np.ndarray, np.ndarray]:
    """Images and classes, without classes too small to lose three quarters of."""
    source = open_source(Data(source=request.param, limit=1200), 0)
    assert source.labels is not None
    return np.stack([source.read(i) for i in range(len(source))]), source.labels


def changed(name: str, pool, degree: float, count: int = 200, seed: int = 0):
    images, labels = pool
    cut = len(images) // 4
    return simulate(name, images[cut:], labels[cut:], degree, count, seed, (images[:cut], labels[:cut]))


def known(pool, images) -> np.ndarray:
    """bool [n]: whether an image is one of the pool, bit for bit."""
    real = {x.tobytes() for x in pool[0]}
    return np.array([x.tobytes() in real for x in images])


def sharpness(images) -> float:
    return float(np.abs(np.diff(images.astype(float), axis=1)).mean())


def test_every_kind_gives_images_and_classes_and_is_a_function_of_its_seed(pool):
    for name in KINDS:
        if name == "saturated" and pool[0].shape[3] == 1:
            continue
        images, labels = changed(name, pool, 0.5)
        assert (
            images.dtype == np.uint8
            and images.shape[1:] == pool[0].shape[1:]
            and labels.shape == (len(images),)
        ), name
        assert len(images) == 200 or name == "fewer", name
        assert set(labels) <= set(pool[1]), name
        again, other = changed(name, pool, 0.5), changed(name, pool, 0.5, seed=1)
        assert np.array_equal(images, again[0]) and np.array_equal(labels, again[1]), name
        assert not np.array_equal(images, other[0]), name
    assert set(HARMLESS) <= set(KINDS)


def test_nothing_and_fewer_are_different_real_images(pool):
    for name, counts in (("nothing", [200] * 5), ("fewer", [170, 140, 110, 80, 50])):
        for degree, count in zip(DEGREES, counts, strict=True):
            images, _ = changed(name, pool, degree)
            assert len(images) == count and known(pool, images).all()


def test_tails_are_cut_by_degree(pool):
    spread = [float(changed("tails_cut", pool, d, 100)[0].astype(float).var(0).sum()) for d in DEGREES]
    whole = float(changed("nothing", pool, 1, 100)[0].astype(float).var(0).sum())
    assert spread[-1] < spread[0] < 1.05 * whole and spread[-1] < 0.93 * whole
    assert known(pool, changed("tails_cut", pool, 1.0, 100)[0]).all()


def test_variance_shrinks_within_classes_by_the_square_of_what_is_left(pool):
    def within(images, labels) -> float:
        return sum(
            float(images[labels == c].astype(float).var(0).sum()) * (labels == c).sum()
            for c in np.unique(labels)
        )

    # The same seed draws the same rows for each degree, so that the law is exact but for rounding and the
    # means of the pool.
    first = changed("shrunk", pool, 1e-9)
    for degree in DEGREES:
        assert within(*changed("shrunk", pool, degree)) / within(*first) == pytest.approx(
            (1 - 0.8 * degree) ** 2, rel=0.05, abs=0.01
        )


def test_repeated_holds_as_many_different_images_as_it_says(pool):
    reference = pool[0].reshape(len(pool[0]), -1).astype(np.int16)
    for degree in DEGREES[::2]:
        images, _ = changed("repeated", pool, degree)
        nearest = {int(np.abs(reference - x.reshape(-1).astype(np.int16)).max(1).argmin()) for x in images}
        assert len(nearest) <= round(200 ** (1 - degree))
    assert len({x.tobytes() for x in images}) > 1  # noise: not bit-equal


def test_dropped_classes_are_the_rarest(pool):
    lost = []
    own = pool[1][len(pool[1]) // 4 :]
    counts = np.bincount(own)
    for degree in DEGREES:
        _, labels = changed("dropped", pool, degree, 50)
        gone = set(own) - set(labels)
        lost.append(len(gone))
        kept = max(1, round(0.75 * degree * len(set(own))))
        rarest = set(np.argsort(np.where(counts > 0, counts, 10**9), kind="stable")[:kept])
        assert rarest <= gone
    assert lost == sorted(lost)


def test_blended_images_are_mixes_with_another_class(pool):
    images, labels = changed("blended", pool, 1.0)
    first, _ = changed("blended", pool, 1e-9)
    real, classes = pool
    assert known(pool, first).all() and not known(pool, images).all()
    other = 2 * images[0].astype(float) - first[0]  # what was mixed in, to a level of rounding on either side
    far = np.abs(real - other).reshape(len(real), -1).max(1)
    assert far.min() <= 1 and (classes[far <= 1] != labels[0]).all()


def test_swapped_labels_are_wrong_by_the_degree(pool):
    by_image = {x.tobytes(): c for x, c in zip(*pool, strict=True)}
    for degree in DEGREES:
        images, labels = changed("swapped", pool, degree)
        true = np.array([by_image[x.tobytes()] for x in images])
        assert (true != labels).mean() == pytest.approx(
            degree, abs=0.03
        )  # some emoji are drawn alike in two classes


def test_blur_and_sharpening_are_ordered(pool):
    plain = sharpness(changed("nothing", pool, 1)[0])
    blurred = [sharpness(changed("blurred", pool, d)[0]) for d in DEGREES]
    sharpened = [sharpness(changed("sharpened", pool, d)[0]) for d in DEGREES]
    assert blurred == sorted(blurred, reverse=True) and blurred[-1] < 0.9 * plain
    assert sharpened == sorted(sharpened) and sharpened[-1] > 1.05 * plain


def test_saturation_is_ordered_and_grey_images_have_none(pool):
    if pool[0].shape[3] == 1:
        with pytest.raises(DataError, match="colour"):
            changed("saturated", pool, 0.5)
        return
    colour = [float(np.ptp(changed("saturated", pool, d)[0].astype(int), axis=3).mean()) for d in DEGREES]
    assert colour == sorted(colour)


def test_reencoding_changes_little(pool):
    images, _ = changed("reencoded", pool, 1.0)
    same, _ = changed("reencoded", pool, 0.2)
    real = pool[0].reshape(len(pool[0]), -1).astype(int)
    errors = [min(np.abs(real - x.reshape(-1)).mean(1).min() for _ in (0,)) for x in images[:20]]
    assert 0 < np.mean(errors) < 12 and not np.array_equal(images, same)


def test_copied_share_is_of_the_training_images(pool):
    train = {x.tobytes() for x in pool[0][: len(pool[0]) // 4]}
    for degree in DEGREES:
        images, _ = changed("copied", pool, degree)
        assert np.mean([x.tobytes() in train for x in images]) == pytest.approx(degree, abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "collapse"}, "no simulated change 'collapse'; known: nothing"),
        ({"degree": 0}, "degree is 0"),
        ({"degree": 1.1}, "degree is 1.1"),
        ({"count": 7}, "6 images are left to draw 7 from"),
        ({"labels": np.zeros(5, int)}, "labels"),
        ({"images": np.zeros((6, 8, 8, 3))}, "uint8"),
        ({"name": "copied"}, r"train=\(images, labels\)"),
        ({"name": "dropped", "labels": np.zeros(6, int)}, "at least 2 classes"),
        ({"name": "blended", "labels": np.zeros(6, int)}, "at least 2 classes"),
        ({"name": "swapped", "labels": np.zeros(6, int)}, "at least 2 classes"),
    ],
    ids=str,
)
def test_what_cannot_be_simulated(arguments, said):
    given = {
        "name": "nothing",
        "images": np.zeros((6, 8, 8, 3), np.uint8),
        "labels": np.array([0, 0, 0, 1, 1, 1]),
        "degree": 0.5,
        "count": 4,
    }
    with pytest.raises(DataError, match=said):
        simulate(**(given | arguments))
