"""The page of an audit: one self-contained HTML file with the three answers, the layers and example images.

Names, captions and metadata come from files of strangers. They are shown as text, the page runs no script,
and its content security policy forbids scripts and everything from the network.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.core.files import write_text
from difflab.data.declared import decided, declarations
from difflab.data.decode import as_stored
from difflab.data.listing import Listing
from difflab.evaluation.audit.audit import listing_of_set
from difflab.evaluation.audit.result import Audit, Example, Layer, WhatIf
from difflab.metrics.interval import wilson
from difflab.report.data_uri import uri
from difflab.report.page import plain, template

SIDE = 160
"""Longest side of an example in pixels."""
LAYERS_OF_EVIDENCE = ("declared synthetic", "declared real", "C2PA manifest")
"""Layers whose examples are shown with what their metadata says."""
CANNOT_SEE = (
    "Metadata proves nothing when it is missing: most tools and most web sites remove it.",
    "Watermarks are found in files of 256 x 256 pixels or more that were not saved as JPEG, and only those "
    "of Stable Diffusion's scripts and of diffusers' SDXL pipeline.",
    "Near copies are searched in at most 2,000 images; mirrored, shifted and cropped copies are not found.",
    "The probe knows the generators of its calibration. Others it may miss altogether.",
)


def audit_page(result: Audit, dataset: Any, path: Path) -> Path:
    """Write the page of an audit to `path` and return it. `dataset`: what was audited, for the examples."""
    listing = listing_of_set(dataset, [])
    write_text(path.expanduser(), render_audit(contents_of_audit(result, listing, Path(str(dataset)).name)))
    return path


def contents_of_audit(result: Audit, listing: Listing, name: str) -> dict[str, Any]:
    """Everything that the page shows, as strings, numbers, lists and dicts. Shares are in percent."""
    readable = result.images - result.failed
    return {
        "name": name,
        "made": time.strftime("%d %B %Y, %H:%M"),
        "version": version("difflab"),
        "images": result.images,
        "failed": result.failed,
        "readable": readable,
        "nothing": result.nothing_found,
        "nothing_share": _percent(result.nothing_found, readable),
        "answer": _answer(result),
        "what_if": [_what_if(case, result) for case in result.share.what_if if _is_worse(case, result)],
        "layers": [_layer(layer) for layer in result.layers],
        "galleries": [_gallery(layer, listing) for layer in result.layers if _has_pictures(layer)],
        "cannot_see": CANNOT_SEE,
        "notes": result.notes,
    }


def render_audit(shown: dict[str, Any]) -> str:
    """The HTML of `contents_of_audit`."""
    assets = files("difflab") / "assets" / "report"
    css = (assets / "page.css").read_text() + (assets / "audit.css").read_text()
    return template((assets / "audit.html").read_text()).render(c=plain(shown), css=css)


def _answer(result: Audit) -> dict[str, Any]:
    """The three answers: at least, the estimate or why there is none, and what it rests on."""
    share = result.share
    answer: dict[str, Any] = {
        "declared": 100 * share.declared,
        "estimate": None,
        "reason": share.reason,
        "least": None if share.least is None else 100 * share.least,
        "flagged": share.flagged,
        "scored": share.scored,
        "rates": None,
        "labels": None if share.labelled is None else share.labelled.n,
    }
    if share.estimate is not None:
        found = share.estimate
        answer["estimate"] = {
            "value": 100 * found.estimate,
            "low": 100 * found.low,
            "high": 100 * found.high,
            "method": found.method,
        }
    if share.calibration is not None:
        rates = share.calibration
        answer["rates"] = {
            "detected": rates.detected,
            "synthetic": rates.synthetic,
            "false": rates.real - rates.passed,
            "real": rates.real,
        }
    return answer


def _is_worse(case: WhatIf, result: Audit) -> bool:
    """Twice as many false positives as none are no other case."""
    rates = result.share.calibration
    measured = None if rates is None else (rates.sensitivity, 1 - rates.specificity)
    return (case.sensitivity, case.false_positive_rate) != measured


def _what_if(case: WhatIf, result: Audit) -> dict[str, Any]:
    """A case with its short name: what is worse than measured."""
    rates = result.share.calibration
    name = f"if it detects {case.sensitivity:.0%}"
    if rates is not None and case.false_positive_rate > 1 - rates.specificity:
        name = f"if {case.false_positive_rate:.0%} false positives"
    return {
        "name": name,
        "sensitivity": 100 * case.sensitivity,
        "false": 100 * case.false_positive_rate,
        "share": None if case.share is None else 100 * case.share,
    }


def _layer(layer: Layer) -> dict[str, Any]:
    kinds = []
    for kind in layer.kinds:
        kinds.append({"name": kind.name, "count": kind.count, "example": kind.example.key})
    low, high = wilson(layer.count / layer.of, layer.of) if layer.of else (0.0, 0.0)
    return {
        "name": layer.name,
        "count": layer.count,
        "of": layer.of,
        "share": _percent(layer.count, layer.of),
        "low": 100 * low,
        "high": 100 * high,
        "note": layer.note,
        "kinds": kinds,
    }


def _has_pictures(layer: Layer) -> bool:
    return bool(layer.examples) and layer.name != "cannot be read"


def _gallery(layer: Layer, listing: Listing) -> dict[str, Any]:
    pictures = [_picture(example, listing, layer.name in LAYERS_OF_EVIDENCE) for example in layer.examples]
    return {"name": layer.name, "count": layer.count, "pictures": pictures}


def _picture(example: Example, listing: Listing, with_evidence: bool) -> dict[str, Any]:
    """One example: its name, a small picture (None if it cannot be read), and what its metadata says."""
    item = listing.items[example.position]
    try:
        pixels = as_stored(item, example.key, Data().max_pixels)
        small, picture = max(pixels.shape[:2]) <= SIDE // 2, uri(np.asarray(pixels), SIDE)
    except DataError:
        small, picture = False, None
    evidence = ""
    if with_evidence:
        row = listing.rows[example.position] if listing.rows else None
        evidence = decided(declarations(item, row)).evidence
    return {"name": example.key, "picture": picture, "small": small, "evidence": evidence}


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
