from __future__ import annotations

from typing import Any

import pytest

from difflab.config import Config, parse
from difflab.core.errors import ConfigError

MATRIX = [[0.5, 0.5, 0.0], [0.2, 0.6, 0.2], [0.0, 0.0, 1.0]]


def exact(ecosystem: dict[str, Any] | None, **changes: Any) -> Config:
    raw = {
        "generations": 2,
        "data": {"source": "exact", "train_size": 10},
        "model": {"family": "categorical", "replicates": 3},
        "sample": {"count": 10, "shard_size": 5, "batch_size": 5},
        "ecosystem": ecosystem,
    }
    return parse({**raw, **changes})


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            {"exchange": [[0.5, 0.5], [0.5, 0.4]]},
            "'ecosystem.exchange': row 1 sums to 0.9, but must sum to 1",
        ),
        ({"exchange": [[1, 0], [0, 1, 0]]}, "row 1 has 3 shares, but there are 2 rows"),
        ({"exchange": [[1, 0, 0], [0, 1, 0]]}, "row 0 has 3 shares, but there are 2 rows"),
        (
            {"exchange": [[1.5, -0.5], [0, 1]]},
            r"row 0 is \[1.5, -0.5\], but every share must be a number from 0 to 1",
        ),
        ({"exchange": [[1, float("nan")], [0, 1]]}, "row 0 is .*nan.*, but every share"),
        ({"exchange": [[1]]}, "at least 2 labs"),
        ({"labs": 1}, "'ecosystem.labs': Input should be greater than or equal to 2"),
        ({"labs": 3, "exchange": [[1, 0], [0, 1]]}, r"differs between labs \(3\), exchange \(2\)"),
        ({"labs": 2, "overrides": [{}, {}, {}]}, r"differs between labs \(2\), overrides \(3\)"),
        ({"exchange": "poled", "labs": 2}, "did you mean 'pooled'"),
        ({"exchange": 0.5, "labs": 2}, "set a list with one row of shares per lab"),
        ({"exchange": "pooled"}, "the number of labs is unknown"),
        ({"labs": 2, "exchagne": "pooled"}, "unknown key 'ecosystem.exchagne'; did you mean 'exchange'"),
        ({"labs": 2, "overrides": [{"seed": 1}, {}]}, "'seed' must be the same for all labs"),
        (
            {"labs": 2, "overrides": [{}, {"model.categoris": 4}]},
            "overrides of lab 1: unknown key 'model.categoris'; did you mean 'categories'",
        ),
        ({"labs": 2, "overrides": [{}, {"sample.count": 1}]}, "overrides of lab 1: 'sample.count'"),
        ({"labs": 2, "lab": 2}, "there is no lab 2 among 2"),
    ],
    ids=str,
)
def test_a_section_that_makes_no_sense_is_refused(section, said):
    with pytest.raises(ConfigError, match=said):
        exact(section)


def test_the_names_stand_for_matrices():
    def matrix(name: str) -> list[list[float]]:
        return exact({"labs": 2, "exchange": name}).ecosystem.matrix

    assert matrix("isolated") == [[1, 0], [0, 1]]
    assert matrix("pooled") == [[0.5, 0.5], [0.5, 0.5]]
    assert matrix("one_way") == [[1, 0], [1, 0]]


def test_each_lab_has_the_config_with_its_overrides():
    policies = [{"policy": "unflagged"}]
    config = exact(
        {
            "exchange": MATRIX,
            "overrides": [
                {},
                {"sample.count": 20},
                {"policies": policies, "model": {"family": "categorical"}},
            ],
        }
    )
    labs = config.labs()
    assert [lab.lab for lab in labs] == [0, 1, 2] and [lab.labs() for lab in labs] == [[lab] for lab in labs]
    assert [lab.name for lab in labs] == ["run-lab-0", "run-lab-1", "run-lab-2"]
    assert [lab.sample.count for lab in labs] == [10, 20, 10]
    assert [p.policy for p in labs[2].policies] == ["unflagged"] and labs[2].model.replicates == 1
    assert parse(labs[2].model_dump(mode="json")) == labs[2]
    alone = exact(None)
    assert alone.labs() == [alone] and alone.lab == 0
