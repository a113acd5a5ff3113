"""compare and diagnose, as a user types them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_runs import picture, process
from small_inception import random_weights, write


@pytest.mark.parametrize(
    "words",
    [
        ["compare", ".", "nope"],
        ["diagnose", "--reference", "nope", "."],
        ["diagnose", "--reference", ".", ".", "--train", "nope"],
    ],
)
def test_a_misspelt_path_is_found_before_libraries_are(words):
    code = f"import sys, difflab.cli.main; print(difflab.cli.main.main({words!r}), 'torch' in sys.modules)"
    done = process(sys.executable, "-c", code)
    assert done.stdout == "2 False\n" and "nope does not exist (current folder: " in done.stderr


def test_compare_ends_with_the_clearest_measures_and_with_all_prints_every_one(call):
    for name in ("gen 0", "gen 1"):
        for i in range(120):
            picture(Path(name) / f"{i}.png", side=8)
    sets = ["gen 0", "gen 1"]
    options = ["--extractors", "pixels", "texture", "--resamples", 20]
    code, out, _ = call("compare", *sets, *options)
    assert code == 0 and "next:     difflab compare 'gen 0' 'gen 1' --all" in out and "floor" in out
    _, everything, _ = call("compare", *sets, *options, "--all")
    _, rows, _ = call("compare", *sets, *options, "--json")
    measured = {row["metric"] for row in map(json.loads, rows.splitlines()) if row["value"] is not None}
    assert len(measured) > 5 and all(name in everything for name in measured)
    assert sum(f"  {name} " in out for name in measured) == 5
    _, out, _ = call("compare", *sets, *options[:-1], 10, "--metrics", "recall")
    assert out.startswith("no measure has a value") and "an interval needs at least 20" in out


def test_diagnose_refuses_options_that_a_run_knows_itself(finished, refused):
    line = refused("diagnose", finished, "--train", ".")
    assert "--train goes with --reference; a run knows its own" in line
    assert "give one run, or real images to compare with" in refused("diagnose", finished, finished)


# ---------------------------------------------------------------------------------------------- published numbers
@pytest.fixture(scope="module")
def inception(tmp_path_factory) -> Path:
    """Random weights of the whole network."""
    return random_weights(tmp_path_factory.mktemp("weights") / "weights.pth")


def test_published_numbers_as_a_user_types_them(inception, tmp_path):
    """Statistics once, then a comparison with them and one with the images: the same FID and KID."""
    real, fake = write(tmp_path / "real", 3, 0, (40, 26)), write(tmp_path / "fake", 3, 1, (40, 26))
    shared = ["--protocol", "published:clean-fid", "--extractors", f"inception:{inception}"]
    command = [sys.executable, "-m", "difflab"]
    made = process(*command, "reference", str(real), "--out", "real.safetensors", "--features", *shared)
    assert (
        made.returncode == 0 and made.stdout == "real.safetensors: statistics of 3 images, 2048 features\n"
    ), made
    rows = {}
    for words in ([str(real), "--json", str(fake)], ["--reference", "real.safetensors", str(fake), "--json"]):
        done = process(*command, "compare", *words, *shared)
        assert done.returncode == 0 and "3 generated ones, all of them; clean-fid 0.1.35" in done.stderr, done
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert {row["protocol"] for row in found} == {"published:clean-fid"}
        rows[words[0]] = {row["metric"]: row["value"] for row in found}
    by_images, by_statistics = rows.values()
    assert list(by_images) == ["FID", "KID"] and by_statistics == pytest.approx(by_images, rel=1e-3)


def test_the_table_says_which_protocol_it_is(call, inception, tmp_path):
    sets = [write(tmp_path / "real", 5, 0, (40, 26)), write(tmp_path / "fake", 5, 1, (40, 26))]
    code, out, _ = call("compare", *sets, "--protocol", "published", "--extractors", f"inception:{inception}")
    assert code == 0 and out.startswith("protocol: published:torch-fidelity\n")
    assert "  frechet_inception_distance  " in out and "kernel_inception_distance_mean" in out
    assert "left out: " in out and "needs 1000 images on each side" in " ".join(out.split())
    options = ["--extractors", "pixels", "--resamples", 0]
    for more in ([], ["--all"]):
        code, out, _ = call("compare", *sets, *options, *more)
        assert code == 0 and "protocol: native\n" in out
    _, out, _ = call("compare", *sets, *options, "--json")
    assert {json.loads(line)["protocol"] for line in out.splitlines()} == {"native"}


def test_published_numbers_that_cannot_be_had(refused, tmp_path):
    real = write(tmp_path / "real", 3, 0)
    assert "GEN is missing; type difflab compare REAL GEN" in refused("compare", real)
    assert "did you mean 'published:adm'" in refused("compare", real, real, "--protocol", "publishd:adm")
    assert "add --protocol published" in refused("compare", real, "--reference", real)
    assert "reference: nope.npz does not exist" in refused(
        "compare", real, "--protocol", "published", "--reference", "nope.npz"
    )
    assert "has no option count" in refused("compare", real, real, "--protocol", "published", "--count", 2)
    assert "not on 'pixels'" in refused(
        "compare", real, real, "--protocol", "published", "--extractors", "pixels"
    )
    assert "no Inception weights at" in refused(
        "reference", real, "--out", "a.npz", "--extractors", "inception:nope.pth"
    )
    assert "statistics are written as .safetensors or .npz" in refused("reference", real, "--out", "a.pt")
    (tmp_path / "bad.npz").write_text("no archive")
    assert "bad.npz cannot be read" in refused(
        "compare", real, "--protocol", "published", "--reference", tmp_path / "bad.npz"
    )
