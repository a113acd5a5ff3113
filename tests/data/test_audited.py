"""What was found in an image decides its origin in a stated order; the share is used only for the same images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.audit_record import BITS, AuditRecord
from difflab.data.audited import audited, share_text, with_audit
from difflab.data.declared import NOTHING, Declared

SHARE = {"declared": 0.0, "estimate": {"estimate": 0.1, "low": 0.05, "high": 0.2}}


def record(*found: int) -> AuditRecord:
    """Image i has the identity i + 1."""
    n = len(found)
    return AuditRecord(
        "rec", n, n, True, np.arange(1, n + 1, dtype=np.uint64), np.ones(n, int), np.array(found), SHARE
    )


def data(**fields: Any) -> Data:
    return Data(source="imagefolder:x", audit="rec", **fields)


def bits(*names: str) -> int:
    return sum(BITS[name] for name in names)


@pytest.mark.parametrize(
    ("names", "origin", "by"),
    [
        (["signed", "declared real"], "synthetic", "audit: signed"),
        (["declared synthetic", "watermark"], "synthetic", "audit: declared synthetic"),
        (["known synthetic", "known real"], "synthetic", "audit: known synthetic"),
        (["watermark", "known real"], "synthetic", "audit: watermark"),
        (["known real", "probe"], "real", "audit: known real"),
        (["declared real", "probe", "file name"], "real", "audit: declared real"),
        (["probe"], "synthetic", "audit: probe"),
        (["file name"], None, None),
        ([], None, None),
    ],
)
def test_the_first_finding_decides(names: list[str], origin: str | None, by: str | None) -> None:
    (found,) = audited(record(bits(*names)), ["1"], data()).found
    assert found == (None if origin is None else Declared(origin, int(origin == "synthetic"), by))


def test_only_the_layers_of_the_field_count() -> None:
    everything = bits("signed", "declared synthetic", "known synthetic", "probe", "file name")
    chosen = audited(record(everything), ["1"], data(audit_layers=["probe"])).found[0]
    assert chosen is not None and chosen.declared_by == "audit: probe"
    assert audited(record(everything), ["1"], data(audit_layers=["watermark"])).found == [None]


def test_a_declaration_of_the_file_is_stronger_and_the_contradiction_is_told() -> None:
    found = audited(record(bits("probe"), bits("probe"), bits("known real"), 0), ["1", "2", "3", "4"], data())
    camera, run = Declared("real", 0, "iptc"), Declared("synthetic", 5, "table")
    origins, notes = with_audit([camera, run, NOTHING, NOTHING], found)
    assert origins == [camera, run, Declared("real", 0, "audit: known real"), NOTHING]
    assert "the audit contradicts the declaration of 1 images; the declaration counts" in notes
    assert "the audit finds 0 synthetic and 1 real (known real: 1)" in notes[0]
    assert found.summary(origins)["found"] == {"audit: known real": 1}


def test_the_share_is_that_of_the_same_images_only() -> None:
    three = record(0, 0, 0)
    assert audited(three, ["1", "2", "3", "3"], data()).whole
    assert not audited(three, ["1", "2"], data()).whole
    assert audited(three, ["1", "2"], data(limit=4)).whole  # a random part
    more = audited(three, ["1", "2", "3", "9"], data())
    assert more.missing == 1 and not more.whole and more.summary([])["share"] is None
    notes = " ".join(with_audit([NOTHING] * 4, more)[1])
    assert "1 of 4 images are not in the audit" in notes and "is not used" in notes and "10.0%" not in notes
    with pytest.raises(DataError, match="none of the 2 images of imagefolder:x is in it"):
        audited(three, ["8", "9"], data())


def test_the_share_in_words() -> None:
    whole = audited(record(0), ["1"], data()).summary([NOTHING])
    assert share_text(whole) == (
        "the audit estimates that 10.0% of the whole set are synthetic, 95% interval 5.0% to 20.0%"
    )
    assert share_text(None) == share_text({"share": None}) == share_text({"share": {"estimate": None}}) == ""
