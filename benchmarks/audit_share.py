"""How often the audit's interval holds the share in mixtures of known truth, and where it fails.

    python -m difflab run digits generations=1 sample.count=1200 --out RUN
    python benchmarks/audit_share.py RUN

Real images are digits, synthetic ones are samples of generation 0 of a run on digits. A probe is trained on 200 of each. Its flags
on all other images are the pool from which each draw takes a set of 1,000 images with a fixed share of synthetic ones, and 200
calibration images of each kind. The failures: the synthetic images of the set come from another generator (generation 1 of the
run, blurred real digits, or a memoriser, whose samples are real images), or the set was saved as JPEG and the calibration was not.
"""

from __future__ import annotations

import io
import sys

import numpy as np
import torch
from PIL import Image, ImageFilter

from difflab import open_run
from difflab.config import Data
from difflab.data.registry import open_source
from difflab.features.registry import open_extractor
from difflab.metrics.judge import Judge
from difflab.metrics.prevalence import Calibration, least_share, share_in_set, tells

SHARES = (0.0, 0.01, 0.05, 0.2, 0.5, 0.9)
DRAWS = 2000
TRAINED = 200


def features(images: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    return torch.cat([open_extractor(name)(pixels) for name in ("pixels", "texture")], 1)


def each(images: np.ndarray, change: object) -> np.ndarray:
    """Images uint8 [n, H, W, 1], each changed as a PIL image."""
    return np.stack([np.asarray(change(Image.fromarray(image[..., 0])))[..., None] for image in images])  # type: ignore[operator]


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer)


def samples(run: object, generation: int) -> np.ndarray:
    """Samples of a generation, uint8 [n, 8, 8, 1]."""
    shards = run.samples(generation)  # type: ignore[attr-defined]
    return np.asarray(shards.gather(np.arange(len(shards)))).reshape(-1, 8, 8, 1)


def line(name: str, fake: np.ndarray, real: np.ndarray, rates: tuple[np.ndarray, np.ndarray]) -> None:
    """Print coverage by share. `fake`, `real`: flags of the pool; `rates`: flags of calibration images of both kinds."""
    draw, cells = np.random.default_rng(0), []
    for share in SHARES:
        held = bound = told = 0
        width, count = [], round(1000 * share)
        for _ in range(DRAWS):
            flagged = int(draw.choice(fake, count).sum() + draw.choice(real, 1000 - count).sum())
            of_fake, of_real = (int(draw.choice(flags, 200).sum()) for flags in rates)
            calibration = Calibration(of_fake, 200, 200 - of_real, 200)
            bound += least_share(flagged, 1000, calibration) <= share
            if not tells(calibration):
                continue
            found = share_in_set(flagged, 1000, calibration)
            assert found is not None
            told += 1
            held += found.low - 1e-9 <= share <= found.high + 1e-9
            width.append(found.high - found.low)
        cells.append(
            f"{100 * held / told:.1f} ({100 * np.mean(width):.1f}) {100 * bound / DRAWS:.0f}"
            if told
            else "cannot tell"
        )
    print(f"| {name} | {fake.mean():.2f} | {real.mean():.3f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    run = open_run(sys.argv[1])
    source = open_source(Data(source="digits"), 0)
    order = np.random.default_rng(1).permutation(len(source))
    real = np.stack([source.read(int(i)) for i in order])
    fake, later = samples(run, 0), samples(run, 1)
    labels = torch.cat([torch.zeros(TRAINED), torch.ones(TRAINED)]).long()
    judge = Judge.fit(features(np.concatenate([real[:TRAINED], fake[:TRAINED]])), labels, 2)

    def flags(images: np.ndarray) -> np.ndarray:
        return (judge.probabilities(features(images))[:, 1] > 0.5).numpy()

    of_fake, of_real = flags(fake[TRAINED:]), flags(real[TRAINED:])
    print(
        "| set | flagged of synthetic | flagged of real |"
        + "".join(f" share {share:g} |" for share in SHARES)
    )
    print("|" + "---|" * (3 + len(SHARES)))
    line("as the calibration", of_fake, of_real, (of_fake, of_real))
    line("generation 1 instead of 0", flags(later), of_real, (of_fake, of_real))
    line("copies of real digits (a memoriser)", of_real, of_real, (of_fake, of_real))
    blurred = each(real[TRAINED:], lambda image: image.filter(ImageFilter.GaussianBlur(0.5)))
    line("blurred real digits", flags(blurred), of_real, (of_fake, of_real))
    again = flags(each(fake[TRAINED:], jpeg)), flags(each(real[TRAINED:], jpeg))
    line("saved as JPEG 75", *again, (of_fake, of_real))
    line("saved as JPEG 75, calibration too", *again, again)


if __name__ == "__main__":
    main()
