"""What a report shows of one run, as plain data: pictures, map, concepts, nearest images, spectra, cost and recipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from difflab.core.errors import MeasureError, StoreError
from difflab.report.data_uri import BUDGET, EXACT, encoder
from difflab.runs.folder import STAGES
from difflab.runs.probe import caption, same_seeds
from difflab.runs.run import Run

POINTS = 400
"""Dots of one generation on the map, at most."""
DOTS = 80_000
"""Dots on all maps of a page, while each generation has 50."""
SPECTRA = 200
"""Images behind each radial spectrum."""
NEAREST = 8
"""Samples that are shown beside their nearest training images."""
CLASSES = 24
"""Rows of a concept matrix: with more concepts, those that changed most."""


def detail(
    name: str, run: Run, runs: int, verdict: Callable[[Run], dict[str, Any] | None] | None
) -> dict[str, Any]:
    """Pictures, map, concepts, nearest images, spectra, cost and recipe of one run."""
    exact = run.config.exact
    return {
        "name": name,
        "path": _place(run),
        "caption": caption(run),
        "asked": _asked(run),
        "generations": run.generations,
        "planned": run.config.generations,
        "verdict": verdict(run) if verdict and not exact else None,
        "pictures": None if exact else _pictures(run, BUDGET // runs),
        "map": None if exact else _map(run, min(POINTS, max(50, DOTS // (runs * len(run.generations))))),
        "concepts": None if exact else _concepts(run),
        "nearest": None if exact else _nearest(run, BUDGET // (8 * runs)),
        "spectra": None if exact else _spectra(run),
        "cost": _cost(run),
        "config": yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False),
        "recipe": run.recipe,
        "command": f"difflab run {_place(run)}/run.yaml --out runs/again",
    }


def _place(run: Run) -> str:
    """The run's folder as it was named, or the end of its path: a page that is passed on says nothing of the machine that made it."""
    return str(run.path) if not run.path.is_absolute() else str(Path(*run.path.parts[-2:]))


def rounded(value: float | None, digits: int = 5) -> float | None:
    """Some significant digits: a page needs no more, and is smaller for it."""
    return None if value is None else float(f"{value:.{digits}g}")


def _asked(run: Run) -> list[tuple[str, str]]:
    """What the run was asked for, in words."""
    c, about = run.config, run.about if not run.config.exact else None
    lines = [("model", Path(str(getattr(c.model, "base", c.model.family))).name)]
    if about:
        record = about["record"]
        images = f"{about['n_train']:,} to train on, {about['n_held_out']:,} held out, {record[1]} x {record[0]} px"
        lines.append(
            (
                "real images",
                f"{Path(str(c.data.source)).name}: {images}"
                + (f", {len(about['classes'])} classes" if about["classes"] else ""),
            )
        )
        if run.account is not None:
            lines.append(("came in", "; ".join(run.account.lines(reasons=False))))
    share = getattr(c.regime, "real_fraction", None)
    lines.append(("regime", c.regime.name + (f", {share:.0%} real" if share else "")))
    lines.append(("generations", f"0 to {c.generations}, each starting from {c.train.start_from}"))
    if not c.exact:
        lines.append(
            (
                "budget",
                f"{c.train.images_seen:,} images seen, {c.sample.count_of(0):,} samples, in every generation",
            )
        )
        guidance = f", guidance {c.sample.guidance_scale:g}" if c.conditional else ""
        lines.append(("sampler", f"{c.sample.scheduler}, {c.sample.steps} steps{guidance}"))
    if c.policies:
        lines.append(("policies", ", ".join(p.policy for p in c.policies)))
    lines.append(("seed", str(c.seed)))
    return lines


def _pictures(run: Run, budget: int) -> dict[str, Any] | None:
    """The same seeds in every generation beside real images."""
    try:
        seeds = same_seeds(run)
    except StoreError:
        return None
    sets = [seeds.real, *seeds.generations.values()]
    encode, room = encoder(
        [images[i % len(images)] for i, images in enumerate(sets)], len(sets) * len(seeds.real), budget
    )
    done, columns = _fitting(list(seeds.generations), len(seeds.real), seeds.per, room)
    real = [encode(seeds.real[c]) for c in columns]
    return {
        "asked": [seeds.asked[c] or f"seed {c}" for c in columns],
        "told": seeds.asked[0] is not None,
        "per": seeds.per,
        "side": int(seeds.real.shape[2]),
        "fewer": (len(done), len(sets) - 1, len(seeds.real)) if room < len(sets) * len(seeds.real) else None,
        "lossy": max(seeds.real.shape[1:3]) <= EXACT and real[0].startswith("data:image/webp"),
        "real": real,
        "generations": {t: [encode(seeds.generations[t][c]) for c in columns] for t in done},
    }


def in_common(pictures: list[dict[str, Any]]) -> str:
    """Leave out, in place, the columns that some of these pictures had no room for, so that all have the same; what to say of pictures left out."""
    names = [[(asked, i % p["per"]) for i, asked in enumerate(p["asked"])] for p in pictures]
    shared = set.intersection(*map(set, names))
    fewer = [p["fewer"] for p in pictures if p["fewer"]]
    for p, own in zip(pictures, names, strict=True):
        columns = [c for c, name in enumerate(own) if name in shared]
        if fewer and columns:
            p["asked"], p["real"] = [p["asked"][c] for c in columns], [p["real"][c] for c in columns]
            p["generations"] = {t: [images[c] for c in columns] for t, images in p["generations"].items()}
    if fewer:
        done, generations, columns = max(fewer, key=lambda own: own[1])
        return f"All pictures would make this page too large: it shows {done} of {generations} generations and {len(pictures[0]['asked'])} of {columns} columns, compressed."
    return (
        "Pictures are compressed: exact ones would make this page too large."
        if any(p["lossy"] for p in pictures)
        else ""
    )


def _fitting(generations: list[int], columns: int, per: int, room: int) -> tuple[list[int], list[int]]:
    """The generations, evenly spread from first to last, and the columns whose pictures, and one more row of real ones, are at most `room`.

    Generations are left out while there are more than 6, then every second group of `per` columns; of one group 6 generations stay in any case.

    >>> _fitting(list(range(11)), 4, 2, 28)
    ([0, 2, 4, 6, 8, 10], [0, 1, 2, 3])
    >>> _fitting(list(range(11)), 4, 2, 20)
    ([0, 2, 4, 6, 8, 10], [0, 1])
    """
    rows = min(len(generations), max(6, room // columns - 1))
    step = 1
    while len(range(0, columns // per, step)) > max(1, room // ((rows + 1) * per)):
        step *= 2  # so that what little room leaves is among what more room does
    at = np.linspace(0, len(generations) - 1, rows).round().astype(int)
    return [generations[i] for i in at], [
        g * per + k for g in range(0, columns // per, step) for k in range(per)
    ]


def feature_spaces(run: Run) -> dict[str, str]:
    """Names of the feature spaces that lie on disk for every measured generation, and their keys."""
    keys = [
        path.name.rsplit("-", 1)[0]
        for path in sorted((run.path / "real" / "features").glob("*-00000.safetensors"))
    ]
    return {
        key.rsplit("-", 1)[0]: key
        for key in keys
        if all(run.samples(t).feature_path(key, 0).exists() for t in run.generations)
    }


def _space(run: Run) -> tuple[str, str] | None:
    """The first feature space of the config that can be read, and its key."""
    there = feature_spaces(run)
    wanted = [spec for spec in run.config.measure.extractors if spec != "texture"]
    names = [re.sub(r"[^A-Za-z0-9._-]+", "-", spec) for spec in wanted]
    return next(
        ((spec, there[name]) for spec, name in zip(wanted, names, strict=True) if name in there), None
    )


def _map(run: Run, most: int = POINTS) -> dict[str, Any] | None:
    """Real images and samples in one fixed plane: the two directions in which the held-out real images vary most.

    `most` dots of a generation. `extent` holds them all but those that `outside` counts, which lie at its edge.
    """
    space = _space(run)
    if space is None:
        return None
    about, labels = run.about, run.real.labels()
    start, stop = about["n_train"], about["n_train"] + about["n_held_out"]
    real = run.real.features(space[1])[start:stop].double()
    if len(real) < 3:
        return None
    mean = real.mean(0)
    _, scale, axes = torch.linalg.svd(real - mean, full_matrices=False)
    plane, explained = axes[:2].T, float(scale[:2].square().sum() / scale.square().sum())
    size = float(((real - mean) @ plane).abs().max()) or 1.0

    def points(features: torch.Tensor) -> np.ndarray:
        return ((features[:most].double() - mean) @ plane / size).numpy()

    shown = points(real)
    samples = {t: points(run.samples(t).features(space[1])) for t in run.generations}
    low, high = extent(shown, np.concatenate(list(samples.values())))

    def drawn(at: np.ndarray) -> list[list[float]]:
        return [[round(x, 3), round(y, 3)] for x, y in at.clip(low, high).tolist()]

    names = about["classes"] if labels is not None else None
    return {
        "space": space[0],
        "explained": round(explained, 3),
        "extent": [round(v, 3) for v in (*low.tolist(), *high.tolist())],
        "real": drawn(shown),
        "classes": names,
        "real_labels": None if labels is None else labels[start:stop][:most].tolist(),
        "generations": {t: drawn(at) for t, at in samples.items()},
        "outside": {t: int(((at < low) | (at > high)).any(1).sum()) for t, at in samples.items()},
        "labels": {
            t: None if (own := run.samples(t).labels()) is None else own[:most].tolist()
            for t in run.generations
        },
    }


def extent(real: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper corner of a box around points [n, d], without the few samples that lie absurdly far out.

    Those are at most 1% at either end of an axis, and further out than half of what the others take.

    >>> extent(np.array([[0.0], [1.0]]), np.array([[0.5]] * 300 + [[1.2], [90.0]]))
    (array([0.]), array([1.5]))
    """
    least, most = (
        np.minimum(real.min(0), np.quantile(samples, 0.01, 0)),
        np.maximum(real.max(0), np.quantile(samples, 0.99, 0)),
    )
    room = (most - least) / 2
    return np.maximum(np.minimum(real, samples.min(0)).min(0), least - room), np.minimum(
        np.maximum(real, samples.max(0)).max(0), most + room
    )


def _concepts(run: Run) -> dict[str, Any] | None:
    """What samples of each concept are taken for, generation by generation, and which concepts have merged.

    By the CLIP model of measure.concepts, else by the class judge; both are asked through the same measures of `difflab.metrics`.
    """
    from difflab.metrics import components, confusion, merged, per_concept

    found = _told(run)
    if found is None:
        return None
    pairs, floor, judge = found
    names = floor.concepts.names
    tables = {t: confusion(pair) for t, pair in pairs.items()}
    by_concept = {t: per_concept(pair) for t, pair in pairs.items()}
    first, last = min(pairs), max(pairs)
    change = {
        i: (by_concept[last][i]["accuracy"] or 0.0) - (by_concept[first][i]["accuracy"] or 0.0)
        for i in range(len(names))
        if by_concept[last][i]["n"] and by_concept[first][i]["n"]
    }
    order = sorted(change, key=lambda i: change[i])
    kept = sorted(order[: CLASSES // 2] + order[-CLASSES // 2 :]) if len(order) > CLASSES else sorted(order)
    edges: dict[int, list[tuple[str, str, float]]] = {}
    for t, pair in pairs.items():
        try:
            edges[t] = [(a, b, round(fall, 3)) for a, b, fall in merged(pair, floor)]
        except MeasureError:
            edges[t] = []
    return {
        "judge": judge,
        "names": [names[i] for i in kept],
        "all": len(names),
        "tables": {t: table[kept][:, kept].tolist() for t, table in tables.items()},
        "asked": {t: table[kept].sum(1).tolist() for t, table in tables.items()},
        "real": confusion(floor)[kept][:, kept].tolist(),
        "real_asked": confusion(floor)[kept].sum(1).tolist(),
        "changed": [
            {
                "concept": names[i],
                "n": by_concept[last][i]["n"],
                "before": rounded(by_concept[first][i]["accuracy"]),
                "after": rounded(by_concept[last][i]["accuracy"]),
                "low": rounded(by_concept[last][i]["ci_low"]),
                "high": rounded(by_concept[last][i]["ci_high"]),
                "change": rounded(change[i]),
            }
            for i in (order if len(order) <= 40 else order[:20] + order[-20:])
        ],
        "merged": edges,
        "groups": {t: components(own) for t, own in edges.items()},
    }


def _told(run: Run) -> tuple[dict[int, Any], Any, str] | None:
    """Pairs of every generation and of held-out real images in the place of samples, with concepts, and who tells them apart."""
    from difflab.metrics import Concepts, Judge, Pair

    config, about, labels = run.config, run.about, run.real.labels()
    start, stop = about["n_train"], about["n_train"] + about["n_held_out"]
    if config.measure.concepts is not None:
        from difflab.loop.measure import told
        from difflab.metrics import open_extractor

        spec = next(s for s in config.measure.extractors if s.startswith("open_clip"))
        reader = open_extractor(spec)
        real = run.real.features(reader.key)
        pairs, asked, texts = {}, None, None
        for t in run.generations:
            asked, own, texts = told(run, reader, run.real, run.samples(t))
            pairs[t] = Pair(
                real[start:stop],
                run.samples(t).features(reader.key),
                real_labels=asked[start:stop],
                fake_labels=own,
                concepts=texts,
            )
        assert asked is not None
        side = real[start:stop]
        return (
            pairs,
            Pair(side, side, real_labels=asked[start:stop], fake_labels=asked[start:stop], concepts=texts),
            spec,
        )
    space = config.measure.judge or next(
        (spec for spec in config.measure.extractors if spec != "texture"), None
    )
    key = feature_spaces(run).get(re.sub(r"[^A-Za-z0-9._-]+", "-", space)) if space else None
    path = run.path / "real" / f"judge-{key}.safetensors"
    if (
        labels is None
        or key is None
        or not path.exists()
        or len(about["classes"]) < 2
        or not config.conditional
    ):
        return None
    judge = Judge.load(path)
    concepts = Concepts(
        about["classes"], torch.eye(len(about["classes"]))
    )  # the judge's probabilities are features of their own
    side = judge.probabilities(run.real.features(key)[start:stop]).float()
    held_out = torch.from_numpy(labels[start:stop])
    pairs = {}
    for t in run.generations:
        samples = run.samples(t)
        asked_for = samples.labels()
        if asked_for is None:
            return None
        seen = judge.probabilities(samples.features(key)).float()
        pairs[t] = Pair(
            side, seen, real_labels=held_out, fake_labels=torch.from_numpy(asked_for), concepts=concepts
        )
    return (
        pairs,
        Pair(side, side, real_labels=held_out, fake_labels=held_out, concepts=concepts),
        f"judge on {space}, trained on real images",
    )


def _nearest(run: Run, budget: int) -> dict[str, Any] | None:
    """Of the last generation the samples that lie closest to a training image, each beside it.

    The unit is the median distance of a held-out real image to its nearest training image: far below 1 is a copy.
    """
    from difflab.metrics import nearest_real
    from difflab.runs.sizes import first_size

    space = _space(run)
    if space is None:
        return None
    t, n_train = run.generations[-1], run.about["n_train"]
    features, trained = run.real.features(space[1]), first_size(run.config, n_train)
    if not trained or len(features) <= n_train:
        return None
    honest = float(nearest_real(features[n_train:], features[:trained])[0].median())
    samples = run.samples(t)
    distance, index = nearest_real(samples.features(space[1]), features[:trained])
    chosen = distance.argsort()[:NEAREST]
    pictures = samples.gather(chosen.numpy()), run.real.gather(index[chosen].numpy())
    encode, _ = encoder([*pictures[0][:4], *pictures[1][:4]], 2 * NEAREST, budget)
    return {
        "generation": t,
        "space": space[0],
        "pairs": [
            {
                "sample": encode(a),
                "real": encode(b),
                "distance": rounded(float(distance[i]) / honest if honest else None, 3),
            }
            for a, b, i in zip(*pictures, chosen, strict=True)
        ],
    }


def _spectra(run: Run) -> dict[str, Any] | None:
    """Mean power at each radial frequency of luminance, of held-out real images and of every generation, with the real images' middle half."""
    from difflab.metrics.texture import radial_spectrum

    about = run.about
    if min(about["record"][:2]) < 8:
        return None
    rows = np.arange(about["n_train"], about["n_train"] + min(about["n_held_out"], SPECTRA))
    frequency, real = radial_spectrum(torch.from_numpy(run.real.gather(rows)))
    samples = {
        t: run.samples(t).gather(np.arange(min(len(run.samples(t)), SPECTRA))) for t in run.generations
    }

    def middle(power: torch.Tensor) -> list[float | None]:
        return [rounded(float(value)) for value in power.log().mean(0).exp()]

    low, high = real.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), dim=0)
    return {
        "frequency": [rounded(float(f), 3) for f in frequency],
        "real": middle(real),
        "low": [rounded(float(v)) for v in low],
        "high": [rounded(float(v)) for v in high],
        "generations": {
            t: middle(radial_spectrum(torch.from_numpy(images))[1]) for t, images in samples.items()
        },
    }


def _cost(run: Run) -> dict[str, Any]:
    """Seconds, images per second, MFU and peak memory by stage; a stage that was taken over from another run cost nothing here."""
    timings = run.timings()
    stages = []
    for stage in STAGES:
        own = [row for row in timings if row["stage"] == stage]
        seconds, images = sum(row["seconds"] for row in own), sum(row.get("images") or 0 for row in own)
        if own:
            used = [row["mfu"] for row in own if row.get("mfu")]
            stages.append(
                {
                    "stage": stage,
                    "seconds": round(seconds, 2),
                    "times": len(own),
                    "speed": round(images / seconds, 1) if images and seconds else None,
                    "mfu": round(float(np.mean(used)), 3) if used else None,
                    "peak_gb": max((row["peak_gb"] for row in own if row.get("peak_gb")), default=None),
                }
            )
    return {
        "stages": stages,
        "seconds": round(sum(s["seconds"] for s in stages), 1),
        "processes": max((r.get("processes", 1) for r in timings), default=1),
    }
