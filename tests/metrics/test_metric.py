"""Every measure: the table of names, batches, rows of a pair, bad input, several processes."""

import pytest
import torch
from forks import pair

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Judge, Pair, PairMetric, measure

NAMES = [
    "fd",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "trace_ratio",
    "class_accuracy",
    "class_entropy",
    "rare_class_survival",
]


def labelled(n, seed, d=4, classes=3):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    return torch.randn(n, d, generator=draw) + 3 * torch.eye(classes, d)[labels], labels


@pytest.fixture(scope="module")
def judge():
    return Judge.fit(*labelled(200, 9), 3)


def test_every_measure_of_the_config_is_there_and_says_what_it_is():
    assert set(NAMES) <= set(METRICS)
    for name in NAMES:
        cls = METRICS[name]
        assert cls.name == name and cls.unit and cls.range[0] < cls.range[1]
        assert (
            cls.better in ("lower", "higher", "real")
            and cls.needs in ("features", "judge")
            and "MeasureError" not in cls.name
        )
        assert cls.higher_is_better == {"lower": False, "higher": True, "real": None}[cls.better]


def test_unknown_measure_names_the_nearest_and_the_known():
    with pytest.raises(
        MeasureError, match=r"unknown measure 'recal'; did you mean 'recall'\? known: .*trace_ratio"
    ):
        METRICS["recal"]


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="defined twice"):
        measure("fd")(METRICS["kid"])


def test_a_notebook_s_cell_may_run_again(monkeypatch):
    monkeypatch.setattr("difflab.metrics.metric.METRICS", dict(METRICS))
    for value in (1.0, 2.0):

        @measure("constant")
        class Constant(PairMetric):
            """The same whatever the images."""

            unit, range, better = "share", (0.0, 3.0), "lower"

            @classmethod
            def evaluate(cls, pair, real, fake, value=value):
                return value

    from difflab.metrics.metric import METRICS as known

    assert known["constant"].of(Pair(torch.eye(4), torch.eye(4))) == 2.0


@pytest.mark.parametrize("name", NAMES)
def test_metric_equals_of_whatever_the_batches(name, judge):
    (real, real_labels), (fake, fake_labels) = labelled(60, 1), labelled(50, 2)
    wanted = METRICS[name].of(Pair(real, fake, real_labels=real_labels, fake_labels=fake_labels, judge=judge))
    metric = METRICS[name](judge=judge)
    metric.update(real[:13], real=True, labels=real_labels[:13])
    metric.update(fake, real=False, labels=fake_labels)
    metric.update(real[13:], real=True, labels=real_labels[13:])
    assert metric.compute().item() == wanted
    assert metric.compute().dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_of_rows_equals_a_pair_of_those_rows(name, judge):
    (real, real_labels), (fake, fake_labels) = labelled(200, 1), labelled(180, 2)
    pair = Pair(real, fake, real_labels=real_labels, fake_labels=fake_labels, judge=judge)
    METRICS[name].of(pair)
    r, f = torch.randperm(200)[:90].sort().values, torch.randperm(180)[:70].sort().values
    alone = Pair(real[r], fake[f], real_labels=real_labels[r], fake_labels=fake_labels[f], judge=judge)
    if name == "rare_class_survival":  # which classes are rare is a property of the whole set
        alone._once.update(pair._once)
    assert METRICS[name].of(pair, r, f) == pytest.approx(METRICS[name].of(alone), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_no_number_from_bad_input(name, judge):
    (real, labels), (fake, _) = labelled(20, 1), labelled(20, 2)
    hole = fake.clone()
    hole[3, 1] = float("nan")
    metric = METRICS[name](judge=judge)
    metric.update(real, real=True, labels=labels)
    metric.update(hole, real=False, labels=labels)
    with pytest.raises(MeasureError, match=r"1 of 20 fake rows hold NaN or infinity .first: row 3"):
        metric.compute()
    few = Pair(real[:0], fake[:0], real_labels=labels[:0], fake_labels=labels[:0], judge=judge)
    with pytest.raises(MeasureError, match=rf"{name} needs at least \d+ real images, got 0"):
        METRICS[name].of(few)
    with pytest.raises(MeasureError, match="fake images, got 0"):
        METRICS[name].of(Pair(real, fake, judge=judge), None, torch.arange(0))


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_compute_before_update_is_an_error_not_a_number():
    with pytest.raises(MeasureError, match="got 0"):
        METRICS["fd"]().compute()


def test_a_measure_that_overflows_is_an_error():
    class Bad(PairMetric):
        name, range, better, unit = "bad", (0.0, 1.0), "lower", "x"

        @classmethod
        def evaluate(cls, pair, real, fake):
            return float("nan")

    with pytest.raises(MeasureError, match="bad came out as nan"):
        Bad.of(Pair(torch.zeros(3, 1), torch.zeros(3, 1)))


RANK = """
import torch, torch.distributed as dist
from difflab.metrics import METRICS, Pair, Judge

def main(rank, out, place):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    assert (dist.get_rank(), dist.get_world_size()) == (rank, 2)
    draw = torch.Generator().manual_seed(0)
    real, fake = torch.randn(40, 4, generator=draw), torch.randn(30, 4, generator=draw) + 0.5
    labels = torch.arange(40) % 2
    judge = Judge.load(place)
    for cut in (25, 30):
        for name in ("fd", "recall", "class_accuracy"):
            metric = METRICS[name](judge=judge)
            mine_real, mine_fake = slice(0, cut + 10), slice(0, cut)
            if rank == 1:
                mine_real, mine_fake = slice(cut + 10, 40), slice(cut, 30)
            metric.update(real[mine_real], real=True)
            metric.update(fake[mine_fake], real=False, labels=labels[:30][mine_fake])
            whole = METRICS[name].of(Pair(real, fake, fake_labels=labels[:30], judge=judge))
            assert abs(metric.compute().item() - whole) < 1e-9, (rank, cut, name)
    dist.destroy_process_group()
    open(f"{out}-{rank}", "w").write("same")
"""


def test_two_processes_give_one_number_even_if_one_saw_nothing(tmp_path, judge):
    """Real torch.distributed (gloo): rank 1 holds some rows in the first case and none in the second."""
    judge.save(tmp_path / "judge")
    pair(RANK, tmp_path / "rank", tmp_path / "judge")
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["same"] * 2
