"""What a run was made from is compared when it resumes: names, sizes, captions and labels, without decoding
anything.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import difflab
from pictures import folder, pictures

from difflab.config import Data, parse
from difflab.core.errors import StoreError
from difflab.data import record as records
from difflab.loop.chain import run_chain
from difflab.loop.ingest import ingest
from difflab.runs.ledger import encode_png
from difflab.runs.run import Run


def config(source: str, **more):
    raw = {
        "data": {"source": source, "image_size": 16},
        "model": {"family": "memoriser"},
        "generations": 0,
        "sample": {"count": 10},
        "probe": {"per_condition": 0},
    }
    return parse(raw | {"measure": {"extractors": ["pixels"], "metrics": []}} | more)


def captioned(path: Path) -> Path:
    folder(path, 20, 16)
    write(path, [{"file_name": f"{i:03d}.png", "text": f"picture {i}"} for i in range(20)])
    return path


def write(path: Path, rows: list[dict]) -> None:
    (path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metadata.jsonl").read_text().splitlines()]


def parquet(path: Path, n: int = 20, seed: int = 0, texts: list[str] | None = None) -> Path:
    import numpy as np

    images = [{"bytes": encode_png(np.asarray(p)), "path": None} for p in pictures(n, 16, seed)]
    pq.write_table(pa.table({"image": images, "text": texts or [f"picture {i}" for i in range(n)]}), path)
    return path


def class_added(root: Path) -> None:
    folder(root / "b", 10, 16, 5)


def renamed(root: Path) -> None:
    (root / "000.png").rename(root / "zzz.png")


def replaced(root: Path) -> None:
    pictures(1, 24, 9)[0].save(root / "003.png")


def removed(root: Path) -> None:
    (root / "004.png").unlink()


def caption_changed(root: Path) -> None:
    rows = rows_of(root)
    rows[7]["text"] = "something els"
    write(root, rows)


def caption_file(root: Path) -> None:
    for image in root.glob("*.png"):
        image.with_suffix(".txt").write_text("a caption beside the picture")


CHANGES = [
    (
        lambda root: folder(root / "a", 20, 16).parent,
        class_added,
        "10 added (b/000.png, b/001.png, b/002.png, ...)",
    ),
    (lambda root: folder(root, 20, 16), renamed, "1 added (zzz.png), 1 removed (000.png)"),
    (lambda root: folder(root, 20, 16), replaced, "1 of another size (003.png)"),
    (lambda root: folder(root, 20, 16), removed, "1 removed (004.png)"),
    (captioned, replaced, "1 of another size (003.png)"),
    (captioned, caption_changed, "1 with another caption, label or weight (007.png)"),
    (
        lambda root: folder(root, 20, 16),
        caption_file,
        "20 with another caption, label or weight (000.png, 001.png, 002.png, ...)",
    ),
]
IDS = ["class", "renamed", "replaced", "removed", "replaced, listed", "caption", "caption file"]


@pytest.mark.parametrize(("make", "change", "said"), CHANGES, ids=IDS)
def test_the_same_command_on_changed_data_says_what_changed_and_what_to_type(tmp_path, make, change, said):
    asked = config(f"imagefolder:{make(tmp_path / 'set')}")
    run_chain(asked, tmp_path / "run", plots=False)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "real").rglob("*")}
    run_chain(asked, tmp_path / "run", plots=False)  # nothing changed, nothing said
    change(tmp_path / "set")
    with pytest.raises(StoreError) as error:
        run_chain(asked, tmp_path / "run", plots=False)
    assert said in str(error.value) and f"--out {tmp_path / 'run'}-" in str(error.value)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "real").rglob("*")}
    other = Path(str(error.value).rpartition("--out ")[2])
    run_chain(asked, other, plots=False)  # what the message says works


def test_data_that_became_unsound_are_other_data(tmp_path):
    """One caption file where the other images have none: the set cannot be opened any more, and the run was
    not made from it.
    """
    asked = config(f"imagefolder:{folder(tmp_path / 'set', 20, 16)}")
    run_chain(asked, tmp_path / "run", plots=False)
    (tmp_path / "set" / "002.txt").write_text("a caption")
    with pytest.raises(
        StoreError,
        match=r"was made from other images than .* holds now \(.*002|000.*; restore the old images, or repair",
    ):
        run_chain(asked, tmp_path / "run", plots=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"texts": ["picture 0", "another one", *(f"picture {i}" for i in range(2, 20))]},
            "with another caption, label or weight (set.parquet/1)",
        ),
        ({"n": 23}, "3 added (set.parquet/20, set.parquet/21, set.parquet/22)"),
        ({"seed": 4}, "1 of another size (set.parquet)"),
    ],
    ids=["caption", "rows", "images"],
)
def test_parquet_sets_are_compared_row_by_row(tmp_path, change, said):
    asked = config(f"parquet:{parquet(tmp_path / 'set.parquet')}")
    run_chain(asked, tmp_path / "run", plots=False)
    run_chain(asked, tmp_path / "run", plots=False)
    parquet(tmp_path / "set.parquet", **change)
    with pytest.raises(StoreError) as error:
        run_chain(asked, tmp_path / "run", plots=False)
    assert said in str(error.value)


@pytest.mark.parametrize("lost", ["about", "listing", None])
def test_before_anything_is_trained_the_new_data_are_taken(tmp_path, lost, accelerator):
    """Also where the run was killed while it was reading, so that parts of the old data are there."""
    root, said = folder(tmp_path / "set" / "a", 20, 16).parent, []
    run = Run.create(tmp_path / "run", config(f"imagefolder:{root}"))
    ingest(run, accelerator)
    if lost:
        (run.path / "real" / ("about.json" if lost == "about" else records.FILE)).unlink()
    class_added(root)
    ingest(run, accelerator, said.append)
    assert (
        run.about["classes"] == ["a", "b"] and len(run.real) == 30 and len(set(run.real.column("key"))) == 30
    )
    assert len(said) == 1 and "nothing was trained on it yet" in said[0]
    assert ("10 added" in said[0]) == (lost != "listing")
    ingest(run, accelerator, said.append)
    assert len(said) == 1
    run.close()


def test_a_failed_command_takes_the_mended_data_into_the_same_folder(tmp_path):
    root = folder(tmp_path / "set" / "a", 12, 16).parent
    (root / "b").mkdir()
    (root / "b" / "000.png").write_bytes((root / "a" / "000.png").read_bytes())
    (tmp_path / "c.yaml").write_text(json.dumps(config(f"imagefolder:{root}").model_dump(mode="json")))
    words = ["run", tmp_path / "c.yaml", "--out", tmp_path / "run", "--json"]
    failed = difflab(*words)
    assert failed.returncode == 2 and "class 'b' has 1 image(s)" in failed.stderr
    shutil.rmtree(root / "b")
    class_added(root)
    assert difflab(*words).returncode == 0
    class_added_again = folder(root / "c", 5, 16, 8)
    again = difflab(*words)
    assert (
        again.returncode == 2
        and again.stderr.count("\n") == 1
        and f"5 added ({class_added_again.name}/000.png" in again.stderr
    )


def test_labs_are_compared_too(tmp_path):
    root = folder(tmp_path / "set", 40, 16)
    asked = config(f"imagefolder:{root}", ecosystem={"labs": 2, "real": "disjoint"})
    run_chain(asked, tmp_path / "run", plots=False)
    removed(root)
    with pytest.raises(StoreError, match=r"1 removed \(004.png\)"):
        run_chain(asked, tmp_path / "run", plots=False)


def test_runs_without_a_listing_and_runs_whose_data_are_gone_go_on(tmp_path, accelerator):
    root = folder(tmp_path / "set", 20, 16)
    asked = config(f"imagefolder:{root}")
    run_chain(asked, tmp_path / "old", plots=False)
    about = json.loads((tmp_path / "old" / "real" / "about.json").read_text())
    shutil.copytree(tmp_path / "old", tmp_path / "gone")
    del about["listing"]
    (tmp_path / "old" / "real" / "about.json").write_text(json.dumps(about))
    (tmp_path / "old" / "real" / records.FILE).unlink()
    removed(root)
    run_chain(asked, tmp_path / "old", plots=False)
    shutil.rmtree(root)
    run_chain(asked, tmp_path / "gone", plots=False)
    said = []
    ingest(Run(tmp_path / "gone", asked), accelerator, said.append)
    assert len(said) == 1 and "does not exist any more" in said[0]


def test_what_is_no_part_of_the_set_is_not_compared(tmp_path):
    root = captioned(tmp_path / "set")
    before = records.record(Data(source=f"imagefolder:{root}"))
    (root / "notes.txt").write_text("mine")
    (root / ".hidden.png").write_bytes(b"")
    pictures(1, 16, 9)[0].save(root / "unlisted.png")
    assert records.record(Data(source=f"imagefolder:{root}")) == before
    assert (
        records.record(Data(source="digits")) is None
        and records.record(Data(source="hub:owner/name")) is None
    )


def test_nothing_is_decoded(tmp_path):
    root = folder(tmp_path / "set", 20, 16)
    for file in root.glob("*.png"):
        file.write_bytes(b"no picture at all")
    assert len(records.record(Data(source=f"imagefolder:{root}"))) == 20


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)
