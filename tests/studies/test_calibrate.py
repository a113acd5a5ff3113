from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from difflab import config as configs
from difflab.cli.main import main
from difflab.core.errors import ConfigError
from difflab.loop.checks import check
from difflab.runs.record import read_record
from difflab.studies import calibrate as calibrating
from difflab.studies.calibrate import Tried, bisect, calibrate, one_more


def gaussian(n=20, t=4, bias=1.0, name="fresh_real", replicates=400, **more):
    return configs.parse({
        "generations": t,
        "data": {"source": "exact", "train_size": n},
        "model": {"family": "gaussian", "replicates": replicates, "sampling_bias": bias},
        "regime": {"name": name},
        "sample": {"count": n},
        **more,
    })  # fmt: skip


def variance(n, a, bias, t):
    """Expected variance after t + 1 fits of n points, a share `a` of them fresh, maximum likelihood."""
    real, v, m = round(a * n), 1 - 1 / n, 1 / n  # variance and squared drift of fit 1
    b = 1 - real / n
    for _ in range(t):
        # Second moment of the mixture about its mean, less what the fit takes: each mean of a part moves by
        # its own noise.
        within = (1 - b) + b * bias * v
        noise = ((1 - b) + b * bias * v) / n
        v, m = within + b * (1 - b) * m - noise, b * b * m + noise
    return v


@pytest.mark.parametrize(
    ("bias", "tolerance", "replicates"), [(1.0, 0.08, 2000), (0.8, 0.2, 400), (0.5, 0.35, 400)]
)
def test_the_share_is_that_of_the_exact_law(tmp_path, bias, tolerance, replicates):
    config = gaussian(bias=bias, replicates=replicates)
    found = calibrate(config, tmp_path, "variance", tolerance, seeds=2, resolution=1 / 8)
    start = variance(20, 1.0, bias, 0)
    shares = [k / 100 for k in range(101)]
    safe = [
        s
        for s in shares
        if all(start - variance(20, 1 - s, bias, t) <= tolerance for t in range(config.generations + 1))
    ]
    assert found["ci_low"] <= max(safe) + 0.01 and max(safe) <= found["ci_high"] + 0.01, (
        found["by_seed"],
        max(safe),
    )
    assert found["ci_high"] - found["ci_low"] < 0.5
    assert (
        0
        <= found["max_synthetic_fraction"]
        == round(max(0.0, one_more(found["by_seed"]) - 1 / 16), 4)
        < max(safe) + 0.01
    )
    assert json.loads((tmp_path / "calibration.json").read_text())["holds_until"] == 4


def test_one_more_value_lies_above_the_limit_as_often_as_asked():
    rng = np.random.default_rng(0)
    drawn = rng.normal(0.4, 0.1, (4000, 6))
    above = np.mean([row[5] > one_more(row[:5]) for row in drawn])
    assert above == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 4000) ** 0.5)
    assert one_more([0.3, 0.3]) == pytest.approx(0.3)
    few, many = rng.normal(0.4, 0.1, 5), rng.normal(0.4, 0.1, 500)
    assert one_more(many) == pytest.approx(0.4 - 1.645 * 0.1, abs=0.02) and one_more(few) < one_more(many), (
        "with many seeds a quantile, not the mean"
    )


def test_what_is_written_holds_for_fresh_seeds(tmp_path, monkeypatch):
    """Thresholds are N(0.5, 0.1): the number that the guard reads is safe for 95% of fresh seeds.

    The lower end of the interval of the mean is safe for fewer of them.
    """

    def stand_in(config, out, measure, tolerance, share, seed, *rest):
        bears = np.random.default_rng([run, seed]).normal(0.5, 0.1)
        return Tried(seed, share, None if share <= bears else 1, 1)

    monkeypatch.setattr(calibrating, "hold", stand_in)
    for seeds in (3, 30):
        borne = {"max_synthetic_fraction": [], "ci_low": []}
        for run in range(60):
            found = calibrate(
                gaussian(t=1, replicates=1), tmp_path, "variance", 0.1, seeds=seeds, resolution=1 / 64
            )
            fresh = np.random.default_rng(run).normal(0.5, 0.1, 50)
            for name, shares in borne.items():
                shares.append(np.mean(fresh >= found[name]))
        assert np.mean(borne["max_synthetic_fraction"]) > 0.92
    assert np.mean(borne["max_synthetic_fraction"]) == pytest.approx(0.95, abs=0.03)
    assert np.mean(borne["ci_low"]) < 0.75


def test_categories_of_which_the_limit_is_known(tmp_path):
    config = configs.parse({
        "generations": 4,
        "data": {"source": "exact", "train_size": 20},
        "model": {"family": "categorical", "categories": 10, "replicates": 400},
        "regime": {"name": "fresh_real"},
        "sample": {"count": 20},
    })  # fmt: skip
    found = calibrate(config, tmp_path, "gini_simpson", 0.08 * 0.9, seeds=2, resolution=1 / 8)
    # E H = H0 (1 - 1/n) of the first fit's; the factor is that of the normal family without bias.
    shares = [k / 100 for k in range(101)]
    safe = [
        s for s in shares if all(variance(20, 1, 1, 0) - variance(20, 1 - s, 1, t) <= 0.08 for t in range(5))
    ]
    assert found["ci_low"] <= max(safe) + 0.01 and max(safe) <= found["ci_high"] + 0.01


def test_all_chains_have_the_precision_of_the_first_call(tmp_path, monkeypatch):
    from difflab.loop import auto
    from difflab.loop.choice import Choice

    values = iter(["bf16", "no"])
    monkeypatch.setattr(auto, "choices", lambda *given: [Choice("train.precision", next(values), "measured")])
    config = gaussian(t=1, replicates=10)
    asks = config.model_copy(update={"train": config.train.model_copy(update={"precision": "auto"})})
    for seeds in (1, 2):
        calibrate(asks, tmp_path, "variance", 0.2, seeds=seeds, resolution=1 / 4)
    chains = [read_record(record) for record in tmp_path.glob("seed-*/share-*/run.yaml")]
    assert {chain.seed for chain in chains} == {0, 1}
    assert {chain.train.precision for chain in chains} == {"bf16"}


def test_chains_stop_at_the_first_generation_outside(tmp_path):
    config = gaussian(t=5, bias=0.5, name="fixed_real", replicates=50)
    found = calibrate(config, tmp_path, "variance", 0.2, seeds=1, resolution=1 / 8)
    assert found["ci_low"] is None and found["max_synthetic_fraction"] == round(found["estimate"], 4)
    for tried in found["tried"]:
        assert tried["generations"] == (config.generations if tried["left"] is None else tried["left"])
        assert len(tried["values"]) == tried["generations"] + 1
        moved = [abs(v - tried["values"][0]) > 0.2 for v in tried["values"]]
        assert not any(moved[:-1]) and moved[-1] == (tried["left"] is not None)
    assert found["generations_run"] < found["chains"] * config.generations


def test_another_regime_is_taken_as_fixed_real(tmp_path):
    config = gaussian(n=20, t=2, name="replace", replicates=20)
    assert calibrate(config, tmp_path, "variance", 5.0, seeds=2)["regime"] == "fixed_real"


def test_everything_safe_and_nothing_safe():
    assert bisect(lambda share: True, 1 / 32) == 1.0
    assert bisect(lambda share: False, 1 / 32) == 0.0
    asked = []
    assert bisect(lambda share: asked.append(share) or share <= 0.6, 1 / 8) == pytest.approx(0.6, abs=1 / 16)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"measure": "recal"}, "takes no measure 'recal'; it takes: variance"),
        ({"tolerance": 0.0}, "above 0"),
        ({"tolerance": float("nan")}, "above 0"),
        ({"seeds": 0}, "at least one seed"),
        ({"resolution": 1.5}, "between 0 and 1"),
    ],
)
def test_bad_questions(tmp_path, how, message):
    with pytest.raises(ConfigError, match=message):
        calibrate(
            gaussian(n=10, t=1, replicates=5), tmp_path, **{"measure": "variance", "tolerance": 0.1, **how}
        )


def test_the_command_writes_what_the_guard_reads(tmp_path, capsys):
    config = gaussian(t=2, bias=0.7, name="fixed_real", replicates=20).model_dump(mode="json")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    command = [
        "calibrate",
        str(tmp_path / "c.yaml"),
        "--measure",
        "variance",
        "--tolerance",
        "0.2",
        "--seeds",
        "2",
        "--resolution",
        "0.25",
    ]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "stays within 0.2 of generation 0 until generation 2 (fixed_real)" in capsys.readouterr().out
    assert 0 <= json.loads((tmp_path / "out" / "calibration.json").read_text())["max_synthetic_fraction"] <= 1


def test_the_guard_takes_the_number_as_it_is_written_also_where_everything_is_safe(tmp_path):
    config = gaussian(t=1, name="fixed_real", replicates=5)
    found = calibrate(config, tmp_path, "variance", 50.0, seeds=2, resolution=0.5)
    assert found["max_synthetic_fraction"] == 1 - 0.25 or found["by_seed"] == [1.0, 1.0]
    (tmp_path / "all.json").write_text(json.dumps({"max_synthetic_fraction": 1.0}))
    for file in ("calibration.json", "all.json"):
        guarded = config.model_dump(mode="json") | {
            "policies": [{"policy": "guard", "max_synthetic_fraction": str(tmp_path / file)}]
        }
        check(configs.parse(guarded))
