"""How often detectors flag samples of generations and families that they were not fitted to.

    for s in 0 1 2 3 4; do python -m difflab run configs/claims/base/digits.yaml seed=$s generations=4 --out CHAIN-$s; done
    python benchmarks/detectors.py CHAIN --others UNET COPIES

CHAIN, UNET and COPIES are prefixes of run folders; -0, -1, ... are the seeds. A probe is fitted to half of generation 1's samples and half
of the real images that generation 0 was trained on. The other half of the real images gives the threshold for a false positive rate
of 5%. Held-out real images give the false positive rate, and all samples that the probe was not fitted to the true positive rates.
The spectrum detector and the autoencoder detector (--autoencoder, the base of the run) are fitted to no samples. Each
cell is the mean over seeds with Student's 95% interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from difflab import open_run
from difflab.features.registry import open_extractor
from difflab.features.texture import radial_spectrum
from difflab.metrics.detectors import probe, rate, spectrum_score, threshold
from difflab.runs.sizes import first_size

FALSE_POSITIVES = 0.05
Score = Callable[[np.ndarray], torch.Tensor]


def features(images: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(images)
    return torch.cat([open_extractor(name)(pixels).float() for name in ("pixels", "texture")], 1)


def power(images: np.ndarray) -> torch.Tensor:
    return radial_spectrum(torch.from_numpy(images))[1]


def round_trip(images: np.ndarray, vae: torch.nn.Module) -> torch.Tensor:
    """Minus the mean squared error of the autoencoder on each image: samples of a latent model have small errors (AEROBLADE, 2401.17879)."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        batches = [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in x.split(64)]
    return -(torch.cat(batches) - x).square().flatten(1).mean(1)


def samples(run, generation: int) -> np.ndarray:
    return run.samples(generation).gather(np.arange(run.samples(generation).count))


def of_seed(run, others: dict[str, object], vae: torch.nn.Module | None) -> dict[str, dict[str, float]]:
    """Rates by detector and set."""
    n_train = run.about["n_train"]
    used = first_size(run.config, n_train)
    real = run.real.gather(np.arange(used))
    held_out = run.real.gather(np.arange(n_train, n_train + run.about["n_held_out"]))
    fit_real, calibrate = real[: used // 2], real[used // 2 :]
    drawn = samples(run, 1)
    fitted = probe(features(fit_real), features(drawn[: len(drawn) // 2]))
    detectors: dict[str, Score] = {
        "probe, fitted to generation 1": lambda x: fitted.probabilities(features(x))[:, 1],
        "radial spectrum": lambda x: spectrum_score(power(fit_real), power(x)),
    }
    if vae is not None:
        detectors["autoencoder"] = lambda x: round_trip(x, vae)
    sets = {"real, held out": held_out, "generation 1": drawn[len(drawn) // 2 :]}
    sets |= {f"generation {t}": samples(run, t) for t in range(run.config.generations + 1) if t != 1}
    sets |= {name: samples(other, 0) for name, other in others.items()}
    found = {}
    for name, score in detectors.items():
        limit = threshold(score(calibrate), FALSE_POSITIVES)
        found[name] = {of: rate(score(images), limit).share for of, images in sets.items()}
    return found


def cell(values: list[float]) -> str:
    mean = np.mean(values)
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean:.1%} ({max(0, mean - half):.1%} to {min(1, mean + half):.1%})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix", type=Path)
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    parser.add_argument("--autoencoder", action="store_true")
    args = parser.parse_args()
    vae = None
    if args.autoencoder:
        from diffusers import AutoencoderKL

        from difflab.models.pretrained import BUNDLED

        vae = AutoencoderKL.from_pretrained(BUNDLED["tiny-sd"], subfolder="vae").eval()
    rows = []
    for path in sorted(args.prefix.parent.glob(f"{args.prefix.name}-*")):
        seed = path.name.rpartition("-")[2]
        others = {o.name: open_run(o.with_name(f"{o.name}-{seed}")) for o in args.others}
        rows.append(of_seed(open_run(path), others, vae))
    print(f"{len(rows)} seeds\n")
    names = list(rows[0])
    print("| images | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for of in sorted(
        rows[0][names[0]], key=lambda name: (not name.startswith("real"), not name.startswith("gen"), name)
    ):
        print(f"| {of} | " + " | ".join(cell([row[name][of] for row in rows]) for name in names) + " |")


if __name__ == "__main__":
    main()
