"""The arguments of studies that say where their jobs run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from difflab.studies.executors import Engine


def engine_arguments(command: argparse.ArgumentParser) -> None:
    """Add --workers."""
    command.add_argument(
        "--workers", type=int, help="runs at once (default: one per GPU; on a CPU one, which uses all cores)"
    )


def engine_of(args: argparse.Namespace) -> Engine:
    """The engine that the arguments of `engine_arguments` choose."""
    from difflab.studies.executors.local import Local

    return Local(args.workers)
