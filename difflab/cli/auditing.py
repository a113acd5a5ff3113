"""Commands on the origin of images: audit."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from difflab.cli.args import Commands, size_argument
from difflab.cli.output import is_main_process, quiet_libraries, show
from difflab.core.errors import ConfigError

EVERY = 2000
"""Images between two lines of progress."""


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    command = commands.add(
        "audit",
        audit,
        "How much of an image set is synthetic, and how sure that is: layer by layer, with an interval.",
        [
            "difflab audit photos/",
            "difflab audit photos/ --calibrate real/ synthetic/ --max-share 0.05",
            "difflab audit data/train-*.parquet --labels labels.csv --out audits/train",
            "difflab audit photos/ --known-synthetic samples/ --write clean",
            "difflab audit photos/ --html audit.html",
        ],
    )
    command.add_argument(
        "dataset",
        metavar="DATASET",
        help="a folder, a .parquet, .npz or .npy file, or hub:NAME",
    )
    command.add_argument(
        "--calibrate",
        type=Path,
        nargs=2,
        metavar=("REAL", "SYNTHETIC"),
        help="images of known origin that are not in DATASET: half of them train a probe, the others measure "
        "its errors; 200 or more of each",
    )
    command.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="CSV file with file_name,label (real or synthetic) of images of DATASET, drawn at random",
    )
    _add_sets_and_probe(command)
    command.add_argument(
        "--metadata-only", action="store_true", help="read headers only: no copies, watermarks or probe"
    )
    command.add_argument(
        "--max-share",
        type=_share,
        metavar="X",
        help="exit with 1 if the lower bound of the share of synthetic images is above X, 0 to 1",
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the record; the same command goes on with it"
    )
    command.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page with counts, intervals and example images to this file; it holds names and texts "
        "of the images",
    )
    command.add_argument(
        "--keep-text",
        action="store_true",
        help="store names and metadata texts in the record and in --json; otherwise hashes and counts only",
    )
    _add_write(command)


def _add_write(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--write",
        type=Path,
        metavar="CLEAN",
        help="write the set without the images that --leave-out finds to this new folder, as parquet files "
        "with left_out.csv; nothing is deleted",
    )
    command.add_argument(
        "--leave-out",
        nargs="+",
        metavar="LAYER",
        help="layers whose images --write leaves out (default: 'declared synthetic', watermark, "
        "'hidden text', 'known synthetic')",
    )
    command.add_argument(
        "--weight",
        type=_weight,
        nargs="+",
        metavar="LAYER=W",
        help="give images that LAYER finds the weight W, 0 to 1, in what --write writes, instead of leaving "
        "them out; a run reads it with data.weight=weight",
    )


def _add_sets_and_probe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--known-synthetic", type=Path, metavar="DIR", help="synthetic images: copies of them are counted"
    )
    command.add_argument("--known-real", type=Path, metavar="DIR", help="real images, in the same way")
    command.add_argument(
        "--extractors",
        nargs="+",
        metavar="NAME",
        help="feature spaces of the probe (default: texture, and efficientnet-lite0 or else pixels)",
    )
    command.add_argument(
        "--image-size",
        type=size_argument,
        metavar="SIZE",
        help="pixels to which images are cropped and resized for the probe: the side of a square, or H,W "
        "(default: the typical shorter side, at most 256)",
    )
    command.add_argument("--seed", type=int, default=0, help="of random choices (default: 0)")
    command.add_argument(
        "--device", default="cpu", metavar="NAME", help="where the networks run, such as cuda (default: cpu)"
    )


def _weight(text: str) -> tuple[str, float]:
    """LAYER=W, for argparse."""
    layer, _, weight = text.rpartition("=")
    try:
        return layer, _share(weight)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not LAYER=W with a weight from 0 to 1, such as probe=0.2"
        ) from None


def _share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share from 0 to 1, such as 0.05")
    return share


def audit(args: argparse.Namespace) -> int:
    """Audit an image set."""
    if args.leave_out is not None and args.write is None:
        raise ConfigError("--leave-out goes with --write; add --write CLEAN")
    if args.weight is not None and args.write is None:
        raise ConfigError("--weight goes with --write; add --write CLEAN")
    if args.html is not None and args.html.is_dir():
        raise ConfigError(f"{args.html} is a folder; name a file, such as --html {args.html / 'audit.html'}")
    quiet_libraries()
    from difflab.evaluation.audit.audit import audit as auditing

    result = auditing(
        args.dataset,
        calibrate=None if args.calibrate is None else tuple(args.calibrate),
        labels=args.labels,
        known_synthetic=args.known_synthetic,
        known_real=args.known_real,
        extractors=args.extractors,
        image_size=args.image_size,
        metadata_only=args.metadata_only,
        keep_text=args.keep_text,
        out=args.out,
        write=args.write,
        leave_out=args.leave_out,
        weight=None if args.weight is None else dict(args.weight),
        seed=args.seed,
        device=args.device,
        progress=_told,
    )
    if args.html is not None:
        from difflab.report.audit_page import audit_page

        audit_page(result, args.dataset, args.html)
    for line in result.notes:
        print(line, file=sys.stderr)
    if args.json:
        print(json.dumps(result.as_dict(args.keep_text)))
    else:
        _show(result, args)
    return _verdict(result, args.max_share)


def _told(done: int, total: int) -> None:
    """Progress on stderr, for sets where it takes a while."""
    if total > EVERY and (done == total or done % EVERY < 256) and is_main_process():
        print(f"{done:,} of {total:,} images", file=sys.stderr)


def _show(result: Any, args: argparse.Namespace) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("layer")
    table.add_column("images", justify="right")
    table.add_column("share", justify="right")
    table.add_column("what it means")
    for row in result.table():
        table.add_row(*(_escaped(cell) for cell in row))
    print(f"{result.images:,} images, {result.failed:,} of which cannot be read")
    show(table)
    print()
    for line in result.summary():
        print(line)
    if args.html is not None:
        print(f"open in a browser: {args.html}")
    if args.write is not None:
        weight, files = "", "left_out.csv"
        if args.weight is not None:
            weight, files = " data.weight=weight", "left_out.csv and weights.csv"
        print(f"written: data.source=parquet:{args.write}{weight}; {files} have the reason per image")


def _escaped(text: str) -> str:
    """Text of a file without the markup of rich."""
    return text.replace("[", "\\[")


def _verdict(result: Any, most: float | None) -> int:
    """The exit code: 1 if the lower bound of the share is above `most`."""
    if most is None or result.share.low <= most:
        return 0
    print(
        f"the share of synthetic images is at least {result.share.low:.1%}, above --max-share {most:g}",
        file=sys.stderr,
    )
    return 1
