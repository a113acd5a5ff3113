"""Measures, extractors and judges that do not go together are refused before anything runs."""

import pytest
from measured_digits import digits, run_chain

from difflab.core.errors import ConfigError, MeasureError
from difflab.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("measure") / "run")


def test_a_judge_that_is_no_extractor_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(
        ConfigError, match=r"measure\.judge 'fitted' is not among measure\.extractors \['pixels'\]"
    ):
        run_chain(digits(measure={"judge": "fitted"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_measure_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(MeasureError, match="recal"):
        run_chain(digits(measure={"metrics": ["recal"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_judge_drift_wants_features(tmp_path):
    with pytest.raises(MeasureError, match="judge_drift: the judges need features"):
        run_chain(
            digits(generations=0, measure={"metrics": [], "extractors": [], "judge_drift": True}),
            tmp_path / "run",
        )
