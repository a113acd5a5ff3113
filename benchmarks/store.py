"""What the store costs: its share of a generation's time, the bytes that accumulating adds, and memory over the generations.

All numbers are ratios within one run. From the root of the repository:

    OMP_NUM_THREADS=1 python benchmarks/store.py
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from difflab import config
from difflab.loop import chain
from difflab.runs.run import Run

DIGITS = Path(__file__).parents[1] / "configs" / "digits.yaml"
MIB = 2**20


def emoji(generations: int, count: int, regime: str) -> config.Config:
    """A memoriser on 32x32 colour pictures: no training, so that the store has the most to do beside the least."""
    return config.parse(
        {
            "name": "emoji",
            "generations": generations,
            "data": {"source": "emoji", "image_size": 32, "color": "RGB", "train_size": count},
            "model": {"family": "memoriser"},
            "regime": {"name": regime},
            "sample": {"count": count},
            "measure": {"metrics": [], "extractors": []},
        }
    )


def trained(generations: int, count: int) -> config.Config:
    """The same pictures and regime with a network that is trained in every generation, if only a little."""
    raw = emoji(generations, count, "accumulate").model_dump()
    raw["model"] = {"family": "pixel-mlp", "conditional": False}
    raw["train"] = {"images_seen": 5000, "checkpoint_every": 0}
    raw["sample"] |= {"steps": 4}
    return config.parse(raw)


def store_share(run: Run) -> tuple[float, float, float]:
    """Seconds in the store, seconds of all stages, images per second written, over all generations."""
    times = run.timings()
    sampled = [x for x in times if x["stage"] == "sample"]
    inside = sum(x["store_seconds"] for x in sampled)
    return inside, sum(x["seconds"] for x in times), sum(x["images"] for x in sampled) / inside


def size(path: Path) -> int:
    return (
        sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        if path.is_dir()
        else path.stat().st_size
    )


def accumulated(run: Run) -> list[tuple[int, int, int, int]]:
    """Per generation: rows of its training set, bytes of train_set.parquet, bytes of its samples, image columns in the former."""
    out = []
    for t in run.generations:
        rows = run.gen(t) / "train_set.parquet"
        copied = sum(field.name in ("image", "values") for field in pq.read_schema(rows))
        out.append((t, pq.read_metadata(rows).num_rows, size(rows), size(run.gen(t) / "samples"), copied))
    return [(rows, table, samples, copied) for _, rows, table, samples, copied in out]


def peaks(work: Any) -> list[int]:
    """Peak resident bytes of this process while each generation is worked on, the peak being reset before each (Linux)."""
    found: list[int] = []
    table: dict[str, Any] = chain.RUN_STAGE
    stages = dict(table)

    def peak() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def mix(*args: Any) -> Any:
        Path("/proc/self/clear_refs").write_text("5")
        return stages["mix"](*args)

    def measure(*args: Any) -> Any:
        out = stages["measure"](*args)
        found.append(peak())
        return out

    table.update(mix=mix, measure=measure)
    try:
        work()
    finally:
        table.update(stages)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="emoji drawn per generation (default: 1000)")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        digits = chain.run_chain(config.load(DIGITS, ["generations=1"]), folder / "digits")
        plain = chain.run_chain(emoji(2, count, "replace"), folder / "replace")
        memory = peaks(lambda: chain.run_chain(emoji(8, count, "accumulate"), folder / "accumulate"))
        memory_trained = peaks(lambda: chain.run_chain(trained(8, count), folder / "trained"))
        grown = accumulated(Run(folder / "accumulate", emoji(8, count, "accumulate")))

        inside, whole, rate = store_share(digits)
        inside_plain, whole_plain, rate_plain = store_share(plain)
        print(
            f"{os.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f}; emoji: {count} samples of 32x32 RGB per generation\n"
        )
        print("| what | value | of what |")
        print("|---|---|---|")
        print(
            f"| store share of a generation, digits.yaml, 8x8 grey | {inside / whole:.2%} | {inside:.2f} s of {whole:.1f} s, {rate:,.0f} images/s |"
        )
        text = f"{inside_plain:.2f} s of {whole_plain:.1f} s, {rate_plain:,.0f} images/s"
        print(
            f"| store share where nothing is trained: emoji memoriser, 32x32 RGB | {inside_plain / whole_plain:.0%} | {text} |"
        )
        rows, table, samples, copied = grown[-1]
        text = f"{table / 1024:.0f} KiB train_set.parquet ({rows:,} rows), {samples / MIB:.1f} MiB of samples"
        print(
            f"| accumulate: bytes of training set 8 beside those of its samples | {table / samples:.1%} | {text} |"
        )
        print(
            f"| accumulate: bytes per row of training set 8 | {table / rows:.2f} | {copied} image columns in train_set.parquet |"
        )
        text = f"{memory[8] / MIB:.0f} MiB, {memory[1] / MIB:.0f} MiB; its training set is {grown[8][0] / grown[1][0]:.1f} times as large, and a memoriser holds it"
        print(
            f"| accumulate, memoriser: peak memory of generation 8 over that of generation 1 | {memory[8] / memory[1]:.2f} | {text} |"
        )
        text = f"{memory_trained[8] / MIB:.0f} MiB, {memory_trained[1] / MIB:.0f} MiB"
        print(
            f"| accumulate, pixel-mlp: peak memory of generation 8 over that of generation 1 | {memory_trained[8] / memory_trained[1]:.2f} | {text} |"
        )


if __name__ == "__main__":
    main()
