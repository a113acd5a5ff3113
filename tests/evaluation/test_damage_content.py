"""Damages to what images show: each does what its name says, by its degree, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from damaged import DEGREES, changed, classes_shown, is_known, real_images

from difflab.core.errors import DataError
from difflab.evaluation.simulate import simulate


@pytest.fixture(scope="module", params=["digits", "emoji"])
def pool(request) -> tuple[np.ndarray, np.ndarray]:
    return real_images(request.param)


def test_nothing_and_fewer_are_different_real_images(pool):
    for name, counts in (("nothing", [200] * 5), ("fewer", [170, 140, 110, 80, 50])):
        for degree, count in zip(DEGREES, counts, strict=True):
            images, _ = changed(name, pool, degree)
            assert len(images) == count and is_known(pool, images).all()


def test_reencoding_changes_little(pool):
    images, _ = changed("reencoded", pool, 1.0)
    same, _ = changed("reencoded", pool, 0.2)
    real = pool[0].reshape(len(pool[0]), -1).astype(int)
    errors = [min(np.abs(real - x.reshape(-1)).mean(1).min() for _ in (0,)) for x in images[:20]]
    assert 0 < np.mean(errors) < 12 and not np.array_equal(images, same)


def test_tails_are_cut_by_degree(pool):
    spread = [float(changed("tails_cut", pool, d, 100)[0].astype(float).var(0).sum()) for d in DEGREES]
    whole = float(changed("nothing", pool, 1, 100)[0].astype(float).var(0).sum())
    assert spread[-1] < spread[0] < 1.05 * whole and spread[-1] < 0.93 * whole
    assert is_known(pool, changed("tails_cut", pool, 1.0, 100)[0]).all()


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
    assert is_known(pool, first).all() and not is_known(pool, images).all()
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


def test_copied_share_is_of_the_training_images(pool):
    train = {x.tobytes() for x in pool[0][: len(pool[0]) // 4]}
    for degree in DEGREES:
        images, _ = changed("copied", pool, degree)
        assert np.mean([x.tobytes() in train for x in images]) == pytest.approx(degree, abs=0.03)


def test_permuted_labels_are_wrong_by_the_degree(pool):
    for degree in DEGREES:
        images, labels = changed("permuted", pool, degree)
        true = classes_shown(pool, images)
        assert (true != labels).mean() == pytest.approx(degree, abs=0.03)


def test_permuted_digits_have_one_wrong_class_each_and_swapped_ones_have_many():
    pool = real_images("digits")  # no two classes share an image
    wrong = {}
    for name in ("permuted", "swapped"):
        images, labels = changed(name, pool, 0.6)
        true = classes_shown(pool, images)
        wrong[name] = [set(labels[(true == c) & (labels != c)].tolist()) for c in range(10)]
    assert [len(labels) for labels in wrong["permuted"]] == [1] * 10
    assert set.union(*wrong["permuted"]) == set(range(10))
    assert min(len(labels) for labels in wrong["swapped"]) >= 4


def test_overlapping_share_is_of_the_reference(pool):
    cut = len(pool[0]) // 4
    reference = {x.tobytes() for x in pool[0][:cut]}
    for degree in DEGREES:
        images, labels = changed("overlapping", pool, degree)
        inside = np.array([x.tobytes() in reference for x in images])
        assert inside.mean() == pytest.approx(degree, abs=0.03)
        if len(pool[0][0]) == 8:  # some emoji are drawn alike in two classes
            assert (classes_shown(pool, images) == labels).all()


def test_near_overlap_is_one_grey_level_away_from_the_reference(pool):
    reference = pool[0][: len(pool[0]) // 4].astype(np.int16)
    images, _ = changed("overlapping_nearly", pool, 0.4)
    distance = np.array([np.abs(reference - x).reshape(len(reference), -1).max(1).min() for x in images])
    assert (distance == 1).mean() == pytest.approx(0.4, abs=0.03) and not (distance[:80] == 0).any()


@pytest.mark.parametrize("name", ["overlapping", "overlapping_nearly"])
def test_overlap_needs_a_reference(pool, name):
    with pytest.raises(DataError, match=r"overlapping\w* needs reference=\(images, labels\)"):
        simulate(name, *pool, 0.5, 100)
    with pytest.raises(DataError, match="at least as many"):
        simulate(name, *pool, 0.5, 100, reference=(pool[0][:49], pool[1][:49]))
