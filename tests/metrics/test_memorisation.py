"""Oracles: plain loops over numpy, scikit-learn's nearest neighbours, scipy's Mann-Whitney test, and laws of
honest models.
"""

import math
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import mannwhitneyu, norm
from sklearn.neighbors import NearestNeighbors

from difflab.config import parse
from difflab.core.errors import MeasureError
from difflab.loop.chain import run_chain
from difflab.metrics import METRICS, Pair, interval, nearest_real, resampled

run_chain = partial(run_chain, plots=False)  # curves take seconds

TRAIN = ["generalisation_score", "auth_pct", "ct", "near_duplicates"]
NAMES = [*TRAIN, "repeats"]


def three(seed, n=80, d=3, train=150):
    """Training, held-out and sampled features of one distribution."""
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(size, d, generator=draw) for size in (train, n, n))


def pair_of(seed=0, **sizes):
    train, real, fake = three(seed, **sizes)
    return Pair(real, fake, train=train)


# --------------------------------------------------------------------------------------------- the formulas
@pytest.mark.parametrize("block", [1, 7, 512])
def test_nearest_real_is_scikit_learns_in_any_blocking(block):
    train, _, fake = three(1)
    distance, index = nearest_real(fake, train, block)
    wanted, at = (
        NearestNeighbors(n_neighbors=1, algorithm="brute").fit(train.numpy()).kneighbors(fake.numpy())
    )
    np.testing.assert_allclose(distance, wanted[:, 0], rtol=1e-5)
    assert index.tolist() == at[:, 0].tolist() and index.dtype == torch.int64
    assert [len(x) for x in nearest_real(fake[:0], train)] == [0, 0]


def test_nearest_real_finds_copies_at_distance_zero_and_the_first_of_equals():
    real = torch.randn(20, 300) + 1000
    distance, index = nearest_real(real[[3, 17]], torch.cat([real, real]))
    assert distance.tolist() == [0, 0] and index.tolist() == [3, 17]


def test_generalisation_score_and_auth_pct_equal_loops():
    train, real, fake = three(2)
    x, y = train.double().numpy(), fake.double().numpy()
    nearest = [min(np.linalg.norm(f - t) for t in x) for f in y]
    hit = [min(range(len(x)), key=lambda j, f=f: np.linalg.norm(f - x[j])) for f in y]
    own = [min(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i) for i in hit]
    pair = Pair(real, fake, train=train)
    assert METRICS["generalisation_score"].of(pair) == pytest.approx(np.mean(nearest), rel=1e-6)
    assert METRICS["auth_pct"].of(pair) == pytest.approx(
        np.mean([a > b for a, b in zip(nearest, own, strict=True)])
    )
    assert 0.3 < METRICS["auth_pct"].of(pair) < 0.9


@pytest.mark.parametrize("decimals", [None, 1, 0])  # the coarser the grid, the more ties
@pytest.mark.parametrize("sizes", [(60, 60), (25, 90)])
def test_ct_is_scipys_mann_whitney_z(decimals, sizes):
    draw = np.random.default_rng(3)
    held_out, sampled = (draw.gamma(3, size=n) + shift for n, shift in zip(sizes, (0.0, 0.4), strict=True))
    if decimals is not None:
        held_out, sampled = held_out.round(decimals), sampled.round(decimals)
    # The one training image is at 0, so that the distances are the values.
    real, fake = (torch.from_numpy(x).float().unsqueeze(1) for x in (held_out, sampled))
    value = METRICS["ct"].of(Pair(real, fake, train=torch.zeros(1, 1)))
    p = mannwhitneyu(
        sampled.astype(np.float32),
        held_out.astype(np.float32),
        alternative="less",
        method="asymptotic",
        use_continuity=False,
    ).pvalue
    assert value == pytest.approx(norm.ppf(p), rel=1e-6)


def test_near_duplicates_and_repeats_equal_loops():
    train, real, fake = three(4, n=120)
    fake[:5] = train[:5] + 1e-3
    fake[50:53] = fake[60]
    numpys = [x.double().numpy() for x in (train, real, fake)]

    def smallest(x, y, itself=False):
        return np.sort(np.linalg.norm(x[:, None] - y[None], axis=-1), axis=1)[:, int(itself)]

    train_, real_, fake_ = numpys
    pair = Pair(real, fake, train=train)
    threshold = np.quantile(smallest(real_, train_), 0.01, method="weibull")
    assert METRICS["near_duplicates"].of(pair) == pytest.approx((smallest(fake_, train_) <= threshold).mean())
    assert METRICS["near_duplicates"].of(pair) >= 5 / 120
    # The nearest two: below 200 images no nearer ones are expected among 1%.
    among = np.sort(smallest(real_, real_, True))[1]
    assert METRICS["repeats"].of(Pair(real, fake)) == pytest.approx(
        (smallest(fake_, fake_, True) <= among).mean()
    )
    assert METRICS["repeats"].of(Pair(real, fake)) >= 4 / 120


# -------------------------------------------------------------------------- what they say of models we know
def test_a_memoriser():
    train, real, _ = three(5)
    pair = Pair(real, train[torch.randint(len(train), (80,))], train=train)
    assert METRICS["generalisation_score"].of(pair) == METRICS["auth_pct"].of(pair) == 0
    assert METRICS["near_duplicates"].of(pair) == 1
    all_below = -math.sqrt(3 * 80 * 80 / 161)  # U = 0, here corrected for 80 ties
    assert METRICS["ct"].of(pair) < all_below and METRICS["repeats"].of(pair) > 0.2


def test_an_honest_model_scores_what_it_should():
    """Over independent draws of everything: ct ~ N(0, 1), near duplicates and repeats 1%."""
    pairs = [pair_of(seed, n=200, train=120) for seed in range(150)]
    values = {name: torch.tensor([METRICS[name].of(pair) for pair in pairs]) for name in NAMES}
    error = {name: float(x.std() / len(pairs) ** 0.5) for name, x in values.items()}
    # One training set serves both sides: about N(0, 1).
    assert abs(values["ct"].mean()) < 4 / 150**0.5 and 0.8 < values["ct"].std() < 1.35
    for name in ("near_duplicates", "repeats"):
        assert abs(values[name].mean() - 0.01) < 4 * error[name], name


def test_the_threshold_of_few_images_is_the_smallest_distance():
    values = torch.tensor(
        [METRICS["near_duplicates"].of(pair_of(seed, n=20, train=50)) for seed in range(200)]
    )
    assert abs(values.mean() - 1 / 21) < 4 * values.std() / 200**0.5


def test_a_blurring_model_is_no_copy_but_is_no_floor_either():
    train, real, fake = three(6)
    far = Pair(real, fake * 3 + 5, train=train)
    floor = Pair(real, real, train=train)
    assert METRICS["ct"].of(far) > 8 and METRICS["ct"].of(floor) == 0
    assert METRICS["near_duplicates"].of(far) == 0 and METRICS["near_duplicates"].of(floor) == pytest.approx(
        1 / 80
    )
    assert METRICS["auth_pct"].of(far) > METRICS["auth_pct"].of(floor)
    assert METRICS["generalisation_score"].of(far) > METRICS["generalisation_score"].of(floor)


def test_one_image_for_all_repeats():
    _, real, fake = three(7)
    assert METRICS["repeats"].of(Pair(real, fake[:1].expand(80, -1))) == 1
    # Of the larger side only 80 are read, and those hold no duplicates.
    assert METRICS["repeats"].of(Pair(torch.cat([real, real]), fake)) < 0.2


def test_duplicates_in_the_training_set_are_each_others_neighbours():
    train = torch.randn(10, 3).repeat(2, 1)
    assert METRICS["auth_pct"].of(Pair(train, train + 1e-3, train=train)) == 1
    assert METRICS["auth_pct"].of(Pair(train, train.clone(), train=train)) == 0


# ---------------------------------------------------------------------------- rows, intervals, torchmetrics
@pytest.mark.parametrize("name", NAMES)
def test_of_rows_equals_a_pair_of_those_rows(name):
    train, real, fake = three(8, n=90)
    pair = Pair(real, fake, train=train)
    METRICS[name].of(pair)
    r, f = torch.randperm(90)[:40].sort().values, torch.randperm(90)[:50].sort().values
    alone = Pair(real[r], fake[f], train=train)
    wanted = METRICS[name].of(alone)
    if name == "ct":  # in units of the whole pair's deviation: 1/sqrt(12) times sqrt((n + m + 1) / (n m))
        wanted *= math.sqrt((91 / (40 * 50)) / (181 / (90 * 90)))
    assert METRICS[name].of(pair, r, f) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_the_interval_of_ct_is_as_wide_as_ct_spreads():
    """About 2 * 1.96 standard deviations; with each half's own deviation it would be 1/sqrt(2) of that."""
    widths = []
    for seed in range(20):
        pair = pair_of(100 + seed, n=100)
        low, high = interval(METRICS["ct"].of(pair), resampled(METRICS["ct"], pair, range(100), seed))
        widths.append(high - low)
    assert np.mean(widths) == pytest.approx(2 * 1.96, rel=0.12)


@pytest.mark.parametrize("name", NAMES)
def test_metric_equals_of_whatever_the_batches(name):
    train, real, fake = three(9)
    metric = METRICS[name]()
    metric.update(train[:40], real=True, train=True)
    metric.update(real, real=True)
    metric.update(fake[:30], real=False)
    metric.update(train[40:], real=True, train=True)
    metric.update(fake[30:], real=False)
    assert metric.compute().item() == METRICS[name].of(Pair(real, fake, train=train))
    assert not metric.train().eval().training  # torch.nn.Module's own `train` is still there
    metric.reset()
    assert metric.trained == []


@pytest.mark.parametrize("cut", [20, 50])  # the second process holds 30 training images, or none
def test_two_processes_share_the_training_images(cut):
    """Each process is played in turn: first what it would send is recorded, then both get what both sent."""
    train, real, fake = three(13, n=40, train=50)
    sent = ([], [])

    def play(rank, gather):
        metric = METRICS["auth_pct"](dist_sync_fn=gather, distributed_available_fn=lambda: True)
        for x, at, side in (
            (train, cut, {"real": True, "train": True}),
            (real, 13, {"real": True}),
            (fake, 11, {"real": False}),
        ):
            metric.update(x[:at] if rank == 0 else x[at:], **side)
        return metric

    for rank in (0, 1):
        recording = play(rank, lambda x, group, rank=rank: sent[rank].append(x) or [x])
        recording.sync(recording.dist_sync_fn)
    assert [x.ndim for x in sent[0]] == [x.ndim for x in sent[1]] and [x.dtype for x in sent[0]] == [
        x.dtype for x in sent[1]
    ]
    for rank in (0, 1):
        answers = iter(zip(*sent, strict=True))
        assert play(rank, lambda x, group, answers=answers: list(next(answers))).compute() == METRICS[
            "auth_pct"
        ].of(Pair(real, fake, train=train))


# ------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize("name", TRAIN)
@pytest.mark.parametrize("train", [None, torch.zeros(0, 3)])
def test_without_training_images_there_is_no_number(name, train):
    _, real, fake = three(10)
    with pytest.raises(
        MeasureError, match=r"images the model was trained on: give Pair\(..., train=features\)"
    ):
        METRICS[name].of(Pair(real, fake, train=train))
    metric = METRICS[name]()
    metric.update(real, real=True)
    metric.update(fake, real=False)
    with pytest.raises(MeasureError, match="trained on"):
        metric.compute()


def test_what_cannot_be():
    train, real, fake = three(11)
    hole = train.clone()
    hole[7, 0] = float("inf")
    for bad, match in (
        (lambda: Pair(real, fake, train=hole), "1 of 150 train rows hold NaN or infinity .first: row 7"),
        (lambda: Pair(real, fake, train=train[:, :2]), "3 dimensions, train ones 2"),
        (lambda: Pair(real, fake, train=train.long()), "train features .* needs floats"),
        (lambda: Pair(real, fake, train=train[0]), "train features have shape"),
        (lambda: METRICS["auth_pct"].of(Pair(real, fake, train=train[:1])), "at least 2, got 1"),
        (lambda: METRICS["ct"].of(Pair(train[:9], train[:9], train=train)), "all lie at distance 0"),
        (
            lambda: METRICS["ct"].of(Pair(real[:1], fake, train=train)),
            "ct needs at least 2 real images, got 1",
        ),
        (
            lambda: METRICS["repeats"].of(Pair(real, fake), None, torch.arange(1)),
            "repeats needs at least 2 fake images, got 1",
        ),
        (lambda: nearest_real(fake, train[:0]), "m >= 1"),
        (lambda: nearest_real(fake, train[:, :2]), r"got \(80, 3\) and \(150, 2\)"),
        (lambda: nearest_real(fake[0], train), "features"),
        (lambda: METRICS["ct"]().update(fake[0], real=False, train=True), r"needs \[n, d\]"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()


def test_training_images_of_another_width_are_refused():
    metric = METRICS["ct"]()
    metric.update(torch.zeros(3, 4), real=True)
    with pytest.raises(MeasureError, match="5 dimensions after rows of 4"):
        metric.update(torch.zeros(3, 5), real=True, train=True)


def test_other_measures_do_not_look_at_the_training_images():
    train, real, fake = three(12)
    for name in ("fd", "recall", "repeats"):
        assert METRICS[name].of(Pair(real, fake, train=train)) == METRICS[name].of(Pair(real, fake))


# -------------------------------------------------------------------------------------------------- in a run
def test_a_run_measures_against_what_it_trained_on(tmp_path):
    """The memoriser on digits: samples are copies of the first 100 train images, and the floor is held-out
    images against those.
    """
    measure = {"metrics": NAMES, "resamples": 20, "count": 70}
    data = {"source": "digits", "train_size": 100}
    config = {
        "generations": 0,
        "data": data,
        "model": {"family": "memoriser"},
        "sample": {"count": 80},
        "measure": measure,
    }
    run = run_chain(parse({**config, "probe": {"per_condition": 0}}), tmp_path / "run")
    rows = {r["metric"]: r for r in run.rows()}
    pixels = torch.from_numpy(run.real.gather(np.arange(len(run.real)))).flatten(1).float() / 255
    held_out = pixels[run.about["n_train"] :][:70]
    floor = Pair(held_out, held_out, train=pixels[:100])
    assert run.about["n_train"] > 100
    for name in TRAIN:
        assert rows[name]["floor"] == pytest.approx(METRICS[name].of(floor), rel=1e-6, abs=1e-9), name
        assert rows[name]["ci_low"] <= rows[name]["value"] <= rows[name]["ci_high"]
    assert (
        rows["generalisation_score"]["value"] == rows["auth_pct"]["value"] == 0
        and rows["near_duplicates"]["value"] == 1
    )
    assert rows["ct"]["value"] < -8 and rows["ct"]["ci_high"] < 0 == rows["ct"]["floor"]
    assert rows["repeats"]["value"] > 0.3 > rows["repeats"]["floor"]
    assert len({r["recipe"] for r in rows.values()}) == len(rows)


@pytest.mark.parametrize(
    "regime",
    [{"name": "replace"}, {"name": "accumulate"}, {"name": "fixed_real", "real_fraction": 0.3}],
    ids=str,
)
def test_a_run_measures_against_the_training_set_of_each_generation(tmp_path, regime):
    """The memoriser: its samples are copies of its own training set, which after generation 0 need not be
    real images.
    """
    names = ["generalisation_score", "generalisation_score_own"]
    config = {
        "generations": 2,
        "data": {"source": "digits", "train_size": 100},
        "model": {"family": "memoriser"},
        "regime": regime,
    }
    sample = {"count": 90, "shard_size": 32}
    run = run_chain(
        parse(
            {
                **config,
                "sample": sample,
                "measure": {"metrics": names, "resamples": 20},
                "probe": {"per_condition": 0},
            }
        ),
        tmp_path / "run",
    )
    rows = {(r["generation"], r["metric"]): r for r in run.rows()}
    real = torch.from_numpy(run.real.gather(np.arange(len(run.real)))).flatten(1).float() / 255
    held_out = real[run.about["n_train"] :][:90]
    for t in range(3):
        found = rows[t, "generalisation_score_own"]
        table = pq.read_table(run.gen(t) / "train_set.parquet").to_pylist()
        pixels = {
            g: torch.from_numpy(run.samples(g).gather(np.arange(len(run.samples(g))))).flatten(1).float()
            / 255
            for g in range(-1, t)
        }
        trained = torch.stack([pixels[row["generation"]][row["index"]] for row in table])
        assert found["value"] == found["ci_low"] == found["ci_high"] == 0
        assert found["floor"] == pytest.approx(
            METRICS[names[1]].of(Pair(held_out, held_out, train=trained)), rel=1e-6
        )
    assert (
        len({rows[t, names[1]]["recipe"] for t in range(3)}) == 1
        and rows[0, names[1]]["recipe"] != rows[0, names[0]]["recipe"]
    )
