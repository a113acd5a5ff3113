"""The labelled suite of the diagnosis: simulated damages of known kind and degree, and what they are called.

    python benchmarks/diagnosis.py --out rows.jsonl                      # six sets, three seeds, n = 200 and 750
    python benchmarks/diagnosis.py digits --kinds blurred --seeds 1      # some sets, kinds, seeds
    python benchmarks/diagnosis.py --table rows.jsonl                    # the tables of stored cases, nothing is run

The rules of the diagnosis are written while looking at the sets of `WRITTEN_ON` only. The sets of `COUNTED` are held
out: they are run to count, and no rule or threshold is chosen by them.

Each case compares one set of samples with real images, without a generation 0, which is harder than a run. The images
are split into disjoint parts: reference, other real images, training images, and the pool that samples are made from.
A case that a set is too small for, or whose kind it cannot show (saturated grey images), is a row with the reason. The
same command with the same `--out` goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_sets import open_set

from difflab.core.errors import DataError
from difflab.core.seeds import numpy_generator
from difflab.evaluation.damage import TOPICS
from difflab.evaluation.examine import examine
from difflab.evaluation.finding import Finding
from difflab.evaluation.readings import Images
from difflab.evaluation.signs import ABSENT, SIGNS
from difflab.evaluation.simulate import KINDS, parts_of, simulate, struck_class
from difflab.metrics import open_extractor

WRITTEN_ON = ("digits", "emoji", "tiles")
COUNTED = ("mnist5k", "photos", "letters")
COUNTS = (200, 750)
"""Images on each side."""
CLEAR = 0.6
"""Degrees from here on are clear cases."""
MIXTURES = (
    "blurred+swapped",
    "tails_cut+swapped",
    "blended+permuted",
    "dropped+posterised",
    "blurred+saturated",
)
NAMES = {
    "tails_cut": "early",
    "shrunk": "early",
    "repeated": "catastrophic",
    "dropped": "forgetting",
    "blended": "late",
    "swapped": "poisoned labels",
    "permuted": "poisoned labels",
    "copied": "overfitting",
    "overlapping": "reference images",
    "overlapping_nearly": "reference images",
}
"""The right name of each kind; a kind of look has its own name."""
HEALTHY = 700
"""Images from which a diagnosis should be able to say that nothing is lost."""


@dataclass(frozen=True)
class Case:
    """Attributes: as in a row of the output; `kind` may be a mixture, `count` is the number of images on each side."""

    set: str
    count: int
    seed: int
    kind: str
    degree: float


@dataclass(frozen=True)
class Real:
    """The real images of a set, split, and its extractors, which remember the features of the last images."""

    parts: dict[str, Images]
    classes: list[str]
    extractors: list[Any]


class Remembering:
    """An extractor that remembers the features of the last sets: the real ones come again in every case."""

    def __init__(self, extractor: Any, most: int = 16) -> None:
        self._extractor, self._most = extractor, most
        self._known: OrderedDict[bytes, Any] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._extractor, name)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        key = hashlib.blake2b(images.contiguous().numpy()).digest()
        if key not in self._known:
            self._known[key] = self._extractor(images)
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return self._known[key]


# ------------------------------------------------------------------------------------------------- one case
opened = lru_cache(maxsize=1)(open_set)


@lru_cache(maxsize=1)
def real_images(name: str, count: int, seed: int) -> Real:
    """Reference, other, train (`count` images each) and pool (the rest). Raises DataError for a small set."""
    images = opened(name)
    if len(images.labels) < 4 * count:
        raise DataError(f"n = {count} needs {4 * count:,} images, {name} has {len(images.labels):,}")
    order = numpy_generator("diagnosis", seed).permutation(len(images.labels))
    real = Images(images.pixels[order], images.labels[order])
    parts = {
        part: real[i * count : (i + 1) * count] for i, part in enumerate(("reference", "other", "train"))
    }
    parts["pool"] = real[3 * count :]
    extractors = [Remembering(open_extractor(spec)) for spec in images.extractors]
    return Real(parts, images.classes, extractors)


def labelled(images: Images) -> tuple[np.ndarray, np.ndarray]:
    assert images.labels is not None
    return images.pixels, images.labels


def row_of(case: Case) -> dict[str, Any]:
    """The finding of one case, or the reason why there is none."""
    started = time.perf_counter()
    try:
        real = real_images(case.set, case.count, case.seed)
        pool, train, reference = (labelled(real.parts[part]) for part in ("pool", "train", "reference"))
        changed = simulate(case.kind, *pool, case.degree, case.count, case.seed, train, reference)
    except DataError as reason:
        return asdict(case) | {"left_out": str(reason)}
    finding = examine(
        real.parts["reference"],
        real.parts["other"],
        [Images(*changed)],
        train=real.parts["train"],
        classes=real.classes,
        extractors=real.extractors,
        seed=case.seed,
    ).findings[0]
    struck = None
    if TOPICS.get(case.kind) == "one class":
        struck = real.classes[struck_class(pool[1], case.count, case.seed) or 0]
    effects = [(f"{r.sign.metric} ({r.space})", r.effect) for rs in finding.readings.values() for r in rs]
    return asdict(case) | {
        "n": finding.n,
        "name": finding.name,
        "names": names_of(finding),
        "right": is_right(case.kind, finding, struck),
        "alarm": finding.alarm,
        "stage": finding.stage,
        "classes": getattr(finding, "classes", {}),
        "struck": struck,
        "profile": finding.profile,
        "effects": dict(effects),
        "evidence": finding.evidence(4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def names_of(finding: Finding) -> list[str]:
    """Everything that a finding names: the stage of a collapse, other explanations, looks."""
    stage = [finding.stage] if finding.stage in ("early", "late", "catastrophic") else []
    return [*stage, *finding.instead, *finding.looks]


def is_right(kind: str, finding: Finding, struck: str | None) -> bool:
    """Whether a finding says what was done.

    harmless: no alarm. One class: that class is named, and no other. Mixture: both kinds are named. A look: it is
    the main name, or for the looks that change detail and grey levels at once it is named without a stage. Others:
    the main name.
    """
    names = names_of(finding)
    if struck is not None:
        return list(getattr(finding, "classes", {})) == [struck]
    if TOPICS.get(kind) == "harmless":
        return not finding.alarm
    wanted = [NAMES.get(part, part) for part in parts_of(kind)]
    if len(wanted) > 1:
        return set(wanted) <= set(names)
    if TOPICS[kind] in ("blocks", "levels") or kind == "ringing":
        # Few levels are few colours: banding of few levels may be named posterised.
        named = {kind, "posterised"} if kind == "banded" else {kind}
        return bool(named & set(finding.looks)) and finding.stage in ("none", "cannot tell")
    return finding.name == wanted[0]


# ------------------------------------------------------------------------------------------------- all cases
def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Every case of the command line, those of the same real images one after another."""
    for name, count, seed in itertools.product(args.sets, args.counts, range(args.seeds)):
        for kind in args.kinds:
            degrees = args.degrees[-1:] if kind == "nothing" else args.degrees
            for degree in degrees:
                yield Case(name, count, seed, kind, degree)


def rows_of(wanted: Sequence[Case], workers: int) -> Iterator[dict[str, Any]]:
    """The row of each case, as it is done."""
    if workers == 1:
        yield from map(row_of, wanted)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for done in as_completed([pool.submit(row_of, case) for case in wanted]):
            yield done.result()


def stored(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none if it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def case_of(row: dict[str, Any]) -> Case:
    return Case(*(row[name] for name in Case.__dataclass_fields__))


# ------------------------------------------------------------------------------------------------- tables
def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: right names by kind and set, with what was named instead; shares; healthy; failures; left out."""
    left_out = Counter((row["set"], row["left_out"]) for row in rows if "left_out" in row)
    rows = [row for row in rows if "left_out" not in row]
    parts = []
    for title, sets in (("written on", WRITTEN_ON), ("held out", COUNTED)):
        group = [row for row in rows if row["set"] in sets]
        if group:
            parts.append(f"Sets that the rules were {title}:" if title == "written on" else "Sets held out:")
            parts += [table(group, [name for name in sets if any(row["set"] == name for row in group)])]
            parts += [summary(group)]
    wrong = [row for row in rows if not row["right"]]
    if wrong:
        parts.append("Failures:\n\n" + "\n".join(failure(row) for row in wrong))
    if left_out:
        lines = [f"- {name}: {reason} ({count})" for (name, reason), count in left_out.items()]
        parts.append("Left out:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def table(rows: list[dict[str, Any]], sets: list[str]) -> str:
    """Right of all, by kind and set; the other names with how often each was given."""
    lines = [f"| simulated | {' | '.join(sets)} | named instead |", "|---" * (len(sets) + 2) + "|"]
    for kind in dict.fromkeys([*KINDS, *MIXTURES, *(row["kind"] for row in rows)]):
        of_kind = [row for row in rows if row["kind"] == kind]
        if not of_kind:
            continue
        cells = []
        for name in sets:
            right = [row["right"] for row in of_kind if row["set"] == name]
            cells.append(f"{sum(right)}/{len(right)}" if right else "")
        instead = Counter(said(row) for row in of_kind if not row["right"])
        words = "; ".join(f"{name} {count}" for name, count in instead.most_common())
        lines.append(f"| {kind} | {' | '.join(cells)} | {words} |")
    return "\n".join(lines)


def said(row: dict[str, Any]) -> str:
    """What a finding names, in the words of a table."""
    names = ", ".join(row["names"]) or row["stage"]
    return f"{names} (class {', '.join(row['classes'])})" if row["classes"] else names


def summary(rows: list[dict[str, Any]]) -> str:
    """Shares of right answers in harmless and in clear cases, by n, and how often healthy sets are called so."""
    lines = []
    for count in sorted({row["count"] for row in rows}):
        of_count = [row for row in rows if row["count"] == count]
        harmless = [not row["alarm"] for row in of_count if TOPICS.get(row["kind"]) == "harmless"]
        clear = [row for row in of_count if TOPICS.get(row["kind"]) != "harmless" and row["degree"] >= CLEAR]
        right = [row["right"] for row in clear]
        line = f"- n = {count}: no alarm in harmless cases {share(harmless)}; right in clear cases {share(right)}"
        healthy = [absent(row) for row in of_count if row["kind"] == "nothing"]
        if count >= HEALTHY and healthy:
            told = [n_absent >= len(SIGNS) - 1 for n_absent in healthy]
            line += (
                f"; healthy sets: {sum(healthy)}/{len(healthy) * len(SIGNS)} answerable definitions absent, "
                f"all but one or more of them in {share(told)}"
            )
        lines.append(line)
    return "\n".join(lines)


def share(true: list[bool]) -> str:
    return f"{sum(true)}/{len(true)} ({100 * np.mean(true):.0f}%)" if true else "0/0"


def absent(row: dict[str, Any]) -> int:
    """How many of the definitions that one generation can answer are absent."""
    return sum(row["profile"][name] == ABSENT for name in SIGNS)


def failure(row: dict[str, Any]) -> str:
    struck = f" (class {row['struck']})" if row["struck"] else ""
    where = f"{row['set']} n = {row['n']} seed {row['seed']}"
    return f"- {where}: {row['kind']} {row['degree']}{struck}: {said(row)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", default=[*WRITTEN_ON, *COUNTED])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS, help="images on each side")
    parser.add_argument("--kinds", nargs="+", default=[*KINDS, *MIXTURES], help="kinds and mixtures")
    parser.add_argument("--degrees", nargs="+", type=float, default=[0.6, 0.8, 1.0])
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, help="add the cases here, one JSON line each; skip those inside")
    parser.add_argument("--table", nargs="+", type=Path, help="print the tables of these files, run nothing")
    args = parser.parse_args()
    if args.table:
        print(tables([row for path in args.table for row in stored(path)]))
        return
    rows = stored(args.out) if args.out else []
    done = {case_of(row) for row in rows}
    for row in rows_of([case for case in cases(args) if case not in done], args.workers):
        rows.append(row)
        if args.out:
            with open(args.out, "a") as file:
                file.write(json.dumps(row) + "\n")
        if "left_out" in row:
            print(f"left out {case_of(row)}: {row['left_out']}", flush=True)
        else:
            print(f"{'right' if row['right'] else 'WRONG'} {failure(row)} {row['seconds']} s", flush=True)
    print(tables(rows))


if __name__ == "__main__":
    main()
