"""What `diagnose`, `compare` and the measures cost: ratios against an earlier build and against other packages.

    OMP_NUM_THREADS=2 python benchmarks/instrument.py                                # all three parts
    OMP_NUM_THREADS=2 python benchmarks/instrument.py diagnose --count 761 --build e9f7aac
    OMP_NUM_THREADS=2 python benchmarks/instrument.py compare --images 5000 --side 256
    OMP_NUM_THREADS=2 python benchmarks/instrument.py measures
    OMP_NUM_THREADS=2 python benchmarks/instrument.py precision                      # not with the others

`diagnose` runs this build and a tagged one in alternation, on the same images of 32 px, with pixels and
efficientnet-lite0. `compare` runs difflab (FD on Inception features, KID, precision, recall, with intervals and a
floor) and torch-fidelity (FID, KID) on the same PNG files with the same network of random weights. `measures` is the
comparison of benchmarks/measures.py. `precision` is by how many standard errors bfloat16 moves each measure. Each run is a process of its own. Its imports do not count, and the CPU seconds
are those of all its threads and workers. The smallest of the repeats counts.

Run it from the root of the repository. It writes only to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from image_sets import open_set
from PIL import Image
from scipy.ndimage import gaussian_filter

import difflab
from difflab.metrics.row_name import row_name

HOME = Path(__file__).parents[1]
TIMED = """
import json, os, resource, sys, time
def seconds():  # of this process and of its workers that have ended
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
job = json.loads(sys.argv[1])
{imports}
began, cpu = time.perf_counter(), seconds()
{work}
spent, cpu = time.perf_counter() - began, seconds() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print("RESULT" + json.dumps({{"seconds": spent, "cpu": cpu, "peak": peak, "answer": answer}}))
"""
DIAGNOSE = TIMED.format(
    imports="import difflab; difflab.diagnose",
    work="found = difflab.diagnose(job['real'], [job['fake']], extractors=['pixels', 'efficientnet-lite0'])\n"
    "answer = '; '.join(dict.fromkeys([found.findings[-1].stage, *found.findings[-1].instead]))",
)
COMPARE = TIMED.format(
    imports="import difflab; difflab.compare",
    work="table = difflab.compare(job['real'], job['fake'], extractors=['inception:' + job['weights']],\n"
    "    metrics=['fd', 'kid', 'precision', 'recall'])\n"
    "answer = ', '.join(f\"{row['metric']} {row['value']:.4g}\" for row in table.rows)",
)
FIDELITY = TIMED.format(
    imports="from torch_fidelity import calculate_metrics",
    work="values = calculate_metrics(input1=job['fake'], input2=job['real'], fid=True, kid=True, cuda=False,\n"
    "    kid_subset_size=job['subset'], feature_extractor_weights_path=job['weights'], verbose=False, cache=False,\n"
    "    samples_find_deep=True)\n"
    "answer = f\"fid {values['frechet_inception_distance']:.4g}, "
    "kid {values['kernel_inception_distance_mean']:.4g}\"",
)
MEASURES = {
    side: TIMED.format(
        imports="sys.path.insert(0, job['benchmarks']); import measures\n"
        "import prdc, torchmetrics, vendi_score; features = measures.features(job['rows'], job['dim'])",
        work=f"values = measures.{side}(*features)\n"
        "answer = ', '.join(f'{name} {values[name]:.6g}' for name in measures.NAMES)",
    )
    for side in ("by_difflab", "by_packages")
}


def run(code: str, job: Mapping[str, Any], home: Path = HOME) -> dict[str, Any]:
    """Seconds, CPU seconds, peak memory in GiB and answer of `code` in a new process with the difflab of `home`."""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(job)],
        env={**os.environ, "PYTHONPATH": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if done.returncode or not found:
        raise SystemExit(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(found[0].removeprefix("RESULT"))
    return result


def table(name: str, other: str, contenders: Mapping[str, tuple[str, Path]], job: Any, repeats: int) -> None:
    """One row per contender, the smallest times of `repeats` alternations; the ratios are `other` over difflab."""
    runs: dict[str, list[dict[str, Any]]] = {key: [] for key in contenders}
    for _ in range(repeats):
        for key, (code, home) in contenders.items():
            runs[key].append(run(code, job, home))
    least = {
        key: {field: min(one[field] for one in runs[key]) for field in ("seconds", "cpu")} for key in runs
    }
    print(f"\n{name}; load {os.getloadavg()[0]:.1f}, {repeats} alternations\n")
    print("| build | seconds | CPU seconds | peak, GiB | answer |\n|---|---|---|---|---|")
    for key, all_of_it in runs.items():
        peak = max(one["peak"] for one in all_of_it)
        answer = all_of_it[0]["answer"]
        print(f"| {key} | {least[key]['seconds']:.1f} | {least[key]['cpu']:.1f} | {peak:.2f} | {answer} |")
    ratio = {field: least[other][field] / least["difflab"][field] for field in ("seconds", "cpu")}
    print(f"\nratio of seconds {ratio['seconds']:.2f}, of CPU seconds {ratio['cpu']:.2f}", flush=True)


def write(folder: Path, images: np.ndarray, classes: list[str]) -> str:
    """PNG files of uint8 images [n, H, W, 3], in folders of their classes."""
    for i, image in enumerate(images):
        place = folder / classes[i]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i:06d}.png")
    return str(folder)


def diagnose(args: argparse.Namespace, place: Path) -> None:
    """`args.count` tiles against as many others of the same kind, whose first half is the control."""
    whole, n = open_set("tiles"), args.count
    names = [str(whole.classes[label]) for label in whole.labels]
    real, others = np.split(np.random.default_rng(0).permutation(len(names)), [2 * n])
    known = {names[i] for i in real}  # a rare class may be in none of few images
    fake = [i for i in others if names[i] in known][:n]
    job = {
        "real": write(place / "real", whole.pixels[real], [names[i] for i in real]),
        "fake": write(place / "fake", whole.pixels[fake], [names[i] for i in fake]),
    }
    before = place / "before"
    worktree = ["git", "-C", str(HOME), "worktree"]
    subprocess.run([*worktree, "add", "-q", "--detach", str(before), args.build], check=True)
    try:
        contenders = {args.build: (DIAGNOSE, before), "difflab": (DIAGNOSE, HOME)}
        table(f"diagnose, {n} images of 32 px", args.build, contenders, job, args.repeats)
    finally:
        subprocess.run([*worktree, "remove", "--force", str(before)], check=True)


def compare(args: argparse.Namespace, place: Path) -> None:
    """Two sets of smooth noise, of which one is darker."""
    draw, n = np.random.default_rng(0), args.images
    for name, gain in (("real", 256), ("fake", 230)):
        for i in range(n):
            small = (draw.random((args.side // 8, args.side // 8, 3)) * gain).astype(np.uint8)
            image = Image.fromarray(small).resize((args.side, args.side), Image.Resampling.BICUBIC)
            (place / name).mkdir(exist_ok=True)
            image.save(place / name / f"{i:06d}.png", compress_level=1)
    job = {"real": str(place / "real"), "fake": str(place / "fake"), "subset": min(1000, n)}
    job["weights"] = random_inception(place / "weights.pth")
    contenders = {"torch-fidelity": (FIDELITY, HOME), "difflab": (COMPARE, HOME)}
    table(f"compare, 2 x {n:,} images of {args.side} px", "torch-fidelity", contenders, job, args.repeats)


def seven(args: argparse.Namespace, place: Path) -> None:
    """The seven measures from the same features."""
    job = {"rows": args.rows, "dim": args.dim, "benchmarks": str(Path(__file__).parent)}
    contenders = {"packages": (MEASURES["by_packages"], HOME), "difflab": (MEASURES["by_difflab"], HOME)}
    table(f"seven measures, 2 x {args.rows:,} x {args.dim:,}", "packages", contenders, job, args.repeats)


def precision(args: argparse.Namespace, place: Path) -> None:
    """By how many standard errors bfloat16 moves each measure: the largest of three sets, each equal and blurred.

    The network of efficientnet-lite0 has its weights; Inception's are random, for which features are rounded more.
    """
    metrics = [
        "fd",
        "kid",
        "cmmd",
        "precision",
        "recall",
        "density",
        "coverage",
        "vendi",
        "trace_ratio",
        "knn_entropy",
    ]
    weights = random_inception(place / "weights.pth")
    print("\n| network | " + " | ".join(metrics) + " |\n|" + "---|" * (len(metrics) + 1))
    for extractor, n in (("efficientnet-lite0", 300), (f"inception:{weights}", 100)):
        most = dict.fromkeys(metrics, 0.0)
        for name in ("emoji", "tiles", "photos"):
            whole = open_set(name).pixels
            rows = np.random.default_rng(0).permutation(len(whole))[: 3 * n]
            real, fake = whole[rows[: 2 * n]], whole[rows[2 * n :]]
            for samples in (fake, blurred(fake)):
                of = [
                    difflab.compare(real, samples, extractors=[extractor], metrics=metrics, precision=p)
                    for p in ("float32", "bf16")
                ]
                for metric in metrics:
                    one, other = (table[row_name(metric, extractor)] for table in of)
                    if one["ci_low"] is not None:
                        error = (one["ci_high"] - one["ci_low"]) / 3.92
                        most[metric] = max(most[metric], abs(one["value"] - other["value"]) / error)
        print(
            f"| {extractor.partition(':')[0]}, n = {n} | "
            + " | ".join(f"{v:.2f}" for v in most.values())
            + " |",
            flush=True,
        )


def blurred(images: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, C] after a Gaussian blur of one pixel."""
    return np.stack([gaussian_filter(image, (1, 1, 0)) for image in images])


def random_inception(file: Path) -> str:
    """torch-fidelity's Inception with random weights whose features do not fade."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    class Blank(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state: Any) -> None:
            """Keep the initial weights."""

    torch.manual_seed(0)
    with mock.patch.object(fidelity, "load_state_dict_from_url", lambda *a, **k: {}):
        network = Blank("blank", ["2048"])
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), file)
    return str(file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"diagnose": diagnose, "compare": compare, "measures": seven, "precision": precision}
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; the first three if none is given")
    parser.add_argument("--count", type=int, default=761, help="images that diagnose reads on each side")
    parser.add_argument("--build", default="e9f7aac", help="the commit that diagnose compares with")
    parser.add_argument("--images", type=int, default=5000, help="images on each side of compare")
    parser.add_argument("--side", type=int, default=256, help="of the images of compare, in pixels")
    parser.add_argument("--rows", type=int, default=5000, help="of features on each side of the measures")
    parser.add_argument("--dim", type=int, default=2048, help="of the features of the measures")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(parts):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(parts)}")
    threads = torch.get_num_threads()
    print(f"{os.cpu_count()} cores ({platform.machine()}), {threads} threads, torch {torch.__version__}")
    for part in args.parts or list(parts)[:3]:
        with tempfile.TemporaryDirectory() as folder:
            parts[part](args, Path(folder))


if __name__ == "__main__":
    main()
