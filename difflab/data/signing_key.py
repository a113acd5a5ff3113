"""Keys and certificates for signed manifests: read from a folder, or made for development."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from difflab.core.errors import ConfigError, DataError, reading

KEY, CHAIN, ROOT = "key.pem", "certificates.pem", "root.pem"
DAYS = 825
"""Validity of the certificates of a development key."""
DEVELOPMENT = "difflab development"
"""The organisation in the certificates of a development key. No trust list has it."""


def need(*packages: str) -> None:
    """Raise ConfigError if one of `packages`, of the extra ``provenance``, is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise ConfigError(f"signatures need the package {package}: pip install 'difflab[provenance]'")


@dataclass(frozen=True)
class SigningKey:
    """A private key with the certificates that vouch for it.

    Attributes:
        algorithm: the name of C2PA: ed25519, es256, es384, es512, ps256.
        key: private key, PEM (PKCS 8, not encrypted).
        chain: certificates, PEM: that of the key first, then those that signed it.
        signer: common name and organisation of the first certificate.
    """

    algorithm: str
    key: bytes
    chain: bytes
    signer: str

    @property
    def issuers(self) -> bytes:
        """The certificates after the first, PEM."""
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        after = x509.load_pem_x509_certificates(self.chain)[1:]
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in after)

    @property
    def is_development(self) -> bool:
        """Whether `new_key` has made it."""
        return DEVELOPMENT in self.signer


def new_key(folder: Path, days: int = DAYS) -> SigningKey:
    """Make a development key: a certificate authority of its own and a P-256 key that it vouches for.

    P-256, because OpenSSF model signing takes no Ed25519 keys.

    Nobody else trusts it. Whoever gets ``root.pem`` can check that signatures come from this key. The
    certificates have the extensions that C2PA 2.4 asks for (section 14.5.1: digitalSignature, a key usage
    for documents or e-mail, key identifiers).

    Args:
        folder: a new folder. It gets ``key.pem`` (readable by its owner only), ``certificates.pem`` and
            ``root.pem``.
        days: validity of the certificates from today.

    Raises:
        DataError: the folder exists and is not empty.
    """
    need("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not empty; give a new folder for the key")
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("difflab development root", authority, authority, days, root=True)
    leaf = _certificate("difflab development key", key, authority, days)
    pem = serialization.Encoding.PEM
    parts = {
        KEY: key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        CHAIN: leaf.public_bytes(pem) + root.public_bytes(pem),
        ROOT: root.public_bytes(pem),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in parts.items():
        file = folder / name
        file.touch(mode=0o600 if name == KEY else 0o644)
        file.write_bytes(content)
    return open_key(folder)


def _certificate(name: str, key: Any, issuer: Any, days: int, root: bool = False) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(common: str) -> Any:
        parts = ((NameOID.COMMON_NAME, common), (NameOID.ORGANIZATION_NAME, DEVELOPMENT))
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])

    usages = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    usage = x509.KeyUsage(
        digital_signature=not root,
        key_cert_sign=root,
        crl_sign=root,
        encipher_only=False,
        decipher_only=False,
        **dict.fromkeys(usages, False),
    )
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named("difflab development root"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if not root:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
        email = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        made = made.add_extension(authority, critical=False).add_extension(email, critical=False)
    return made.sign(issuer, hashes.SHA256())


def open_key(folder: Path) -> SigningKey:
    """Read ``key.pem`` and ``certificates.pem`` of a folder.

    Raises:
        ConfigError: a file is missing or damaged, the key is of a kind that C2PA does not know, it does not
            belong to the first certificate, or that certificate is not valid today.
    """
    need("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    for name in (KEY, CHAIN):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder} has no {name}; make a development key with: difflab new-key {folder}"
            )
    key_pem, chain_pem = (folder / KEY).read_bytes(), (folder / CHAIN).read_bytes()
    with reading(folder / KEY, ConfigError):
        key: Any = serialization.load_pem_private_key(key_pem, None)
    with reading(folder / CHAIN, ConfigError):
        certificate = x509.load_pem_x509_certificates(chain_pem)[0]
    raw = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*raw) != certificate.public_key().public_bytes(*raw):
        raise ConfigError(
            f"{folder / CHAIN}: its first certificate does not belong to {KEY}; put the certificate of the "
            "key first"
        )
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ConfigError(
            f"{folder / CHAIN} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}; use a certificate that is valid today"
        )
    return SigningKey(_algorithm(key, folder / KEY), key_pem, chain_pem, signer_of(certificate))


def _algorithm(key: Any, file: Path) -> str:
    """The name that C2PA has for signatures of this key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    raise ConfigError(
        f"{file} is a key that C2PA does not sign with; use Ed25519, P-256, P-384, P-521 or RSA"
    )


def signer_of(certificate: Any) -> str:
    """Common name and organisation of the subject."""
    from cryptography.x509.oid import NameOID

    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    values = [part.value for oid in oids for part in certificate.subject.get_attributes_for_oid(oid)]
    return ", ".join(str(value) for value in values)
