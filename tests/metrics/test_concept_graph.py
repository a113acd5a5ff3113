"""Oracles: scikit-learn for the confusion table, numpy and counts by hand, SciPy's adjustment of p-values,
simulation for the level of the test.
"""

import doctest
import math

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, norm
from sklearn.metrics import confusion_matrix

from difflab.core.errors import MeasureError
from difflab.metrics import Pair, concept_graph
from difflab.metrics.concept_graph import components, confusion, merged, per_concept, spread
from difflab.metrics.concept_set import Concepts
from difflab.metrics.concepts import aurocs
from difflab.metrics.interval import wilson

ANIMALS = ["cat", "dog", "seal", "otter", "wolf"]


def animals():
    return Concepts(ANIMALS, torch.eye(5, 8) + 0.1)


def around(labels, noise, seed, directions=None):
    """Embeddings of any length near the directions of their labels (by default the axes)."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.eye(5, 8) if directions is None else directions
    return (directions[labels] + noise * torch.randn(len(labels), 8, generator=draw)) * (
        0.5 + 3 * torch.rand(len(labels), 1, generator=draw)
    )


@pytest.fixture(scope="module")
def pair():
    draw = torch.Generator().manual_seed(1)
    real_labels, fake_labels = (
        torch.randint(5, (200,), generator=draw),
        torch.randint(5, (150,), generator=draw),
    )
    return Pair(
        around(real_labels, 0.3, 2),
        around(fake_labels, 0.5, 3),
        real_labels=real_labels,
        fake_labels=fake_labels,
        concepts=animals(),
    )


def test_confusion_is_scikit_learn_s_and_the_table_is_counted(pair):
    cosines = torch.nn.functional.cosine_similarity(
        pair.fake.double()[:, None], pair.concepts.text[None], 2
    ).numpy()
    labels = pair.fake_labels.numpy()
    seen = cosines.argmax(1)
    found = confusion(pair)
    assert (
        found.dtype == torch.int64
        and (found.numpy() == confusion_matrix(labels, seen, labels=range(5))).all()
    )
    rows = per_concept(pair)
    assert [row["concept"] for row in rows] == ANIMALS and sum(row["n"] for row in rows) == 150
    for i, row in enumerate(rows):
        own = cosines[labels == i]
        assert row["n"] == len(own) and row["accuracy"] == np.mean(seen[labels == i] == i)
        assert (row["ci_low"], row["ci_high"]) == wilson(row["accuracy"], len(own))
        assert row["margin"] == pytest.approx(np.mean(own[:, i] - np.delete(own, i, 1).max(1)))
        assert row["share_fake"] == pytest.approx(np.mean(seen == i)) and 0 < row["share_real"] < 1
    assert sum(row["share_real"] for row in rows) == pytest.approx(1)


def test_a_concept_nobody_asked_for_is_in_the_table():
    labels = torch.tensor([0, 1, 1])
    x = torch.eye(5, 8)[torch.tensor([0, 1, 2])]
    row = per_concept(Pair(x[:0], x, fake_labels=labels, concepts=animals()))[2]
    wanted = {
        "concept": "seal",
        "n": 0,
        "accuracy": None,
        "ci_low": None,
        "ci_high": None,
        "margin": None,
        "share_real": 0.0,
    }
    assert row == {**wanted, "share_fake": pytest.approx(1 / 3)}


def sides(seed, n=60, directions=None):
    """Pairs of 5 concepts: samples around `directions` and real images around the axes, in the place of the
    samples.
    """
    labels = torch.arange(5 * n) % 5
    real = around(labels, 0.3, seed)
    fake = around(labels, 0.3, seed + 1, directions)
    return tuple(
        Pair(around(labels, 0.3, seed + 2), x, real_labels=labels, fake_labels=labels, concepts=animals())
        for x in (fake, real)
    )


def test_what_merged_is_listed_and_hangs_together():
    directions = torch.eye(5, 8)
    directions[0] = directions[1] = (directions[0] + directions[1]) / 2  # cat and dog are one
    # Seal and otter have changed places.
    directions[2], directions[3] = (
        directions[3].clone(),
        directions[2].clone(),
    )
    pair, real_pair = sides(10, directions=directions)
    found = merged(pair, real_pair)
    apart, now = aurocs(real_pair)[0], aurocs(pair)[0]
    assert [edge[:2] for edge in found] == [("seal", "otter"), ("cat", "dog")]
    assert [edge[2] for edge in found] == pytest.approx(
        [float((apart - now)[2, 3]), float((apart - now)[0, 1])]
    )
    assert found[0][2] > 0.9 and 0.3 < found[1][2] < 0.7
    assert components(found) == [["cat", "dog"], ["otter", "seal"]]
    assert merged(real_pair, real_pair) == merged(pair, pair) == []
    assert components([]) == [] and components([("a", "b", 0.1), ("c", "d", 0.1), ("b", "c", 0.1)]) == [
        ["a", "b", "c", "d"]
    ]


def test_merged_is_its_rule():
    """A numpy re-derivation of the statistic; the adjustment is SciPy's."""
    directions = torch.eye(5, 8)
    directions[0] = directions[1] = (directions[0] + directions[1]) / 2
    directions[3], directions[4] = (
        0.6 * directions[3] + 0.4 * directions[4],
        0.4 * directions[3] + 0.6 * directions[4],
    )
    pair, real_pair = sides(7, n=25, directions=directions)
    found = {(a, b) for a, b, _ in merged(pair, real_pair, level=0.8, rate=0.1)}
    variance = 0.8 * 0.2 * (1 + 24 * 0.2 / 1.2 + 24 * 0.8 / 1.8) / 625
    assert spread(0.8, torch.tensor(25), torch.tensor(25)).item() == pytest.approx(math.sqrt(variance))
    apart, now = (aurocs(p)[0].numpy() for p in (real_pair, pair))
    edges = [(a, b) for a in range(5) for b in range(a + 1, 5)]
    p = [
        max(norm.sf((apart[e] - 0.8) / math.sqrt(variance)), norm.sf((0.8 - now[e]) / math.sqrt(variance)))
        for e in edges
    ]
    assert (
        found
        == {
            (ANIMALS[a], ANIMALS[b])
            for (a, b), adjusted in zip(edges, false_discovery_control(p), strict=True)
            if adjusted <= 0.1
        }
        != set()
    )


def test_few_images_list_nothing():
    pair, real_pair = sides(0, n=4, directions=torch.ones(5, 8))
    assert merged(pair, real_pair) == []


@pytest.mark.parametrize(("m", "n"), [(20, 20), (15, 60)])
def test_the_score_test_keeps_its_level(m, n):
    """Normal scores whose true AUROC is the level: 5% tests, either side, reject about 5% of 4000 draws."""
    draw = np.random.default_rng(0)
    a = draw.normal(math.sqrt(2) * norm.ppf(0.75), 1, (4000, m))
    b = draw.normal(0, 1, (4000, n))
    auroc = (a[:, :, None] > b[:, None, :]).mean((1, 2))
    z = (auroc - 0.75) / spread(0.75, torch.tensor(m), torch.tensor(n)).item()
    assert auroc.mean() == pytest.approx(0.75, abs=0.005)
    assert 0.02 < (z > 1.645).mean() < 0.07 and 0.02 < (z < -1.645).mean() < 0.07


def test_merges_that_cannot_be_looked_for(pair):
    other = Pair(
        pair.real, pair.fake, fake_labels=pair.fake_labels, concepts=Concepts(ANIMALS[::-1], torch.eye(5, 8))
    )
    low = Pair(pair.real, pair.fake, fake_labels=pair.fake_labels % 2, concepts=pair.concepts)
    high = Pair(pair.real, pair.fake, fake_labels=pair.fake_labels % 2 + 2, concepts=pair.concepts)
    for bad, match in (
        (lambda: merged(pair, other), "different concepts"),
        (lambda: merged(low, high), "no two concepts have both"),
        (lambda: merged(pair, pair, level=0.5), "a level between"),
        (lambda: merged(pair, pair, rate=0.0), "a rate between"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()


def test_the_examples_in_the_docs_hold():
    assert doctest.testmod(concept_graph).failed == 0
