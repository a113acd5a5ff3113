"""How packages make the numbers that papers print: one table, `PROTOCOLS`.

    published:torch-fidelity   torch-fidelity 0.4.0: FID, KID, precision and recall, Inception Score
    published:clean-fid        clean-fid 0.1.35: FID, KID
    published:pytorch-fid      pytorch-fid 0.3.0: FID
    published:adm              evaluator of guided-diffusion: FID, precision and recall, Inception Score

docs/published-numbers.md says the same in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.suggest import nearest
from difflab.data.stored import StoredImages
from difflab.evaluation.reference import Reference, moments
from difflab.metrics import published as formulas
from difflab.metrics.frechet import frechet_distance, frechet_from_moments


@dataclass(frozen=True)
class Sides:
    """What the measures of a protocol read.

    Attributes:
        real, fake: features float32 [n, d]; `real` None = no real images were given.
        reference: statistics that take the place of the real images in FID; None = there are none.
        to_logits: features to class logits, for the Inception Score.
        seed: of the random numbers of a package that sets no seed itself.
    """

    real: Tensor | None
    fake: Tensor
    reference: Reference | None
    to_logits: Callable[[Tensor], Tensor]
    seed: int

    def both(self) -> tuple[Tensor, Tensor]:
        """Features of the real and of the generated images.

        Raises MeasureError where only moments are known.
        """
        if self.real is None:
            raise MeasureError(
                "needs real images one by one, and the statistics hold only their mean and covariance: give "
                "REAL too, or make them with --features"
            )
        return self.real, self.fake

    def logits(self, rows: Tensor) -> Tensor:
        """Class logits of the generated images at `rows`."""
        return self.to_logits(self.fake[rows])


@dataclass(frozen=True)
class Printed:
    """One measure of a package.

    Attributes:
        names: the numbers that it prints, as it names them.
        take: computes them.
        default: whether it is taken where no measures are asked for.
        network: what the package takes it on by itself. Without that network it is taken on Inception.
    """

    names: tuple[str, ...]
    take: Callable[[Sides], Sequence[float]]
    default: bool = True
    network: str = "inception"


@dataclass(frozen=True)
class Protocol:
    """How one package makes its numbers.

    Attributes:
        package: its name and version.
        resize: key of `difflab.features.resize.RESIZES`; it also fixes the range of the values.
        suffixes: files of a folder that it reads, without a dot; empty = it reads no folders.
        deep: whether it reads subfolders.
        measures: by a name that is common to all protocols.
    """

    package: str
    resize: str
    suffixes: frozenset[str]
    deep: bool
    measures: Mapping[str, Printed]

    def asked(self, metrics: Sequence[str] | None) -> dict[str, Printed]:
        """The measures that `metrics` names, by common or printed names; None = those that are default.

        Raises MeasureError for a measure that the package does not have.
        """
        if metrics is None:
            return {key: printed for key, printed in self.measures.items() if printed.default}
        keys = {key: key for key in self.measures}
        for key, printed in self.measures.items():
            keys |= {name.casefold(): key for name in printed.names}
        for name in metrics:
            if name.casefold() not in keys:
                raise MeasureError(f"{self.package} has no measure '{name}'; {nearest(name, list(keys))}")
        wanted = {keys[name.casefold()] for name in metrics}
        return {key: printed for key, printed in self.measures.items() if key in wanted}

    def left_out(self, images: StoredImages) -> int:
        """How many files of a folder the package's own command would not read."""
        if not images.is_folder:
            return 0
        paths = [PurePosixPath(key) for key in images.keys]
        return sum(
            path.suffix[1:].lower() not in self.suffixes or (len(path.parts) > 1 and not self.deep)
            for path in paths
        )


def _fid(sides: Sides) -> tuple[float]:
    if sides.reference is None:
        return (frechet_distance(*sides.both()),)
    of_real = (sides.reference.mean, sides.reference.covariance)
    return (frechet_from_moments(*of_real, *moments(sides.fake)),)


PHOTOS = frozenset({"bmp", "jpg", "jpeg", "pgm", "png", "ppm", "tif", "tiff", "webp"})
NATIVE = "native"
PROTOCOLS = {
    "torch-fidelity": Protocol(
        "torch-fidelity 0.4.0",
        resize="tf1",
        suffixes=frozenset({"png", "jpg", "jpeg"}),
        deep=False,
        measures={
            "fid": Printed(("frechet_inception_distance",), _fid),
            "kid": Printed(
                ("kernel_inception_distance_mean", "kernel_inception_distance_std"),
                lambda sides: formulas.kid_of_torch_fidelity(*sides.both()),
            ),
            "precision_recall": Printed(
                ("precision", "recall", "f_score"),
                lambda sides: formulas.prc_of_torch_fidelity(*sides.both()),
                network="vgg16",
            ),
            "inception_score": Printed(
                ("inception_score_mean", "inception_score_std"),
                lambda sides: formulas.inception_scores(
                    sides.logits, formulas.parts_of_torch_fidelity(len(sides.fake))
                ),
                default=False,
            ),
        },
    ),
    "clean-fid": Protocol(
        "clean-fid 0.1.35",
        resize="clean",
        suffixes=PHOTOS,
        deep=True,
        measures={
            "fid": Printed(("FID",), _fid),
            "kid": Printed(
                ("KID",), lambda sides: (formulas.kid_of_clean_fid(*sides.both(), seed=sides.seed),)
            ),
        },
    ),
    "pytorch-fid": Protocol(
        "pytorch-fid 0.3.0",
        resize="pytorch-fid",
        suffixes=PHOTOS,
        deep=False,
        measures={"fid": Printed(("FID",), _fid)},
    ),
    "adm": Protocol(
        "evaluator of guided-diffusion (ADM)",
        resize="tf1",
        suffixes=frozenset(),
        deep=False,
        measures={
            "fid": Printed(("FID",), _fid),
            "precision_recall": Printed(
                ("Precision", "Recall"), lambda sides: formulas.precision_recall_of_adm(*sides.both())
            ),
            "inception_score": Printed(
                ("Inception Score",),
                lambda sides: formulas.inception_scores(sides.logits, formulas.parts_of_adm(len(sides.fake)))[
                    :1
                ],
                default=False,
            ),
        },
    ),
}
DEFAULT = "torch-fidelity"
NAMES = (NATIVE, "published", *(f"published:{name}" for name in PROTOCOLS))


def protocol_of(name: str) -> tuple[str, Protocol]:
    """The full name of a published protocol, and the protocol. 'published' is that of torch-fidelity.

    Raises MeasureError with the nearest name.
    """
    full = f"published:{DEFAULT}" if name == "published" else name
    kind, _, package = full.partition(":")
    if kind != "published" or package not in PROTOCOLS:
        raise MeasureError(f"unknown protocol '{name}'; {nearest(name, NAMES)}")
    return full, PROTOCOLS[package]
