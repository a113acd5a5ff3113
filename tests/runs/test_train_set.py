from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from difflab.runs.store import Shards
from difflab.runs.train_set import TrainSet

N = 7


def sets(tmp_path, record=(4, 4, 1), labels=True):
    rng, values, shards = np.random.default_rng(0), {}, {}
    for g in (-1, 0, 1):
        values[g] = (
            rng.integers(0, 256, (N, *record), dtype=np.uint8)
            if len(record) == 3
            else rng.standard_normal((N, *record))
        )
        folder = tmp_path / f"g{g}"
        shards[g] = Shards(folder / "i", folder / "f", folder / "c", N, 3, record)
        for k in shards[g].shards:
            span = shards[g].span(k)
            own = {"label": [100 * g + i for i in span]} if labels is True or labels == g else {}
            shards[g].write(k, values[g][span.start : span.stop], {"generation": g, **own})
    return values, shards


def rows(*triples):
    generation, index, replicate = zip(*triples, strict=True)
    return pa.table(
        {
            "generation": pa.array(generation, pa.int32()),
            "index": pa.array(index, pa.int64()),
            "replicate": pa.array(replicate, pa.int32()),
        }
    )


def test_rows_are_read_in_their_order_across_generations(tmp_path):
    values, shards = sets(tmp_path)
    data = TrainSet(rows((1, 6, -1), (-1, 0, -1), (0, 3, -1), (1, 0, -1)), shards.__getitem__)
    wanted = np.stack([values[1][6], values[-1][0], values[0][3], values[1][0]])
    assert len(data) == 4
    assert (data.inputs(np.arange(4)) == wanted).all()
    assert (data.inputs(np.array([2, 0, 2])) == wanted[[2, 0, 2]]).all()
    assert (data.records() == wanted).all()
    assert data.conditions.tolist() == [106, -100, 3, 100]


def test_only_the_generations_that_are_pointed_at_are_opened(tmp_path):
    _, shards = sets(tmp_path)
    asked = []
    TrainSet(rows((0, 1, -1), (0, 2, -1)), lambda g: asked.append(g) or shards[g])
    assert asked == [0]


@pytest.mark.parametrize("labels", [False, 0])
def test_one_unlabelled_set_makes_the_training_set_unlabelled(tmp_path, labels):
    _, shards = sets(tmp_path, labels=labels)
    assert TrainSet(rows((0, 1, -1), (1, 2, -1)), shards.__getitem__).conditions is None


def test_numbers_have_no_labels(tmp_path):
    values, shards = sets(tmp_path, record=(2, 3), labels=False)
    data = TrainSet(rows((0, 1, -1), (-1, 2, -1)), shards.__getitem__)
    assert data.conditions is None
    assert (
        data.records().dtype == np.float64
        and (data.records() == np.stack([values[0][1], values[-1][2]])).all()
    )


def test_each_replicate_gets_its_shared_rows_and_its_own(tmp_path):
    values, shards = sets(tmp_path, record=(3, 2), labels=False)
    drawn = {
        0: [(0, 1), (1, 2)],
        1: [(0, 1), (0, 5)],
        2: [(1, 6), (1, 0)],
    }  # a record may serve several replicates
    shared = [(-1, 0), (-1, 4)]
    table = rows(*[(g, i, -1) for g, i in shared], *[(g, i, r) for r, own in drawn.items() for g, i in own])
    got = TrainSet(table, shards.__getitem__).records()
    assert got.shape == (4, 3, 2)
    for r, own in drawn.items():
        assert (got[:, r] == np.stack([values[g][i, r] for g, i in shared + own])).all()


def test_rows_of_every_replicate_alone(tmp_path):
    values, shards = sets(tmp_path, record=(2, 1), labels=False)
    got = TrainSet(rows((0, 3, 1), (0, 4, 0)), shards.__getitem__).records()
    assert got[0, 0] == values[0][4, 0] and got[0, 1] == values[0][3, 1]
