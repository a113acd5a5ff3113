"""The result of an audit: what each layer counts, and what follows about the share of synthetic images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from difflab.core.text import plain
from difflab.metrics.prevalence import Calibration, Labelled, ShareInterval

SHOWN = 8
"""Images of a layer that a page shows."""


@dataclass(frozen=True)
class Example:
    """The first image of a kind. `key` is its name in the set; `key_sha256` is stored in its place."""

    position: int
    key: str
    key_sha256: str


@dataclass(frozen=True)
class Kind:
    """How many images of one kind a layer has, with the first of them."""

    name: str
    count: int
    example: Example


@dataclass(frozen=True)
class Layer:
    """What one layer found.

    Attributes:
        name: of the layer.
        count: images in which it found something.
        of: images that it looked at.
        kinds: its kinds with their counts, the most frequent first.
        note: what the count means, and what it does not.
        examples: some of its images for a page, at most `SHOWN`; they are no part of `Audit.as_dict`.
    """

    name: str
    count: int
    of: int
    kinds: tuple[Kind, ...] = ()
    note: str = ""
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class WhatIf:
    """The estimate of the share if the detector had other rates; None = it could not tell."""

    sensitivity: float
    false_positive_rate: float
    share: float | None


@dataclass(frozen=True)
class Share:
    """What is known about the share of synthetic images.

    Attributes:
        declared: share of the images that can be read and declare that they are synthetic: "at least".
        estimate: estimate with its 95% interval; None = "cannot tell".
        reason: why it cannot be told; "" with an estimate.
        flagged, scored: images that the probe flags, and all that it scored; None without a probe.
        calibration: the rates of the probe on images of known origin; None without a probe.
        labelled: labels of images of this set; None without labels.
        least: a lower bound that holds for generators that the probe does not know; None without calibration.
        what_if: the estimate at worse rates.
    """

    declared: float
    estimate: ShareInterval | None = None
    reason: str = ""
    flagged: int | None = None
    scored: int | None = None
    calibration: Calibration | None = None
    labelled: Labelled | None = None
    least: float | None = None
    what_if: tuple[WhatIf, ...] = ()

    @property
    def low(self) -> float:
        """What `--max-share` compares: the lower bound of the estimate, or the declared share if larger."""
        return max(self.declared, 0.0 if self.estimate is None else self.estimate.low)


@dataclass(frozen=True)
class Audit:
    """The result of `difflab.audit`. Layers are counted apart: an image can be in several.

    Attributes:
        images, failed: in the set, and those that cannot be read.
        nothing_found: images that can be read in which no layer found anything. This is no sign that they are
            real: most tools remove metadata, and no layer sees every generator.
        layers: what each layer counts.
        share: what is known about the share of synthetic images.
        notes: sentences about the set and the settings.
    """

    images: int
    failed: int
    nothing_found: int
    layers: tuple[Layer, ...]
    share: Share
    notes: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Layer:
        """The layer of a name. Raises KeyError."""
        return {layer.name: layer for layer in self.layers}[name]

    def as_dict(self, keep_text: bool = False) -> dict[str, Any]:
        """The result for JSON. Names of images and notes, which hold paths, only with `keep_text`."""
        content = asdict(self)
        content["share"]["low"] = self.share.low
        for layer in content["layers"]:
            del layer["examples"]
            for kind in layer["kinds"]:
                if not keep_text:
                    del kind["example"]["key"]
        if not keep_text:
            del content["notes"]
        return content

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows of text (layer, images, share of the images looked at, example), with one row per kind."""
        rows = []
        for layer in self.layers:
            share = f"{layer.count / layer.of:.1%}" if layer.of else "-"
            rows.append((layer.name, f"{layer.count:,}", share, layer.note))
            for kind in layer.kinds:
                rows.append(
                    (f"  {plain(kind.name)}", f"{kind.count:,}", "", f"such as {plain(kind.example.key)}")
                )
        return rows

    def summary(self) -> list[str]:
        """The share in sentences: at least, the estimate or why it cannot be told, and what it depends on."""
        share, lines = self.share, []
        lines.append(f"at least {share.declared:.1%} declare that they are synthetic")
        if share.estimate is None:
            lines.append(f"estimate: cannot tell ({share.reason})")
        else:
            found = share.estimate
            lines.append(
                f"estimate: {found.estimate:.1%} synthetic, 95% interval {found.low:.1%} to {found.high:.1%} "
                f"({found.method}, {self._basis()})"
            )
        for case in share.what_if:
            told = "cannot tell" if case.share is None else f"{case.share:.1%}"
            lines.append(
                f"  if the probe detected {case.sensitivity:.0%} with {case.false_positive_rate:.1%} false "
                "positives: "
                f"{told}"
            )
        if share.least is not None and share.estimate is not None:
            lines.append(
                "  if the set has generators that the probe does not know, the interval does not hold; at "
                "least "
                f"{share.least:.1%} then"
            )
        lines.append(
            f"nothing was found in {self.nothing_found:,} of {self.images - self.failed:,} images; this "
            "does not "
            "mean that they are real"
        )
        return lines

    def _basis(self) -> str:
        share = self.share
        if share.labelled is not None:
            return f"{share.labelled.n:,} labels"
        if share.calibration is None:
            return "no detector"
        rates = share.calibration
        return (
            f"the probe flags {share.flagged:,} of {share.scored:,}; on held-out calibration images it "
            "detects "
            f"{rates.detected:,} of {rates.synthetic:,} with {rates.real - rates.passed:,} of "
            f"{rates.real:,} false "
            "positives"
        )
