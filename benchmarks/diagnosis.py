"""Confusion table of the diagnosis in docs/DIAGNOSIS.md: simulated collapse of known kind and degree.

    python benchmarks/diagnosis.py digits mnist5k                 # the sets that the rules were tuned on
    python benchmarks/diagnosis.py emoji photos                   # the sets that are reported
    python benchmarks/diagnosis.py --table FILE.jsonl ...         # the table of stored cases

Each case compares one set of samples with real images, without a generation 0, which is harder than a run. The
images are split into disjoint parts: reference, other real images, training images, and the pool that samples are
made from.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from difflab.config import Data
from difflab.core.seeds import numpy_generator
from difflab.data.registry import open_source
from difflab.evaluation.examine import examine
from difflab.evaluation.readings import Images
from difflab.evaluation.simulate import HARMLESS, KINDS, simulate
from difflab.metrics import open_extractor

DEGREES = (0.2, 0.4, 0.6, 0.8, 1.0)
CLEAR = 0.6
"""Degrees from here on are clear cases."""
EXTRACTORS = {"emoji": ["pixels", "efficientnet-lite0"], "photos": ["pixels", "efficientnet-lite0"]}
SIZES = {"photos": 16}  # smaller patches, more of them
RIGHT = {
    "nothing": {"none", "cannot tell", "changed encoding"},
    "fewer": {"none", "cannot tell", "changed encoding"},
    "reencoded": {"none", "cannot tell", "changed encoding"},
    "tails_cut": {"early"},
    "shrunk": {"early"},
    "repeated": {"catastrophic"},
    "dropped": {"forgetting"},
    "blended": {"late"},
    "swapped": {"poisoned labels"},
    "blurred": {"blurred"},
    "sharpened": {"sharpened"},
    "saturated": {"saturated"},
    "copied": {"overfitting"},
}
NAMES = [
    "none",
    "cannot tell",
    "changed encoding",
    "early",
    "late",
    "catastrophic",
    "forgetting",
    "poisoned labels",
    "overfitting",
]


class Remembering:
    """An extractor that remembers the features of the real sets, which all cases of a seed share."""

    def __init__(self, extractor: Any) -> None:
        self._extractor, self.name, self.recipe, self._known = extractor, extractor.name, extractor.recipe, {}

    def __call__(self, images: Any) -> Any:
        key = hash(images.numpy().tobytes())
        if key not in self._known:
            self._known[key] = self._extractor(images)
        return self._known[key]


def cases(name: str, seeds: int, kinds: list[str], degrees: list[float], most: int) -> Any:
    """Rows of every case on one data set, one by one."""
    source = open_source(Data(source=name, image_size=SIZES.get(name)), 0)
    assert source.labels is not None
    pixels = np.stack([source.read(i) for i in range(len(source))])
    n = min(most, len(pixels) // 8)  # the pool of five parts is large enough to lose three quarters of
    for seed in range(seeds):
        extractors = [Remembering(open_extractor(spec)) for spec in EXTRACTORS.get(name, ["pixels"])]
        order = numpy_generator("diagnosis", seed).permutation(len(pixels))
        real = Images(pixels[order], source.labels[order])
        reference, other, train, pool = real[:n], real[n : 2 * n], real[2 * n : 3 * n], real[3 * n :]
        for kind in kinds:
            for degree in degrees if kind != "nothing" else degrees[-1:]:
                if kind == "saturated" and source.channels == 1:
                    continue
                assert train.labels is not None and pool.labels is not None
                samples = Images(
                    *simulate(kind, pool.pixels, pool.labels, degree, n, seed, (train.pixels, train.labels))
                )
                started = time.perf_counter()
                finding = examine(
                    reference,
                    other,
                    [samples],
                    train=train,
                    classes=source.classes,
                    extractors=extractors,
                    seed=seed,
                ).findings[0]
                effects = {
                    f"{r.sign.metric} ({r.space})": r.effect for rs in finding.readings.values() for r in rs
                }
                yield {
                    "set": name,
                    "kind": kind,
                    "degree": degree,
                    "seed": seed,
                    "n": finding.n,
                    "name": finding.name,
                    "right": finding.name in RIGHT[kind],
                    "stage": finding.stage,
                    "instead": finding.instead,
                    "looks": finding.looks,
                    "profile": finding.profile,
                    "effects": effects,
                    "evidence": finding.evidence(4),
                    "seconds": round(time.perf_counter() - started, 1),
                }


def table(rows: list[dict[str, Any]]) -> str:
    """The confusion table as Markdown, one row per kind and one column per name, and the shares that are right."""
    clear = [r for r in rows if r["kind"] in HARMLESS or r["degree"] >= CLEAR]
    names = [*NAMES, *sorted({r["name"] for r in clear} - set(NAMES))]
    lines = ["| simulated | " + " | ".join(names) + " | right |", "|---" * (len(names) + 2) + "|"]
    for kind in KINDS:
        own = [r for r in clear if r["kind"] == kind]
        if own:
            counts = [sum(r["name"] == name for r in own) for name in names]
            lines.append(
                f"| {kind} | "
                + " | ".join(str(c or "") for c in counts)
                + f" | {sum(r['right'] for r in own)}/{len(own)} |"
            )
    harmless = [r["right"] for r in clear if r["kind"] in HARMLESS]
    harmful = [r["right"] for r in clear if r["kind"] not in HARMLESS]
    lines += [
        "",
        f"no alarm where nothing is lost: {sum(harmless)}/{len(harmless)}; right name in clear cases: {sum(harmful)}/{len(harmful)}",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", default=["digits"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--count", type=int, default=600, help="images on each side, at most (an eighth of the set)"
    )
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--degrees", nargs="+", type=float, default=list(DEGREES))
    parser.add_argument("--out", type=Path, help="write the cases here, one JSON line each")
    parser.add_argument(
        "--table", nargs="+", type=Path, help="print the table of these files and run nothing"
    )
    args = parser.parse_args()
    if args.table:
        print(table([json.loads(line) for path in args.table for line in path.read_text().splitlines()]))
        return
    rows = []
    for name in args.sets:
        for row in cases(name, args.seeds, args.kinds, args.degrees, args.count):
            rows.append(row)
            print(
                f"{'' if row['right'] else 'WRONG '}{name} {row['kind']} {row['degree']} {row['seed']}: {row['name']} {row['looks']} {row['seconds']}s",
                flush=True,
            )
            if args.out:
                with open(args.out, "a") as file:
                    file.write(json.dumps(row) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
