"""Certificates of other kinds than the development key, made with cryptography alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

PEM = serialization.Encoding.PEM


def write(
    folder: Path,
    usage: ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    curve: Any = None,
    generate: Any = None,
    days: tuple[int, int] = (-1, 30),
) -> Path:
    """A folder with key.pem, certificates.pem and root.pem of an authority "some lab"; validity in days from now."""
    authority = ec.generate_private_key(curve or ec.SECP256R1())
    key = generate() if generate else ec.generate_private_key(curve or ec.SECP256R1())
    now = datetime.now(UTC)

    def certificate(name: str, of: Any, root: bool) -> Any:
        subject, issuer = (
            x509.Name(
                [
                    x509.NameAttribute(NameOID.COMMON_NAME, part),
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "some lab"),
                ]
            )
            for part in (name, "root")
        )
        flags = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        rights = x509.KeyUsage(
            digital_signature=not root,
            key_cert_sign=root,
            crl_sign=root,
            encipher_only=False,
            decipher_only=False,
            **flags,
        )
        made = x509.CertificateBuilder(issuer, subject, of.public_key(), x509.random_serial_number())
        made = made.not_valid_before(now + timedelta(days=days[0])).not_valid_after(
            now + timedelta(days=days[1])
        )
        made = made.add_extension(x509.BasicConstraints(root, None), True).add_extension(rights, True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(of.public_key()), False)
        if not root:
            issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
            made = made.add_extension(issuer_key, False).add_extension(x509.ExtendedKeyUsage([usage]), False)
        return made.sign(authority, hashes.SHA256()).public_bytes(PEM)

    folder.mkdir()
    root = certificate("root", authority, True)
    (folder / "root.pem").write_bytes(root)
    (folder / "certificates.pem").write_bytes(certificate("leaf", key, False) + root)
    secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    return folder
