"""Signed folders: the tool of OpenSSF model signing is the oracle in both directions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import certificates
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from model_signing import signing, verifying

from difflab.core.errors import ConfigError, DataError
from difflab.data import signing_key
from difflab.data.folder_signature import FolderSignature, read_signature, sign_folder, signature_file
from difflab.data.signing_key import CHAIN, KEY, ROOT, new_key

SIGNER = "difflab development key, difflab development"


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        new_key(folder / name)
    return folder


@pytest.fixture
def signed(tmp_path, keys) -> Path:
    folder = tmp_path / "set"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"a")
    (folder / "inner" / "b.safetensors").write_bytes(b"b")
    assert sign_folder(folder, keys / "mine") == tmp_path / "set.sig" == signature_file(folder)
    return folder


def test_the_states(signed, keys):
    assert read_signature(signed, keys / "mine" / ROOT) == FolderSignature("trusted", SIGNER)
    assert read_signature(signed) == FolderSignature("valid", SIGNER)
    assert read_signature(signed, keys / "other" / ROOT) == FolderSignature("valid", SIGNER)
    assert read_signature(signed / "inner") is None


def changed(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"c")


def removed(folder: Path) -> None:
    (folder / "inner" / "b.safetensors").unlink()


def added(folder: Path) -> None:
    (folder / "c.png").write_bytes(b"c")


def moved(folder: Path) -> None:
    (folder / "a.png").rename(folder / "inner" / "a.png")


@pytest.mark.parametrize("how", [changed, removed, added, moved])
@pytest.mark.parametrize("anchored", [True, False])
def test_every_change_of_a_file_is_found(how, anchored, signed, keys):
    how(signed)
    found = read_signature(signed, keys / "mine" / ROOT if anchored else None)
    assert (found.state, found.signer) == ("invalid", SIGNER) and "ignature mismatch" in found.problem


def test_a_signature_of_another_folder_does_not_hold(signed, tmp_path, keys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes(b"other")
    (tmp_path / "set.sig").rename(tmp_path / "other.sig")
    assert read_signature(other).state == "invalid" and read_signature(signed) is None


@pytest.mark.parametrize("content", [b"", b"\x89PNG", b"[]", b"{}", b'{"verificationMaterial": 3}'])
def test_what_is_no_signature_is_invalid(content, signed):
    signature_file(signed).write_bytes(content)
    found = read_signature(signed)
    assert found.state == "invalid" and found.problem.startswith("set.sig is no signature that can be read")


def test_a_bundle_with_another_signature_inside_is_invalid(signed, keys):
    bundle = json.loads(signature_file(signed).read_text())
    bundle["dsseEnvelope"]["payload"] = bundle["dsseEnvelope"]["payload"][:-8] + "AAAAAAA="
    signature_file(signed).write_text(json.dumps(bundle))
    assert read_signature(signed, keys / "mine" / ROOT).state == "invalid"


def test_the_tool_checks_what_difflab_signed(signed, keys):
    command = [sys.executable, "-m", "model_signing", "verify", "certificate", str(signed)]
    command += ["--signature", str(signature_file(signed)), "--certificate_chain", str(keys / "mine" / ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    changed(signed)
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_difflab_checks_what_the_tool_signed(signed, keys):
    signature_file(signed).unlink()
    parts = {"private_key": keys / "mine" / KEY, "signing_certificate": keys / "mine" / CHAIN}
    tool = signing.Config().use_certificate_signer(**parts, certificate_chain=[keys / "mine" / ROOT])
    tool.sign(signed, signature_file(signed))
    assert read_signature(signed, keys / "mine" / ROOT) == FolderSignature("trusted", SIGNER)
    verifying.Config().use_certificate_verifier(certificate_chain=[keys / "mine" / ROOT]).verify(
        signed, signature_file(signed)
    )


def test_what_cannot_be_signed(signed, tmp_path, keys):
    with pytest.raises(DataError, match=r"set.sig exists; remove it to sign set again"):
        sign_folder(signed, keys / "mine")
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "gone", signed / "a.png"):
        with pytest.raises(DataError, match="is no folder with files"):
            sign_folder(nothing, keys / "mine")
    with pytest.raises(ConfigError, match=r"has no key.pem; make a development key with: difflab new-key"):
        sign_folder(signed / "inner", tmp_path)
    with pytest.raises(ConfigError, match=r"is a key for ed25519, and model signing takes P-256"):
        sign_folder(
            signed / "inner", certificates.write(tmp_path / "ed", generate=Ed25519PrivateKey.generate)
        )
    os.symlink(signed / "a.png", signed / "inner" / "link")
    with pytest.raises(DataError, match="only files and folders can be signed"):
        sign_folder(signed / "inner", keys / "mine")
    assert not signature_file(signed / "inner").exists()


def test_anchors_that_are_none(signed, tmp_path):
    (tmp_path / "no.pem").write_text("no certificate")
    for anchors in (tmp_path / "no.pem", tmp_path / "gone.pem"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_signature(signed, anchors)


def test_without_the_package(signed, keys, monkeypatch):
    monkeypatch.setattr(signing_key, "find_spec", lambda name: None if name == "model_signing" else name)
    for call in (lambda: read_signature(signed), lambda: sign_folder(signed / "inner", keys / "mine")):
        with pytest.raises(ConfigError, match=r"signatures need the package model_signing: pip install"):
            call()
