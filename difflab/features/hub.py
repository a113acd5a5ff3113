"""The Hugging Face hub: fail at once where it cannot be reached."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies


@contextmanager
def offline_when_unreachable() -> Iterator[None]:
    """Switch huggingface_hub to offline mode in this block where the hub cannot be reached.

    Its client retries for a minute otherwise. Cached weights load in both modes.
    """
    from huggingface_hub import constants

    endpoint, before = urlsplit(constants.ENDPOINT), constants.HF_HUB_OFFLINE
    try:
        if not getproxies():
            socket.create_connection((endpoint.hostname, endpoint.port or 443), timeout=5).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
