from __future__ import annotations

import pytest
from chains import COPIES, checked, config, ran, rows

from difflab.core.errors import ConfigError

HEALING = {"policy": "healing", "first": 2, "last": 3}


@pytest.mark.parametrize("regime", ["replace", "accumulate", "accumulate_subsample", "fixed_real"])
def test_its_training_sets_are_generation_0s_and_then_the_regime_goes_on(tmp_path, regime):
    run = ran(config(HEALING, base=COPIES, generations=4, regime={"name": regime}), tmp_path / "run")
    plain = ran(config(base=COPIES, generations=1, regime={"name": regime}), tmp_path / "plain")
    sets = [rows(run, t) for t in range(5)]
    assert sets[2] == sets[3] == sets[0] == [("fixed_real", -1, i) for i in range(40)]
    assert sets[1] == rows(plain, 1) and any(pool == "synthetic" for pool, _, _ in sets[1])
    sources = {generation for pool, generation, _ in sets[4] if pool == "synthetic"}
    assert sources == ({3} if regime in ("replace", "fixed_real") else {0, 1, 2, 3})


def test_without_a_last_generation_it_goes_on_to_the_end(tmp_path):
    run = ran(config({"policy": "healing", "first": 2}, base=COPIES), tmp_path / "run")
    assert [all(pool == "fixed_real" for pool, _, _ in rows(run, t)) for t in range(4)] == [
        True,
        False,
        True,
        True,
    ]


def test_a_guard_has_nothing_to_refuse_while_it_heals():
    guard = {"policy": "guard", "max_synthetic_fraction": 0.5}
    checked(HEALING, {**guard, "first": 2}, base=COPIES, n_train=40)
    with pytest.raises(ConfigError, match="guard refuses: 1 of training set 1"):
        checked(HEALING, guard, base=COPIES, n_train=40)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"policy": "healing"}], "'first' is missing"),
        ([{"policy": "healing", "first": 0}], r"'first'.*greater than or equal to 1"),
        ([{"policy": "healing", "first": 3, "last": 2}], "last must not be below first"),
        ([{"policy": "healing", "first": 4}], "ends with generation 3"),
        (
            [HEALING, {"policy": "real_share", "start": 0.5, "end": 0.1}],
            "real_share would change the training set of healing; put healing after it",
        ),
        ([HEALING, HEALING], "healing would change the training set of healing"),
    ],
)
def test_bad_input(entries, message):
    with pytest.raises(ConfigError, match=message):
        checked(*entries, base=COPIES)


def test_others_may_come_after_it_in_other_generations():
    checked(HEALING, {"policy": "real_share", "start": 0.5, "end": 0.1, "last": 1}, base=COPIES, n_train=40)
