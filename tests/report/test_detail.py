from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from difflab.report.detail import audit, cost, detail, origins, setup, shown_path, spectra, versions
from difflab.runs.run import Run


def test_spectra_are_geometric_means_of_ring_power(hostile: Run) -> None:
    found = spectra(hostile)
    assert (
        found is not None
        and len(found["frequency"]) == len(found["real"]) == 3
        and set(found["generations"]) == {0, 1, 2}
    )
    assert found["frequency"] == sorted(found["frequency"]) and 0.2 < found["frequency"][0] < 0.5
    images = hostile.samples(2).gather(np.arange(len(hostile.samples(2))))[..., 0].astype(float)
    window = np.outer(*[0.5 - 0.5 * np.cos(2 * np.pi * np.arange(8) / 8)] * 2)
    mean = (images * window).sum((1, 2), keepdims=True) / window.sum()
    power = np.abs(np.fft.fft2((images - mean) * window)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(8), np.fft.fftfreq(8)))
    ring = power[:, np.round(radius * 8) == 2].mean(1).clip((window**2).sum() / 12)
    assert found["generations"][2][0] == pytest.approx(np.exp(np.log(ring).mean()), rel=1e-3)
    assert all(low <= high for low, high in zip(found["low"], found["high"], strict=True))


def test_cost_adds_up(hostile: Run) -> None:
    found, timings = cost(hostile), hostile.timings()
    assert found["seconds"] == pytest.approx(sum(row["seconds"] for row in timings), abs=0.2)
    train = next(s for s in found["stages"] if s["stage"] == "train")
    own = [row for row in timings if row["stage"] == "train"]
    assert train["times"] == 3 and train["speed"] == pytest.approx(
        3000 / sum(row["seconds"] for row in own), rel=0.02
    )


def test_origins_are_those_of_the_training_sets(hostile: Run) -> None:
    """Counted here from the rows themselves: samples of generation t are t + 1 models away from real images."""
    for row in origins(hostile):
        table = pq.read_table(hostile.gen(row["generation"]) / "train_set.parquet").to_pandas()
        depth = np.where(table["generation"] < 0, 0, table["generation"] + 1)
        assert row["images"] == len(table) and row["real"] + row["unknown"] == (depth == 0).sum()
        assert row["share"] == pytest.approx((depth > 0).mean())
        assert row["depths"] == [{"depth": d, "count": (depth == d).sum()} for d in np.unique(depth)]
    assert [row["generation"] for row in origins(hostile)] == [0, 1, 2]
    assert origins(hostile)[0]["share"] == 0 < origins(hostile)[2]["share"]


def test_the_setup_names_what_was_run(hostile: Run) -> None:
    lines = dict(setup(hostile))
    assert lines["model"] == "pixel-mlp" and lines["seed"] == "0"
    about = hostile.about
    assert (
        f"{about['n_train']:,} to train on, {about['n_held_out']:,} held out, 8 x 8 px, 5 classes"
        in lines["real images"]
    )
    assert lines["budget"] == "1,000 images seen, 60 samples, in every generation"
    assert "4 steps, guidance" in lines["sampler"]
    assert "policies" not in lines


def test_a_page_shows_no_folder_of_the_machine(hostile: Run) -> None:
    assert hostile.path.is_absolute()
    assert Path(shown_path(hostile)) == Path(*hostile.path.parts[-2:])
    assert str(hostile.path.parent.parent) not in str(detail("a", hostile, 1, None)["command"])


def test_versions_are_those_of_the_record(hostile: Run) -> None:
    assert versions(hostile)["python"] == platform.python_version()
    assert versions(hostile)["torch"] == version("torch")


def test_a_run_is_diagnosed_only_where_asked(hostile: Run) -> None:
    assert detail("a", hostile, 1, None)["verdict"] is None
    assert detail("a", hostile, 1, lambda run: {"words": run.config.name})["verdict"] == {"words": "hostile"}


def test_what_the_audit_of_the_real_images_decided() -> None:
    found = {"audit: probe": 7, "audit: known real": 1200}
    estimate = {"estimate": 0.25, "low": 0.1, "high": 0.5}
    summary = {"found": found, "missing": 0, "used": 1300, "share": {"declared": 0.1, "estimate": estimate}}
    assert audit(SimpleNamespace(about={"audit": summary})) == [
        "It decides about images that declare nothing: probe: 7, known real: 1,200.",
        "The audit estimates that 25.0% of the whole set are synthetic, 95% interval 10.0% to 50.0%.",
    ]
    summary |= {"found": {}, "missing": 3, "share": None}
    lines = audit(SimpleNamespace(about={"audit": summary}))
    assert lines[0].endswith("declare nothing: none.") and "no estimate" in lines[1]
    assert lines[2] == "3 of 1,300 images are not in it."
    assert audit(SimpleNamespace(about={})) == []
