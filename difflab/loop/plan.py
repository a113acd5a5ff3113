"""Estimate what a config costs before it is run: images, FLOPs, disk space and time of each stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from difflab.config import Config
from difflab.core.errors import reading
from difflab.core.flops import forward_flops
from difflab.core.precision import TYPES
from difflab.core.seeds import seed_of
from difflab.core.shape import Shape
from difflab.data.provenance import origins
from difflab.loop import passes, regimes
from difflab.loop.ingest import audit_of, divided
from difflab.loop.regimes import check_possible
from difflab.models import family_of
from difflab.models.family import ClosedForm
from difflab.models.latent import KEPT
from difflab.models.registry import unguided_scale
from difflab.runs.origins import Evidence, counted
from difflab.runs.sizes import fresh_needed

DIMENSIONS = {
    "texture": 8,
    "artefacts": 4,
    "watermark": 256,
    "fitted": 64,
    "efficientnet-lite0": 1280,
    "inception": 2048,
    "open_clip": 768,
    "timm": 1024,
}
"""The number of features per image of each extractor; for open_clip and timm, that of a typical model."""
PNG_SHARE = 0.7  # typical size of the PNG of a small natural or noisy image, relative to its raw pixels


@dataclass(frozen=True)
class Cost:
    """The cost of one stage of one generation.

    Attributes:
        generation: the generation.
        stage: name of the stage, or "captions" for the encoding of the captions.
        images: for mix, the size of the training set; for train, the images seen; for captions, the number of
            captions; for the other stages, the number of samples.
        flops: floating-point operations of the network.
        disk_bytes: bytes of the files that the stage writes.
        seconds: estimated time, from a speed that was measured on this machine.
    """

    generation: int
    stage: str
    images: int
    flops: float
    disk_bytes: float
    seconds: float


def plan(config: Config, shape: Shape, n_train: int, captions: int = 0) -> list[Cost]:
    """The costs of every stage. To measure the speed, a few passes of the untrained network are run.

    Args:
        config: the config of a chain or of one lab.
        shape: shape of a record and number of classes of the real set.
        n_train: number of real images in the train split.
        captions: number of distinct captions of a text-to-image run. Encoding them is the stage "captions".

    Raises ConfigError for a scheduler that does not exist.
    """
    network = _network(config, shape)
    costs = [_captions(config, shape, captions)] if config.text and captions else []
    for t in range(config.generations + 1):
        count = config.sample.count_of(t)
        set_size = _set_size(config, t, n_train)
        costs.append(Cost(t, "mix", set_size, 0, 4.0 * set_size, 0.02))
        costs.append(_train_cost(config, t, network, set_size))
        costs.append(_sample_cost(config, t, network, shape))
        costs.append(Cost(t, "select", count, 0, 10.0 * count, 0.02))
        costs.append(_measure_cost(config, t))
    return costs


def _set_size(config: Config, generation: int, n_train: int) -> int:
    """The largest possible size of training set t, as if selection kept all samples."""
    samples = [np.arange(config.sample.count_of(g)) for g in range(generation)]
    pools, budget = regimes.pools(config, generation, n_train, samples)
    union = sum(pool.count for pool in pools)
    return union if budget is None else min(budget, union)


def _train_cost(config: Config, generation: int, network: _Network | None, set_size: int) -> Cost:
    if network is None:
        return Cost(generation, "train", set_size, 0, 0, 0.05)
    seen = passes.images_trained(config, generation)
    flops = network.training * network.flops * seen
    return Cost(generation, "train", seen, flops, network.bytes, seen * network.backward)


def _sample_cost(config: Config, generation: int, network: _Network | None, shape: Shape) -> Cost:
    count = config.sample.count_of(generation)
    record_bytes = float(math.prod(shape.record)) * (8 if config.exact else 1)
    if network is None:
        return Cost(generation, "sample", count, 0, record_bytes * count, 0.05 + 1e-4 * count)
    features = 0.0
    for spec in config.measure.extractors:
        features += DIMENSIONS.get(spec.partition(":")[0], record_bytes)
    disk = PNG_SHARE * record_bytes * count + 300 * count + 4 * count * features
    passes = network.passes * count
    seconds = passes * network.forward + count * (network.finish + 1e-4)
    flops = network.flops * passes + network.finish_flops * count
    return Cost(generation, "sample", count, flops, disk, seconds)


def _measure_cost(config: Config, generation: int) -> Cost:
    count, measures = config.sample.count_of(generation), 0
    if not config.exact:
        measures = len(config.measure.metrics) * max(1, len(config.measure.extractors))
    seconds = 0.05 + 0.006 * measures * (1 + config.measure.resamples) * (count / 1000) ** 2
    return Cost(generation, "measure", count, 0, 0, seconds)


def costs_of(config: Config, labs: Sequence[Config], notes: list[str]) -> list[Cost]:
    """The costs of one chain, or of one lab, on its real images.

    Args:
        config: the config of the chain or of the lab.
        labs: the configs of all labs of an ecosystem; empty for a chain.
        notes: gets sentences about the number of real images, about those that are left out, and about those
            that declare that they are synthetic.

    Raises:
        ConfigError: a generation needs more images than there will be, or the guard refuses the real set.
        DataError: images cannot be read, or data.provenance=require refuses the set.
    """
    captions = 0
    depths, evidence = None, None
    if config.exact:
        n_train = (config.data.train_size or 0) + fresh_needed(config, config.data.train_size or 0)
        shape = Shape(family_of(config.model).truth(config.model, [0]).shape[1:])
    else:
        source, train, held_out = divided(config)
        with reading(f"data.source={config.data.source}"):
            audit = audit_of(config, source)
            found = origins(source, config.data, audit)  # and notes into the account of the source
        n_train, declared = len(train), [found[i] for i in train]
        columns = ([entry.origin for entry in declared], [entry.depth for entry in declared])
        depths = counted(*columns, config.data.unknown_origin)
        unknown = np.array([origin == "unknown" for origin in columns[0]])
        evidence = Evidence(unknown, None if audit is None else audit.summary(found))
        in_parts = config.ecosystem is not None and config.ecosystem.real == "disjoint"
        used = None if in_parts else n_train + len(held_out)
        notes += source.account.told(f"real images ({source.name})", used)
        shape = Shape(source.record, len(source.classes or []), sizes=source.sizes)
        if config.text and config.conditional:
            captions = len(set(source.prompts or []))
    check_possible(config, n_train, labs, depths, evidence)
    return plan(config, shape, n_train, captions)


def stage_weights(config: Config) -> dict[tuple[int, str], float]:
    """Relative times of every (generation, stage), for the estimate of the remaining time.

    Only the ratios matter, because the estimate is corrected by the measured speed while the chain runs.
    """
    labs = config.labs()
    weights: dict[tuple[int, str], float] = {}
    if len(labs) > 1:
        for lab in labs:
            for (t, stage), seconds in stage_weights(lab).items():
                weights[t, f"lab {lab.lab} {stage}"] = seconds
        return weights
    forward = 1e-4 / 3  # seconds of one image through the network; a training step takes three times as long
    passes = config.sample.steps * (2 if config.sample.guidance_scale > unguided_scale(config.model) else 1)
    for t in range(config.generations + 1):
        untrained = t == 0 and config.model.starts_as_base
        weights[t, "train"] = 0.0 if untrained else 3 * forward * config.train.images_seen
        weights[t, "sample"] = forward * passes * config.sample.count_of(t)
        weights[t, "measure"], weights[t, "mix"], weights[t, "select"] = 2.0, 0.1, 0.1
    return weights


def _captions(config: Config, shape: Shape, captions: int) -> Cost:
    """The cost of encoding every distinct caption once. `disk_bytes` is the size of their embeddings."""
    model: Any = family_of(config.model)(config.model, shape)
    if config.model.trains_text_encoder:  # the embeddings change with every step and are not kept
        return Cost(0, "captions", captions, 0, 0, 0)
    device = passes.device_type()
    kind = TYPES[config.train.precision]
    size = model.text_bytes(device, kind) * (captions + 1)
    read = model.base.text_reader(device, kind)
    batch = min(model.base.prompts_per_pass, captions)
    seconds = passes.per_image(lambda n: read(["a photograph"] * n), batch, device)
    return Cost(0, "captions", captions, 0, size, seconds * captions)


def where_embeddings_are(size: float) -> str:
    """A sentence that says where the embeddings of captions are while the network trains and samples.

    `size` is their total size in bytes; 0 = the text encoder is trained.
    """
    if not size:
        return "captions: the text encoder is trained, so that every batch is encoded when it is used"
    limit, text = KEPT / 2**20, f"captions: their embeddings are {size / 2**20:,.1f} MiB"
    if size <= KEPT:
        return f"{text}, which are kept in the memory of the device (at most {limit:,.0f} MiB are)"
    return f"{text}; more than {limit:,.0f} MiB are not kept in memory: every batch is read from disk"


@dataclass(frozen=True)
class _Network:
    """The measured costs of a network.

    Attributes:
        flops: FLOPs of a forward pass, per image.
        bytes: bytes of the trained weights.
        passes: forward passes per sampled image.
        forward: seconds of a forward pass in sampling, per image.
        backward: seconds of a training step, per image.
        finish: seconds of decoding, per image.
        finish_flops: FLOPs of decoding, per image.
        training: FLOPs of a training step as a multiple of those of a forward pass.
    """

    flops: float
    bytes: float
    passes: int
    forward: float
    backward: float
    finish: float
    finish_flops: float
    training: int


def _network(config: Config, shape: Shape) -> _Network | None:
    """The measured costs of the network; None for a family without a network.

    Raises ConfigError for a scheduler that does not exist.
    """
    family: Any = family_of(config.model)
    model = family(config.model, shape)
    if isinstance(model, ClosedForm):
        return None
    from torch.utils.flop_counter import FlopCounterMode

    model.check_sampling(config.sample)
    scheduler = model.scheduler(config.sample)  # a second-order scheduler has more passes than steps
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for settings in (config.train, config.sample):
        model.encode_texts(settings, device)
    model.initialise(seed_of("plan"), scratch=True)
    model.prepare_training(config.train.model_copy(update={"compile": False}), device)
    with passes.autocast(config.train, device):
        flops = forward_flops(model)
    backward = passes.training_seconds(model, config.train, device)
    size = sum(p.numel() * p.element_size() for p in model.net.parameters() if p.requires_grad)
    model.prepare_sampling(config.sample.model_copy(update={"compile": False}), device)
    forward, finish = passes.sampling_seconds(model, config.sample, device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.finish(torch.randn(1, *model.drawn, device=device))
    # The optimiser, the average of the weights and the data add about a tenth (measured on digits).
    return _Network(
        flops,
        float(size),
        len(scheduler.timesteps) * model.passes(config.sample),
        forward,
        1.1 * backward,
        finish,
        float(counter.get_total_flops()),
        2 if config.model.trains_lora else 3,
    )
