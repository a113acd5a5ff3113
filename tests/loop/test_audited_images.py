"""An audit of a folder decides about images that declare nothing, and the guard refuses what it finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from audited import A1111, write
from commands import difflab
from PIL import Image

from difflab.core.files import read_json
from difflab.runs.origins import composition, real_origins
from difflab.runs.run import open_run

SIDE = 16


def smooth(seed: int, n: int) -> np.ndarray:
    """Images of slowly varying colour, uint8 [n, 16, 16, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (n, 3, 3, 3), dtype=np.uint8)
    resized = [Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in small]
    return np.stack([np.asarray(image) for image in resized])


def noisy(seed: int, n: int) -> np.ndarray:
    """The same with noise, as of a bad generator."""
    noise = np.random.default_rng(seed).normal(0, 25, (n, SIDE, SIDE, 3))
    return np.clip(smooth(seed, n) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 real images, 12 synthetic ones: 2 say so, 3 are known, 7 are found by the probe only; and their audit."""
    root = tmp_path_factory.mktemp("audited")
    write(root / "set", smooth(0, 20), "real")
    write(root / "set", noisy(1, 2), "says", A1111)
    write(root / "set", noisy(2, 3), "known")
    write(root / "set", noisy(3, 7), "flagged")
    write(root / "known", noisy(2, 3))
    write(root / "calibrate-real", smooth(4, 60))
    write(root / "calibrate-synthetic", noisy(5, 60))
    done = difflab(
        *("audit", root / "set", "--out", root / "audit", "--extractors", "texture"),
        *("--calibrate", root / "calibrate-real", root / "calibrate-synthetic"),
        *("--known-synthetic", root / "known"),
    )
    assert done.returncode == 0, done.stderr
    return root


def run(root: Path, out: Path, guard: dict[str, Any] | None = None, **data: Any) -> Any:
    """The command `difflab run` on the audited images."""
    made = {
        "generations": 1,
        "data": {"source": f"imagefolder:{root / 'set'}", "audit": str(root / "audit"), **data},
        "model": {"family": "memoriser"},
        "sample": {"count": 16},
        "regime": {"name": "fixed_real", "real_fraction": 0.25},
        "probe": {"per_condition": 0},
        "measure": {"metrics": []},
        "policies": [] if guard is None else [{"policy": "guard", **guard}],
    }
    out.parent.mkdir(exist_ok=True)
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({key: value for key, value in made.items() if value != []}))
    return difflab("run", path, "--out", out)


def text(done: Any) -> str:
    return " ".join((done.stdout + done.stderr).split())


def test_what_the_audit_finds_counts(images: Path, tmp_path: Path) -> None:
    done = run(images, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    told = text(done)
    assert "of the images that declare nothing, the audit finds 10 synthetic and 0 real" in told
    assert "(probe: 7, known synthetic: 3)" in told and "of the whole set are synthetic, 95% interval" in told
    made = open_run(tmp_path / "run")
    origins = real_origins(made).to_pydict()
    by_name = {}
    for row in range(32):
        by_name.setdefault(origins["declared_by"][row], []).append(origins["origin"][row])
    assert {name: (len(rows), set(rows)) for name, rows in by_name.items()} == {
        "none": (20, {"unknown"}),
        "generator": (2, {"synthetic"}),
        "audit: known synthetic": (3, {"synthetic"}),
        "audit: probe": (7, {"synthetic"}),
    }
    summary = made.about["audit"]
    assert (summary["images"], summary["used"], summary["missing"]) == (32, 32, 0)
    stored = read_json(images / "audit" / "audit.json")["share"]["estimate"]
    assert summary["share"]["estimate"]["low"] == stored["low"] > 0.1
    # draws of real images take none of them
    assert composition(made, 1).depths[0] == 4


@pytest.mark.parametrize(
    ("guard", "data", "message"),
    [
        ({"max_synthetic_fraction": 0.05}, {}, "the audit estimates that {share} of the whole set are synthetic, 95% interval {low} to {high}; allowed: at most 0.05"),
        ({"max_unknown_fraction": 0}, {}, "are of unknown origin; allowed: at most 0 (the audit estimates that {share}"),
        ({"max_generation": 0, "max_synthetic_fraction": 0.75}, {"unknown_origin": "synthetic"}, "1 of training set 0 (16 of 16 images) are synthetic; allowed: at most 0.75, none after generation 0 (the audit estimates"),
    ],
)  # fmt: skip
def test_the_guard_refuses_with_count_and_interval(
    images: Path, tmp_path: Path, guard: dict[str, Any], data: dict[str, Any], message: str
) -> None:
    done = run(images, tmp_path / "run", guard, **data)
    assert done.returncode == 2 and not list((tmp_path / "run").glob("gen-*"))
    found = read_json(images / "audit" / "audit.json")["share"]["estimate"]
    shares = {"share": found["estimate"], "low": found["low"], "high": found["high"]}
    assert message.format(**{name: f"{value:.1%}" for name, value in shares.items()}) in text(done)


def test_the_layers_that_count_are_a_field(images: Path, tmp_path: Path) -> None:
    assert run(images, tmp_path / "run", audit_layers=["known synthetic"]).returncode == 0
    found = real_origins(open_run(tmp_path / "run"))["declared_by"].to_pylist()
    assert found.count("audit: known synthetic") == 3 and "audit: probe" not in found


def test_renamed_images_are_found_and_new_ones_are_unknown(images: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(images / "set", other)
    for i, path in enumerate(sorted(other.iterdir())):
        path.rename(other / f"{i:03d}.png")
    write(other, smooth(9, 3), "new")
    guard = {"max_unknown_fraction": 0.2}
    done = run(images, tmp_path / "run", guard, source=f"imagefolder:{other}")
    assert done.returncode == 2
    told = text(done)
    assert "(the audit has no estimate of the share; 3 of 35 images are not in the audit)" in told
    assert run(images, tmp_path / "again", source=f"imagefolder:{other}").returncode == 0
    found = real_origins(open_run(tmp_path / "again"))["declared_by"].to_pylist()
    assert (found.count("audit: probe"), found.count("none")) == (7, 23)


def test_an_audit_of_headers_goes_by_name_and_size(images: Path, tmp_path: Path) -> None:
    """The declaration was removed after the audit; the record still has it."""
    shutil.copytree(images / "set", tmp_path / "set")
    assert difflab("audit", tmp_path / "set", "--metadata-only", "--out", tmp_path / "audit").returncode == 0
    for path in (tmp_path / "set").glob("says*"):
        with Image.open(path) as image:
            pixels = image.copy()
        pixels.info.clear()
        pixels.save(path)
    assert run(tmp_path, tmp_path / "run").returncode == 0
    found = real_origins(open_run(tmp_path / "run"))["declared_by"].to_pylist()
    assert found.count("audit: declared synthetic") == 2 and found.count("none") == 30


def edited(images: Path, tmp_path: Path, file: str, change: Any) -> Path:
    """A copy of the audit in which `change` was applied to the text of one file."""
    shutil.copytree(images, tmp_path / "copy")
    path = tmp_path / "copy" / "audit" / file
    path.write_text(change(path.read_text()))
    return tmp_path / "copy"


HTML = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("audit.json", lambda old: old.replace('"difflab_audit": 2', '"difflab_audit": 7'), "audit.json has the format version 7, and this version of difflab reads 2"),
        ("images.jsonl", lambda old: old.replace('"difflab_audit": 2', f'"difflab_audit": "{HTML}"'), "format version <script>alert(1)</sc,"),
        ("audit.json", lambda old: json.dumps({k: v for k, v in json.loads(old).items() if k != "difflab_audit"}), "written by an older version of difflab; run the same difflab audit command again"),
        ("images.jsonl", lambda old: "".join(old.splitlines(keepends=True)[:-3]), "has 29 of 32 images; run the same"),
        ("images.jsonl", lambda old: old[:-9], "damaged or cut off in line 33"),
        ("images.jsonl", lambda old: old.replace('"size": [16, 16]', '"size": ["x"]', 1), "damaged or cut off in line 2"),
        ("images.jsonl", lambda old: "hello\n", "images.jsonl is no record of an audit"),
        ("audit.json", lambda old: old[:-9], "audit.json is damaged (no JSON"),
        ("audit.json", lambda old: "[]", "audit.json is no record of an audit"),
        ("audit.json", lambda old: old.replace('"known_synthetic": [', '"known_synthetic": [99, '), "there is no image 99"),
        ("audit.json", lambda old: old.replace('"low": ', '"low": -1'), "audit.json is damaged (share.estimate.low"),
    ],
)  # fmt: skip
def test_a_damaged_record_is_one_line(
    images: Path, tmp_path: Path, file: str, change: Any, message: str
) -> None:
    done = run(edited(images, tmp_path, file, change), tmp_path / "run")
    assert done.returncode == 2 and message in text(done), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_text_of_a_hostile_record_goes_nowhere(images: Path, tmp_path: Path) -> None:
    """Kinds and unknown layers are not read, only that a layer found something."""
    change = lambda old: old.replace('"found": {}', f'"found": {{"{HTML}": "{HTML}"}}').replace(  # noqa: E731
        '"synthetic": "generator', f'"synthetic": "{HTML}'
    )
    copy = edited(images, tmp_path, "images.jsonl", change)
    assert run(copy, tmp_path / "run").returncode == 0
    assert HTML not in (tmp_path / "run" / "real" / "about.json").read_text()
    assert not [
        name for name in real_origins(open_run(tmp_path / "run"))["declared_by"].to_pylist() if "<" in name
    ]


def test_other_records_are_refused(images: Path, tmp_path: Path) -> None:
    write(tmp_path / "other" / "set", smooth(11, 20), "real")
    assert difflab("audit", tmp_path / "other" / "set", "--out", tmp_path / "other" / "audit").returncode == 0
    done = run(images, tmp_path / "run", audit=str(tmp_path / "other" / "audit"))
    assert done.returncode == 2 and "is the record of other images: none of the 32 images" in text(done)
    done = run(images, tmp_path / "run", audit=str(tmp_path / "nowhere"))
    assert done.returncode == 2 and "images.jsonl does not exist; audit the images with" in text(done)
    done = run(images, tmp_path / "run", audit_content="000000000000")
    assert done.returncode == 2 and "put back the record of the run" in text(done)
    (tmp_path / "stopped").mkdir()
    shutil.copy(images / "audit" / "images.jsonl", tmp_path / "stopped")
    done = run(images, tmp_path / "run", audit=str(tmp_path / "stopped"))
    assert done.returncode == 2 and "audit.json does not exist" in text(done)


def test_an_edited_record_is_another_recipe(images: Path, tmp_path: Path) -> None:
    assert run(images, tmp_path / "run").returncode == 0
    copy = edited(images, tmp_path, "images.jsonl", lambda old: old.replace('"score": 0.', '"score": 0.0'))
    done = run(images, tmp_path / "run", audit=str(copy / "audit"))
    assert done.returncode == 2 and "another recipe (data.audit_content:" in text(done)


def test_the_plan_says_it_and_refuses_what_the_run_refuses(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "run")
    done = difflab("plan", tmp_path / "run.yaml")
    assert done.returncode == 0 and "the audit finds 10 synthetic" in text(done)
    run(images, tmp_path / "guarded", {"max_synthetic_fraction": 0.05})
    done = difflab("plan", tmp_path / "guarded.yaml")
    assert done.returncode == 2 and "guard refuses data.source" in text(done)
