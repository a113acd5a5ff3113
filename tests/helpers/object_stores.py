"""Object stores for tests: fsspec's in the memory of this process, and moto's server, which speaks S3."""

from __future__ import annotations

import logging
import os
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Server:
    """Moto's server on this machine. Its address stays when it is stopped and started again, and so do its objects."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from moto.server import ThreadedMotoServer
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.threaded = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.threaded.start()
        self.port = self.threaded.get_host_and_port()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.threaded.stop()


@contextmanager
def s3_server(bucket: str = "bucket") -> Iterator[Server]:
    """A server with an empty bucket. Credentials and address are in the environment."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto", reason="moto is not installed")
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(server.address).items():
            patch.setenv(name, value)
        try:
            reset = urllib.request.Request(f"{server.address}/moto-api/reset", method="POST")
            urllib.request.urlopen(reset).close()  # a new server has the buckets of the one before
            s3().mkdir(bucket)
            yield server
        finally:
            server.stop()


def credentials(address: str) -> dict[str, str]:
    """The environment of a user of the server."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def s3():
    """The file system of s3fs at the server of the environment."""
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)


@contextmanager
def memory_store() -> Iterator[dict[str, object]]:
    """The objects of fsspec's memory store by path, none at first."""
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield MemoryFileSystem.store
    MemoryFileSystem.store.clear()


def give_up_soon(patch: pytest.MonkeyPatch) -> None:
    """Repeat no request."""
    import s3fs

    patch.setattr(s3fs.S3FileSystem, "retries", 1)
    patch.setenv("AWS_MAX_ATTEMPTS", "1")
