"""export, verify and new-key, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from cli_runs import copied
from PIL import Image


def test_export_writes_pictures_or_says_why_not(finished, call, refused, tmp_path):
    code, out, _ = call("export", finished, "--generation", 1, "--to", "deep/out")
    assert (code, out) == (0, "60 images and metadata.jsonl in deep/out\n")
    assert len(list(Path("deep/out").glob("*.png"))) == 60
    code, out, _ = call("export", finished, "--generation", 0, "--to", "card", "--croissant")
    assert (code, out) == (0, "60 images and metadata.jsonl, croissant.json and README.md in card\n")
    assert len(list(Path("card").iterdir())) == 64
    code, out, _ = call("export", finished, "--generation", 0, "--to", "zero", "--json")
    assert json.loads(out) == {"generation": 0, "images": 60, "folder": "zero"}
    assert "has no samples of generation 7; it has [0, 1]" in refused(
        "export", finished, "--generation", 7, "--to", "x"
    )
    assert "deep/out exists and is not empty; give --to a new folder" in refused(
        "export", finished, "--generation", 1, "--to", "deep/out"
    )
    assert "cannot write to /proc/nothing/x" in refused(
        "export", finished, "--generation", 1, "--to", "/proc/nothing/x"
    )
    Path("exact.yaml").write_text(
        "data: {source: exact, train_size: 20}\nmodel: {family: gaussian}\nsample: {count: 20}\ngenerations: 0\n"
    )
    call("run", "exact.yaml", "--out", "exact")
    assert "contains numbers, not images" in refused("export", "exact", "--generation", 0, "--to", "x")
    assert not Path("x").exists()


def test_verify_has_exit_code_1_for_a_fault_and_names_it(finished, call, tmp_path):
    assert call("verify", finished) == (0, f"{finished}: no fault found\n", "")
    assert call("verify", finished, "--json") == (0, "", "")
    damaged = copied(finished, tmp_path / "run")
    shard = damaged / "gen-001" / "samples" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    code, out, err = call("verify", damaged)
    assert code == 1 and out.startswith(str(shard)) and err == ""
    code, out, _ = call("verify", damaged, "--json")
    assert code == 1 and str(shard) in json.loads(out.splitlines()[0])["fault"]


def test_images_are_signed_and_their_manifests_checked(finished, call, tmp_path):
    code, out, err = call("export", finished, "--generation", 1, "--to", "plain")
    code, out, err = call("export", finished, "--generation", 1, "--to", "signed", "--c2pa", "key")
    assert code == 0 and "60 images, signed by difflab development key, difflab development" in out
    assert "key: a new development key, which nobody trusts yet" in err
    for name in ("000000.png", "000059.png"):
        one, other = (np.asarray(Image.open(Path(folder) / name)) for folder in ("plain", "signed"))
        assert (one == other).all()
    assert (
        call("export", finished, "--generation", 0, "--to", "again", "--c2pa", "key")[2] == ""
    )  # the key exists
    code, out, _ = call("verify", "signed")
    assert code == 0 and "60 valid: signed, and nobody vouches for the signer (see --anchors)" in out
    code, out, _ = call("verify", "signed", "--anchors", "key/root.pem", "--json")
    *rows, sheet = [json.loads(line) for line in out.splitlines()]
    assert (sheet["state"], sheet["complete"]) == ("trusted", True)
    assert sheet["contact_sheet"].endswith("signed.sheet.png")
    assert len(rows) == 60 and {row["state"] for row in rows} == {"trusted"}
    assert {(row["origin"], row["depth"]) for row in rows} == {("synthetic", 2)}
    image = bytearray(Path("signed/000003.png").read_bytes())
    image[-20] ^= 1
    Path("signed/000003.png").write_bytes(image)
    Image.open("signed/000004.png").save("signed/000004.png")
    code, out, _ = call("verify", "signed", "--anchors", "key/root.pem")
    assert code == 1 and "58 trusted" in out and "1 none: without a manifest" in out
    assert "signed/000003.png: assertion.dataHash.mismatch" in out
    assert call("verify", "signed/000005.png")[0] == 0 and call("verify", "signed/000003.png")[0] == 1


def test_a_manifest_says_what_was_asked_for(finished, call):
    from difflab.data.manifest import Reader

    call("export", finished, "--generation", 1, "--to", "signed", "--c2pa", "key")
    line = json.loads(Path("signed/metadata.jsonl").read_text().splitlines()[2])
    stated = Reader().read(Path("signed/000002.png")).generation
    assert stated["run"] == "digits" and (stated["generation"], stated["lab"]) == (1, 0)
    assert stated["seed"] == line["seed"] and stated["sha256_of_pixels"] == line["sha256"]
    assert len(stated["recipe"]) == 12 and stated["model"] and stated["training_set"]
    assert "prompt" not in stated


def test_what_cannot_be_signed_is_refused_before_anything_is_written(finished, refused, tmp_path):
    wanted = ("export", finished, "--generation", 1, "--to", "x")
    assert "--c2pa-prompts needs --c2pa KEY" in refused(*wanted, "--c2pa-prompts")
    assert "--c2pa signs images, and --lora writes none" in refused(*wanted, "--c2pa", "k", "--lora", "kohya")
    assert "--croissant describes images, and --lora writes none" in refused(
        *wanted, "--croissant", "--lora", "kohya"
    )
    (tmp_path / "empty").mkdir()
    assert "empty has no key.pem; make a development key with: difflab new-key empty" in refused(
        *wanted, "--c2pa", "empty"
    )
    assert not Path("x").exists()
    assert "--anchors is about signatures" in refused("verify", finished, "--anchors", "root.pem")


def test_a_set_and_weights_are_signed_and_checked(finished, call, refused):
    call("new-key", "key")
    call("export", finished, "--generation", 1, "--to", "out")
    code, out, _ = call("sign", "out", "--key", "key")
    assert code == 0 and out.startswith("out is signed by difflab development key, difflab development; ")
    code, out, _ = call("verify", "out", "--anchors", "key/root.pem")
    assert code == 0 and out.startswith("out: trusted: signed by difflab development key")
    assert "60 none: without a manifest" in out
    Path("out/metadata.jsonl").write_text("")
    code, out, _ = call("verify", "out", "--json")
    row = json.loads(out.splitlines()[0])
    assert (
        code == 1
        and (row["folder"], row["state"]) == ("out", "invalid")
        and "metadata.jsonl" in row["problem"]
    )
    weights = copied(finished, Path("run")) / "gen-001" / "model"
    code, out, _ = call("sign", weights, "--key", "key", "--json")
    assert code == 0 and json.loads(out)["signature"].endswith("gen-001/model.sig")
    assert call("verify", weights)[1].startswith(f"{weights}: valid: signed by difflab development key")
    assert call("verify", "run")[:2] == (0, "run: no fault found\n"), "the run is as it was"
    assert "model.sig exists; remove it" in refused("sign", weights, "--key", "key")


def test_new_key_says_what_its_files_are_for(call, refused):
    code, out, _ = call("new-key", "key")
    assert code == 0 and "for development: no trust list has it" in out
    assert sorted(file.name for file in Path("key").iterdir()) == ["certificates.pem", "key.pem", "root.pem"]
    assert "key exists and is not empty" in refused("new-key", "key")
    code, out, _ = call("new-key", "other", "--json")
    assert code == 0 and json.loads(out)["algorithm"] == "es256"
