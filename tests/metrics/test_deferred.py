"""Measures are torchmetrics metrics, and torchmetrics is imported for the first instance only."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
import torchmetrics

from difflab.metrics import METRICS, FrechetInceptionDistance, PairMetric
from difflab.metrics.deferred import deferred

SLOW = {
    "torchmetrics",
    "transformers",
    "diffusers",
    "torchvision",
    "scipy",
    "sklearn",
    "pandas",
    "matplotlib",
}


def imported(*codes: str) -> list[set[str]]:
    """Which of the slow libraries a new process has imported after each of `codes`."""
    report = f"print(*{SLOW} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(["import sys", *(f"{code}\n{report}" for code in codes)])],
        capture_output=True,
        text=True,
        check=True,
    )
    return [set(line.split()) for line in done.stdout.split("\n")[: len(codes)]]


def test_compare_imports_no_slow_library():
    assert imported("import difflab; difflab.compare; difflab.diagnose; difflab.Monitor") == [set()]


def test_a_formula_needs_no_torchmetrics_and_an_instance_imports_it():
    of = "import torch; from difflab.metrics import *; METRICS['fd'].of(Pair(torch.eye(4), torch.eye(4) + 1))"
    after_formula, after_instance = imported(of, "METRICS['recall']()")
    assert after_formula == set() and "torchmetrics" in after_instance


@pytest.fixture
def recall():
    metric = METRICS["recall"](neighbours=3)
    metric.update(torch.arange(8.0).view(-1, 1), real=True)
    metric.update(torch.arange(6.0).view(-1, 1), real=False)
    return metric


def test_an_instance_is_a_metric_of_torchmetrics_and_of_its_own_class(recall):
    kind = METRICS["recall"]
    assert isinstance(recall, torchmetrics.Metric) and isinstance(recall, PairMetric)
    assert isinstance(recall, kind) and type(recall) is type(kind())
    assert (type(recall).__name__, type(recall).__module__) == ("Recall", kind.__module__)
    assert recall.higher_is_better is True and recall.compute() == 1.0
    assert float((recall + 1).compute()) == 2.0  # torchmetrics' own arithmetic
    collection = torchmetrics.MetricCollection([kind(), METRICS["precision"]()])
    assert set(collection) == {"Recall", "Precision"}
    recall.reset()
    assert len(recall.real) == 0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_a_copy_goes_on_where_the_metric_was(recall, again):
    other = again(recall)
    assert type(other) is type(recall) and other.neighbours == 3
    other.update(torch.full((5, 1), 100.0), real=True)
    assert other.compute() == pytest.approx(8 / 13)
    assert recall.compute() == 1.0


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")  # as of any torchmetrics metric
def test_states_can_be_stored(recall):
    recall.persistent(True)
    other = METRICS["recall"](neighbours=3)
    other.persistent(True)
    other.load_state_dict(recall.state_dict())
    assert other.compute() == 1.0


def test_torchmetrics_fid_takes_the_states_of_ours():
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    ours = FrechetInceptionDistance(network, normalize=True, input_img_size=(3, 8, 8))
    assert isinstance(ours, torchmetrics.image.fid.FrechetInceptionDistance)
    assert pickle.loads(pickle.dumps(ours)).normalize is True


def test_a_measure_without_a_formula_cannot_be_made():
    class Empty(PairMetric):
        name, range, better, unit = "empty", (0.0, 1.0), "lower", "x"

    with pytest.raises(TypeError, match="abstract method"):
        Empty()


def test_a_base_that_does_not_exist_is_an_error_of_the_first_instance():
    for module, name, error in (("no_such_module", "A", ModuleNotFoundError), ("json", "A", AttributeError)):

        class Broken(deferred(module, name)):
            pass

        with pytest.raises(error, match=r"no_such_module|has no attribute 'A'"):
            Broken()
