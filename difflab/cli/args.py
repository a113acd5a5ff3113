"""The parser, and the arguments that several commands share."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from difflab import config as configs
from difflab.cli.output import problem
from difflab.config.presets import find
from difflab.core.size import LARGEST, SMALLEST, Size, size_of
from difflab.core.suggest import closest
from difflab.core.text import is_url


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line that state what is wrong and what to type instead.

    Attributes:
        examples: only in the parser of all commands: name of a command -> the lines of examples in its help.
    """

    def __init__(self, *args: Any, front: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self.examples: dict[str, list[str]] = {}
        self.front = front

    def format_help(self) -> str:
        """The front page of the parser of all commands; argparse's own help of a single command."""
        return self.front or super().format_help()

    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"argument COMMAND: invalid choice: '(.*?)'", message):
            message = f"there is no command '{unknown[1]}'{meant(unknown[1], self.examples)}"
        elif message.startswith("unrecognized arguments: "):
            wrong = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            options: list[str] = []
            for action in self._actions:
                options += action.option_strings
            message += meant(wrong, options)
        self.exit(problem(f"{message}; see {self.prog} --help"))


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the known word that is most similar, or '' if none is."""
    near = closest(word, known, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


class Commands:
    """The commands of the command line. A file per group adds its own, each in one call of `add`."""

    def __init__(self, top: Parser):
        self.top = top
        self.subparsers = top.add_subparsers(metavar="COMMAND")

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int | None],
        about: str,
        examples: Sequence[str],
        json_too: bool = True,
    ) -> argparse.ArgumentParser:
        """Add a command and return its parser. `run` returns the exit code, None = 0."""
        self.top.examples[name] = list(examples)
        epilog = "\n  ".join(["examples:", *examples]).replace("%", "%%")
        description = textwrap.fill(about, 80)
        command = self.subparsers.add_parser(name, help=about, description=description, epilog=epilog)
        command.set_defaults(command=run, parser=command)
        if json_too:
            command.add_argument("--json", action="store_true", help="print rows as JSON lines on stdout")
        return command


# ------------------------------------------------------------------------------------------------ arguments
def config_arguments(
    command: argparse.ArgumentParser, about: str = "a YAML config, or the name of a preset: difflab presets"
) -> None:
    """CONFIG and its overrides."""
    command.add_argument("config", type=Path, metavar="CONFIG", help=about)
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="dotted overrides, for example train.images_seen=50000",
    )


FAST = tuple(
    f"{section}.{field}=auto" for section in ("train", "sample") for field in ("precision", "compile")
)
"""What --fast stands for."""


def fast_argument(command: argparse.ArgumentParser) -> None:
    """--fast, which `read_config` puts before the overrides."""
    command.add_argument(
        "--fast",
        action="store_true",
        help="the same as train.precision=auto train.compile=auto sample.precision=auto sample.compile=auto: "
        "16 bits (or TF32) and compiled code where they save time on this machine",
    )


def place_argument(text: str) -> Path | str:
    """A folder; or a URL such as s3://bucket/path, which stays a string."""
    return text if is_url(text) else Path(text)


def folder_argument(text: str) -> Path:
    """A folder, for argparse. URLs are refused."""
    if is_url(text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is a URL and must be a folder; in an object store work only difflab run and measure"
        )
    return Path(text)


def out_argument(command: argparse.ArgumentParser, default: str = "runs/NAME", urls: bool = False) -> None:
    """--out, a folder. urls: or a URL."""
    or_url = ", or the URL of an object store such as s3://bucket/path" if urls else ""
    kind = place_argument if urls else folder_argument
    command.add_argument("--out", type=kind, help=f"folder{or_url} (default: {default})")


def run_argument(command: argparse.ArgumentParser, about: str = "a run, or an ecosystem of them") -> None:
    """RUN, a folder or a URL, see `localised`."""
    command.add_argument("dir", type=place_argument, metavar="RUN", help=about)


def runs_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "runs",
        type=place_argument,
        nargs="+",
        metavar="RUN",
        help="runs, or the folder of one sweep; the first arm is the baseline",
    )


def gib_argument(text: str) -> float:
    """A positive number of GiB, for argparse."""
    try:
        gib = float(text)
    except ValueError:
        gib = 0.0
    if not 0 < gib < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of GiB above 0, such as 24")
    return gib


def size_argument(text: str) -> Size:
    """The value of --image-size: 64, or the height and width as 48,64."""
    try:
        sides = [int(side) for side in text.strip("[]").split(",")]
        return size_of(sides[0] if len(sides) == 1 else sides)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a size: type the side of a square such as 64, or height and width such as "
            f"48,64, each from {SMALLEST} to {LARGEST} pixels"
        ) from None


def image_set_arguments(command: argparse.ArgumentParser, resamples: int, count: str) -> None:
    """What compare and diagnose have in common."""
    command.add_argument(
        "--train", type=Path, help="the images the first model was trained on: adds the memorisation measures"
    )
    command.add_argument(
        "--concepts",
        type=Path,
        metavar="FILE",
        help="one concept per line, as captions name them: adds the concept measures",
    )
    command.add_argument(
        "--extractors",
        nargs="+",
        metavar="NAME",
        help="feature spaces (default: efficientnet-lite0 if installed, pixels, texture; of a run its own)",
    )
    command.add_argument("--count", type=int, help=f"images on every side (default: {count})")
    command.add_argument(
        "--image-size",
        type=size_argument,
        metavar="SIZE",
        help="pixels to which all images are cropped and resized: the side of a square, or H,W (default: "
        "their own size if all have the same, else the smallest square)",
    )
    command.add_argument(
        "--max-bad",
        type=float,
        default=0.01,
        help="largest share of unreadable images that are left out (default: 0.01)",
    )
    command.add_argument(
        "--resamples",
        type=int,
        default=resamples,
        help=f"half-samples behind each interval, 0 = none (default: {resamples})",
    )
    command.add_argument("--seed", type=int, default=0, help="which images are drawn (default: 0)")
    command.add_argument(
        "--precision",
        choices=("auto", "float32", "bf16"),
        default="auto",
        help="of products in feature networks; auto = bf16 on a CPU with instructions for it, else float32 "
        "(default: auto)",
    )


def read_config(args: argparse.Namespace, kind: Any = configs.Config, group: str = "") -> Any:
    """The config that a command names: a file or a preset, with the overrides.

    Raises ConfigError with the nearest name.
    """
    fast = FAST if getattr(args, "fast", False) else ()
    return configs.load(find(args.config, group), [*fast, *args.overrides], kind)
