"""A run in an object store: whatever stops it, the same command elsewhere ends with the same bits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import COPIES, DIGITS, content
from commands import difflab as command
from object_stores import give_up_soon, memory_store, s3, s3_server

import difflab
from difflab.config import parse
from difflab.core.errors import StoreError
from difflab.core.owner import this_process
from difflab.loop.chain import run_chain
from difflab.runs import lease, objects, remote
from difflab.runs.folder import STAGE_TABLE, STAGES
from difflab.runs.lease import Holder, LeaseLost
from difflab.runs.objects import Objects
from difflab.runs.remote import at_work, fetched, finished, in_order, marker, scratch_of
from difflab.runs.verify import verify

URL = "memory://bucket/runs/small"
SMALL: dict[str, Any] = {**COPIES, "generations": 1, "sample": {"count": 40, "shard_size": 20}}
CONFIG = parse(SMALL)


class Killed(BaseException):
    """What ends a process here, as no handler of errors sees it."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path) -> Iterator[None]:
    monkeypatch.setattr(objects, "SETTLE_S", 0.0)
    monkeypatch.setattr(lease, "LOOK_S", 0.01)
    monkeypatch.setattr(lease, "LOOKS", 20)
    monkeypatch.setenv("DIFFLAB_SCRATCH", str(tmp_path / "scratch"))
    with memory_store():
        yield


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> dict[str, bytes]:
    """The files of the same run in a folder."""
    path = tmp_path_factory.mktemp("local") / "run"
    run_chain(CONFIG, path, plots=False)
    return results(path)


def results(path: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(path).items() if not name.endswith((".png", "run.yaml"))}


def run(config: Any = CONFIG, url: str = URL, **options: Any) -> Path:
    with at_work(url) as site:
        run_chain(config, site.folder, plots=False, after_stage=site.publish, **options)
    return site.folder


def elsewhere(monkeypatch, folder: Path) -> None:
    """From now on this is a machine with an empty scratch."""
    monkeypatch.setenv("DIFFLAB_SCRATCH", str(folder))


def stop_at(monkeypatch, count: int, error: BaseException) -> list[str]:
    """Raise `error` in place of upload number `count`; the names that are uploaded before."""
    names: list[str] = []
    put = Objects.put

    def counted(self: Objects, path: Path, name: str) -> None:
        if len(names) == count:
            raise error
        names.append(name)
        put(self, path, name)

    monkeypatch.setattr(Objects, "put", counted)
    return names


# ---------------------------------------------------------------------------------------------------- order
@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("gen-001/samples/00000.parquet", "gen-001/sampled.json"),
        ("gen-001/sampled.json", "gen-001/sampled.json"),
        ("lab-2/gen-001/model/unet/config.json", "lab-2/gen-001/model/hash.json"),
        ("lab-2/real/images/00000.parquet", "lab-2/real/about.json"),
        ("gen-001/hashes.json", None),
        ("gen-001/checkpoint.safetensors", None),
        ("run.yaml", None),
        ("between/gen-000.jsonl", None),
    ],
)
def test_every_file_of_a_stage_has_a_file_that_says_the_stage_is_done(name, sign):
    assert marker(name) == sign


def test_the_files_of_unfinished_stages_are_left_out():
    names = {
        "run.yaml",
        "gen-000/samples/0",
        "gen-000/train_set.parquet",
        "gen-001/sampled.json",
        "real/images/0",
    }
    assert finished(names) == {"run.yaml", "gen-000/train_set.parquet", "gen-001/sampled.json"}


def test_what_says_that_a_stage_is_done_follows_its_files_in_the_order_of_the_stages():
    done = [f"gen-{t:03d}/{stage.done_file}" for t in range(2) for stage in STAGE_TABLE]
    files = ["gen-001/samples/0", "gen-001/training.json", "real/images/0"]
    expected = ["run.yaml", *files, "real/about.json", *done, "gen-000/hashes.json", "metrics.jsonl"]
    assert in_order(sorted(expected, reverse=True)) == expected


# ----------------------------------------------------------------------------------------------- the same bits
def test_a_run_in_a_store_has_the_bits_of_one_in_a_folder(local, monkeypatch, tmp_path):
    assert results(run()) == local
    run_there = difflab.open_run(URL)
    assert results(run_there.path) == local and list(verify(run_there)) == []
    elsewhere(monkeypatch, tmp_path / "elsewhere")
    assert results(fetched(URL, weights=True)) == local


def test_whatever_upload_a_run_is_killed_at_another_machine_ends_with_the_same_bits(
    local, monkeypatch, tmp_path
):
    uploads = stop_at(monkeypatch, 10**6, Killed())
    run(url="memory://bucket/count")
    total, seen = len(uploads), set()
    monkeypatch.undo()
    for k in range(1, total, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objects, "SETTLE_S", 0.0)
            url = f"memory://bucket/{k}"
            elsewhere(patch, tmp_path / f"{k}-a")
            with pytest.MonkeyPatch.context() as failing, pytest.raises(Killed):
                uploads = stop_at(failing, k, Killed())
                run(url=url)
            assert len(uploads) == k
            elsewhere(patch, tmp_path / f"{k}-b")
            seen.add(_whole_stages(difflab.open_run(url)))
            assert results(run(url=url)) == local
            assert results(fetched(url, weights=True)) == local
    assert len(seen) > 5


def _whole_stages(part: Any) -> int:
    """How many stages a reader sees. Each of them has to have all its files."""
    count = 0
    for t in range(2):
        done = [part.done(t, stage) for stage in STAGES]
        assert done == sorted(done, reverse=True)
        for stage in STAGE_TABLE:
            present = [name for name in stage.files if (part.gen(t) / name).exists()]
            assert part.done(t, stage.name) or not present
        if done[2]:
            assert part.samples(t).gather(np.arange(40)).shape[0] == 40
        count += sum(done)
    return count


def test_the_labs_of_an_ecosystem_are_published_too(monkeypatch, tmp_path):
    config = parse({**SMALL, "ecosystem": {"labs": 2, "exchange": "pooled"}})
    reference = run_chain(config, tmp_path / "labs", plots=False)
    with pytest.MonkeyPatch.context() as failing, pytest.raises(Killed):
        stop_at(failing, 21, Killed())
        run(config)
    elsewhere(monkeypatch, tmp_path / "elsewhere")
    assert results(run(config)) == results(reference.path)
    assert difflab.open_run(URL).generations == [0, 1]


# --------------------------------------------------------------------------------------------------- resuming
def test_a_store_that_fails_in_the_middle_costs_no_work_on_the_same_machine(local, monkeypatch):
    with pytest.MonkeyPatch.context() as failing:
        fs = type(Objects(URL)._fs)
        send, count = fs.put_file, []

        def refused(self, path, to, **options):
            count.append(to)
            if len(count) > 12:
                raise ConnectionResetError("Connection reset by peer")
            send(self, path, to, **options)

        failing.setattr(fs, "put_file", refused)
        with pytest.raises(
            StoreError, match=r"ConnectionResetError: .*; check the address and the network, and"
        ):
            run()
    before = {path: path.stat().st_mtime_ns for path in scratch_of(URL).rglob("gen-000/model/*")}
    uploads = stop_at(monkeypatch, 10**6, Killed())
    path = run()
    assert results(path) == local and before
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    again = set(uploads) & {name.removeprefix("/bucket/runs/small/") for name in count[:11]}
    assert again <= {"timings.jsonl", "run.yaml", "real/hashes.json"}


def test_nothing_is_uploaded_or_computed_for_a_complete_run(local, monkeypatch):
    run()
    uploads = stop_at(monkeypatch, 10**6, Killed())
    assert results(run()) == local
    assert set(uploads) <= {"run.yaml", "metrics.jsonl"}


def test_a_folder_is_emptied_after_another_machine_has_written(local, monkeypatch, tmp_path):
    first = tmp_path / "scratch"
    run(until=0)
    elsewhere(monkeypatch, tmp_path / "elsewhere")
    run()
    elsewhere(monkeypatch, first)
    (scratch_of(URL) / "gen-001").mkdir()
    (scratch_of(URL) / "gen-001" / "train_set.parquet").write_bytes(b"of an earlier time")
    assert results(run()) == local


def test_what_is_deleted_in_the_store_is_made_again(local):
    run()
    Objects(URL).remove("gen-001/selected.parquet")
    assert not difflab.open_run(URL).done(1, "select")
    assert results(run()) == local and difflab.open_run(URL).done(1, "select")


def test_files_of_finished_stages_that_vanish_from_the_scratch_stay_in_the_store(local):
    with at_work(URL) as site:
        run_chain(CONFIG, site.folder, plots=False, after_stage=site.publish)
        shutil.rmtree(site.folder / "gen-000")
        site.publish()
    assert results(run()) == local


def test_what_is_of_use_on_this_machine_only_is_not_published():
    with at_work(URL) as site:
        run_chain(CONFIG, site.folder, plots=False, until=0, after_stage=site.publish)
        (site.folder / "cache").mkdir(exist_ok=True)
        for name in ("cache/pixels", "gen-000/checkpoint.safetensors", "gen-000/.samples.tmp"):
            (site.folder / name).write_bytes(b"1")
        site.publish()
    names = Objects(URL).listing()
    assert not [n for n in names if "cache" in n or "checkpoint" in n or n.endswith("tmp")]


def test_leftovers_of_a_stage_that_has_no_such_file_any_more_are_deleted(monkeypatch, tmp_path):
    run(until=0)
    Objects(URL).put(scratch_of(URL) / "run.yaml", "gen-001/samples/77777.parquet")
    elsewhere(monkeypatch, tmp_path / "elsewhere")
    run()
    assert "gen-001/samples/77777.parquet" not in Objects(URL).listing()


@pytest.mark.parametrize("name", ["real/mine.png", "gen-000/model/mine", "notes.txt", "other/run.yaml"])
def test_objects_of_somebody_else_are_neither_read_nor_deleted(name, tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    Objects(URL).put(tmp_path / "mine", name)
    for work in (run, lambda: difflab.open_run(URL)):
        with pytest.raises(
            StoreError, match=rf"{URL} is not empty and contains no run \(no run\.yaml\); choose"
        ):
            work()
    assert list(Objects(URL).listing()) == [name]


def test_another_run_below_the_same_url_is_left_alone(local, monkeypatch, tmp_path):
    run(url=f"{URL}/other")
    with pytest.raises(StoreError, match="is not empty and contains no run"):
        run()
    run(url="memory://bucket/outer")
    run(url="memory://bucket/outer/inner")
    before = Objects("memory://bucket/outer/inner").listing()
    elsewhere(monkeypatch, tmp_path / "elsewhere")
    assert results(run(url="memory://bucket/outer")) == local
    assert Objects("memory://bucket/outer/inner").listing() == before


def test_of_a_stage_that_is_done_again_no_other_file_stays(local, tmp_path, monkeypatch):
    with at_work(URL) as site:
        run_chain(CONFIG, site.folder, plots=False, after_stage=site.publish)
        more = site.folder / "gen-001" / "samples" / "77777.parquet"
        more.write_bytes(b"of another count")
        site.publish()
        more.unlink()
        (site.folder / "gen-001" / "sampled.json").unlink()
        site.publish()
        assert "gen-001/samples/77777.parquet" in Objects(URL).listing()
        uploads = stop_at(monkeypatch, 10**6, Killed())
        run_chain(CONFIG, site.folder, plots=False, after_stage=site.publish)
    assert "gen-001/sampled.json" in uploads and "gen-000/sampled.json" not in uploads
    assert "gen-001/samples/77777.parquet" not in Objects(URL).listing()
    elsewhere(monkeypatch, tmp_path / "elsewhere")
    assert results(run()) == local


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"token": 3, "known": {"a": [1]}}', '{"token": "x", "known": []}']
)
def test_a_damaged_note_about_the_scratch_counts_as_none(local, damage):
    run(until=0)
    (scratch_of(URL).parent / "published.json").write_text(damage)
    assert results(run()) == local


# ------------------------------------------------------------------------------------------------- two writers
def test_a_second_writer_is_refused_with_one_sentence():
    with (
        at_work(URL),
        pytest.raises(StoreError, match=rf"another process is working on {URL}; .*\(process"),
        at_work(URL),
    ):
        pass
    with at_work(URL):
        pass


def test_a_writer_that_was_taken_over_publishes_nothing_more(local, monkeypatch, tmp_path):
    with at_work(URL) as site:
        here, held = this_process(), site.held
        holder = replace(Holder.here(site.objects), owner=replace(here, machine="000000").tag, host="n7")
        assert site.objects.create(2, f"{json.dumps(asdict(holder))}\n".encode() + lease.state_line("beat 1"))
        before = Objects(URL).listing().keys()
        with pytest.raises(LeaseLost, match=r"was taken over by process .* on n7"):
            run_chain(CONFIG, site.folder, plots=False, after_stage=site.publish)
        assert Objects(URL).listing().keys() == before
    assert b"released" not in (site.objects.read(2) or b"") and held.number == 1
    elsewhere(monkeypatch, tmp_path / "elsewhere")
    said: list[str] = []
    with at_work(URL, say=said.append) as site:  # n7 shows no heartbeat
        assert site.held.number == 3
        run_chain(CONFIG, site.folder, plots=False, after_stage=site.publish)
    assert results(site.folder) == local and "is claimed by process" in said[0]


def test_only_the_main_process_talks_to_the_store(monkeypatch):
    def refuse(url: str) -> None:
        raise AssertionError(url)

    monkeypatch.setattr(remote, "Objects", refuse)
    with at_work(URL, main=False) as site:
        assert site.folder == scratch_of(URL)
        site.publish()


# ----------------------------------------------------------------------------------------------------- reading
def test_a_reader_copies_what_is_new_and_weights_only_on_demand(monkeypatch):
    config = parse({**DIGITS, "generations": 0})
    run(config)
    copied: list[str] = []
    get = Objects.get
    monkeypatch.setattr(
        Objects, "get", lambda self, name, *more: (copied.append(name), get(self, name, *more))
    )
    folder = fetched(URL)
    assert copied[0] == "run.yaml" and "gen-000/model/hash.json" in copied
    assert not any(name.endswith("model.safetensors") for name in copied)
    copied.clear()
    assert fetched(URL, weights=True) == folder
    assert [name for name in copied if "/model/" not in name] == [] and len(copied) == 3
    copied.clear()
    Objects(URL).put(folder / "gen-000" / "metrics.jsonl", "gen-000/metrics.jsonl")
    Objects(URL).remove("gen-000/hashes.json")
    fetched(URL)
    assert copied == ["gen-000/metrics.jsonl"] and not (folder / "gen-000" / "hashes.json").exists()


def test_a_url_without_a_run_is_named():
    with pytest.raises(
        StoreError, match=rf"{URL} contains no run \(no run\.yaml\); start one with: difflab run"
    ):
        difflab.open_run(URL)


def test_the_scratch_has_the_name_of_the_run(tmp_path, monkeypatch):
    assert scratch_of("s3://bucket/runs/digits/").name == "digits"
    assert scratch_of("s3://bucket/runs/digits/") == scratch_of("s3://bucket/runs/digits")
    assert scratch_of("s3://bucket/a/digits").parent != scratch_of("s3://bucket/b/digits").parent
    monkeypatch.delenv("DIFFLAB_SCRATCH")
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path))
    assert scratch_of("s3://bucket/digits").is_relative_to(tmp_path / "remote")


# ------------------------------------------------------------------------------------- commands, a server of S3
def test_a_server_that_goes_away_in_the_middle_and_comes_back(local, monkeypatch):
    with s3_server("middle") as server:
        url, count = "s3://middle/run", []
        give_up_soon(monkeypatch)

        def publish(site: Any) -> None:
            count.append(1)
            if len(count) == 5:
                server.stop()
            site.publish()

        failed = pytest.raises(
            StoreError, match=r"s3://middle/run: .* failed \(.*check the address and the network"
        )
        with failed, at_work(url) as site:
            run_chain(CONFIG, site.folder, plots=False, after_stage=partial(publish, site))
        assert len(count) == 5 and (scratch_of(url) / "gen-000" / "selected.parquet").exists()
        server.start()
        assert not any("selected" in name for name in Objects(url).listing())
        assert results(run(url=url)) == local


KILLED = """
import os, sys
from difflab.cli.main import main
from difflab.runs.objects import Objects
put, count = Objects.put, []
def counted(self, path, name):
    count.append(name)
    if len(count) > int(sys.argv[1]):
        os._exit(9)
    put(self, path, name)
Objects.put = counted
sys.exit(main(sys.argv[2:]))
"""


def test_commands_on_s3_killed_resumed_on_another_machine_and_read(local, monkeypatch, tmp_path):
    config = tmp_path / "small.json"
    config.write_text(json.dumps(SMALL))
    url = "s3://commands/runs/small"
    with s3_server("commands"):
        killed = [sys.executable, "-c", KILLED, "9", "run", str(config), "--out", url]
        assert subprocess.run(killed, capture_output=True, timeout=200, check=False).returncode == 9
        assert "commands/runs/small/.lease-000001" in s3().find("commands/runs/small")
        elsewhere(monkeypatch, tmp_path / "b")
        resumes = f"not complete; the command that started it resumes it: difflab run CONFIG --out {url}"
        assert resumes in command("status", url).stdout
        resumed = [sys.executable, "-m", "difflab", "run", str(config), "--out", url]
        done = subprocess.run(resumed, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0 and done.stdout.endswith(f"published: {url}\n"), done.stderr
        elsewhere(monkeypatch, tmp_path / "c")
        assert "complete" in command("status", url).stdout.splitlines()
        assert "no fault found" in command("verify", url).stdout
        published = results(fetched(url, weights=True))
        assert published.items() >= local.items() and "report.html" in published
        missing = command("run", config, "--out", "s3://no-such-bucket/run")
        assert missing.returncode == 2 and missing.stderr.count("\n") == 1
        assert missing.stderr.startswith(
            "difflab: error: s3://no-such-bucket/run: listing it failed (FileNotFound"
        )
