"""Files in an object store: whole, in one listing, with errors of one line; and leases that one of several creates."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_stores import Server, give_up_soon, memory_store, s3, s3_server

from difflab.core.errors import ConfigError, StoreError
from difflab.runs import lease, objects
from difflab.runs.objects import Objects


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(objects, "SETTLE_S", 0.0)


@pytest.fixture(scope="module")
def _server() -> Iterator[Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["memory", "s3"])
def store(request) -> Iterator[Objects]:
    if request.param == "s3":
        request.getfixturevalue("_server")
        bucket = f"bucket-{abs(hash(request.node.name)) % 10**9}"
        s3().mkdir(bucket)
        yield Objects(f"s3://{bucket}/a/run/")
    else:
        with memory_store():
            yield Objects("memory://bucket/a/run/")


def put(store: Objects, folder: Path, name: str, content: bytes) -> None:
    path = folder / "file"
    path.write_bytes(content)
    store.put(path, name)


def test_what_is_put_is_listed_and_read_back(store, tmp_path):
    assert store.listing() == {}
    put(store, tmp_path, "gen-000/model/hash.json", b"one")
    put(store, tmp_path, "run.yaml", b"")
    listed = store.listing()
    assert {name: about.size for name, about in listed.items()} == {
        "gen-000/model/hash.json": 3,
        "run.yaml": 0,
    }
    store.get("gen-000/model/hash.json", tmp_path / "to" / "copy", 3)
    assert (tmp_path / "to" / "copy").read_bytes() == b"one"
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["copy"]
    put(store, tmp_path, "gen-000/model/hash.json", b"two")
    assert store.listing()["gen-000/model/hash.json"] != listed["gen-000/model/hash.json"]


def test_another_prefix_that_starts_alike_is_not_listed(store, tmp_path):
    put(store, tmp_path, "run.yaml", b"1")
    put(Objects(f"{store.url}-2"), tmp_path, "run.yaml", b"2")
    assert list(store.listing()) == ["run.yaml"]


def test_an_object_that_has_another_size_than_listed_is_not_kept(store, tmp_path):
    put(store, tmp_path, "run.yaml", b"longer")
    with pytest.raises(StoreError, match=r"run\.yaml has changed while it was read; run the same command"):
        store.get("run.yaml", tmp_path / "to" / "run.yaml", 3)
    assert list((tmp_path / "to").iterdir()) == []


def test_a_removed_object_is_gone_and_may_be_removed_twice(store, tmp_path):
    put(store, tmp_path, "run.yaml", b"1")
    store.remove("run.yaml")
    store.remove("run.yaml")
    assert store.listing() == {}
    with pytest.raises(StoreError, match=r"reading run\.yaml failed \(FileNotFoundError"):
        store.get("run.yaml", tmp_path / "copy", 1)


def test_names_that_leave_the_folder_are_refused(tmp_path, monkeypatch):
    with memory_store():
        store = Objects("memory://bucket/run")
        found = {"/bucket/run/../../etc/passwd": {"size": 1}}
        monkeypatch.setattr(store._fs, "find", lambda *args, **options: found)
        with pytest.raises(StoreError, match=r"has an object with the name '\.\./\.\./etc/passwd'"):
            store.listing()


# -------------------------------------------------------------------------------------------------- leases
def test_one_of_several_creates_a_lease(store):
    results: dict[int, bool] = {}

    def create(i: int) -> None:
        results[i] = Objects(store.url).create(7, f"{i}\n".encode())

    threads = [threading.Thread(target=create, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [i for i, created in results.items() if created]
    assert len(results) == 4 and len(winners) == 1
    assert store.read(7) == f"{winners[0]}\n".encode() and store.numbers() == [7]


def test_a_lease_that_was_created_although_the_answer_was_lost_is_held(store, monkeypatch):
    send = store._fs.pipe_file

    def twice(*args, **options):
        send(*args, **options)
        send(*args, **options)  # as a library does that has had no answer

    monkeypatch.setattr(store._fs, "pipe_file", twice)
    assert store.create(1, b"mine") and not store.create(1, b"other")


def test_a_store_that_overwrites_leases_leaves_the_last_one(store, monkeypatch):
    send = store._fs.pipe_file
    monkeypatch.setattr(store._fs, "pipe_file", lambda path, content, mode="": send(path, content))
    monkeypatch.setattr(objects.time, "sleep", lambda seconds: send(f"{store._root}/.lease-000001", b"late"))
    assert not store.create(1, b"early")


def test_a_lease_is_renewed_by_its_holder_only_and_not_made_again(store):
    first = lease.claim(store)
    assert first.number == 1 and store.numbers() == [1]
    store.renew(1, first.token, "beat 000000005")
    content = store.read(1)
    assert content.endswith(b"\nbeat 000000005\n") and lease.Holder.read(content).token == first.token
    store.renew(1, "another token", "beat 000000006")
    assert store.read(1) == content
    first.release()
    assert store.read(1).rstrip().endswith(b"released")
    store.delete(1)
    store.renew(1, first.token, "beat 000000007")
    assert store.numbers() == [] and store.read(1) is None


# -------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "nosuch://bucket/run",
            r"cannot be opened \(Protocol not known: nosuch\); give a folder, or a URL such",
        ),
        ("memory:///", "names no bucket"),
        ("file:///runs/digits", "is a folder on this machine; give its path instead: /runs/digits"),
    ],
)
def test_a_url_that_is_no_object_store_is_refused(url, message):
    with pytest.raises(ConfigError, match=message):
        Objects(url)


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_missing_package_is_named():
    with pytest.raises(StoreError, match=r"gs:// needs a package that is missing \(.*\); pip install gcsfs"):
        Objects("gs://bucket/run")


def test_the_missing_package_for_s3_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    with pytest.raises(StoreError, match=r'missing \(.*\); pip install "difflab\[remote\]"'):
        Objects("s3://bucket/run")


def test_a_missing_bucket_is_named(_server, tmp_path):
    store = Objects("s3://no-such-bucket/run")
    with pytest.raises(
        StoreError, match=r"s3://no-such-bucket/run: listing it failed .*check that the bucket"
    ):
        store.listing()
    with pytest.raises(StoreError, match=r"writing its lease failed .*check that the bucket exists"):
        lease.claim(store)


def test_missing_credentials_are_named(_server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(
        StoreError, match=r"NoCredentialsError.*set the credentials in the environment, such as"
    ):
        Objects("s3://bucket/run").listing()


def test_a_server_that_does_not_answer_is_named(_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    give_up_soon(monkeypatch)
    with pytest.raises(
        StoreError, match=r"EndpointConnectionError.*check the address and the network, and run"
    ):
        Objects("s3://bucket/run").listing()
