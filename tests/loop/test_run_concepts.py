"""Concepts of a run: by class or from captions, on a CLIP model; what does not go together is refused."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from accelerate import Accelerator
from measured_digits import digits, run_chain
from safetensors.torch import save_file

from difflab.core.errors import MeasureError
from difflab.loop.run_concepts import concept_labels
from difflab.loop.run_extractors import extractors_of
from difflab.metrics import METRICS, Pair, concepts_of, open_extractor
from difflab.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("measure") / "run")


def test_concepts_are_measured_on_a_clip_model_by_class(tmp_path):
    spec = f"open_clip:{tiny.clip(tmp_path / 'clip')}"
    metrics = ["zero_shot_accuracy", "within_between", "class_accuracy", "fd"]
    config = digits(
        generations=0,
        measure={"metrics": metrics, "extractors": [spec], "resamples": 20, "concepts": "classes"},
    )
    run = run_chain(config, tmp_path / "run")
    found = {row["metric"]: row for row in run.rows()}
    for name in metrics:
        assert (
            found[name]["value"] is not None and found[name]["floor"] is not None and found[name]["n"] == 80
        ), name
        assert found[name]["ci_low"] <= found[name]["value"] <= found[name]["ci_high"], name
    reader = extractors_of(run, Accelerator(cpu=True))[0]
    real, fake = (shards.features(reader.key) for shards in (run.real, run.samples(0)))
    told, n = concepts_of(reader, [str(i) for i in range(10)]), 80
    held = slice(run.about["n_train"], run.about["n_train"] + n)
    pair = Pair(
        real[held],
        fake[:n],
        real_labels=torch.from_numpy(run.real.labels()[held]),
        fake_labels=torch.from_numpy(run.samples(0).labels()[:n]),
        concepts=told,
    )
    assert found["zero_shot_accuracy"]["value"] == METRICS["zero_shot_accuracy"].of(pair)


def test_concepts_of_a_file_are_found_in_captions(tmp_path):
    reader = open_extractor(f"open_clip:{tiny.clip(tmp_path / 'clip')}")
    (tmp_path / "few.txt").write_text("seal\nred apple\n")
    run = SimpleNamespace(config=SimpleNamespace(measure=SimpleNamespace(concepts=str(tmp_path / "few.txt"))))

    def shards(*captions):
        return SimpleNamespace(column=lambda name: list(captions))

    real, fake, told = concept_labels(
        run, reader, shards("a seal", "noto red apple"), shards("red apple", "red apple", "seal")
    )
    assert (real.tolist(), fake.tolist(), told.names) == ([0, 1], [1, 1, 0], ["seal", "red apple"])
    with pytest.raises(MeasureError, match="samples: caption 'a cat' has none"):
        concept_labels(run, reader, shards("a seal", "red apple"), shards("seal", "a cat"))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({"metrics": ["zero_shot_accuracy"]}, "zero_shot_accuracy needs measure.concepts"),
        (
            {"metrics": ["zero_shot_accuracy"], "concepts": "classes"},
            "needs a CLIP model; add open_clip",
        ),
        (
            {"metrics": ["zero_shot_accuracy"], "concepts": "missing.txt", "extractors": ["CLIP"]},
            "conditioned on classes, not on captions: use 'classes'",
        ),
    ],
)
def test_concepts_that_do_not_go_with_the_run_are_errors(measure, message, tmp_path):
    clip = f"open_clip:{tiny.clip(tmp_path / 'clip')}"
    measure = {
        key: [clip if x == "CLIP" else x for x in value] if isinstance(value, list) else value
        for key, value in measure.items()
    }
    with pytest.raises(MeasureError, match=message):
        run_chain(
            digits(generations=0, model={"family": "memoriser"}, measure={"resamples": 0, **measure}),
            tmp_path / "run",
        )


def test_an_aesthetic_head_without_its_backbone_is_an_error_before_anything_is_fitted(tmp_path):
    save_file({"weight": torch.ones(1, 9), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    measure = {"metrics": [], "aesthetic": str(tmp_path / "head.safetensors")}
    for extractors, match in (
        (["pixels"], "add the CLIP model of the head"),
        ([f"open_clip:{tiny.clip(tmp_path / 'clip')}"], "reads 9 features"),
    ):
        with pytest.raises(MeasureError, match=match):
            run_chain(digits(generations=0, measure={**measure, "extractors": extractors}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("gen-*"))
