"""C2PA manifests: signed statements in an image file about where the image comes from (C2PA 2.4).

difflab signs what `difflab export` writes, and reads the manifests of any file. A signature differs each
time, so manifests are never part of what a run hashes. Nothing is fetched from the network: no time stamps,
no remote manifests, no OCSP.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from difflab.core.errors import ConfigError
from difflab.core.text import plain
from difflab.data.declared import DEEPEST, REAL_SOURCES, SYNTHETIC_SOURCES, Declared
from difflab.data.signing_key import SigningKey, need

LABEL = "org.difflab.generation"
"""The label of difflab's assertion. Its version 1 is read back without a number."""
SET = "urn:difflab:set:"
"""Instance ids of ingredients begin with it; the hash of the set follows."""
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
FORMATS = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
"""The first bytes of the files that are signed and read."""
OFFLINE = {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False}
State = Literal["trusted", "valid", "invalid", "none"]


@dataclass(frozen=True)
class Manifest:
    """What the manifest of a file says, and whether it can be believed.

    Attributes:
        state: trusted = the signature holds and its certificate leads to a given anchor; valid = the
            signature holds, but nobody vouches for the signer; invalid = the file or the manifest was changed
            after signing, or the certificate may not sign; none = the file has no manifest.
        signer: common name and organisation in the certificate.
        sources: the digital source types of its actions, and of the images that it was edited from, in lower
            case and without their address.
        generation: difflab's assertion, with the keys of `statement`; empty if there is none.
        inputs: title, hash and description of what the file or its model was made from (``inputTo``).
        problems: the codes of C2PA for what failed.
    """

    state: State
    signer: str = ""
    sources: tuple[str, ...] = ()
    generation: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[dict[str, str], ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def declared(self) -> Declared | None:
        """What the manifest declares about the origin; None if its signature does not hold."""
        if self.state not in ("trusted", "valid"):
            return None
        trust = "" if self.state == "trusted" else ", not on a trust list"
        evidence = plain(f"signed by {self.signer or 'unknown'}{trust}: {', '.join(self.sources)}")[:160]
        depth = self.generation.get("depth")
        known = isinstance(depth, int) and not isinstance(depth, bool) and 0 < depth <= DEEPEST
        if set(self.sources) & SYNTHETIC_SOURCES:
            return Declared("synthetic", depth if known else 1, "c2pa", evidence)
        if self.sources and set(self.sources) <= REAL_SOURCES:
            return Declared("real", 0, "c2pa", evidence)
        return Declared("unknown", None, "c2pa", evidence)


NONE = Manifest("none")


class Signer:
    """Signs images with one key.

    Args:
        key: the key and its certificates.

    Raises:
        ConfigError: c2pa-python is not installed, or the certificates may not sign.
    """

    def __init__(self, key: SigningKey):
        need("c2pa")
        import c2pa

        self.key = key
        software = {"name": "difflab", "version": version("difflab")}
        builder = {"thumbnail": {"enabled": False}, "claim_generator_info": software}
        self._context = c2pa.Context.from_dict(
            {"builder": {**builder, "intent": {"create": SOURCE}}, "verify": OFFLINE}
        )
        info = c2pa.C2paSignerInfo(alg=key.algorithm, sign_cert=key.chain, private_key=key.key, ta_url=None)
        try:
            self._signer = c2pa.Signer.from_info(info)
        except c2pa.C2paError as error:
            raise ConfigError(f"c2pa does not sign with this key ({_reason(error)})") from error
        self._check()

    def _check(self) -> None:
        """Sign and read one pixel: c2pa signs with certificates whose manifests it then calls invalid."""
        pixel = io.BytesIO()
        Image.new("L", (1, 1)).save(pixel, "PNG")
        found = Reader().read(self.sign(pixel.getvalue(), "trial", {}))
        if found.state == "invalid":
            raise ConfigError(
                f"the certificates of {self.key.signer} give invalid manifests "
                f"({', '.join(found.problems)}); C2PA wants the usage digitalSignature, the extended usage "
                "emailProtection, key identifiers, and no CA"
            )

    def sign(
        self,
        image: bytes,
        title: str,
        statement: dict[str, Any],
        inputs: Sequence[Mapping[str, str]] | None = None,
    ) -> bytes:
        """The image file with a manifest: created by a trained algorithm, with difflab's assertion.

        What the model was trained on are ingredients with the relationship ``inputTo``. Pixels and other
        metadata stay as they are.

        Args:
            image: a PNG, JPEG or WebP file.
            title: the name of the image.
            statement: content of the assertion `LABEL`, JSON types only.
            inputs: {title, hash, description} of each ingredient; None = the training set, whose hash is the
                entry ``training_set`` of the statement.

        Raises:
            ConfigError: the file has another format, or the certificates may not sign.
        """
        import c2pa

        signed, kind = io.BytesIO(), format_of(image)
        if kind is None:
            raise ConfigError(f"{title} cannot be signed: it is no PNG, JPEG or WebP file")
        content = {"title": title, "assertions": [{"label": f"{LABEL}.v1", "data": statement}]}
        if inputs is None:
            inputs = [{"title": "training set", "hash": statement.get("training_set", "unknown")}]
        try:
            with c2pa.Builder(content, self._context) as builder:
                for entry in inputs:
                    builder.add_ingredient(_ingredient(entry), "application/json", io.BytesIO(b"{}"))
                builder.sign(self._signer, kind, io.BytesIO(image), signed)
        except c2pa.C2paError as error:
            raise ConfigError(f"{title} cannot be signed ({_reason(error)})") from error
        return signed.getvalue()


class Reader:
    """Reads and checks the manifests of files, offline.

    Args:
        anchors: a PEM file with the certificates of authorities that are trusted; None = none is.

    Raises:
        ConfigError: c2pa-python is not installed, or it does not accept the file.
    """

    def __init__(self, anchors: Path | None = None):
        need("c2pa")
        import c2pa

        settings: dict[str, Any] = {"verify": OFFLINE}
        if anchors is not None:
            try:
                settings["trust"] = {"user_anchors": anchors.read_text(encoding="utf-8")}
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{anchors} cannot be read; give a PEM file with certificates") from error
            if "BEGIN CERTIFICATE" not in settings["trust"]["user_anchors"]:
                raise ConfigError(f"{anchors} holds no certificate; give a PEM file with certificates")
        try:
            self._context = c2pa.Context.from_dict(settings)
        except c2pa.C2paError as error:
            raise ConfigError(
                f"{anchors} holds no certificate that c2pa can read ({_reason(error)})"
            ) from error

    def read(self, item: Path | bytes) -> Manifest:
        """The manifest of an image file, or of its bytes. Never raises for the content of a file."""
        import c2pa

        content = item if isinstance(item, bytes) else item.read_bytes()
        kind = format_of(content)
        if kind is None:
            return NONE
        try:
            with c2pa.Reader(kind, io.BytesIO(content), context=self._context) as reader:
                state, store = reader.get_validation_state(), json.loads(reader.json())
        except c2pa.C2paError as error:
            return (
                NONE if "ManifestNotFound" in str(error) else Manifest("invalid", problems=(_reason(error),))
            )
        except ValueError as error:  # JSON or text that is no UTF-8
            return Manifest("invalid", problems=(_reason(error),))
        return _manifest(state, store)

    def declared(self, item: Path | bytes) -> Declared | None:
        """See data.declared.ReadC2pa."""
        return self.read(item).declared


def format_of(content: bytes) -> str | None:
    """The media type of an image file that C2PA can sign here; None = another file."""
    return next((kind for start, kind in FORMATS.items() if content.startswith(start)), None)


def _ingredient(entry: Mapping[str, str]) -> dict[str, Any]:
    """A data set that a model was trained on, as C2PA describes it."""
    ingredient: dict[str, Any] = {
        "title": entry["title"],
        "format": "application/json",
        "relationship": "inputTo",
        "data_types": [{"type": "c2pa.types.dataset"}],
        "instance_id": SET + entry["hash"],
    }
    return ingredient | {key: entry[key] for key in ("description",) if key in entry}


def _inputs(manifest: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The ingredients with the relationship inputTo. Their texts come from the file."""
    for part in manifest.get("ingredients", []):
        if part.get("relationship") == "inputTo":
            yield {
                "title": plain(str(part.get("title", "")))[:160],
                "hash": plain(str(part.get("instance_id", "")).removeprefix(SET))[:160],
                "description": plain(str(part.get("description") or ""))[:300],
            }


def _manifest(state: str | None, store: dict[str, Any]) -> Manifest:
    """A manifest from the report of c2pa, whose entries come from the file."""
    manifests = store.get("manifests", {})
    lineage = list(_lineage(manifests, store.get("active_manifest")))
    active = lineage[0] if lineage else {}
    info = active.get("signature_info") or {}
    signer = ", ".join(str(info[name]) for name in ("common_name", "issuer") if info.get(name))
    sources = [source for manifest in lineage for source in _sources(manifest)]
    own = [part.get("data") for part in active.get("assertions", []) if part.get("label") == LABEL]
    states: dict[str | None, State] = {"Trusted": "trusted", "Valid": "valid"}
    failed = [str(part.get("code")) for part in store.get("validation_status") or []]
    return Manifest(
        states.get(state, "invalid"),
        plain(signer)[:120],
        tuple(dict.fromkeys(sources)),
        own[0] if own and isinstance(own[0], dict) else {},
        tuple(_inputs(active)),
        tuple(dict.fromkeys(failed)),
    )


def _lineage(manifests: dict[str, Any], label: str | None) -> Iterator[dict[str, Any]]:
    """The manifest `label` and those of the images that it was edited from, each once."""
    seen: set[str | None] = set()
    waiting = [label]
    while waiting:
        label = waiting.pop(0)
        if label in seen or label not in manifests:
            continue
        seen.add(label)
        yield manifests[label]
        parents = [
            part for part in manifests[label].get("ingredients", []) if part.get("relationship") == "parentOf"
        ]
        waiting += [part.get("active_manifest") for part in parents]


def _sources(manifest: dict[str, Any]) -> Iterator[str]:
    """The digital source types of the actions of one manifest."""
    for assertion in manifest.get("assertions", []):
        data = assertion.get("data")
        if str(assertion.get("label")).startswith("c2pa.actions") and isinstance(data, dict):
            for action in data.get("actions", []):
                if action.get("digitalSourceType"):
                    yield str(action["digitalSourceType"]).rstrip("/").rsplit("/", 1)[-1].lower()[:40]


def _reason(error: Exception) -> str:
    return plain(" ".join(str(error).split()))[:120]


@cache
def _reader() -> Reader:
    """The reader of `validated`, which trusts nobody in particular."""
    return Reader()


def validated(item: Path | bytes) -> Declared | None:
    """What the manifest of a file declares, for data.declared.ReadC2pa.

    None if its signature does not hold, or if c2pa-python is not installed: the manifest then counts as
    unknown.
    """
    return _reader().declared(item) if find_spec("c2pa") else None
