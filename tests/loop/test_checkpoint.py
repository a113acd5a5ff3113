from __future__ import annotations

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from trainings import Stop, config, curve, record, same, train

from difflab.core.errors import StoreError


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path):
    """Without the sums it counts the steps that are left."""
    c = config(checkpoint_every=320)

    def advance(n: int, seen: list[int] = [0]) -> None:  # noqa: B006 - counts over calls
        seen[0] += n
        if seen[0] >= 400:
            raise Stop

    with pytest.raises(Stop):
        train(tmp_path, c, advance)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, "pt") as handle:
        metadata = handle.metadata()
    save_file(
        {name: t for name, t in load_file(path).items() if name not in ("sums", "totals")}, path, metadata
    )
    resumed, whole = train(tmp_path, c), train(tmp_path / "whole", c)
    assert same(resumed, whole) and curve(tmp_path) == curve(tmp_path / "whole")
    assert (
        0 < record(tmp_path)["means"]["gradient_norm"] != record(tmp_path / "whole")["means"]["gradient_norm"]
    )


LONG = (
    16 * 130
)  # steps; a point of the curve is then a mean over two of them, and a checkpoint may fall between


@pytest.mark.parametrize(
    ("every", "stops"),
    [
        (16, [208]),
        (48, [304]),
        (112, [120, 336, 2064]),
        (7, [320, 320, 400]),
        (300, [330, 1620]),
        (0, [400]),
        (5000, [400]),
    ],
)
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path, every, stops):
    whole = train(tmp_path / "whole", config(images_seen=LONG))
    c = config(images_seen=LONG, checkpoint_every=every)
    for stop in stops:
        seen = 0

        def advance(n: int, stop: int = stop) -> None:
            nonlocal seen
            seen += n
            if seen >= stop:
                raise Stop

        with pytest.raises(Stop):
            train(tmp_path / "cut", c, advance)
        assert (tmp_path / "cut" / "checkpoint.safetensors").exists() == (0 < every < 1000)
    told: list[int] = []
    resumed = train(tmp_path / "cut", c, told.append)
    assert same(whole, resumed)
    assert record(tmp_path / "cut") == record(
        tmp_path / "whole"
    )  # checkpoints add no points to the curve, and the sums go on
    assert sum(told) == LONG and min(told) >= 0
    if 0 < every < 1000:
        assert (
            told[0] >= min(stops[-1], LONG - every) - every - 32
        )  # it went on from its last checkpoint, not from the start


def test_resuming_may_change_checkpoint_every(tmp_path):
    whole = train(tmp_path / "whole", config(images_seen=LONG))

    def advance(n: int, seen: list[int] = [0]) -> None:  # noqa: B006 - counts over calls
        seen[0] += n
        if seen[0] >= 400:
            raise Stop

    with pytest.raises(Stop):
        train(tmp_path / "cut", config(images_seen=LONG, checkpoint_every=48), advance)
    assert same(whole, train(tmp_path / "cut", config(images_seen=LONG, checkpoint_every=80)))
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(StoreError, match=r"checkpoint\.safetensors cannot be read"):
        train(tmp_path, config())
