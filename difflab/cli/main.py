"""The command line.

Results go to stdout, progress to stderr; exit code 2 is a problem that the user can mend.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from importlib.metadata import version
from pathlib import Path

from difflab.cli import auditing, chains, images, provenance, setup, studies, tuning
from difflab.cli.args import Commands, Parser
from difflab.cli.output import problem
from difflab.core.errors import DISK_ERROR, DISK_FULL, DifflabError
from difflab.core.text import is_url

FRONT = """difflab, the image-diffusion collapse lab: what happens to an image model that
keeps being trained on images made by models

  run a chain       difflab run digits
                    train a model on its own samples, again and again
  compare two sets  difflab compare real/ generated/
                    FID, recall, texture, copies: with n, floor, interval
  diagnose          difflab diagnose runs/digits
                    which kind of collapse, since which generation, how sure
  sweep             difflab sweep regimes
                    several arms and seeds under one budget, paired intervals
  report            difflab report runs/digits
                    one HTML file: verdict, pictures, curves, what helps

other commands
  images            reference, audit
  chains            plan, status, measure, export, sign, verify, new-key
  studies           compare-runs, claims, calibrate, theory, tune-sampling
  setup             presets, doctor, pretrain, policies, schema, completion

difflab COMMAND --help   the options of a command, with examples
difflab presets          the configs that come with it, published protocols too
several GPUs             accelerate launch --multi_gpu -m difflab run digits

exit codes
  0    fine
  1    something was found: failed arms, damaged files, a law that does not hold
       or too many synthetic images
  2    a problem that you can mend; the one line on stderr says how
  130  interrupted; the same command resumes

NO_COLOR=1 switches colours off; DIFFLAB_DEBUG=1 shows the traceback of an error
"""


def main(argv: list[str] | None = None) -> int:
    """Parse and run one command; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    args = parse(argv)
    code = 0
    try:
        if args.command is not chains.measure:  # which writes into the run
            localised(args)
        code = args.command(args) or 0
        print(end="", flush=True)  # a reader that has gone is noticed here, not while Python shuts down
        return code
    except DifflabError as error:
        if os.environ.get("DIFFLAB_DEBUG"):
            traceback.print_exc()
        return problem(str(error))
    except KeyboardInterrupt:
        print("difflab: stopped; the same command resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, say) has gone; closing stdout on exit must not complain about it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code
    except Exception as error:
        text = explained(error)
        if text is None:
            raise
        return problem(text)


def localised(args: argparse.Namespace) -> None:
    """Replace the URLs of runs that a command reads by folders with a copy of what is finished there.

    `args.url` is the URL of the one run that a command is about; "" = a folder.
    """
    args.url = next((each for each in map(vars(args).get, ("dir", "out")) if is_url(each)), "")
    for name in ("dir", "runs", "sets"):
        places = getattr(args, name, None)
        listed = places if isinstance(places, list) else [places]
        if not any(map(is_url, listed)):
            continue
        from difflab.runs.remote import fetched

        weights = getattr(args, "weights", False)
        local = [fetched(str(place), weights) if is_url(place) else place for place in listed]
        setattr(args, name, local if isinstance(places, list) else local[0])


def explained(error: Exception) -> str | None:
    """An error of the operating system as a sentence; None for every other error, which is a fault of
    difflab.
    """
    if DISK_FULL.search(str(error)):
        return "no space left on the disk; free some space and run the same command again to resume"
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
        if isinstance(error, IsADirectoryError):
            text += ", where a file is wanted; delete it and run the same command again"
        return text
    if DISK_ERROR.search(str(error)):
        return f"a disk cannot be read or written ({error}); check it, and run the same command again"
    return None


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options may stand anywhere, also before or between the overrides, where argparse alone takes no further
    ones.
    """
    args, rest = parser().parse_known_args(argv)
    if rest and getattr(args, "generated", args) is None and not rest[0].startswith("-"):
        # Before Python 3.12.8 an optional GEN counts as left out where an option stands before it.
        args.generated = Path(rest.pop(0))
    listed = None
    for name in ("overrides", "laws", "names", "presets", "what"):
        listed = getattr(args, name, listed)
    if rest and (listed is None or any(word.startswith("-") for word in rest)):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if listed is not None:
        listed += rest
    return args


def parser() -> Parser:
    """The command line: a parser with one subparser per command."""
    top = Parser("difflab", front=FRONT)
    top.add_argument("--version", action="version", version=f"difflab {version('difflab')}")
    top.set_defaults(command=front_page, parser=top)
    commands = Commands(top)
    for group in (chains, provenance, images, auditing, studies, tuning, setup):
        group.add(commands)
    return top


def front_page(args: argparse.Namespace) -> int:
    """`difflab` without a command."""
    print(FRONT, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
