from __future__ import annotations

import shutil
import stat

import certificates
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519

from difflab.core.errors import ConfigError, DataError
from difflab.data import signing_key
from difflab.data.signing_key import need, new_key, open_key


def test_a_development_key(tmp_path):
    key = new_key(tmp_path / "deep" / "key")
    assert key.is_development and key.algorithm == "es256"
    assert key.signer == "difflab development key, difflab development"
    assert open_key(tmp_path / "deep" / "key") == key
    assert stat.S_IMODE((tmp_path / "deep" / "key" / "key.pem").stat().st_mode) == 0o600


def test_its_certificates_are_a_chain(tmp_path):
    """cryptography itself checks the signature of each certificate."""
    leaf, root = x509.load_pem_x509_certificates(new_key(tmp_path / "key").chain)
    leaf.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (tmp_path / "key" / "root.pem").read_bytes() == root.public_bytes(serialization.Encoding.PEM)


def test_two_keys_differ(tmp_path):
    assert new_key(tmp_path / "a").key != new_key(tmp_path / "b").key


def test_nothing_is_overwritten(tmp_path):
    new_key(tmp_path / "key")
    with pytest.raises(DataError, match="exists and is not empty"):
        new_key(tmp_path / "key")


@pytest.mark.parametrize(
    ("curve", "name"), [(ec.SECP256R1(), "es256"), (ec.SECP384R1(), "es384"), (ec.SECP521R1(), "es512")]
)
def test_keys_of_others(tmp_path, curve, name):
    key = open_key(certificates.write(tmp_path / "key", curve=curve))
    assert key.algorithm == name and key.signer == "leaf, some lab" and not key.is_development


def test_keys_on_the_curve_of_ed25519(tmp_path):
    key = open_key(certificates.write(tmp_path / "key", generate=ed25519.Ed25519PrivateKey.generate))
    assert key.algorithm == "ed25519"


def test_keys_that_cannot_sign_are_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"has no key\.pem; make a development key with: difflab new-key"):
        open_key(tmp_path)
    good = new_key(tmp_path / "good")
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "good", other)
    (other / "certificates.pem").write_bytes(new_key(tmp_path / "second").chain)
    with pytest.raises(ConfigError, match=r"its first certificate does not belong to key\.pem"):
        open_key(other)
    (other / "certificates.pem").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"certificates\.pem cannot be read"):
        open_key(other)
    (other / "certificates.pem").write_bytes(good.chain)
    (other / "key.pem").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"key\.pem cannot be read"):
        open_key(other)


def test_a_certificate_that_has_expired_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="use a certificate that is valid today"):
        open_key(certificates.write(tmp_path / "old", days=(-30, -1)))


def test_a_key_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a key that C2PA does not sign with; use Ed25519"):
        signing_key._algorithm(ed448.Ed448PrivateKey.generate(), tmp_path / "key.pem")


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(signing_key, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"need the package c2pa: pip install 'difflab\[provenance\]'"):
        need("c2pa")
