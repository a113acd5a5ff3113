from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from chains import COPIES, NUMBERS, checked, config, ran, rows

from difflab.core.errors import ConfigError
from difflab.core.files import read_json
from difflab.core.progress import Reporter
from difflab.loop.mix import draw_rows
from difflab.loop.regimes import check_possible
from difflab.policies import At, parse
from difflab.runs.origins import Evidence
from difflab.runs.train_set import Pool

GUARD = {"policy": "guard", "max_synthetic_fraction": 0.5}
THIN = {**GUARD, "mode": "thin"}
MIXED = {**COPIES, "regime": {"name": "accumulate"}}


def counts(run, t: int) -> Counter:
    return Counter((pool, generation) for pool, generation, _ in rows(run, t))


# ------------------------------------------------------------------------------------------------ refuse
@pytest.mark.parametrize(
    ("entry", "sections", "message"),
    [
        (
            {},
            {},
            r"guard refuses: 1 of training set 1 \(40 of 40 images\) are synthetic; allowed: at most 0\.5\. Use more real images, or mode=thin",
        ),
        (
            {},
            {"regime": {"name": "fixed_real", "real_fraction": 0.25}},
            r"guard refuses: 0\.75 of training set 1 \(30 of 40 images\)",
        ),
        (
            {"first": 2},
            {"regime": {"name": "accumulate"}},
            r"guard refuses: 0\.6667 of training set 2 \(80 of 120 images\)",
        ),
        (
            {},
            {"regime": {"name": "accumulate_subsample"}},
            r"0\.6667 of training set 2 \(26\.6667 of 40 images\)",
        ),
        (
            {"max_synthetic_fraction": 0.9, "max_generation": 1},
            {"regime": {"name": "accumulate"}},
            r"0\.75 of training set 3 \(120 of 160 images\) are synthetic, 40 of them from generations after 1; allowed: at most 0\.9, none after generation 1",
        ),
    ],
)
def test_what_is_known_beforehand_is_refused_before_anything_runs(entry, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({**GUARD, **entry}, base=COPIES, n_train=40, **sections)


def test_what_holds_is_let_through_unchanged_and_recorded(tmp_path):
    regime = {"name": "fixed_real", "real_fraction": 0.5}
    run, plain = (
        ran(config(*entries, base=COPIES, regime=regime), tmp_path / name)
        for name, entries in (("a", [GUARD]), ("b", []))
    )
    assert [rows(run, t) for t in range(4)] == [rows(plain, t) for t in range(4)]
    record = read_json(run.gen(2) / "guard.json")
    assert record["synthetic_fraction"] == record["synthetic_fraction_drawn"] == 0.5
    assert (
        record["images"],
        record["left_out"],
        record["real_put_in"],
        record["mode"],
        record["max_synthetic_fraction"],
    ) == (
        40,
        0,
        0,
        "refuse",
        0.5,
    )
    assert not (run.gen(0) / "guard.json").exists() and not (plain.gen(2) / "guard.json").exists()


def at(n_train: int = 10, t: int = 1, folder=None, **more) -> At:
    run = SimpleNamespace(gen=lambda t: folder)
    return At(
        generation=t,
        position=0,
        config=config(GUARD, base=COPIES, data={"train_size": 10}),
        run=run,
        n_train=n_train,
        **more,
    )


def table(real: int, synthetic: dict[int, int], replicates: int = 1, budget: int | None = None) -> pa.Table:
    """All of `real` real images and of samples by generation, or `budget` of them."""
    pools = [Pool("fixed_real", -1, np.arange(real), real)] if real else []
    return draw_rows(
        [*pools, *(Pool("synthetic", g, np.arange(n), n) for g, n in synthetic.items())],
        budget,
        ("test",),
        replicates,
    )


def test_what_was_drawn_is_looked_at_and_not_what_was_expected(tmp_path):
    """Half in the mean, but this draw has more samples: only the rows tell."""
    guard = parse(GUARD)
    pools = [Pool("fixed_real", -1, np.arange(10), 10), Pool("synthetic", 0, np.arange(10), 10)]
    assert guard.pools(at(), pools, 9) == (pools, 9)
    drawn = [draw_rows(pools, 9, ("test", k), 1) for k in range(20)]
    share = [np.mean(d["generation"].to_numpy() >= 0) for d in drawn]
    assert min(share) < 0.5 < max(share)
    for d, s in zip(drawn, share, strict=True):
        if s > 0.5:
            with pytest.raises(ConfigError, match="guard refuses"):
                guard.rows(at(folder=tmp_path), d)
        else:
            assert guard.rows(at(folder=tmp_path), d).equals(d)


def test_each_of_parallel_chains_is_looked_at(tmp_path):
    guard = parse({**GUARD, "max_synthetic_fraction": 0.6})
    drawn = table(10, {0: 10}, replicates=40, budget=10)
    with pytest.raises(ConfigError, match="guard refuses"):  # one of 40 has 7 of 10
        guard.rows(at(folder=tmp_path), drawn)
    assert len(parse({**GUARD, "max_synthetic_fraction": 0.99}).rows(at(folder=tmp_path), drawn)) == 400


# ------------------------------------------------------------------------------------------------ thin
@pytest.mark.parametrize("regime", ["accumulate", "accumulate_subsample"])
def test_samples_are_left_out_until_it_holds_and_it_says_so(tmp_path, regime):
    said: list[str] = []
    report = Reporter(quiet=True)
    report.say = said.append  # type: ignore[method-assign]
    run = ran(
        config({**THIN, "max_synthetic_fraction": 0.4}, base=COPIES, regime={"name": regime}),
        tmp_path / "run",
        report,
    )
    for t in range(1, 4):
        found, record = counts(run, t), read_json(run.gen(t) / "guard.json")
        real, samples = (
            found[("fixed_real", -1)],
            sum(n for (pool, _), n in found.items() if pool == "synthetic"),
        )
        assert samples == int(0.4 / 0.6 * real + 1e-9)  # as many as there may be
        assert (
            record["left_out"] == record["images"] - real - samples > 0
            and record["synthetic_fraction"] <= 0.4 < record["synthetic_fraction_drawn"]
        )
        assert len([line for line in said if f"of training set {t} were synthetic" in line]) == 1
    if regime == "accumulate":
        assert (
            counts(run, 3)[("fixed_real", -1)] == 40
            and len([g for pool, g in counts(run, 3) if pool == "synthetic"]) == 3
        )  # from all pools


def test_what_is_left_out_is_drawn_at_random(tmp_path):
    left = Counter()
    for t in range(1, 81):
        out = parse(THIN).rows(at(t=t, folder=tmp_path), table(10, {0: 20}))
        left.update(out["index"].to_numpy()[out["generation"].to_numpy() == 0].tolist())
    expected = 80 * 10 / 20
    assert max(abs(left[i] - expected) for i in range(20)) < 4.5 * np.sqrt(80 * 0.25)


def test_it_fills_up_with_real_images_that_are_not_there(tmp_path):
    made = config({**THIN, "fill": True}, base=COPIES, regime={"name": "fixed_real", "real_fraction": 0.25})
    run = ran(made, tmp_path / "run")
    for t in range(1, 4):
        assert counts(run, t) == {("fixed_real", -1): 20, ("synthetic", t - 1): 20}
        real = [index for pool, _, index in rows(run, t) if pool == "fixed_real"]
        assert len(set(real)) == 20 and set(range(10)) < set(real) <= set(range(40))
        assert read_json(run.gen(t) / "guard.json")["real_put_in"] == 10
    assert rows(run, 2) != rows(run, 3)  # others every time


def test_replace_can_be_guarded_by_filling_up(tmp_path):
    run = ran(
        config({**THIN, "max_synthetic_fraction": 0.3, "fill": True}, base=COPIES, generations=1),
        tmp_path / "run",
    )
    assert counts(run, 1) == {("fixed_real", -1): 28, ("synthetic", 0): 12}


def test_samples_of_too_late_generations_are_left_out(tmp_path):
    entry = {"policy": "guard", "max_generation": 0, "mode": "thin"}
    run = ran(config(entry, base=MIXED), tmp_path / "run")
    assert [counts(run, t) for t in (2, 3)] == [{("fixed_real", -1): 40, ("synthetic", 0): 40}] * 2
    assert read_json(run.gen(3) / "guard.json")["max_generation"] == 0


def test_both_limits_and_filling_up(tmp_path):
    guard = parse(
        {"policy": "guard", "max_synthetic_fraction": 0.5, "max_generation": 1, "mode": "thin", "fill": True}
    )
    out = guard.rows(
        at(n_train=10, t=4, folder=tmp_path), table(4, {1: 6, 3: 6})
    )  # 16 rows: 8 samples may stay, 6 are not too late
    assert Counter(out["generation"].to_pylist()) == {-1: 10, 1: 6}
    assert (
        out.schema.names == ["pool", "lab", "generation", "index", "replicate"]
        and out["pool"].to_pylist()[-6:] == ["fixed_real"] * 6
    )
    with pytest.raises(
        ConfigError,
        match=r"guard needs 7 more real images to fill training set 4, but only 6 images of generation 0's training set are not in it",
    ):
        guard.rows(at(n_train=10, t=4, folder=tmp_path), table(4, {1: 6, 3: 7}))


def test_a_share_of_images_from_the_reserve_does_not_use_up_generation_0s(tmp_path):
    guard = parse({**THIN, "fill": True})
    drawn = draw_rows(
        [Pool("fresh_real", -1, np.arange(10, 14), 4), Pool("synthetic", 0, np.arange(16), 16)],
        None,
        ("test",),
    )
    out = guard.rows(at(n_train=20, folder=tmp_path), drawn)
    assert Counter(out["pool"].to_pylist()) == {"fresh_real": 4, "fixed_real": 6, "synthetic": 10}
    guard.pools(
        at(n_train=20),
        [Pool("fresh_real", -1, np.arange(10, 14), 4), Pool("synthetic", 0, np.arange(20), 20)],
        None,
    )


@pytest.mark.parametrize("most", [0.29, 0.3, 1 / 3, 0.7, 0.07])
def test_whole_numbers_are_not_lost_to_rounding(tmp_path, most):
    guard = parse({**THIN, "max_synthetic_fraction": most, "fill": True})
    place = At(
        generation=1,
        position=0,
        config=config(base=COPIES, data={"train_size": 300}),
        run=SimpleNamespace(gen=lambda t: tmp_path),
        n_train=300,
    )
    out = guard.rows(place, table(0, {0: 300}))
    samples = int((out["generation"].to_numpy() == 0).sum())
    assert len(out) == 300 and samples == round(most * 300)


# ------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["guard"], "guard has no limit; set max_synthetic_fraction, max_generation or max_unknown_fraction"),
        ([{**GUARD, "max_synthetic_fraction": 1.5}], r"'max_synthetic_fraction'.*less than or equal to 1"),
        (
            [{**GUARD, "max_synthetic_fraction": -0.5}],
            r"'max_synthetic_fraction'.*greater than or equal to 0",
        ),
        ([{**GUARD, "max_synthetic_fraction": True}], r"'max_synthetic_fraction'.*valid number"),
        ([{**GUARD, "max_generation": -1}], r"'max_generation'.*greater than or equal to 0"),
        ([{**GUARD, "mode": "warn"}], r"'mode'.*'refuse' or 'thin'"),
        ([{**GUARD, "fill": True}], "mode=refuse removes no samples, so fill=true has no effect"),
        (
            [GUARD, {"policy": "healing", "first": 2}],
            "healing comes after guard and could exceed its limits; put guard after all policies that change training sets",
        ),
        ([GUARD, {"policy": "real_share", "start": 0.5, "end": 0.5}], "real_share comes after guard"),
        ([GUARD, {**GUARD, "first": 2}], "guard comes after guard"),
    ],
)
def test_bad_input(entries, message):
    with pytest.raises(ConfigError, match=message):
        checked(*entries, base=COPIES)


def test_others_that_do_not_change_training_sets_may_follow():
    checked(
        {"policy": "real_share", "start": 0.5, "end": 0.5},
        GUARD,
        "unflagged",
        "real_weight",
        base=COPIES,
        n_train=40,
    )


def test_thinning_that_leaves_nothing_is_refused_before_anything_runs():
    with pytest.raises(
        ConfigError,
        match=r"guard would remove every image: 1 of training set 1 .*set fill=true or add real images",
    ):
        checked(THIN, base=COPIES, n_train=40)
    with pytest.raises(
        ConfigError,
        match=r"guard would remove every image: 1 of training set 2 \(40 of 40 images\) are synthetic, 40 of them from generations after 0",
    ):
        checked({"policy": "guard", "max_generation": 0, "mode": "thin"}, base=COPIES, n_train=40)
    with pytest.raises(
        ConfigError, match=r"guard needs 20 more real images to fill training set 2, but only 0 images"
    ):
        checked({**THIN, "fill": True}, base=MIXED, n_train=40)


def test_parallel_chains_are_not_thinned():
    with pytest.raises(ConfigError, match=r"share rows; set model\.replicates=1"):
        checked(THIN, base={**NUMBERS, "model": {"family": "gaussian", "replicates": 4}})


def test_the_largest_share_may_come_from_a_file(tmp_path):
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"max_synthetic_fraction": 0.25, "more": 1}))
    assert (
        config({**GUARD, "max_synthetic_fraction": str(file)}, base=COPIES).policies[0].max_synthetic_fraction
        == 0.25
    )  # the recipe has the number
    for content, message in (
        ("{}", "contains no number max_synthetic_fraction"),
        ("[1]", "contains no number"),
        ('{"max_synthetic_fraction": null}', "contains no number"),
        ('{"max_synthetic_fraction": true}', "contains no number"),
        ('{"max_synthetic_fraction": 3}', "less than or equal to 1"),
        ("half", "cannot be read as JSON"),
    ):
        file.write_text(content)
        with pytest.raises(ConfigError, match=message):
            config({**GUARD, "max_synthetic_fraction": str(file)}, base=COPIES)
    with pytest.raises(ConfigError, match=r"none\.json cannot be read"):
        config({**GUARD, "max_synthetic_fraction": str(tmp_path / "none.json")}, base=COPIES)


def test_a_config_that_was_read_back_needs_no_file(tmp_path):
    file = tmp_path / "calibration.json"
    file.write_text('{"max_synthetic_fraction": 0.5}')
    made = config(
        {**GUARD, "max_synthetic_fraction": str(file)},
        base=COPIES,
        regime={"name": "fixed_real"},
        generations=1,
    )
    ran(made, tmp_path / "run")
    file.unlink()
    from difflab.runs.run import open_run

    assert open_run(tmp_path / "run").config == made


def test_images_of_unknown_origin_are_limited_in_every_training_set():
    """Half of training set 0 are unknown, and all of the real images that later sets draw."""
    depths = np.array([0, 1] * 20)
    evidence = Evidence(depths == 0)
    regime = {"name": "fixed_real", "real_fraction": 0.5}
    for limit, message in (
        (0.4, r"0\.5 of training set 0 \(20 of 40 images\) are of unknown origin"),
        (0.5, None),
    ):
        made = config({"policy": "guard", "max_unknown_fraction": limit}, base=COPIES, regime=regime)
        if message is None:
            check_possible(made, 40, (), depths, evidence)
            continue
        with pytest.raises(ConfigError, match=message):
            check_possible(made, 40, (), depths, evidence)
    late = config({"policy": "guard", "max_unknown_fraction": 0.4, "first": 2}, base=COPIES, regime=regime)
    with pytest.raises(
        ConfigError, match=r"0\.5 of training set 2 \(20 of 40 images\) are of unknown origin"
    ):
        check_possible(late, 40, (), depths, evidence)
