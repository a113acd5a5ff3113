"""Concept measures. Oracles: scikit-learn for silhouette and AUROC, numpy's plain loops, counts by hand."""

import doctest

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, silhouette_score

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair, concepts, interval, resampled
from difflab.metrics.concept_graph import confusion
from difflab.metrics.concept_set import Concepts, assign, split_by
from difflab.metrics.concepts import aurocs, rare
from difflab.metrics.interval import wilson

NAMES = [
    "zero_shot_accuracy",
    "zero_shot_margin",
    "prompt_alignment",
    "within_between",
    "silhouette",
    "concept_auroc",
    "concept_survival",
    "rare_concept_survival",
]
ANIMALS = ["cat", "dog", "seal", "otter", "wolf"]


def around(labels, noise, seed, directions=None, d=8):
    """Embeddings of any length near the directions of their labels (by default the axes)."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.eye(int(labels.max()) + 1, d) if directions is None else directions
    x = directions[labels] + noise * torch.randn(len(labels), directions.shape[1], generator=draw)
    return x * (0.5 + 3 * torch.rand(len(labels), 1, generator=draw))


def animals(frequency=None, d=8):
    return Concepts(ANIMALS, torch.eye(5, d) + 0.1, frequency)


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


def plain(pair):
    """numpy float64: unit embeddings, cosines with the texts, asked labels."""
    unit = pair.fake.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    text = pair.concepts.text.numpy()
    return unit, unit @ (text / np.linalg.norm(text, axis=1, keepdims=True)).T, pair.fake_labels.numpy()


def test_the_judge_s_own_accuracy_goes_into_the_recipe(pair):
    stated = concepts.tested(pair.concepts, pair.real, pair.real_labels).recipe
    assert (
        stated["accuracy"]
        == METRICS["zero_shot_accuracy"].of(
            Pair(pair.fake, pair.real, fake_labels=pair.real_labels, concepts=pair.concepts)
        )
        > 0.8
    )
    assert (stated["accuracy_low"], stated["accuracy_high"]) == wilson(stated["accuracy"], 200) and stated[
        "accuracy_n"
    ] == 200
    assert pair.concepts.recipe["accuracy"] is None


def test_the_table_says_what_each_is():
    for name in NAMES:
        cls = METRICS[name]
        assert (
            cls.needs == "concepts"
            and cls.unit
            and cls.better in ("lower", "higher", "real")
            and cls.range[0] < cls.range[1]
        )
    assert METRICS["prompt_alignment"].better == "real"  # it can rise during collapse


def test_accuracy_margin_and_alignment_are_numpy_s(pair):
    _, cosines, labels = plain(pair)
    own = cosines[np.arange(150), labels]
    others = np.array(
        [max(c for j, c in enumerate(row) if j != y) for row, y in zip(cosines, labels, strict=True)]
    )
    assert METRICS["zero_shot_accuracy"].of(pair) == np.mean(cosines.argmax(1) == labels)
    assert METRICS["zero_shot_margin"].of(pair) == pytest.approx(np.mean(own - others), abs=1e-12)
    assert METRICS["prompt_alignment"].of(pair) == pytest.approx(np.mean(own), abs=1e-12)
    assert 0.5 < METRICS["zero_shot_accuracy"].of(pair) < 1  # else the test sees little


def test_within_between_is_a_plain_loop_s(pair):
    unit, _, labels = plain(pair)
    squared = ((unit[:, None] - unit[None]) ** 2).sum(-1)
    same, apart = labels[:, None] == labels[None], ~np.eye(150, dtype=bool)
    assert METRICS["within_between"].of(pair) == pytest.approx(
        squared[same & apart].mean() / squared[~same].mean(), rel=1e-10
    )


def test_silhouette_is_scikit_learn_s(pair):
    assert METRICS["silhouette"].of(pair) == pytest.approx(
        silhouette_score(pair.fake.double().numpy(), pair.fake_labels.numpy(), metric="cosine"), abs=1e-9
    )
    labels = torch.tensor([0, 0, 0, 1, 1, 2])  # one of them alone
    x = around(labels, 1.0, 5, d=4)
    alone = Pair(x, x, fake_labels=labels, concepts=Concepts(ANIMALS[:3], torch.eye(3, 4)))
    assert METRICS["silhouette"].of(alone) == pytest.approx(
        silhouette_score(x.double().numpy(), labels.numpy(), metric="cosine"), abs=1e-9
    )


def test_auroc_is_scikit_learn_s(pair):
    _, cosines, labels = plain(pair)
    table, count = aurocs(pair)
    scores = []
    for a in range(5):
        for b in range(a):
            rows = (labels == a) | (labels == b)
            scores.append(roc_auc_score(labels[rows] == a, (cosines[:, a] - cosines[:, b])[rows]))
            assert table[a, b].item() == table[b, a].item() == pytest.approx(scores[-1], abs=1e-9)
    assert METRICS["concept_auroc"].of(pair) == pytest.approx(np.mean(scores), abs=1e-9)
    assert count.tolist() == np.bincount(labels).tolist() and 0.6 < min(scores) < 1


def test_auroc_counts_copies_as_ties_and_leaves_absent_concepts_out():
    one = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # Length is no difference.
    x, labels = (
        one * torch.tensor([[0.3], [1.0], [0.7], [3.1], [9.9], [1.7]]),
        torch.tensor([0, 0, 1, 1, 3, 3]),
    )
    same = Pair(x, x, fake_labels=labels, concepts=animals())
    assert METRICS["concept_auroc"].of(same) == 0.5
    table, count = aurocs(same)
    assert (
        count.tolist() == [2, 2, 0, 2, 0]
        and table[2].isnan().all()
        and table[4].isnan().all()
        and table.isfinite().sum() == 6
    )
    rows = torch.arange(30)
    labels = rows % 3
    blocks = Pair(around(labels, 0.5, 0), around(labels, 0.5, 0), fake_labels=labels, concepts=animals())
    torch.testing.assert_close(concepts.wins(blocks, block=7), concepts.wins(blocks))


def test_samples_of_one_point_a_concept():
    labels = torch.arange(40) % 5
    tight = Pair(
        torch.eye(5, 8)[labels],
        3 * torch.eye(5, 8)[labels],
        real_labels=labels,
        fake_labels=labels,
        concepts=animals(),
    )
    values = {name: METRICS[name].of(tight) for name in NAMES}
    assert (
        values["zero_shot_accuracy"]
        == values["concept_auroc"]
        == values["concept_survival"]
        == values["rare_concept_survival"]
        == 1
    )
    assert values["silhouette"] == pytest.approx(1) and values["within_between"] == pytest.approx(
        0, abs=1e-12
    )


def test_survival_by_hand():
    real_labels = torch.tensor([0] * 6 + [1] * 4 + [2] * 3 + [3] * 2 + [4])
    drawn = real_labels.clone()
    drawn[-1] = 0  # the judge sees no wolf in the only wolf: its loss could not be seen
    labels = torch.tensor([0, 0, 1, 2, 2, 3, 4])
    shown = torch.tensor([0, 0, 0, 0, 2, 2, 4])  # dog and otter are lost
    axes = torch.eye(5, 8)
    pair = Pair(axes[drawn], axes[shown], real_labels=real_labels, fake_labels=labels, concepts=animals())
    assert METRICS["concept_survival"].of(pair) == 0.5  # cat and seal of cat, dog, seal, otter
    assert rare(pair).tolist() == [3] and METRICS["rare_concept_survival"].of(pair) == 0
    # The concepts that count stay the same.
    assert METRICS["concept_survival"].of(pair, None, torch.tensor([0, 1, 2])) == 0.25
    common = Pair(
        axes[drawn],
        axes[shown],
        real_labels=real_labels,
        fake_labels=labels,
        concepts=animals(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])),
    )
    # Rare in training, whatever the held-out set says.
    assert rare(common).tolist() == [0] and METRICS["rare_concept_survival"].of(common) == 1
    unwanted = Pair(
        axes[drawn], axes[shown[:2]], real_labels=real_labels, fake_labels=labels[:2], concepts=animals()
    )
    assert METRICS["concept_survival"].of(unwanted) == 1  # nobody asked for the others


@pytest.mark.parametrize("name", NAMES)
def test_of_rows_equals_a_pair_of_those_rows(name, pair):
    r, f = torch.randperm(200)[:90].sort().values, torch.randperm(150)[:70].sort().values
    alone = Pair(
        pair.real[r],
        pair.fake[f],
        real_labels=pair.real_labels[r],
        fake_labels=pair.fake_labels[f],
        concepts=pair.concepts,
    )
    if name.endswith("survival"):  # which concepts count, and which are rare, is a property of the whole set
        alone._once.update({derive: pair.once(derive) for derive in (concepts.lasting, concepts.rare)})
    assert METRICS[name].of(pair, r, f) == pytest.approx(METRICS[name].of(alone), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_metric_equals_of_whatever_the_batches(name, pair):
    metric = METRICS[name](concepts=pair.concepts)
    metric.update(pair.real[:30], real=True, labels=pair.real_labels[:30])
    metric.update(pair.fake, real=False, labels=pair.fake_labels)
    metric.update(pair.real[30:], real=True, labels=pair.real_labels[30:])
    assert metric.compute().item() == METRICS[name].of(pair)


def test_intervals_hold_the_value(pair):
    for name in NAMES:
        metric = METRICS[name]
        value = metric.of(pair)
        low, high = interval(value, resampled(metric, pair, range(20), seed=0), metric.range)
        assert low <= value <= high and (low < high or name.endswith("survival"))


def test_what_has_no_value_is_an_error(pair):
    x, y, known = pair.fake[:6], torch.tensor([0, 0, 1, 1, 2, 2]), pair.concepts
    cases = [(name, Pair(x, x, real_labels=y, concepts=known), "unconditional") for name in NAMES]
    cases += [
        (name, Pair(x, x, real_labels=y, fake_labels=y), "concept measures need concepts") for name in NAMES
    ]
    cases += [
        (
            name,
            Pair(x, x, real_labels=y, fake_labels=y + 3, concepts=known),
            "a label is 5, but 5 concepts are 0 to 4",
        )
        for name in NAMES
    ]
    cases += [
        (
            name,
            Pair(x[:, :4], x[:, :4], real_labels=y, fake_labels=y, concepts=known),
            "4 dimensions, the concepts' texts 8",
        )
        for name in NAMES
    ]
    cases += [
        (
            name,
            Pair(x, 0 * x, real_labels=y, fake_labels=y, concepts=known),
            "6 of 6 images have features of length 0",
        )
        for name in NAMES
    ]
    cases += [
        (name, Pair(x, x, fake_labels=y, concepts=known), "real images carry no labels")
        for name in NAMES
        if name.endswith("survival")
    ]
    for name in ("within_between", "silhouette", "concept_auroc"):
        cases.append((name, Pair(x, x, fake_labels=y * 0, concepts=known), "all of one concept"))
    for name in ("within_between", "silhouette"):
        cases.append(
            (name, Pair(x, x[:3], fake_labels=torch.arange(3), concepts=known), "no concept has two")
        )
    cases.append(
        ("within_between", Pair(x, torch.ones(6, 8), fake_labels=y, concepts=known), "same embedding")
    )
    blind = Pair(torch.eye(5, 8)[y + 1], x, real_labels=y, fake_labels=y, concepts=known)
    cases += [
        (name, blind, "recognises no concept") for name in ("concept_survival", "rare_concept_survival")
    ]
    for name, bad, match in cases:
        with pytest.raises(MeasureError, match=match):
            METRICS[name].of(bad)


def test_contagion_is_seen_on_prompts_never_trained_on():
    known = animals()
    seen, unseen = split_by(known, {"cat", "dog"})
    assert seen.tolist() == [True, True, False, False, False] and torch.equal(unseen, ~seen)
    labels = torch.arange(100) % 5
    axes = torch.eye(5, 8)
    shown = labels.where(labels != 2, 0)  # every seal is drawn as a cat, which was trained on
    rows = unseen[labels]
    part = Pair(axes[labels], axes[shown][rows], real_labels=labels, fake_labels=labels[rows], concepts=known)
    assert METRICS["zero_shot_accuracy"].of(part) == pytest.approx(2 / 3)
    assert METRICS["concept_survival"].of(part) == pytest.approx(2 / 3)  # of seal, otter and wolf
    assert confusion(part)[2, 0] == 20
    for trained, match in (
        ({"cta"}, "'cta' is none of the 5 concepts; did you mean 'cat'"),
        (set(ANIMALS), "all concepts were trained on"),
    ):
        with pytest.raises(MeasureError, match=match):
            split_by(known, trained)


def test_a_style_can_vanish_while_its_content_stays():
    """Captions "noto seal": embeddings are content + style, and every twemoji comes out as a noto."""
    styles, contents = ["noto", "twemoji"], ["seal", "cat", "fire"]
    captions = [f"{style} {content}" for _ in range(20) for style in styles for content in contents]
    style, content = assign(captions, styles), assign(captions, contents)
    directions = torch.eye(5, 8)
    noise = 0.1 * torch.randn(2, len(captions), 8, generator=torch.Generator().manual_seed(0))
    real = directions[style] + directions[2 + content] + noise[0]
    fake = directions[torch.zeros_like(style)] + directions[2 + content] + noise[1]
    by_style = Pair(
        real, fake, real_labels=style, fake_labels=style, concepts=Concepts(styles, directions[:2])
    )
    by_content = Pair(
        real, fake, real_labels=content, fake_labels=content, concepts=Concepts(contents, directions[2:])
    )
    assert METRICS["concept_survival"].of(by_style) == 0.5 and METRICS["concept_survival"].of(by_content) == 1
    assert (
        METRICS["zero_shot_accuracy"].of(by_style) == 0.5
        and METRICS["zero_shot_accuracy"].of(by_content) == 1
    )
    assert (
        METRICS["concept_auroc"].of(by_style) == pytest.approx(0.5, abs=0.12)
        and METRICS["concept_auroc"].of(by_content) == 1
    )
    assert (
        METRICS["within_between"].of(by_style) == pytest.approx(1, abs=0.05)
        and METRICS["within_between"].of(by_content) < 0.3
    )


def test_alignment_rises_while_diversity_falls():
    labels = torch.arange(200) % 5
    typical = animals().text.float()
    real, fake = around(labels, 0.5, 0, typical), around(labels, 0.1, 1, typical)
    floor, narrowed = (
        Pair(real, x, real_labels=labels, fake_labels=labels, concepts=animals()) for x in (real, fake)
    )
    assert METRICS["prompt_alignment"].of(narrowed) > METRICS["prompt_alignment"].of(floor) + 0.1
    assert METRICS["within_between"].of(narrowed) < METRICS["within_between"].of(floor) / 3


def test_the_examples_in_the_docs_hold():
    assert doctest.testmod(concepts).failed == 0
