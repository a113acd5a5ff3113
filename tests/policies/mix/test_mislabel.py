from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chains import COPIES, DIGITS, checked, config, ran

from difflab.core.errors import ConfigError
from difflab.policies import acting
from difflab.policies.mix.guard import filled
from difflab.runs.train_set import TrainSet

LABELS = {-1: np.arange(3000) % 10, 0: np.arange(2000) % 10, 1: np.arange(2000) % 10}


def stands(entry, generation=2):
    """A policy, where it stands in a run that is not on disk, and a training set of all its images."""
    made = config(entry)

    class Set:
        images = True

        def __init__(self, own):
            self.own = own

        def __len__(self):
            return len(self.own)

    shards = {t: Set(own) for t, own in LABELS.items()}
    run = SimpleNamespace(
        samples=lambda t, lab=0: shards[t],
        conditions=lambda own: own.own,
        about={"classes": [str(k) for k in range(10)]},
    )
    ((own, at),) = acting("rows", made, generation, run=run)
    table = pa.table({"generation": np.repeat(list(LABELS), [3000, 2000, 2000]), "index": np.concatenate([np.arange(len(x)) for x in LABELS.values()]),
                      "replicate": np.full(7000, -1), "lab": np.zeros(7000, dtype=np.int16)})  # fmt: skip
    return (
        own,
        at,
        table,
        TrainSet(table, run.samples, run.conditions).conditions,
        lambda rows: TrainSet(rows, run.samples, run.conditions).conditions,
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_labels_is_wrong_and_every_other_class_is_as_likely(share):
    own, at, table, true, read = stands({"policy": "mislabel", "share": share})
    found = read(own.rows(at, table))
    wrong = found != true
    assert abs(wrong.mean() - share) <= 4 * np.sqrt(share * (1 - share) / 7000)
    if share:
        shift = np.bincount((found - true)[wrong] % 10, minlength=10)
        assert shift[0] == 0 and abs(shift[1:] - wrong.sum() / 9).max() < 4.5 * np.sqrt(wrong.sum() / 9)


@pytest.mark.parametrize(("of", "hit"), [("real", [True, False]), ("synthetic", [False, True])])
def test_only_real_images_or_only_samples(of, hit):
    own, at, table, true, read = stands({"policy": "mislabel", "share": 0.5, "of": of})
    wrong = read(own.rows(at, table)) != true
    real = table["generation"].to_numpy() == -1
    assert [bool(wrong[real].any()), bool(wrong[~real].any())] == hit


def test_an_image_keeps_its_wrong_label_in_other_training_sets():
    own, at, table, _, read = stands({"policy": "mislabel", "share": 0.5})
    _, later, *_ = stands({"policy": "mislabel", "share": 0.5}, 1)
    whole = read(own.rows(at, table))
    part = np.arange(0, 7000, 3)
    assert np.array_equal(read(own.rows(later, table.take(pa.array(part)))), whole[part])


def test_real_images_that_a_guard_puts_in_keep_their_own_labels():
    own, at, table, _, read = stands({"policy": "mislabel", "share": 1.0})
    rows = own.rows(at, table.append_column("pool", pa.array(["synthetic"] * 7000).dictionary_encode()))
    assert read(filled(rows, np.array([4, 5])))[-2:].tolist() == [4, 5]


def test_the_chain_trains_on_what_the_labels_say(tmp_path):
    base = {
        **DIGITS,
        "generations": 1,
        "train": {**DIGITS["train"], "images_seen": 64, "checkpoint_every": 0},
    }
    made = config(
        {"policy": "mislabel", "share": 1.0}, base=base, regime={"name": "fixed_real", "real_fraction": 1.0}
    )
    run = ran(made, tmp_path / "run")
    table = pq.read_table(run.gen(1) / "train_set.parquet")
    data = TrainSet(table, run.samples, run.conditions)
    assert data.conditions is not None and not (data.conditions == run.real.labels()[:80]).any()
    assert "condition" not in pq.read_table(run.gen(0) / "train_set.parquet").column_names


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["mislabel"], "'share' is missing"),
        ([{"policy": "mislabel", "share": 1.1}], "'share'.*less than or equal to 1"),
        ([{"policy": "mislabel", "share": -0.1}], "'share'.*greater than or equal to 0"),
        ([{"policy": "mislabel", "share": 0.1, "of": "some"}], "'of'"),
        ([{"policy": "mislabel", "share": 0.1}] * 2, "two entries mislabel"),
    ],
)
def test_bad_input(entries, message):
    with pytest.raises(ConfigError, match=message):
        checked(*entries)


def test_without_labels_there_is_nothing_to_poison():
    with pytest.raises(ConfigError, match="not trained on labels"):
        checked({"policy": "mislabel", "share": 0.1}, base=COPIES)
