"""Commands on images that difflab need not have made: compare, reference, diagnose."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from difflab.cli.args import Commands, image_set_arguments, place_argument
from difflab.cli.output import print_rows, quiet_libraries
from difflab.core.errors import ConfigError
from difflab.core.files import existing


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_compare(commands)
    _add_reference(commands)
    _add_diagnose(commands)


def _add_compare(commands: Commands) -> None:
    command = commands.add(
        "compare",
        compare,
        "Measure generated images against real ones: any two folders or parquet sets.",
        [
            "difflab compare real/ generated/",
            "difflab compare real/ generated/ --train trained_on/ --extractors pixels --json",
            "difflab compare real/ generated/ --protocol published:clean-fid",
            "difflab compare generated/ --protocol published --reference real.safetensors",
        ],
    )
    command.add_argument(
        "real",
        type=Path,
        metavar="REAL",
        help="real images: a folder (class folders, metadata.jsonl or flat) or parquet; leave them out with "
        "--reference",
    )
    command.add_argument("generated", type=Path, nargs="?", metavar="GEN", help="generated images, as REAL")
    command.add_argument(
        "--protocol",
        default="native",
        metavar="NAME",
        help="native (n, floor, interval), or the numbers that a package prints, of all images: "
        "published[:torch-fidelity | :clean-fid | :pytorch-fid | :adm] (default: native)",
    )
    command.add_argument(
        "--reference",
        type=Path,
        metavar="STATS",
        help="with a published protocol: statistics of the real images, from difflab reference, pytorch-fid, "
        "clean-fid or ADM",
    )
    device_argument(command)
    command.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="measures by name (default: those that the images allow)"
    )
    image_set_arguments(command, 100, "as many as there are; half of the real ones make the floor")
    command.add_argument("--all", action="store_true", help="print every measure, not the five clearest")


def _add_reference(commands: Commands) -> None:
    command = commands.add(
        "reference",
        reference,
        "Write statistics of real images, so that published numbers need not read the images again.",
        ["difflab reference real/ --out real.safetensors --protocol published:clean-fid"],
    )
    command.add_argument("images", type=Path, metavar="DIR", help="real images, as for compare")
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where to write: .safetensors or .npz"
    )
    command.add_argument(
        "--protocol", default="published", metavar="NAME", help="as for compare (default: published)"
    )
    command.add_argument(
        "--extractors", nargs=1, metavar="NAME", help="inception or inception:PATH (default: inception)"
    )
    command.add_argument(
        "--features",
        action="store_true",
        help="store the features too, 8 KiB per image, for KID, precision and recall",
    )
    device_argument(command)


def _add_diagnose(commands: Commands) -> None:
    command = commands.add(
        "diagnose",
        diagnose,
        "Which kind of collapse a run or a series of image sets shows, since when, and how sure that is.",
        [
            "difflab diagnose runs/digits",
            "difflab diagnose --reference real/ gen0/ gen1/ gen2/ --train trained_on/",
        ],
    )
    command.add_argument(
        "sets",
        type=place_argument,
        nargs="+",
        metavar="RUN | GEN",
        help="a run; or, with --reference, one set of samples per generation",
    )
    command.add_argument(
        "--reference",
        type=Path,
        metavar="REAL",
        help="real images that no model was trained on, as for compare",
    )
    image_set_arguments(command, 40, "as many as all have, at most 1,000")
    command.add_argument("--all", action="store_true", help="print the findings of every generation in full")


def device_argument(command: argparse.ArgumentParser) -> None:
    """--device, where networks run."""
    command.add_argument(
        "--device", default="cpu", metavar="NAME", help="where the networks run, such as cuda (default: cpu)"
    )


def check_paths(**images: Path | None) -> None:
    """Raise DataError for a path that does not exist, before libraries are imported that take seconds."""
    for side, path in images.items():
        if path is not None:
            existing(path, side.replace("_", " "))


def compare(args: argparse.Namespace) -> int:
    """Measure generated images against real ones."""
    sides = {"real": args.real, "generated": args.generated}
    if args.generated is None:
        if args.reference is None:
            raise ConfigError(
                "GEN is missing; type difflab compare REAL GEN, or difflab compare GEN --reference STATS"
            )
        sides = {"real": None, "generated": args.real}
    check_paths(**sides, train=args.train, reference=args.reference)
    quiet_libraries()
    from difflab.cli.endings import end_of_compare, end_of_published
    from difflab.evaluation import compare as comparing

    result = comparing.compare(
        **sides,
        train=args.train,
        concepts=args.concepts,
        extractors=args.extractors,
        metrics=args.metrics,
        count=args.count,
        image_size=args.image_size,
        max_bad=args.max_bad,
        resamples=args.resamples,
        seed=args.seed,
        device=args.device,
        protocol=args.protocol,
        reference=args.reference,
        precision=args.precision,
    )
    for line in result.notes:
        print(line, file=sys.stderr)
    if args.json:
        print_rows(result.rows)
    elif result.protocol == "native":
        end_of_compare(result, args.real, args.generated, args.all)
    else:
        end_of_published(result)
    return 0


def reference(args: argparse.Namespace) -> int:
    """Write statistics of real images."""
    check_paths(real=args.images)
    quiet_libraries()
    from difflab.evaluation import published
    from difflab.evaluation.reference import check_suffix, write_reference

    check_suffix(args.out)
    made, notes = published.make_reference(
        args.images,
        args.protocol,
        extractors=args.extractors,
        with_features=args.features,
        device=args.device,
    )
    for line in notes:
        print(line, file=sys.stderr)
    write_reference(args.out, made)
    if args.json:
        print_rows(
            [{"file": str(args.out), "n": made.count, "features": len(made.mean), "recipe": made.recipe}]
        )
    else:
        print(f"{args.out}: statistics of {made.count} images, {len(made.mean)} features")
    return 0


def diagnose(args: argparse.Namespace) -> int:
    """Diagnose a run, or a series of image sets."""
    if args.reference is not None:
        sets = {f"generation_{t}": path for t, path in enumerate(args.sets)}
        check_paths(reference=args.reference, **sets, train=args.train)
    quiet_libraries()
    from difflab.cli.endings import end_of_diagnose

    result = _diagnosed(args)
    for line in [*result.notes, *(result.doubts if args.json else [])]:
        print(line, file=sys.stderr)
    if args.json:
        print_rows(result.rows())
    else:
        is_run = args.reference is None
        paths = [str(path) for path in (args.reference or "", args.sets[-1])]
        summary = result.summary(str(args.sets[0]) if is_run else None, *paths)
        end_of_diagnose(result, summary, args.all)
    return 0


def _diagnosed(args: argparse.Namespace) -> Any:
    from difflab.evaluation import diagnose as diagnosing
    from difflab.runs.run import open_run

    shared = {
        "extractors": args.extractors,
        "count": args.count,
        "resamples": args.resamples,
        "seed": args.seed,
    }
    if args.reference is not None:
        return diagnosing.diagnose(
            args.reference,
            args.sets,
            train=args.train,
            concepts=args.concepts,
            image_size=args.image_size,
            max_bad=args.max_bad,
            precision=args.precision,
            **shared,
        )
    if len(args.sets) > 1 or (args.sets[0].exists() and not (args.sets[0] / "run.yaml").exists()):
        raise ConfigError(
            "give one run, or real images to compare with: difflab diagnose --reference REAL GEN0 GEN1 ..."
        )
    for option in ("train", "concepts", "image_size"):
        if getattr(args, option) is not None:
            raise ConfigError(f"--{option.replace('_', '-')} goes with --reference; a run knows its own")
    return diagnosing.diagnose_run(open_run(args.sets[0]), **shared)
