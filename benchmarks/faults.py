"""Chains whose file calls fail, that are killed, and whose files are damaged: what difflab does about it.

    python benchmarks/faults.py calls gaussian                    # every file call fails once with each error
    python benchmarks/faults.py kills gaussian --count 1000       # SIGKILL, resume, and kills while resuming
    python benchmarks/faults.py kills gaussian --count 30 --processes 2
    python benchmarks/faults.py flips gaussian --count 20         # flipped bits and truncations in every file

It needs Linux and a C compiler. TMPDIR=/dev/shm spares the disk. Calls are counted below the folder that has the
run, see tests/helpers/failing_calls.c. After each trial the same command has to end with exit code 0, with the
bits of a run that nobody disturbed; `difflab verify` and `difflab status` have to find nothing; no temporary file
may be left, and a run beside it may not have changed. What does not hold is a problem; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from failing_calls import Ended, Server, missing  # noqa: E402
from faulty_chains import CHAINS, FaultyChain  # noqa: E402

Record = dict[str, Any]
PROCESS = re.compile(r"\.[0-9a-f]{6}-[0-9a-f]{6}-[0-9]+-[0-9]+(-claim[0-9]+)?")
UNLISTED = ("timings.jsonl", "report.html", "strip.png", "curves.png", "grid.png", ".lease")
"""Files that no result is read from: times, pages and pictures that are drawn again, and the lease."""


def call_of(ended: Ended, runs: Path) -> str:
    """The first call that failed, without names of processes: "write run/gen-000/.model.tmp/..."."""
    if not ended.said:
        return ""
    return PROCESS.sub("", ended.said[0].replace(f"{runs.resolve()}/", ""))


# --------------------------------------------------------------------------------------------- failing calls
def picked(calls: list[str], args: argparse.Namespace) -> list[int]:
    """The numbers of the calls that have to fail, from 1."""
    numbers = list(range(1, len(calls) + 1))
    if args.ends:
        around = zip(["", *calls], calls, [*calls[1:], ""], strict=False)
        inner = [a == b == c and b.startswith("write ") for a, b, c in around]
        numbers = [n for n, left_out in zip(numbers, inner, strict=True) if not left_out]
    return numbers[random.Random(args.seed).randrange(args.every) :: args.every]


def calls(chain: FaultyChain, args: argparse.Namespace) -> Iterator[Record]:
    """Every `args.every`-th call fails once, with each error; with --lasting, also all calls after it."""
    for n in picked(chain.calls, args):
        for lasting in (False, True) if args.lasting == "both" else (args.lasting == "yes",):
            for fault in args.errors:
                chain.fresh()
                ended = chain.start(n, fault=fault, lasting=lasting)
                problems = [*chain.after_fault(ended), *chain.resumed()]
                call = call_of(ended, chain.runs)
                if not call:
                    problems.append("the call did not come")
                yield {
                    "fault": fault + (", lasting" if lasting else ""),
                    "n": n,
                    "call": call,
                    "code": ended.codes[0],
                    "problems": problems,
                }


# ----------------------------------------------------------------------------------------------------- kills
MOMENTS = ("call", "time")


def kills(chain: FaultyChain, args: argparse.Namespace) -> Iterator[Record]:
    """SIGKILL at a random call or time of a run. In every third trial the resume is killed too, and in every
    third of these the resume of that.
    """
    draw = random.Random(args.seed)
    chain.fresh()
    whole = chain.start().seconds
    chain.fresh()
    for trial in range(args.count):
        times = 1 + (trial % 3 == 1) + 2 * (trial % 3 == 2)
        moments, problems = [], []
        chain.fresh()
        left, seconds = len(chain.calls), whole
        for _ in range(times):
            moment = "call" if args.power else MOMENTS[trial % 2]
            # The first process writes the most; the others are killed at random times.
            rank = draw.randrange(chain.world) if moment == "time" else 0
            before = time.monotonic()
            if moment == "call":
                n = draw.randint(1, max(left, 1))
                ended = chain.start(n, fault="power" if args.power else "kill", rank=rank)
                left -= n
                moments.append([n, call_of(ended, chain.runs), rank])
            else:
                after = draw.uniform(0, seconds)
                ended = chain.start(kill_after=after, rank=rank)
                seconds -= time.monotonic() - before
                moments.append([round(after, 4), "", rank])
            if ended.codes[rank] != -9 and set(ended.codes) != {0}:
                problems.append(f"exit codes {ended.codes}: {ended.stderr[-600:]}")
            moments[-1].append(ended.codes[rank] == -9)
            problems += chain.half_run()
        problems += chain.resumed()
        fault = "loss of power" if args.power else "kill"
        yield {"fault": f"{fault} at a {moment}, {times} in a row", "kills": moments, "problems": problems}


# ----------------------------------------------------------------------------------------------------- flips
def flips(chain: FaultyChain, args: argparse.Namespace) -> Iterator[Record]:
    """`args.count` flipped bits and a quarter as many truncations in each file of a finished run."""
    draw = random.Random(args.seed)
    for path in sorted(path for path in chain.run.rglob("*") if path.is_file()):
        content, name = path.read_bytes(), str(path.relative_to(chain.run))
        for trial in range(args.count + max(1, args.count // 4)):
            damaged, at = bytearray(content), draw.randrange(max(1, len(content)))
            if trial < args.count and content:
                bit = draw.randrange(8)
                damaged[at] ^= 1 << bit
                fault, where = "flip", f"byte {at}, bit {bit}"
            else:
                del damaged[at:]
                fault, where = "truncation", f"to {at} bytes"
            path.write_bytes(damaged)
            asked = chain.ask("verify")
            path.write_bytes(content)
            said = (asked.stdout + asked.stderr).replace(f"{chain.run}/", "")
            # A damaged list of hashes shows in the message on a file that it lists.
            named = asked.code != 0 and (path.name if path.name == "hashes.json" else name) in said
            harmless = any(path.name.startswith(each) for each in UNLISTED)
            problems = []
            if asked.code not in (0, 1, 2) or "Traceback" in asked.stderr:
                problems.append(f"verify: {asked.code} {asked.stderr[-600:]}")
            elif not named and not harmless:
                problems.append(f"not named: {asked.code} {said[-600:]}")
            yield {
                "fault": fault,
                "file": re.sub(r"[0-9]{3,}", "N", name),
                "where": f"{name}: {where}",
                "named": named,
                "harmless": harmless and not named,
                "problems": problems,
            }


# --------------------------------------------------------------------------------------------------- tables
def table(head: str, rows: Iterator[tuple[Any, ...]]) -> None:
    print(f"\n| {head} |\n" + "|---" * (head.count("|") + 1) + "|")
    for row in rows:
        print("| " + " | ".join(str(each) for each in row) + " |")


def show_calls(records: list[Record]) -> None:
    def rows() -> Iterator[tuple[Any, ...]]:
        for fault in sorted({record["fault"] for record in records}):
            for kind in sorted({record["call"].split(" ")[0] for record in records}):
                of = [r for r in records if r["fault"] == fault and r["call"].split(" ")[0] == kind]
                if of:
                    codes = Counter(record["code"] for record in of)
                    bad = sum(bool(record["problems"]) for record in of)
                    yield fault, kind, len(of), codes[2], codes[0], len(of) - bad, bad

    table(
        "fault | call | trials | exit code 2, one line | ends as if nothing was | right after resuming | problems",
        rows(),
    )


def show_kills(records: list[Record]) -> None:
    def rows() -> Iterator[tuple[Any, ...]]:
        for fault in sorted({record["fault"] for record in records}):
            of = [record for record in records if record["fault"] == fault]
            hit = sum(kill[-1] for record in of for kill in record["kills"])
            bad = sum(bool(record["problems"]) for record in of)
            yield fault, len(of), hit, len(of) - bad, bad

    table("moment | runs | kills that hit | same bits after resuming | problems", rows())


def show_flips(records: list[Record]) -> None:
    def rows() -> Iterator[tuple[Any, ...]]:
        for file in sorted({record["file"] for record in records}):
            of = [record for record in records if record["file"] == file]
            counts = [sum(record[key] for record in of) for key in ("named", "harmless")]
            yield f"`{file}`", len(of), *counts, sum(bool(record["problems"]) for record in of)

    table("file | faults | named by verify | no result is read from it | not named", rows())


TRIALS: dict[str, tuple[Callable[..., Iterator[Record]], Callable[[list[Record]], None]]] = {
    "calls": (calls, show_calls),
    "kills": (kills, show_kills),
    "flips": (flips, show_flips),
}


def show(records: list[Record]) -> int:
    """Print a table for each chain in a log. Returns the number of trials with problems."""
    found = 0
    keys = ("what", "chain", "processes", "seed")
    for key in dict.fromkeys(tuple(record[name] for name in keys) for record in records):
        of = [record for record in records if tuple(record[name] for name in keys) == key]
        bad = sum(bool(record["problems"]) for record in of)
        found += bad
        what, name, processes, seed = key
        print(
            f"\n{name}, {processes} process{'es' * (processes > 1)}: {len(of)} trials, {bad} with problems; "
            f"{of[0]['of']} file calls in a run; seed {seed}"
        )
        TRIALS[what][1](of)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*TRIALS, "tables"], help="tables: those of the log in --out")
    parser.add_argument("chains", nargs="*", metavar="CHAIN", help=", ".join(CHAINS))
    parser.add_argument("--every", type=int, default=1, help="calls: every k-th call (default: 1)")
    parser.add_argument(
        "--ends",
        action="store_true",
        help="calls: of many writes to a file in a row, only the first and the last one",
    )
    parser.add_argument("--errors", nargs="+", choices=("EIO", "ENOSPC"), default=("EIO", "ENOSPC"))
    parser.add_argument(
        "--lasting",
        choices=("no", "yes", "both"),
        default="no",
        help="calls: whether the calls after it fail too (default: no)",
    )
    parser.add_argument("--count", type=int, default=20, help="kills: runs; flips: bits per file")
    parser.add_argument("--processes", type=int, default=1, help="kills: processes of the run (default: 1)")
    parser.add_argument(
        "--power", action="store_true", help="kills: also empty the files that are not synced to the disk"
    )
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="log of all trials, JSON lines; it is added to")
    return parser.parse_args()


def tried(chain: FaultyChain, args: argparse.Namespace, log: TextIO | None, until: float) -> list[Record]:
    """All trials on one chain, logged."""
    records = []
    for record in TRIALS[args.what][0](chain, args):
        line = {
            "what": args.what,
            "chain": chain.name,
            "processes": chain.world,
            "seed": args.seed,
            "of": len(chain.calls),
            **record,
        }
        records.append(line)
        if log:
            print(json.dumps(line), file=log, flush=True)
        if record["problems"]:
            print(json.dumps(line), file=sys.stderr)
        if time.monotonic() > until:
            print(f"stopped after {args.minutes:g} minutes", file=sys.stderr)
            break
    return records


def main() -> int:
    args = arguments()
    if args.what == "tables":
        return 1 if show([json.loads(line) for line in args.out.read_text().splitlines()]) else 0
    if missing():
        sys.exit(missing())
    found, until = 0, time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as place, Server(Path(place) / "server") as server:
        log = open(args.out, "a") if args.out else None  # noqa: SIM115
        for name in args.chains:
            found += show(tried(FaultyChain(server, Path(place), name, args.processes), args, log, until))
        if log:
            log.close()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
