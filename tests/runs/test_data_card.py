"""The data card of an export, read by mlcroissant and by datasets."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from chains import COPIES, TEXT, config, ran
from commands import difflab

from difflab.core.files import read_json
from difflab.core.hashing import file_hash
from difflab.runs.data_card import FIELDS, DataCard, write_card
from difflab.runs.export import export
from difflab.runs.run import Run

NUMBERS = {"class": "007", "text": "12345e678901", "prompt": "1e9", "model_hash": "1" * 64}
"""Texts that look like numbers."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = config(base=COPIES, regime={"name": "accumulate"}, generations=2)
    return ran(made, tmp_path_factory.mktemp("card") / "run")


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "out"
    export(run, 2, folder, croissant=True)
    return folder


def opened(folder: Path):
    """The card as mlcroissant opens it. It raises ValidationError for errors, and its warnings are in issues."""
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlcroissant.Dataset(jsonld=folder / "croissant.json")


def records(folder: Path, of: str) -> list[dict]:
    """The records of a set without its name. Texts come as bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = list(opened(folder).records(of))
    return [
        {
            key.partition("/")[2]: value.decode() if isinstance(value, bytes) else value
            for key, value in row.items()
        }
        for row in rows
    ]


def test_mlcroissant_has_no_error_and_no_warning(exported: Path) -> None:
    issues = opened(exported).metadata.ctx.issues
    assert (issues.errors, issues.warnings) == (set(), set())


def test_its_records_are_those_of_the_ledger(run: Run, exported: Path) -> None:
    ledger = run.samples(2)
    rows = sorted(records(exported, "samples"), key=lambda row: row["file_name"])
    assert len(rows) == ledger.count
    columns = [name for name in FIELDS if name in ("label", "class", "prompt", "seed", "generation", "flag")]
    for name in [*columns, "sha256", "origin", "depth", "declared_by", "kind", "model_hash", "parents_hash"]:
        assert [row[name] for row in rows] == ledger.column(name), name
    assert {row["set_hash"] for row in rows} == {read_json(run.gen(2) / "sampled.json")["hash"]}
    for row, pixels in zip(rows, ledger.gather(np.arange(len(rows))), strict=True):
        assert (np.asarray(row["image"].convert("L"))[..., None] == pixels).all()


def test_the_share_of_each_training_set(exported: Path) -> None:
    """accumulate with equal parts: 0, 1/2, 2/3."""
    rows = records(exported, "training_sets")
    assert [row["generation"] for row in rows] == [0, 1, 2]
    assert [row["synthetic_share"] for row in rows] == pytest.approx([0, 1 / 2, 2 / 3], abs=1e-6)
    assert [row["mean_depth"] for row in rows] == pytest.approx([0, 0.5, 5 / 6], abs=1e-6)


def test_the_provenance_names_set_recipe_run_and_weights(run: Run, exported: Path) -> None:
    card, line = read_json(exported / "croissant.json"), run.samples(2)
    assert card["url"] == f"urn:difflab:set:{read_json(run.gen(2) / 'sampled.json')['hash']}"
    parents, source = card["prov:wasDerivedFrom"]
    assert parents["@id"] == f"urn:difflab:set:{line.column('parents_hash')[0]}"
    assert source["license"] == "UCI Optical Recognition of Handwritten Digits, CC BY 4.0"
    assert card["prov:wasAttributedTo"]["@id"] == f"urn:difflab:weights:{line.column('model_hash')[0]}"
    activity = card["prov:wasGeneratedBy"]
    assert activity["@id"] == f"urn:difflab:recipe:{run.recipe}:generation:2"
    assert run.config.name in activity["name"]
    assert card["distribution"][0]["sha256"] == file_hash(exported / "records.parquet")


def test_the_terms_of_prov_are_those_of_w3c(exported: Path) -> None:
    rdflib = pytest.importorskip("rdflib", reason="rdflib comes with mlcroissant")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = rdflib.Graph().parse(data=(exported / "croissant.json").read_text(), format="json-ld")
    prov = rdflib.Namespace("http://www.w3.org/ns/prov#")
    assert len(list(graph.subject_objects(prov.wasDerivedFrom))) == 2
    assert len(list(graph.subject_objects(prov.wasGeneratedBy))) == 1


def test_the_readme_is_a_card_of_the_hub(run: Run, exported: Path) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(exported / "README.md")
    assert {"synthetic", "difflab"} <= set(card.data.tags) and card.data.license == "unknown"
    assert "**Share of synthetic images in this set: 100%.**" in card.text
    assert "| 2 | 120 | 66.7% | 0 | 0.83 |" in card.text
    assert "UCI Optical Recognition of Handwritten Digits, CC BY 4.0" in card.text
    assert read_json(exported / "croissant.json")["description"] in card.text


@pytest.mark.parametrize("way", ["imagefolder", "folder"])
def test_datasets_opens_the_folder(run: Run, exported: Path, tmp_path: Path, monkeypatch, way: str) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    where = (
        {"path": "imagefolder", "data_dir": str(exported)}
        if way == "imagefolder"
        else {"path": str(exported)}
    )
    read = datasets.load_dataset(**where, cache_dir=str(tmp_path), split="train")
    assert len(read) == 40 and set(read["origin"]) == {"synthetic"} and set(read["depth"]) == {3}
    assert sorted(read["sha256"]) == sorted(run.samples(2).column("sha256"))


def test_texts_that_look_like_numbers_stay_texts(run: Run, exported: Path, tmp_path: Path) -> None:
    """pandas reads 12345e678901 in JSON lines as infinite, hence records.parquet."""
    folder = Path(shutil.copytree(exported, tmp_path / "out"))
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line | NUMBERS) + "\n" for line in lines))
    write_card(run, 2, folder)
    for row in records(folder, "samples"):
        assert {name: row[name] for name in NUMBERS} == NUMBERS


def test_batches_of_rows_make_one_table(run: Run, exported: Path, tmp_path: Path, monkeypatch) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "out"))
    monkeypatch.setattr("difflab.runs.data_card.ROWS", 7)
    write_card(run, 2, folder)
    assert pq.read_table(folder / "records.parquet").equals(pq.read_table(exported / "records.parquet"))


def test_names_of_runs_and_licences_of_bases(run: Run) -> None:
    """A name with YAML in it stays a name; a base that difflab does not know has an unknown licence."""
    card = DataCard(run, 2, 12_000, "s", "m", "p")
    assert "- 10K<n<100K" in card.readme() and len(card.sources) == 1
    head = re.match(r"---\n(.*?)\n---\n", card.readme(), re.S)
    assert head and yaml.safe_load(head[1])["pretty_name"] == card.title
    emoji = config(base=TEXT)
    assert [part["license"] for part in DataCard(Run(run.path, emoji), 2, 1, "s", "m", "p").sources][1:] == [
        "Apache-2.0, see its NOTICE"
    ]


def test_a_lab_of_an_ecosystem_says_what_it_has_from_other_labs(tmp_path: Path) -> None:
    made = config(base=COPIES, generations=1, ecosystem={"labs": 2, "exchange": [[0.75, 0.25], [0.5, 0.5]]})
    ran(made, tmp_path / "run")
    done = difflab(
        "export", tmp_path / "run" / "lab-1", "--generation", 1, "--to", tmp_path / "out", "--croissant"
    )
    assert done.returncode == 0, done.stderr
    rows = {row["generation"]: row for row in records(tmp_path / "out", "training_sets")}
    assert (rows[0]["other_labs"], rows[1]["other_labs"], rows[1]["synthetic_share"]) == (0, 0.5, 1)
    assert (
        opened(tmp_path / "out").metadata.issues.errors
        == opened(tmp_path / "out").metadata.issues.warnings
        == set()
    )
    said = read_json(tmp_path / "out" / "croissant.json")["description"]
    assert (
        "lab 1 of an ecosystem of 2 labs" in said
        and "50.0% of the training set were drawn by other labs" in said
    )


def test_an_ecosystem_as_a_whole_is_refused_in_one_line(tmp_path: Path) -> None:
    made = config(base=COPIES, generations=0, ecosystem={"labs": 2})
    ran(made, tmp_path / "run")
    done = difflab("export", tmp_path / "run", "--generation", 0, "--to", tmp_path / "out", "--croissant")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "is an ecosystem of 2 labs, and each lab is a run: name one" in done.stderr
    assert not (tmp_path / "out").exists()
