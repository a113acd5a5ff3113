"""The class judge of a run is fitted only where a measure needs it."""

import pytest
from measured_digits import MEMORISER, digits, run_chain
from spoken import folder_of_classes, spoken

from difflab.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("measure") / "run")


def test_no_judge_is_fitted_where_no_measure_asks_for_one(tmp_path):
    data = {"source": folder_of_classes(tmp_path / "set", cats=60)}
    run, said = spoken(
        digits(**MEMORISER, data=data, measure={"metrics": ["fd"], "resamples": 0}), tmp_path / "run"
    )
    assert (
        said == []
        and not list(run.path.glob("real/judge-*"))
        and all(r["value"] is not None for r in run.rows())
    )
