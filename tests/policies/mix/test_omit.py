from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chains import COPIES, DIGITS, checked, config, ran, rows

from difflab.core.errors import ConfigError
from difflab.loop.reuse import keys
from difflab.policies import acting
from difflab.runs.train_set import TrainSet

TINY = {
    **DIGITS,
    "train": {**DIGITS["train"], "images_seen": 64, "checkpoint_every": 0},
    "sample": {**DIGITS["sample"], "steps": 1},
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Real images and all samples so far, without 3 and 7 from generation 1 on."""
    made = config(
        {"policy": "omit", "classes": ["7", "3"]}, base=TINY, generations=1, regime={"name": "accumulate"}
    )
    return ran(made, tmp_path_factory.mktemp("omit") / "run")


def classes(run, table):
    """How many images of each class a training set holds."""
    return np.bincount(TrainSet(table, run.samples, run.conditions).conditions, minlength=10)


def asked(run, table, **how):
    """What the policy leaves of training set 1."""
    ((own, at),) = acting("rows", config({"policy": "omit", **how}, base=TINY), 1, run=run)
    return own.rows(at, table)


def whole(run):
    """All that training set 1 could be made of."""
    table = {
        "generation": [-1] * 80 + [0] * 80,
        "index": [*range(80), *range(80)],
        "replicate": [-1] * 160,
        "lab": [0] * 160,
    }
    return pa.table({name: pa.array(values, pa.int32()) for name, values in table.items()})


def test_its_classes_and_no_others_are_missing_from_the_training_sets(chain):
    every, left = (
        classes(chain, whole(chain)),
        classes(chain, pq.read_table(chain.gen(1) / "train_set.parquet")),
    )
    assert every.all() and len(rows(chain, 0)) == 80
    every[[3, 7]] = 0
    assert left.tolist() == every.tolist()
    assert set(np.unique(chain.samples(1).labels())) == set(range(10))  # it is asked for them all the same


def test_count_means_the_rarest_of_training_set_0(chain):
    first = np.bincount(chain.real.labels()[:80], minlength=10)
    gone = np.flatnonzero(classes(chain, asked(chain, whole(chain), count=2)) == 0)
    assert len(gone) == 2 and first[gone].max() <= np.delete(first, gone).min()


def test_a_run_with_it_shares_generation_0_only():
    plain, own = (keys(config(*entries, base=TINY)) for entries in ([], [{"policy": "omit", "count": 1}]))
    assert plain[0, "select"] == own[0, "select"] and plain[1, "mix"] != own[1, "mix"]


def test_unknown_classes_and_all_classes_are_refused(chain):
    with pytest.raises(ConfigError, match="omit: 'zebra' is not one of the classes 0, 1, 2"):
        asked(chain, whole(chain), classes=["3", "zebra"])
    for how in ({"count": 10}, {"classes": [str(k) for k in range(10)]}):
        with pytest.raises(ConfigError, match="removes all 10 classes"):
            asked(chain, whole(chain), **how)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("omit", "set either classes"),
        ({"policy": "omit", "classes": ["3"], "count": 1}, "set either classes"),
        ({"policy": "omit", "count": 0}, "'count'.*greater than or equal to 1"),
        ({"policy": "omit", "classes": []}, "'classes'"),
    ],
)
def test_bad_input(entry, message):
    with pytest.raises(ConfigError, match=message):
        checked(entry, base=TINY)


def test_samples_without_a_class_are_refused():
    with pytest.raises(ConfigError, match="have no requested class"):
        checked({"policy": "omit", "count": 1}, base=COPIES)
