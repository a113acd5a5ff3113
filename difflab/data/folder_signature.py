"""Signatures of whole folders, such as weights and exported sets, in the format of OpenSSF model signing 1.x.

The signature lies beside the folder, so that nothing that is hashed changes: ``digits-gen5.sig`` signs
``digits-gen5``. It is a Sigstore bundle with the SHA-256 of every file, and others check it without difflab::

    model_signing verify certificate digits-gen5 --signature digits-gen5.sig --certificate_chain root.pem

Git's own files (``.git``, ``.gitignore`` and similar) are not signed. Nothing goes to the network.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from difflab.core.errors import ConfigError, DataError, reading
from difflab.data.signing_key import CHAIN, KEY, need, open_key, signer_of

ENDING = ".sig"


@dataclass(frozen=True)
class FolderSignature:
    """What the signature of a folder says.

    Attributes:
        state: "trusted" = the files are those that were signed, and the anchors vouch for the signer;
            "valid" = the files are, and nobody vouches for the signer; "invalid" = neither.
        signer: common name and organisation of the certificate; empty if there is none to be read.
        problem: what is wrong; empty unless the state is "invalid".
    """

    state: Literal["trusted", "valid", "invalid"]
    signer: str = ""
    problem: str = ""


def signature_file(folder: Path) -> Path:
    """Where the signature of a folder lies."""
    folder = folder.resolve()
    return folder.with_name(folder.name + ENDING)


def sign_folder(folder: Path, key: Path) -> Path:
    """Sign all files of a folder. Returns the file of the signature, beside the folder.

    Args:
        folder: what to sign, with at least one file and without links.
        key: a folder with ``key.pem`` (of the curve P-256, P-384 or P-521) and ``certificates.pem``.

    Raises:
        ConfigError: a package is missing, or the key is of another kind.
        DataError: there is nothing to sign, or there is a signature already.
    """
    need("model_signing", "OpenSSL")
    file = signature_file(folder)
    if not folder.is_dir() or not any(path.is_file() for path in folder.rglob("*")):
        raise DataError(f"{folder} is no folder with files; give an exported set or gen-*/model of a run")
    if file.exists():
        raise DataError(f"{file} exists; remove it to sign {folder.name} again")
    opened = open_key(key)
    if not opened.algorithm.startswith("es"):
        raise ConfigError(
            f"{key / KEY} is a key for {opened.algorithm}, and model signing takes P-256, P-384 and P-521; "
            "make another with difflab new-key"
        )
    from model_signing import signing

    with reading(folder, DataError, "only files and folders can be signed"):
        parts = {"private_key": key / KEY, "signing_certificate": key / CHAIN}
        with TemporaryDirectory() as temporary:
            issuers = Path(temporary) / "issuers.pem"
            issuers.write_bytes(opened.issuers)
            made = signing.Config().use_certificate_signer(**parts, certificate_chain=[issuers])
            made.sign(folder, file)
    return file


def read_signature(folder: Path, anchors: Path | None = None) -> FolderSignature | None:
    """Check the signature beside a folder; None if there is none.

    Args:
        folder: what was signed.
        anchors: PEM file with certificates of authorities that are trusted; None = none.

    Raises:
        ConfigError: a package is missing, or `anchors` cannot be read.
    """
    file = signature_file(folder)
    if not file.is_file():
        return None
    need("model_signing", "OpenSSL")
    from cryptography import x509

    if anchors is not None:
        with reading(anchors, ConfigError):
            x509.load_pem_x509_certificates(anchors.read_bytes())
    try:
        found = json.loads(file.read_bytes())["verificationMaterial"]["x509CertificateChain"]["certificates"]
        chain = [x509.load_der_x509_certificate(base64.b64decode(one["rawBytes"])) for one in found]
        signer = signer_of(chain[0])
    except Exception as error:  # whatever else lies in the file
        return FolderSignature(
            "invalid", problem=f"{file.name} is no signature that can be read ({error!r:.100})"
        )
    if anchors is not None and not _fault(folder, file, anchors):
        return FolderSignature("trusted", signer)
    with TemporaryDirectory() as temporary:
        own = Path(temporary) / "own.pem"
        own.write_bytes(b"".join(_pem(one) for one in chain[-1:]))
        fault = _fault(folder, file, own)
    return FolderSignature("invalid", signer, fault) if fault else FolderSignature("valid", signer)


def _fault(folder: Path, file: Path, anchors: Path) -> str:
    """Why the signature does not hold; empty if it does."""
    from model_signing import verifying

    try:
        verifying.Config().use_certificate_verifier(certificate_chain=[anchors]).verify(folder, file)
    except Exception as error:  # of many types: of OpenSSL, of cryptography, ValueError
        return " ".join(str(error).split())[:200] or type(error).__name__
    return ""


def _pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)
