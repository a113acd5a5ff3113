"""How fast `difflab audit` is beside decoding the same files, and whether its memory grows with the number of images.

    OMP_NUM_THREADS=1 python benchmarks/audit.py
    OMP_NUM_THREADS=1 python benchmarks/audit.py --counts 200 400    # a short try

The files are PNG of 256 x 256 pixels: smooth colours, texture of 20 grey levels and some flat parts, each one different.
Decoding reads each file and decodes it in as many threads as the audit uses. Each part runs in a process of its own, whose
peak memory is read. The files are read once before, so that they come from the cache of the system.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

PARTS = ("decode", "metadata", "pixels")
SIDE = 256


def make(folder: Path, count: int) -> None:
    """Write `count` different PNG files; existing ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(len(list(folder.iterdir())), count):
        random = np.random.default_rng(i)
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(int)
        smooth[: SIDE // 2] += random.integers(-10, 11, (SIDE // 2, SIDE, 3))
        Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8)).save(
            folder / f"{i:06d}.png", compress_level=1
        )


def decode(path: Path) -> int:
    with Image.open(path) as image:
        image.load()
        return image.width


def part(name: str, folder: Path) -> None:
    """Run one part and print its seconds and peak memory in MiB."""
    if name == "decode":
        files = sorted(folder.iterdir())
        start = time.perf_counter()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            assert set(pool.map(decode, files)) == {SIDE}
    else:
        from difflab import audit

        start = time.perf_counter()
        audit(folder, metadata_only=name == "metadata")
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measured(name: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak memory in MiB of one part in a process of its own."""
    command = [sys.executable, __file__, "--part", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.split()[-2:])
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        part(args.part[0], Path(args.part[1]))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| images | part | images/s | speed over decoding | peak memory, MiB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for count in args.counts:
            folder = Path(temporary) / str(count)
            make(folder, count)
            measured("decode", folder)  # the files are in the cache of the system from now on
            decoding = 0.0
            for name in PARTS:
                seconds, memory = measured(name, folder)
                speed = count / seconds
                decoding = decoding or speed
                print(
                    f"| {count:,} | {name} | {speed:,.0f} | {speed / decoding:.2f} | {memory:,.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
