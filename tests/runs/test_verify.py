from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from difflab.config import parse
from difflab.core.errors import DifflabError
from difflab.core.hashing import file_hash
from difflab.loop.chain import run_chain
from difflab.runs.run import Run, open_run
from difflab.runs.verify import verify

RAW = {
    "generations": 2,
    "data": {"source": "exact", "train_size": 12},
    "model": {"family": "gaussian", "replicates": 3},
    "regime": {"name": "accumulate"},
    "sample": {"count": 12, "shard_size": 5, "batch_size": 5},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "run"
    run_chain(parse(RAW), path)
    return path


@pytest.fixture
def run(whole, tmp_path) -> Run:
    shutil.copytree(whole, tmp_path / "run")
    return open_run(tmp_path / "run")


def only_fault(run: Run) -> str:
    faults = list(verify(run))
    assert len(faults) == 1, faults
    return faults[0]


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_whole_run_has_no_fault(run):
    assert list(verify(run)) == []


def test_a_run_that_was_stopped_has_no_fault(run):
    for name in ("metrics.jsonl", "selected.parquet", "sampled.json"):
        (run.gen(2) / name).unlink()
    assert list(verify(run)) == []


def test_a_run_that_was_stopped_while_it_read_the_real_set_has_no_fault(run):
    (run.path / "real" / "about.json").unlink()
    assert all("about.json is missing" in fault for fault in verify(run)) and list(verify(run))
    for folder in run.path.glob("gen-*"):
        shutil.rmtree(folder)
    (run.path / "real" / "hashes.json").unlink()
    (run.path / "metrics.jsonl").unlink()
    assert list(verify(run)) == []


@pytest.mark.parametrize(
    ("victim", "said"),
    [
        ("gen-001/samples/00001.parquet", "00001.parquet is missing"),
        ("real/images/00000.parquet", "00000.parquet is missing"),
        ("gen-000/model/gaussian.safetensors", "gaussian.safetensors is missing"),
        ("gen-001/train_set.parquet", "stage mix is missing"),
        ("gen-000/selected.parquet", "stage select is missing"),
        ("gen-001/sampled.json", "stage sample is missing"),
        ("gen-001/model/hash.json", "stage train is missing"),
        ("gen-001/metrics.jsonl", "stage measure is missing"),
        ("real/about.json", "about.json is missing"),
    ],
)
def test_a_missing_part_is_named(run, victim, said):
    (run.path / victim).unlink()
    assert any(said in fault for fault in verify(run))


@pytest.mark.parametrize(
    ("victim", "said"),
    [
        ("gen-001/samples/00001.parquet", "00001.parquet is damaged"),
        ("real/images/00000.parquet", "00000.parquet is damaged"),
        ("gen-000/model/gaussian.safetensors", "differs from its recorded hash"),
        ("gen-001/train_set.parquet", "train_set.parquet is missing or damaged"),
        ("gen-000/selected.parquet", "selected.parquet cannot be read"),
        ("gen-001/sampled.json", "sampled.json is missing or damaged"),
        ("gen-001/model/hash.json", "hash.json is missing or damaged"),
    ],
)
def test_a_truncated_part_is_named(run, victim, said):
    path = run.path / victim
    path.write_bytes(path.read_bytes()[:-7])
    assert said in only_fault(run)


@pytest.mark.parametrize(
    "victim",
    [
        "gen-001/samples/00001.parquet",
        "real/images/00000.parquet",
        "gen-002/model/gaussian.safetensors",
        "gen-001/train_set.parquet",
    ],
)
def test_a_flipped_byte_is_found(run, victim):
    path = run.path / victim
    flip(path, -1 if path.suffix == ".safetensors" else 40)
    assert str(path) in only_fault(run)


def test_a_sample_exchanged_together_with_its_content_hash_is_found(run):
    # Well-formed in itself: only the hash of the whole set tells.
    shutil.copy(run.gen(1) / "samples" / "00001.parquet", run.gen(2) / "samples" / "00001.parquet")
    whole, file = verify(run)
    assert "the set as a whole differs" in whole
    assert "gen-002/samples/00001.parquet differs from its hash in hashes.json" in file


def test_a_training_set_exchanged_for_another_is_found(run):
    shutil.copy(run.gen(1) / "train_set.parquet", run.gen(2) / "train_set.parquet")
    assert "is not the training set that the model was fitted to" in only_fault(run)


@pytest.mark.parametrize("way", ["absolute", "dots", "link", "deep dots"])
def test_a_recorded_name_that_leads_outside_the_model_is_refused(run, tmp_path, way):
    secret = tmp_path / "secret"
    secret.write_text("not ours")
    record = run.gen(1) / "model" / "hash.json"
    name = {
        "absolute": str(secret),
        "dots": "../../../secret",
        "deep dots": "a/../../train_set.parquet",
        "link": "link",
    }[way]
    if way == "link":
        (record.parent / "link").symlink_to(secret)
    content = json.loads(record.read_text())
    # Even the right hash does not make it ours; a wrong one must not tell what lies there.
    content["files"][name] = file_hash(secret)
    record.write_text(json.dumps(content))
    fault = only_fault(run)
    assert "outside the model's folder" in fault and repr(name) in fault


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"files": 3}', '{"files": {}, "model": "x"}'])
@pytest.mark.parametrize("victim", ["model/hash.json", "sampled.json"])
def test_a_record_of_another_form_is_a_fault_and_no_crash(run, victim, content):
    (run.gen(1) / victim).write_text(content)
    record, file = verify(run)
    assert "record of stage" in record and "is damaged" in record
    assert f"{victim} differs from its hash" in file


def test_samples_of_another_model_than_the_one_beside_them_are_named(run):
    record = run.gen(1) / "model" / "hash.json"
    record.write_text(record.read_text().replace('"model": "', '"model": "0'))
    lineage, file = verify(run)
    assert "the model_hash of these samples is not that of the model beside them" in lineage
    assert "hash.json differs from its hash" in file


def test_a_flipped_bit_in_any_file_is_found_or_harmless(whole, tmp_path):
    """Three bits in each file of a run, drawn with a fixed seed. Pictures, times and leases hold no result."""
    harmless = ("timings.jsonl", ".lease-")
    rng, unseen = np.random.default_rng(0), []
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    for number, path in enumerate(file for file in files if not file.name.startswith(harmless)):
        for _ in range(3):
            copy = tmp_path / f"{number}"
            shutil.copytree(whole, copy)
            victim = copy / path.relative_to(whole)
            content = bytearray(victim.read_bytes())
            at, bit = int(rng.integers(len(content))), int(rng.integers(8))
            content[at] ^= 1 << bit
            victim.write_bytes(content)
            try:
                faults = list(verify(open_run(copy)))
            except DifflabError as error:  # run.yaml no longer opens
                faults = [str(error)]
            if not faults:
                unseen.append((str(path.relative_to(whole)), at, bit))
            shutil.rmtree(copy)
    # The versions in run.yaml, and the spaces in it, are not part of the recipe.
    assert {name for name, _, _ in unseen} <= {"run.yaml"}, unseen


def test_a_changed_number_is_found_in_the_generation_and_in_the_run(run):
    for path in (run.gen(1) / "metrics.jsonl", run.path / "metrics.jsonl"):
        before = path.read_text()
        rows = [json.loads(line) for line in before.splitlines()]
        changed = next(row for row in rows if row["generation"] == 1)
        changed["value"] = (changed["value"] or 0) + 0.125
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert "have different rows of generation 1" in only_fault(run)
        path.write_text(before)


def test_a_run_without_the_last_rows_of_its_generations_has_no_fault(run):
    """As after a kill between the file of a generation and that of the run."""
    path = run.path / "metrics.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(row for row in rows if json.loads(row)["generation"] < 2))
    assert list(verify(run)) == []


def test_a_recipe_that_is_not_that_of_the_config_is_found(run):
    path = run.path / "run.yaml"
    path.write_text(path.read_text().replace("recipe: ", "recipe: f"))
    assert "its recipe hash is not that of its config" in only_fault(run)


def test_a_generation_that_is_made_again_gets_a_new_list(run):
    """A GPU does not give the same bits twice. A list of other bytes stands for that here."""
    listed = run.gen(2) / "hashes.json"
    listed.write_text(json.dumps(json.loads(listed.read_text()) | {"replicates.safetensors": "0" * 64}))
    assert "replicates.safetensors differs" in only_fault(run)
    (run.gen(2) / "metrics.jsonl").unlink()
    run_chain(parse(RAW), run.path)
    assert list(verify(run)) == []


def test_a_run_that_has_not_ended_lists_its_real_set(tmp_path):
    run = run_chain(parse(RAW), tmp_path / "run", until=0)
    flip(run.path / "real" / "about.json", -3)
    assert any("about.json" in fault for fault in verify(open_run(run.path)))
    assert "images/00000.parquet" in json.loads((run.path / "real" / "hashes.json").read_text())
