"""How often detectors flag samples of generations and families that they were not fitted to.

    for s in 0 1 2 3 4; do python -m difflab run configs/claims/base/digits.yaml seed=$s generations=2 --out digits-$s; done
    python benchmarks/detectors.py digits --families
    python benchmarks/detectors.py emoji --autoencoder

`digits` is the prefix of run folders; -0, -1, ... are the seeds. A probe is fitted to half of generation 1's samples and half
of the real images that generation 0 was trained on. The other half of the real images gives the threshold for a false positive rate
of 5%. Held-out real images give the false positive rate, and all samples that the probe was not fitted to the true positive rates.
The spectrum detector and the autoencoder detector (--autoencoder, always that of the bundled tiny-sd) are fitted to no samples. Each
cell is the mean over seeds with Student's 95% interval, or that of one seed with Wilson's interval over images.
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
from difflab.metrics.detectors import Rate, probe, rate, spectrum_score, threshold
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


def normal(images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Samples of another family: one normal distribution of the pixels per class."""
    drawn = []
    for label in np.unique(labels):
        rows = images[labels == label].reshape((labels == label).sum(), -1).astype(float)
        drawn.append(
            rng.multivariate_normal(
                rows.mean(0), np.cov(rows.T), count // len(np.unique(labels)), method="eigh"
            )
        )
    return np.rint(np.concatenate(drawn)).clip(0, 255).astype(np.uint8).reshape(-1, *images.shape[1:])


def of_seed(run, last: int, families: bool, vae: torch.nn.Module | None) -> dict[str, dict[str, Rate]]:
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
    sets |= {f"generation {t}": samples(run, t) for t in range(last + 1) if t != 1}
    if families:
        rng = np.random.default_rng(run.config.seed)
        sets["a normal distribution per class"] = normal(real, run.real.labels()[:used], 500, rng)
        sets["a memoriser (copies of real images)"] = real[rng.integers(used, size=500)]
    found = {}
    for name, score in detectors.items():
        limit = threshold(score(calibrate), FALSE_POSITIVES)
        found[name] = {of: rate(score(images), limit) for of, images in sets.items()}
    return found


def cell(rates: list[Rate]) -> str:
    """Mean over seeds with Student's interval; of one seed its share with Wilson's interval over images."""
    if len(rates) == 1:
        return f"{rates[0].share:.1%} ({rates[0].low:.1%} to {rates[0].high:.1%})"
    values = [found.share for found in rates]
    mean = np.mean(values)
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean:.1%} ({max(0, mean - half):.1%} to {min(1, mean + half):.1%})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix", type=Path)
    parser.add_argument("--last", type=int, default=2, help="last generation (default: 2)")
    parser.add_argument(
        "--families", action="store_true", help="labelled small images: also two other families"
    )
    parser.add_argument("--autoencoder", action="store_true")
    args = parser.parse_args()
    vae = None
    if args.autoencoder:
        from diffusers import AutoencoderKL

        from difflab.models.pretrained import BUNDLED

        vae = AutoencoderKL.from_pretrained(BUNDLED["tiny-sd"], subfolder="vae").eval()
    rows = []
    for path in sorted(args.prefix.parent.glob(f"{args.prefix.name}-*")):
        rows.append(of_seed(open_run(path), args.last, args.families, vae))
    print(f"{len(rows)} seeds\n")
    names = list(rows[0])
    print("| images | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for of in sorted(
        rows[0][names[0]], key=lambda name: (not name.startswith("real"), not name.startswith("gen"), name)
    ):
        print(f"| {of} | " + " | ".join(cell([row[name][of] for row in rows]) for name in names) + " |")


if __name__ == "__main__":
    main()
