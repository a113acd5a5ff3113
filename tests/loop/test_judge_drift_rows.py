"""Judge drift in a run: three judges, by hand and in every generation."""

import numpy as np
import pytest
import torch
from measured_digits import JUDGES, digits, rows, run_chain

from difflab.core.rows import KEYS
from difflab.core.seeds import numpy_generator
from difflab.metrics import Judge
from difflab.metrics.interval import wilson
from difflab.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("measure") / "run")


def test_judge_drift_is_taken_in_every_generation_of_a_run(tmp_path):
    run = run_chain(
        digits(measure={"metrics": ["class_accuracy"], "resamples": 0, "judge_drift": True}), tmp_path / "run"
    )
    for t in (0, 1):
        found = {row["metric"]: row for row in run.rows() if row["generation"] == t}
        for name in JUDGES:
            r = found[name]
            assert (
                tuple(r) == KEYS
                and r["extractor"] == "pixels"
                and r["reason"] is None
                and r["n"] == (80 if name.endswith("real") else 40)
            )
            assert (r["ci_low"], r["ci_high"]) == wilson(r["value"], r["n"]) and 0.5 < r["floor"] <= 1
        assert len({found[name]["recipe"] for name in JUDGES}) == 4
    by_generation = [
        {r["metric"]: r["recipe"] for r in run.rows() if r["generation"] == t and r["metric"] in JUDGES}
        for t in (0, 1)
    ]
    assert by_generation[0] == by_generation[1]
    assert found["judge_frozen"]["value"] < found["judge_frozen"]["floor"]  # 2,560 images seen make no digits


def test_the_three_judges_by_hand(run):
    found = {name.split("/")[0]: r for name, r in rows(run, judge_drift=True).items()}
    n, n_train = 70, run.about["n_train"]
    real = torch.from_numpy(run.real.gather(np.arange(n_train + n))).flatten(1).float() / 255
    samples = torch.from_numpy(run.samples(1).gather(np.arange(n))).flatten(1).float() / 255
    labels, asked = (
        torch.from_numpy(run.real.labels()[: n_train + n]),
        torch.from_numpy(run.samples(1).labels()[:n]),
    )
    again = numpy_generator("judge drift", 0, 1).integers(n_train, size=n_train)

    def halves(y):
        order = np.random.default_rng([0, 1]).permutation(n)
        order = torch.from_numpy(
            np.concatenate([[i for i in order if y[i] == c] for c in range(10)]).astype(int)
        )
        return order[::2], order[1::2]

    def share(judge, x, y):
        return float((judge.predict(x) == y).double().mean())

    for which, x, y, other, others in (
        ("value", samples, asked, real[n_train:], labels[n_train:]),
        ("floor", real[n_train:], labels[n_train:], real[:n], labels[:n]),
    ):
        fitted, kept = halves(y)
        retrained = Judge.fit(x[fitted], y[fitted], 10)
        assert found["judge_frozen"][which] == share(
            Judge.fit(real[:n_train], labels[:n_train], 10), x[kept], y[kept]
        )
        assert found["judge_rebased"][which] == share(
            Judge.fit(real[again], labels[again], 10), x[kept], y[kept]
        )
        assert found["judge_retrained"][which] == share(retrained, x[kept], y[kept])
        assert found["judge_retrained_on_real"][which] == share(retrained, other, others)


def test_judge_drift_without_classes_or_without_samples_of_one_has_reasons(run, tmp_path):
    config = digits(
        generations=0, model={"family": "memoriser"}, measure={"metrics": [], "judge_drift": True}
    )
    unconditional = {r["metric"]: r for r in run_chain(config, tmp_path / "run").rows()}
    assert all(
        "it needs the classes" in unconditional[name]["reason"] and unconditional[name]["value"] is None
        for name in JUDGES
    )
    few = rows(
        run, judge_drift=True, metrics=[], count=12
    )  # of ten digits: some are there once, or not at all
    assert few["judge_frozen/pixels"]["value"] is not None
    for name in ("judge_retrained/pixels", "judge_retrained_on_real/pixels"):
        assert (
            few[name]["value"] is few[name]["floor"] is few[name]["ci_low"] is None
            and "has no sample of class" in few[name]["reason"]
        )
