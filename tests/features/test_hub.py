"""A hub that cannot be reached is reported at once."""

import pytest

from difflab.core.errors import MeasureError
from difflab.features import hub
from difflab.features.registry import open_extractor


def test_open_clip_unreachable_is_said_at_once(monkeypatch):
    import huggingface_hub.constants

    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(hub.socket, "create_connection", refuse)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(
        MeasureError, match=r"cannot open open_clip:hf-hub:nobody/nothing.*offline, give a local folder"
    ):
        open_extractor("open_clip:hf-hub:nobody/nothing")
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
