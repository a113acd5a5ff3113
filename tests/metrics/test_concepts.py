"""Oracles: open_clip itself for the texts, scikit-learn for silhouette and AUROC, numpy's plain loops, counts by hand."""

import doctest
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score, silhouette_score

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair, concepts, interval, open_extractor, resampled
from difflab.metrics.concept_graph import confusion
from difflab.metrics.concepts import (
    Concepts,
    assign,
    aurocs,
    concepts_of,
    rare,
    read_concepts,
    split_by,
    unasked,
)
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


# ------------------------------------------------------------------------------------------------- a tiny real CLIP
MODEL = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_clip(folder, **text):
    import open_clip

    config = {**MODEL, "text_cfg": {**MODEL["text_cfg"], **text}}
    folder.mkdir(exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.CLIP(**config).eval()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    )
    save_file(
        {k: v.contiguous() for k, v in clip.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return clip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return write_clip(folder), open_extractor(f"open_clip:{folder}")


def test_texts_are_open_clip_s(tiny):
    import open_clip

    clip, extractor = tiny
    names = {"cat": None, "red apple": "an apple, red", "seal": None}
    before = torch.get_rng_state()
    known = concepts_of(extractor, names, "a picture of {}")
    with torch.no_grad():
        wanted = clip.encode_text(
            open_clip.SimpleTokenizer(context_length=8)(
                ["a picture of cat", "an apple, red", "a picture of seal"]
            ),
            normalize=True,
        )
    torch.testing.assert_close(known.text, wanted.double(), rtol=1e-4, atol=1e-5)
    assert known.names == list(names) and len(known) == 3 and torch.equal(torch.get_rng_state(), before)
    assert (
        known.recipe["judge"] == extractor.name
        and known.recipe["sha256"] == extractor.recipe["sha256"]
        and known.recipe["accuracy"] is None
    )
    assert known.recipe["template"] == "a picture of {}" and len(known.recipe["text_sha256"]) == 64
    assert (
        known.recipe != concepts_of(extractor, {**names, "seal": "seal"}, "a picture of {}").recipe
    )  # another prompt is another judge
    many = concepts_of(extractor, [f"thing {i}" for i in range(70)])  # more than one batch
    torch.testing.assert_close(
        many.text[69], concepts_of(extractor, ["thing 69", "cat"]).text[0], rtol=1e-4, atol=1e-5
    )


def test_the_text_hash_is_of_the_text_tower_alone(tiny, tmp_path):
    clip, extractor = tiny
    images, texts = ({k: v.contiguous() for k, v in clip.state_dict().items()} for _ in range(2))
    images["visual.proj"] = images["visual.proj"] + 1
    texts["text_projection"] = texts["text_projection"] + 1
    hashes = []
    for state in (images, texts):
        write_clip(tmp_path)
        save_file(state, tmp_path / "open_clip_model.safetensors")
        hashes.append(open_extractor(f"open_clip:{tmp_path}").text_sha256)
    assert hashes[0] == extractor.text_sha256 != hashes[1]


def test_images_and_texts_meet(tiny):
    _, extractor = tiny
    extractor.rest()
    known = concepts_of(extractor, ANIMALS)
    images = torch.randint(
        0, 256, (60, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(60) % 5
    pair = Pair(
        extractor(images[:30]),
        extractor(images[30:]),
        real_labels=labels[:30],
        fake_labels=labels[30:],
        concepts=known,
    )
    for name in NAMES:
        low, high = METRICS[name].range
        assert low <= METRICS[name].of(pair) <= high


def test_extractors_that_read_no_text(tiny, tmp_path):
    _, extractor = tiny
    write_clip(tmp_path, vocab_size=64)  # the tokenizer knows more words
    small = open_extractor(f"open_clip:{tmp_path}")
    for bad, match in (
        (lambda: concepts_of(open_extractor("pixels"), ANIMALS), "pixels reads no texts.*open_clip:PATH"),
        (lambda: concepts_of(extractor, ANIMALS, "a picture"), "no place for the concept"),
        (lambda: concepts_of(extractor, ["cat"]), "at least 2, got 1"),
        (lambda: concepts_of(extractor, []), "at least 2, got 0"),
        (lambda: concepts_of(extractor, ["cat", "Cat"]), "listed twice.*cat"),
        (
            lambda: concepts_of(extractor, ["a b c d e f g h i", "dog", "a b c d e f g h j"]),
            "'a b c d e f g h i' and 'a b c d e f g h j' as one text",
        ),
        (lambda: concepts_of(small, ANIMALS), "cannot read texts with open_clip"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()


def test_the_judge_s_own_accuracy_goes_into_the_recipe(pair):
    stated = pair.concepts.tested(pair.real, pair.real_labels).recipe
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


def test_concepts_that_cannot_be():
    x = torch.eye(3)
    for bad, match in (
        (lambda: Concepts(["a"], x[:1]), "at least 2, got 1"),
        (lambda: Concepts(["a", "b"], x), r"want text embeddings \[2, d\]"),
        (lambda: Concepts(["a", "b", "A"], x), "listed twice.*: a"),
        (lambda: Concepts(["a", "b", " "], x), "empty name"),
        (
            lambda: Concepts(["a", "b"], torch.ones(2, 3) * torch.tensor([[1.0], [2.0]])),
            "'a' and 'b' as one text",
        ),
        (lambda: Concepts(["a", "b"], torch.zeros(2, 3)), "have no direction"),
        (lambda: Concepts(["a", "b"], x[:2] / 0), "have no direction"),
        (lambda: Concepts(["a", "b", "c"], x, torch.ones(2)), "frequency wants 3"),
        (lambda: Concepts(["a", "b", "c"], x, torch.tensor([1, -1, 0])), "frequency wants 3"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()


# --------------------------------------------------------------------------------------------------- lists and prompts
def test_lists_are_read_in_either_form(tmp_path):
    path = tmp_path / "list"
    path.write_text(
        'red apple\n\n  seal \n{"concept": "cat", "prompt": "a cat, sitting"}\n{"concept": "Äpfel"}\n',
        encoding="utf-8",
    )
    assert read_concepts(path) == {"red apple": None, "seal": None, "cat": "a cat, sitting", "Äpfel": None}
    assert list(read_concepts(str(path))) == ["red apple", "seal", "cat", "Äpfel"]
    assert read_concepts(path, ["noto seal", "Red Apple", "äpfel!", "big cat"]) == read_concepts(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_line_ends_of_other_systems(tmp_path, encoding, end):
    names = ["seal", "Äpfel", "two\u2028parts"]
    (tmp_path / "list").write_bytes(end.join(names).encode(encoding))
    assert list(read_concepts(tmp_path / "list")) == names


def test_half_a_surrogate_pair_is_refused(tmp_path):
    (tmp_path / "list").write_text('cat\n{"concept": "dog", "prompt": "a dog \\ud83d"}\n')
    with pytest.raises(MeasureError, match=r"line 2: .*half of a surrogate pair"):
        read_concepts(tmp_path / "list")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "holds no concept"),
        (b"\n \n", "holds no concept"),
        (b"cat\ndog\nCat\n", "listed twice.*: cat"),
        (b"cat\n{not json\n", "line 2 is no JSON"),
        (b'{"prompt": "a cat"}', r"line 1 wants \{\"concept\""),
        (b'{"concept": "cat", "prompt": ""}', "line 1 wants"),
        (b'{"concept": "cat", "promt": "a cat"}', "line 1 wants"),
        (b'{"concept": 3}', "line 1 wants"),
        (b'{"concept": "cat", "prompt": null}', "line 1 wants"),
        (b"cat\n\xffdog", "line 2: cannot be read as UTF-8"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path, text, match):
    (tmp_path / "list").write_bytes(text)
    with pytest.raises(MeasureError, match=match):
        read_concepts(tmp_path / "list")


def test_no_such_list_and_unasked_concepts(tmp_path):
    with pytest.raises(MeasureError, match=r"cannot read concepts from .*absent.*one concept a line"):
        read_concepts(tmp_path / "absent")
    (tmp_path / "list").write_text("cat\nseal\nred seal\nfire\n")
    with pytest.raises(MeasureError, match=r"no prompt asks for 2 of 4 concepts in .*: 'seal', 'fire'"):
        read_concepts(tmp_path / "list", ["cat", "noto red seal"])


def test_prompts_ask_for_the_longest_whole_words():
    names = ["cat", "Red Apple", "apple", "cat face", "flag: Norway", "❤"]
    prompts = [
        "noto red  apple",
        "apple red",
        "concatenate",
        "a CAT face!",
        "cat, dog",
        "flag: norway",
        "flag norway",
        "noto ❤",
        "",
        "apple cat",
        "cats",
    ]
    assert assign(prompts, names).tolist() == [1, 2, -1, 3, 0, 4, -1, 5, -1, 2, -1]
    assert assign(["dog cat"], ["cat", "dog"]).tolist() == [1]  # of one length: the first in the prompt
    assert assign(["red apple"], ["red apple", "red  apple"]).tolist() == [0]
    assert unasked(assign(["cat"], names), names) == names[1:] and assign([], names).dtype == torch.long
    with pytest.raises(MeasureError, match="no concepts to assign"):
        assign(["cat"], [])


# ----------------------------------------------------------------------------------------------------------- measures
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
    x, labels = (
        one * torch.tensor([[0.3], [1.0], [0.7], [3.1], [9.9], [1.7]]),
        torch.tensor([0, 0, 1, 1, 3, 3]),
    )  # length is no difference
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
    assert (
        METRICS["concept_survival"].of(pair, None, torch.tensor([0, 1, 2])) == 0.25
    )  # the concepts that count stay the same
    common = Pair(
        axes[drawn],
        axes[shown],
        real_labels=real_labels,
        fake_labels=labels,
        concepts=animals(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])),
    )
    assert (
        rare(common).tolist() == [0] and METRICS["rare_concept_survival"].of(common) == 1
    )  # rare in training, whatever the held-out set says
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


# ------------------------------------------------------------------------------------------------- ways to use them
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
