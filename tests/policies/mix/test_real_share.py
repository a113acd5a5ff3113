from __future__ import annotations

from collections import Counter

import pytest
from chains import COPIES, NUMBERS, checked, config, ran, rows

from difflab.core.errors import ConfigError
from difflab.policies.mix.real_share import parts

SHARE = {"policy": "real_share", "start": 0.1, "end": 0.4, "over": 3}


def counts(run, t: int) -> Counter:
    return Counter((pool, generation) for pool, generation, _ in rows(run, t))


def test_parts_are_proportional_and_whole():
    assert parts(10, [1, 1, 1]) == [4, 3, 3] and parts(0, [2, 3]) == [0, 0] and parts(7, [0, 7]) == [0, 7]
    for total in range(20):
        assert sum(parts(total, [3, 5, 9])) == total


def test_the_share_grows_and_the_size_stays(tmp_path):
    run = ran(config(SHARE, base=COPIES, generations=5), tmp_path / "run")
    assert [counts(run, t)[("fixed_real", -1)] for t in range(6)] == [40, 4, 8, 12, 16, 16]
    for t in range(1, 6):
        assert counts(run, t)[("synthetic", t - 1)] == 40 - counts(run, t)[("fixed_real", -1)]
        real = [index for pool, _, index in rows(run, t) if pool == "fixed_real"]
        assert real == list(range(len(real)))  # the first ones, every time
        assert len(set(rows(run, t))) == 40  # none twice


def test_it_may_shrink_act_later_and_end(tmp_path):
    made = config(
        {**SHARE, "start": 1.0, "end": 0.0, "over": 2, "first": 2, "last": 4}, base=COPIES, generations=5
    )
    run = ran(made, tmp_path / "run")
    assert [counts(run, t)[("fixed_real", -1)] for t in range(6)] == [40, 0, 40, 20, 0, 0]


def test_pools_of_samples_keep_their_proportions(tmp_path):
    made = config({**SHARE, "start": 0.25, "end": 0.25}, base=COPIES, regime={"name": "accumulate_subsample"})
    run = ran(made, tmp_path / "run")
    assert counts(run, 3) == {
        ("fixed_real", -1): 10,
        ("synthetic", 0): 10,
        ("synthetic", 1): 10,
        ("synthetic", 2): 10,
    }
    assert run.training(3) == {} and sum(counts(run, 1).values()) == 40


def test_a_constant_share_is_fixed_real(tmp_path):
    by_policy = ran(config({**SHARE, "start": 0.3, "end": 0.3}, base=COPIES), tmp_path / "a")
    by_regime = ran(config(base=COPIES, regime={"name": "fixed_real", "real_fraction": 0.3}), tmp_path / "b")
    assert [rows(by_policy, t) for t in range(4)] == [rows(by_regime, t) for t in range(4)]


def test_fresh_images_are_never_used_twice(tmp_path):
    made = config(
        {**SHARE, "real": "fresh"},
        base=COPIES,
        regime={"name": "replace", "set_size": 40},
        measure={"metrics": ["trace_ratio"]},
    )
    run = ran(made, tmp_path / "run")
    used = [index for t in range(1, 4) for pool, _, index in rows(run, t) if pool == "fresh_real"]
    assert used == list(range(40, 40 + 4 + 8 + 12))
    assert [sum(counts(run, t).values()) for t in range(4)] == [40] * 4


def test_the_exact_families_draw_as_many_fresh_ones_as_it_needs(tmp_path):
    made = config(
        {**SHARE, "start": 0.5, "end": 0.5, "real": "fresh"},
        base=NUMBERS,
        regime={"name": "replace", "set_size": 20},
    )
    run = ran(made, tmp_path / "run")
    assert run.about["n_train"] == 20 + 3 * 10
    assert [index for t in range(1, 4) for pool, _, index in rows(run, t) if pool == "fresh_real"] == list(
        range(20, 50)
    )


@pytest.mark.parametrize(
    ("entry", "sections", "message"),
    [
        ({"start": 1.1}, {}, r"'start'.*less than or equal to 1"),
        ({"end": -0.1}, {}, r"'end'.*greater than or equal to 0"),
        ({"over": 0}, {}, r"'over'.*greater than or equal to 1"),
        ({"first": 0}, {}, r"'first'.*greater than or equal to 1"),
        ({"real": "new"}, {}, r"'real'.*'fixed' or 'fresh'"),
        ({}, {"regime": {"name": "fresh_real"}}, "both set the share of real images"),
        ({}, {"regime": {"name": "fixed_real", "real_fraction": 0.5}}, "leave real_fraction null"),
        ({"real": "fresh"}, {}, r"set regime\.set_size \(regime\.name=replace\)"),
        (
            {"real": "fresh"},
            {"regime": {"name": "accumulate"}},
            r"set regime\.set_size \(regime\.name=accumulate\)",
        ),
        (
            {"start": 1.0},
            {"regime": {"name": "replace", "set_size": 60}, "sample": {"count": 60}},
            r"needs 60 fixed real images in training set 1 \(1 of 60\), but there are 40; raise data\.train_size",
        ),
        (
            {"real": "fresh"},
            {"regime": {"name": "replace", "set_size": 40}},
            r"needs 12 fresh real images in training set 3 .*, but there are 8; lower data\.train_size",
        ),
        (
            {"start": 0.0, "end": 0.0},
            {"regime": {"name": "fixed_real"}, "sample": {"count": 30}},
            "training set 1 asks for 40 samples of generation 0",
        ),
    ],
)
def test_bad_input(entry, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({**SHARE, **entry}, base=COPIES, n_train=60, **sections)


def test_two_of_them_or_no_samples_left():
    with pytest.raises(ConfigError, match="two entries real_share would overwrite each other"):
        checked(SHARE, {**SHARE, "first": 2}, base=COPIES)
