"""Concepts: texts are open_clip's, lists are read in every form, prompts are assigned by whole words."""

import json

import pytest
import torch
from safetensors.torch import save_file

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair, open_extractor
from difflab.metrics.concept_set import Concepts, assign, concepts_of, read_concepts, unnamed

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
    # Another prompt is another judge.
    assert known.recipe != concepts_of(extractor, {**names, "seal": "seal"}, "a picture of {}").recipe
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


def test_concepts_that_cannot_be():
    x = torch.eye(3)
    for bad, match in (
        (lambda: Concepts(["a"], x[:1]), "at least 2, got 1"),
        (lambda: Concepts(["a", "b"], x), r"need text embeddings \[2, d\]"),
        (lambda: Concepts(["a", "b", "A"], x), "listed twice.*: a"),
        (lambda: Concepts(["a", "b", " "], x), "empty name"),
        (
            lambda: Concepts(["a", "b"], torch.ones(2, 3) * torch.tensor([[1.0], [2.0]])),
            "'a' and 'b' as one text",
        ),
        (lambda: Concepts(["a", "b"], torch.zeros(2, 3)), "have no direction"),
        (lambda: Concepts(["a", "b"], x[:2] / 0), "have no direction"),
        (lambda: Concepts(["a", "b", "c"], x, torch.ones(2)), "frequency needs 3"),
        (lambda: Concepts(["a", "b", "c"], x, torch.tensor([1, -1, 0])), "frequency needs 3"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()


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
    with pytest.raises(MeasureError, match=r"cannot read concepts from .*absent.*one concept per line"):
        read_concepts(tmp_path / "absent")
    (tmp_path / "list").write_text("cat\nseal\nred seal\nfire\n")
    with pytest.raises(MeasureError, match=r"no prompt names 2 of 4 concepts in .*: 'seal', 'fire'"):
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
    assert unnamed(assign(["cat"], names), names) == names[1:] and assign([], names).dtype == torch.long
    with pytest.raises(MeasureError, match="no concepts to assign"):
        assign(["cat"], [])
