"""Signed manifests, made and read; c2pa-python alone is the other side."""

from __future__ import annotations

import io
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import c2pa
import certificates
import numpy as np
import pytest
from cryptography.x509.oid import ObjectIdentifier
from PIL import Image

from difflab.config import Data
from difflab.core.errors import ConfigError
from difflab.data import manifest as manifest_module
from difflab.data.declared import declarations, declared
from difflab.data.manifest import OFFLINE, Manifest, Reader, Signer, format_of, validated
from difflab.data.provenance import origins
from difflab.data.registry import open_source
from difflab.data.signing_key import new_key, open_key

STATEMENT = {"run": "digits", "generation": 3, "depth": 4, "seed": 7, "training_set": "abc"}
FORMATS = ("PNG", "JPEG", "WEBP")
DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")
CAMERA = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"


def picture(kind: str = "PNG", size: int = 24, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "key"
    new_key(folder)
    return folder


@pytest.fixture(scope="module")
def signer(key) -> Signer:
    return Signer(open_key(key))


@pytest.fixture(scope="module")
def reader(key) -> Reader:
    return Reader(key / "root.pem")


def by_c2pa(
    key: Path,
    image: bytes,
    content: dict,
    kind: str = "image/png",
    intent: str = CAMERA,
    parent=None,
    elsewhere="",
) -> bytes:
    """Signed without difflab."""
    pair = c2pa.C2paSignerInfo(
        alg="es256",
        sign_cert=(key / "certificates.pem").read_bytes(),
        private_key=(key / "key.pem").read_bytes(),
        ta_url=None,
    )
    builder = {"thumbnail": {"enabled": False}} | ({} if parent else {"intent": {"create": intent}})
    signed = io.BytesIO()
    context = c2pa.Context.from_dict({"builder": builder, "verify": OFFLINE})
    with c2pa.Signer.from_info(pair) as signer, c2pa.Builder(content, context) as made:
        if parent:
            made.set_intent(c2pa.C2paBuilderIntent.EDIT)
            made.add_ingredient({"title": "before", "relationship": "parentOf"}, kind, io.BytesIO(parent))
        if elsewhere:
            made.set_no_embed()
            made.set_remote_url(elsewhere)
        made.sign(signer, kind, io.BytesIO(image), signed)
    return signed.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_signed_is_read_and_the_pixels_stay(kind, signer, reader):
    image = picture(kind)
    signed = signer.sign(image, "000001", STATEMENT)
    assert (np.asarray(Image.open(io.BytesIO(signed))) == np.asarray(Image.open(io.BytesIO(image)))).all()
    manifest = reader.read(signed)
    assert manifest.state == "trusted" and manifest.problems == ()
    assert manifest.generation == STATEMENT and manifest.sources == ("trainedalgorithmicmedia",)
    assert manifest.signer == "difflab development key, difflab development"
    found = manifest.declared
    assert found and (found.origin, found.depth, found.declared_by) == ("synthetic", 4, "c2pa")
    assert reader.read(image) == Manifest("none")


@pytest.mark.parametrize("kind", FORMATS)
def test_the_manifest_is_what_c2pa_reads(kind, signer):
    """Action, source type, software, and the training set as an ingredient that was an input."""
    signed = signer.sign(picture(kind), "000001", STATEMENT)
    with c2pa.Reader(f"image/{kind.lower()}", io.BytesIO(signed)) as theirs:
        assert theirs.get_validation_state() == "Valid"
        store = json.loads(theirs.json())
    made = store["manifests"][store["active_manifest"]]
    parts = {part["label"]: part["data"] for part in made["assertions"]}
    (action,) = parts["c2pa.actions.v2"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("digitalsourcetype/trainedAlgorithmicMedia")
    assert parts["org.difflab.generation"] == STATEMENT
    assert made["claim_generator_info"][0]["name"] == "difflab" and made["title"] == "000001"
    (ingredient,) = made["ingredients"]
    assert (ingredient["relationship"], ingredient["instance_id"]) == ("inputTo", "urn:difflab:set:abc")
    assert ingredient["data_types"] == [{"type": "c2pa.types.dataset"}]


def test_a_signature_differs_each_time(signer):
    assert signer.sign(picture(), "a", STATEMENT) != signer.sign(picture(), "a", STATEMENT)


def test_without_anchors_nobody_vouches(signer, tmp_path):
    signed = signer.sign(picture(), "a", STATEMENT)
    manifest = Reader().read(signed)
    assert manifest.state == "valid" and manifest.problems == ("signingCredential.untrusted",)
    assert manifest.declared and "not on a trust list" in manifest.declared.evidence
    new_key(tmp_path / "other")
    assert Reader(tmp_path / "other" / "root.pem").read(signed).state == "valid"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_changed_file_declares_nothing(kind, signer, reader):
    changed = bytearray(signer.sign(picture(kind), "a", STATEMENT))
    changed[-40] ^= 1
    manifest = reader.read(bytes(changed))
    assert manifest.state == "invalid" and manifest.problems and manifest.declared is None
    assert declared(bytes(changed), read_c2pa=reader.declared).origin == "unknown"


def test_a_manifest_of_another_image_is_invalid(signer, reader):
    """The manifest chunk of a PNG, put into another picture."""
    donor, other = signer.sign(picture(size=24), "a", STATEMENT), picture(size=32)
    start = donor.index(b"caBX") - 4
    chunk = donor[start : start + 12 + int.from_bytes(donor[start : start + 4], "big")]
    moved = other[:33] + chunk + other[33:]
    assert Image.open(io.BytesIO(moved)).size == (32, 32)
    assert reader.read(moved).state == "invalid"


def test_saving_again_strips_the_manifest(signer, reader, tmp_path):
    signed = signer.sign(picture(), "a", STATEMENT)
    Image.open(io.BytesIO(signed)).save(tmp_path / "again.png")
    assert reader.read(tmp_path / "again.png") == Manifest("none")


def test_certificates_that_may_not_sign_are_named(tmp_path):
    """Certificates for documents are what people try first."""
    lab = Signer(open_key(certificates.write(tmp_path / "lab")))
    assert Reader(tmp_path / "lab" / "root.pem").read(lab.sign(picture(), "a", {})).state == "trusted"
    documents = open_key(certificates.write(tmp_path / "documents", usage=DOCUMENT_SIGNING))
    with pytest.raises(
        ConfigError, match=r"leaf, some lab give invalid manifests \(.*signingCredential\.invalid"
    ):
        Signer(documents)


def test_photographs_and_edits_of_others(key, reader):
    photo = by_c2pa(key, picture(), {"title": "photo"})
    found = reader.declared(photo)
    assert found and (found.origin, found.depth) == ("real", 0)
    painted = by_c2pa(
        key, picture(), {"title": "b"}, intent=CAMERA.replace("digitalCapture", "trainedAlgorithmicMedia")
    )
    edited = by_c2pa(key, painted, {"title": "c"}, parent=painted)
    found = reader.declared(edited)
    assert reader.read(edited).state == "trusted"
    assert found and (found.origin, found.depth) == ("synthetic", 1)


@pytest.mark.parametrize("depth", [True, -3, 10**9, "4", None, [4]])
def test_a_depth_that_is_no_number_is_not_believed(depth, signer, reader):
    found = reader.declared(signer.sign(picture(), "a", {"depth": depth}))
    assert found and (found.origin, found.depth) == ("synthetic", 1)


def test_the_layer_of_declarations(signer, reader):
    signed = signer.sign(picture(), "a", STATEMENT)
    (layer,) = declarations(signed, read_c2pa=reader.declared)
    assert (layer.declared_by, layer.origin, layer.depth) == ("c2pa", "synthetic", 4)
    (unread,) = declarations(signed)
    assert unread.origin == "unknown"


@pytest.mark.parametrize("content", [b"", b"\x89PNG", b"RIFF....WEBP", b"\xff\xd8\xff\xeb", b"text"])
def test_broken_files_never_raise(content, reader):
    assert reader.read(content).state in ("none", "invalid") and reader.declared(content) is None


def test_other_formats_are_not_signed(signer):
    assert format_of(picture("GIF")) is None
    with pytest.raises(ConfigError, match="a cannot be signed: it is no PNG, JPEG or WebP file"):
        signer.sign(picture("GIF"), "a", {})


@pytest.mark.parametrize("content", ["", "not a certificate", None])
def test_anchors_that_are_none(content, tmp_path):
    file = tmp_path / "anchors.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"anchors\.pem .*; give a PEM file with certificates"):
        Reader(file)


def test_a_manifest_elsewhere_is_not_fetched(key, reader):
    """A file may name an address instead of holding a manifest. c2pa fetches it by default; difflab does not."""
    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *parts):
            pass

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        linked = by_c2pa(
            key, picture(), {"title": "a"}, elsewhere=f"http://127.0.0.1:{server.server_port}/manifest"
        )
        assert reader.read(linked).state in ("none", "invalid") and reader.declared(linked) is None
        assert asked == []
        with pytest.raises(c2pa.C2paError):
            c2pa.Reader("image/png", io.BytesIO(linked))
        assert asked == ["/manifest"]
        server.shutdown()


def test_without_the_package_a_manifest_counts_as_unknown(signer, monkeypatch):
    signed = signer.sign(picture(), "a", STATEMENT)
    assert declared(signed, read_c2pa=validated).origin == "synthetic"
    monkeypatch.setattr(manifest_module, "find_spec", lambda name: None)
    found = declared(signed, read_c2pa=validated)
    assert (found.origin, found.declared_by) == ("unknown", "c2pa")


def test_a_source_reads_manifests_whose_signature_holds(signer, tmp_path):
    """Three images as a user has them: signed, signed and then changed, and plain."""
    signed = signer.sign(picture(), "a", STATEMENT)
    changed = bytearray(signed)
    changed[signed.index(b"caBX") + 300] ^= 1
    for name, content in (("a", signed), ("b", bytes(changed)), ("c", picture())):
        (tmp_path / f"{name}.png").write_bytes(content)
    data = Data(source=f"imagefolder:{tmp_path}")
    found = origins(open_source(data, 0), data)
    assert [(one.origin, one.depth, one.declared_by) for one in found] == [
        ("synthetic", 4, "c2pa"),
        ("unknown", None, "c2pa"),
        ("unknown", None, "none"),
    ]
