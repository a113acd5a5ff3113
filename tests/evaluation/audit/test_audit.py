"""The audit as a whole: known truth, coverage, resuming, privacy, hostile files, wrong settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from audited import A1111, synthetic, write
from PIL import Image

import difflab
from difflab.core.errors import DataError
from difflab.evaluation.audit import audit as auditing
from difflab.evaluation.audit.audit import audit
from difflab.evaluation.audit.probe import fit_probe
from difflab.features.registry import open_extractor
from difflab.metrics.prevalence import Calibration, share_in_set

FAST = ["texture"]


def test_layers_are_counted_apart_and_the_interval_holds_the_truth(sets: dict[str, Path]) -> None:
    found = difflab.audit(
        sets["mixed"],
        calibrate=(sets["real"], sets["synthetic"]),
        extractors=FAST,
        known_synthetic=sets["synthetic"],
    )
    assert (found.images, found.failed) == (160, 0)
    layer = found["declared synthetic"]
    assert (layer.count, layer.of) == (20, 160)
    assert [kind.name for kind in layer.kinds] == ["generator A1111 or Forge"]
    assert layer.kinds[0].example.key == "b00000.png"
    assert found["exact copies"].count == 0 and found["known synthetic"].count <= 4
    assert found.share.declared == 20 / 160
    assert found.share.estimate is not None
    assert found.share.estimate.low <= 40 / 160 <= found.share.estimate.high
    assert found.share.low == max(found.share.estimate.low, 20 / 160)
    assert found.nothing_found + found["probe"].count <= 160
    worse = found.share.what_if
    assert worse[1].share is not None and worse[0].share is not None
    assert worse[1].share > worse[0].share > found.share.estimate.estimate


def test_without_calibration_and_labels_it_cannot_tell(sets: dict[str, Path]) -> None:
    found = audit(sets["real"])
    assert found.share.estimate is None and "--calibrate" in found.share.reason
    assert found.share.declared == 0 and found.nothing_found == 120
    text = " ".join(found.summary())
    assert "cannot tell" in text and "does not mean that they are real" in text


def test_a_hundred_draws_from_one_pool_of_scores_hold_the_share(
    sets: dict[str, Path], emoji: list[np.ndarray]
) -> None:
    """Sets and calibrations are drawn anew from the scores of one probe, at shares 0 to .9."""
    probe = fit_probe(sets["real"], sets["synthetic"], [open_extractor("texture")], None, 0, [])
    real = probe.score(np.stack(emoji[240:420])) > probe.threshold
    fake = (
        probe.score(np.stack([synthetic(image, 1000 + i) for i, image in enumerate(emoji[420:600])]))
        > probe.threshold
    )
    draw = np.random.default_rng(0)
    for share in (0.0, 0.05, 0.2, 0.5, 0.9):
        held = 0
        for _ in range(200):
            n_fake = round(1000 * share)
            flagged = draw.choice(fake, n_fake).sum() + draw.choice(real, 1000 - n_fake).sum()
            rates = Calibration(
                int(draw.choice(fake, 200).sum()), 200, int((~draw.choice(real, 200)).sum()), 200
            )
            interval = share_in_set(int(flagged), 1000, rates)
            assert interval is not None
            held += interval.low - 1e-9 <= share <= interval.high + 1e-9
        assert held >= 0.92 * 200, share


def test_images_of_another_format_give_no_share(tmp_path: Path, sets: dict[str, Path]) -> None:
    """A probe would tell JPEG from PNG, and the rates would not hold."""
    folder = tmp_path / "jpeg"
    folder.mkdir()
    for path in sorted(sets["mixed"].glob("*.png")):
        Image.open(path).convert("RGB").save(folder / f"{path.stem}.jpg", quality=80)
    found = audit(folder, calibrate=(sets["real"], sets["synthetic"]), extractors=FAST)
    assert found.share.estimate is None and "JPEG" in found.share.reason


def test_an_interrupted_audit_goes_on(
    tmp_path: Path, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difflab.evaluation.audit.stream.CHUNK", 32)
    options = {"calibrate": (sets["real"], sets["synthetic"]), "extractors": FAST}
    whole = audit(sets["mixed"], out=tmp_path / "whole", **options)  # type: ignore[arg-type]

    def stop(done: int, total: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(sets["mixed"], out=tmp_path / "parts", progress=stop, **options)  # type: ignore[arg-type]
    record = tmp_path / "parts" / "images.jsonl"
    record.write_text(record.read_text()[:-20])  # a line that was cut off
    seen: list[int] = []
    again = audit(
        sets["mixed"], out=tmp_path / "parts", progress=lambda done, _: seen.append(done), **options
    )  # type: ignore[arg-type]
    assert seen[0] == 63 + 32
    assert again.as_dict() == whole.as_dict()
    assert record.read_bytes() == (tmp_path / "whole" / "images.jsonl").read_bytes()
    nothing = audit(
        sets["mixed"], out=tmp_path / "parts", progress=lambda done, _: seen.append(-1), **options
    )  # type: ignore[arg-type]
    assert -1 not in seen and nothing.as_dict() == whole.as_dict()


def test_a_record_of_other_images_or_settings_is_refused(tmp_path: Path, sets: dict[str, Path]) -> None:
    audit(sets["mixed"], out=tmp_path)
    with pytest.raises(DataError, match="other images"):
        audit(sets["real"], out=tmp_path)
    with pytest.raises(DataError, match="other pixels"):
        audit(sets["mixed"], out=tmp_path, metadata_only=True)


def test_the_record_holds_no_names_and_no_text_unless_asked(tmp_path: Path, sets: dict[str, Path]) -> None:
    audit(sets["mixed"], out=tmp_path / "private")
    stored = "".join(path.read_text() for path in (tmp_path / "private").iterdir())
    for word in ("b00000", "a cat", "Euler", str(sets["mixed"])):
        assert word not in stored
    found = audit(sets["mixed"], out=tmp_path / "open", keep_text=True)
    stored = "".join(path.read_text() for path in (tmp_path / "open").iterdir())
    assert "b00000.png" in stored and "a cat" in stored
    assert "key" not in json.dumps(found.as_dict()).replace("key_sha256", "")


def test_damaged_and_hostile_files_do_not_stop_an_audit(tmp_path: Path, emoji: list[np.ndarray]) -> None:
    folder = write(tmp_path, emoji[:4])
    write(folder, emoji[4:5], "huge", "x" * 10**6 + A1111)
    write(folder, emoji[5:6], "deep", '{"a":' * 10_000 + "1" + "}" * 10_000)
    write(folder, emoji[6:7], "html", "<script>alert(1)</script>\x1b[31m" + A1111)
    (folder / "damaged.png").write_bytes((folder / "image00000.png").read_bytes()[:100])
    (folder / "empty.jpg").touch()
    found = audit(folder)
    assert (found.images, found.failed) == (9, 2)
    assert found["declared synthetic"].count in (1, 2)
    assert all("\x1b" not in cell for row in found.table() for cell in row)


def test_copies_within_the_set_and_of_known_images(tmp_path: Path, emoji: list[np.ndarray]) -> None:
    folder = write(tmp_path / "set", emoji[:30])
    write(folder, emoji[:3], "copy")
    Image.fromarray(emoji[5]).save(folder / "lossless.webp", lossless=True)
    Image.fromarray(emoji[6]).save(folder / "near.jpg", quality=92, subsampling=0)
    known = write(tmp_path / "known", emoji[10:14])
    found = audit(folder, known_real=known)
    assert found["exact copies"].count == 4
    assert found["near copies"].count == 2
    assert found["known real"].count == 4 and found["known real"].kinds[0].name == "equal"


def test_near_copies_are_searched_in_a_part_of_a_large_set(
    tmp_path: Path, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difflab.evaluation.audit.copies.MOST", 50)
    found = audit(sets["mixed"])
    assert found["near copies"].of == 50 and found["exact copies"].of == 160


def test_labels_give_an_interval_without_a_probe(tmp_path: Path, sets: dict[str, Path]) -> None:
    keys = sorted(path.name for path in sets["mixed"].iterdir())
    drawn = np.random.default_rng(2).permutation(keys)[:60]
    lines = [f"{key},{'real' if key[0] == 'a' else 'synthetic'}" for key in drawn]
    (tmp_path / "labels.csv").write_text("file_name,label\n" + "\n".join(lines))
    found = audit(sets["mixed"], labels=tmp_path / "labels.csv")
    assert found.share.estimate is not None and found.share.estimate.method == "post-stratified"
    assert found.share.estimate.low <= 0.25 <= found.share.estimate.high
    assert found.share.labelled is not None and found.share.labelled.n == 60
    (tmp_path / "labels.csv").write_text("file_name,label\n" + "\n".join(lines[:9]))
    with pytest.raises(DataError, match="too few"):
        audit(sets["mixed"], labels=tmp_path / "labels.csv")


def test_metadata_only_reads_no_pixels(tmp_path: Path, sets: dict[str, Path]) -> None:
    folder = shutil.copytree(sets["mixed"], tmp_path / "set")
    path = folder / "b00000.png"
    path.write_bytes(path.read_bytes()[:-100])  # pixels are damaged, headers are not
    found = audit(folder, metadata_only=True)
    assert found.failed == 0 and found["declared synthetic"].count == 20
    assert {"near copies", "watermark", "exact copies"}.isdisjoint(layer.name for layer in found.layers)
    with pytest.raises(DataError, match="need pixels"):
        audit(folder, metadata_only=True, known_real=sets["real"])


def test_parquet_and_arrays_are_audited_as_folders_are(tmp_path: Path, sets: dict[str, Path]) -> None:
    audit(sets["mixed"], write=tmp_path / "all", leave_out=[])
    from_folder, from_parquet = audit(sets["mixed"]), audit(f"parquet:{tmp_path / 'all'}")
    assert from_parquet["declared synthetic"].count == from_folder["declared synthetic"].count == 20
    images = np.zeros((3, 8, 8), np.uint8)
    assert audit(images)["exact copies"].count == 2


def test_calibration_images_in_the_set_are_noted(sets: dict[str, Path]) -> None:
    found = audit(sets["real"], calibrate=(sets["real"], sets["synthetic"]), extractors=FAST)
    assert any("120 audited images are calibration images" in note for note in found.notes)


def test_wrong_arguments_are_refused_before_anything_is_read(tmp_path: Path, sets: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="no layer 'metadata'"):
        audit(sets["mixed"], write=tmp_path / "x", leave_out=["metadata"])
    with pytest.raises(DataError, match="exists already"):
        audit(sets["mixed"], write=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        audit(tmp_path / "nothing")
    with pytest.raises(DataError, match="image_size"):
        audit(sets["mixed"], calibrate=(sets["real"], sets["synthetic"]), image_size=0)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 1 images can be read"):
        audit(tmp_path / "bad")
    assert auditing.RESULT == "audit.json"
