"""Stage 2, train: fits the model to training set t. train.start_from says which weights it starts from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from difflab.config import Train
from difflab.core import fence
from difflab.core.errors import ConfigError, StoreError
from difflab.core.files import disk_errors, to_disk, write_json
from difflab.core.flops import forward_flops, mfu
from difflab.core.hashing import digest, file_hash
from difflab.core.seeds import lab_seed, seed_of
from difflab.loop import held_out
from difflab.loop.one_pixel import refuse_one_pixel
from difflab.loop.training_loop import fit, shards_weights
from difflab.loop.work import Work
from difflab.models import family_of
from difflab.models.family import ClosedForm
from difflab.models.weights import whole
from difflab.runs.ledger import REAL
from difflab.runs.run import Run
from difflab.runs.store import Shards
from difflab.runs.train_set import TrainSet


def train(work: Work, generation: int) -> dict[str, Any]:
    """Stage 2 of one generation.

    Writes training.json, held_out_loss.json and model/. Returns additional columns for timings.jsonl.
    """
    run, config, folder = work.run, work.run.config, work.run.gen(generation)
    rows = pq.read_table(folder / "train_set.parquet", page_checksum_verification=True)
    model = starting_model(run, generation)
    weights = row_weights(work, generation, rows)
    settings = config.train
    for policy, at in work.acting("training", generation):
        settings = policy.training(at, settings)
    if isinstance(model, ClosedForm):
        detail = fit_closed_form(work, generation, model, rows, weights)
    elif generation == 0 and run.config.model.starts_as_base:
        model.prepare_training(settings.model_copy(update={"compile": False}), work.accelerator.device)
        detail = {"images": 0}
    else:
        detail = fit_network(work, generation, model, rows, weights, settings)
    for policy, at in work.acting("weights", generation):
        policy.weights(at, model)
    if config.denoises and config.measure.held_out_loss:
        begun = time.perf_counter()
        held_out.take(run, model, folder, work.accelerator, lambda wanted: encode(wanted, model, work))
        detail["held_out_seconds"] = round(time.perf_counter() - begun, 4)
    if work.main:
        save(model, folder)
    return detail


def starting_model(run: Run, generation: int) -> Any:
    """The model from which the training of a generation starts.

    In generation 0, and always with start_from=scratch, it is a model with new weights, or the pretrained
    base. In later generations start_from=base means the pretrained base, or the model of generation 0 if the
    family has no base. start_from=previous means the model of the previous generation.
    """
    config = run.config
    family, start = family_of(config.model), config.train.start_from
    if generation and (start == "previous" or (start == "base" and not config.text)):
        parent = generation - 1 if start == "previous" else 0
        return family.load(config.model, run.shape, run.gen(parent) / "model")
    model = family(config.model, run.shape)
    if not isinstance(model, ClosedForm):
        keeps_base = generation == 0 and run.config.model.starts_as_base
        seed = seed_of("weights", lab_seed(config.seed, config.lab), generation)
        model.initialise(seed, scratch=start == "scratch" and not keeps_base)
    return model


def row_weights(work: Work, generation: int, rows: pa.Table) -> np.ndarray | None:
    """The weight of each row of training set t in the loss: float64 [n] with mean 1; None = equal weights.

    The weights of data.weight and of several policies are multiplied. Raises ConfigError for weights that are
    negative, not finite or all 0.
    """
    acting = list(work.acting("row_weights", generation))
    factors = [policy.row_weights(at, rows) for policy, at in acting]
    names = [policy.policy for policy, _ in acting]
    if work.run.config.data.weight is not None:
        factors, names = [image_weights(work.run, rows), *factors], ["data.weight", *names]
    if not factors:
        return None
    weights = np.prod(factors, axis=0)
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
        raise ConfigError(
            f"the weights of training set {generation} are not finite, negative or all 0 ({', '.join(names)})"
        )
    return weights / weights.mean()


def image_weights(run: Run, rows: pa.Table) -> np.ndarray:
    """The weight that data.weight gives each row of a training set, float64 [n]; 1 for samples."""
    real = rows["generation"].to_numpy() == REAL
    of_image = np.array(run.real.column("weight"), dtype=np.float64)
    weights = np.ones(len(rows))
    weights[real] = of_image[rows["index"].to_numpy()[real]]
    return weights


def fit_closed_form(
    work: Work, generation: int, model: ClosedForm, rows: pa.Table, weights: np.ndarray | None
) -> dict[str, Any]:
    """Fit a family whose estimate is a formula, such as the mean and covariance of a Gaussian."""
    data = TrainSet(rows, work.run.samples)
    counts = None
    if weights is not None:
        counts = data.by_chain(weights)
        counts = counts / counts.mean(0)  # mean 1 in each chain
    with work.report.stage(generation, "train", 0):
        model.fit(data.records(), data.conditions, counts)
    return {"images": len(data)}


def fit_network(
    work: Work, generation: int, model: Any, rows: pa.Table, weights: np.ndarray | None, settings: Train
) -> dict[str, Any]:
    """Fit a family by gradient descent.

    Returns the number of images seen and the share of the device's peak FLOPs that was used (MFU).
    """
    run, config, accelerator = work.run, work.run.config, work.accelerator
    folder = run.gen(generation)
    data = TrainSet(rows, run.samples, run.conditions, model.inputs)
    for extractor in work.extractors:
        extractor.rest()  # frees the memory that it uses on the device
    encode([(shards, shards.shards) for shards in data.sets.values()], model, work)
    model.prepare_training(settings, accelerator.device)
    for size in model.shape.all_sizes:
        refuse_one_pixel(model.at(size), settings.precision, accelerator.device.type)
    rehearse_saving(model, settings, work, folder)
    watches = [policy.trainer(at, model) for policy, at in work.acting("trainer", generation)]
    if work.forward_flops is None:
        work.forward_flops = forward_flops(model)
    key = (lab_seed(config.seed, config.lab), generation)
    with work.report.stage(generation, "train", settings.images_seen) as advance:
        begun = time.perf_counter()
        trained_images = fit(
            model, data, settings, key, folder, accelerator, advance, weights=weights, watches=watches
        )
        seconds = time.perf_counter() - begun
    # One forward pass and two backward passes; frozen weights need no gradient of their own.
    passes = 2 if config.model.trains_lora else 3
    flops = work.forward_flops * trained_images * passes / accelerator.num_processes
    return {
        "images": settings.images_seen,
        "mfu": mfu(flops, seconds, accelerator.device, settings.precision),
    }


def rehearse_saving(model: Any, settings: Train, work: Work, folder: Path) -> None:
    """Save the untrained model in the same way as the trained one, and delete the files again.

    A model that cannot be saved, for example on a full disk, is therefore an error before the training.
    Weights that will be sharded over processes are gathered as after the training. Raises StoreError if the
    model cannot be saved, or if the saved files do not contain the model's weights.
    """
    if work.rehearsed:
        return
    sharded = shards_weights(work.accelerator)
    if sharded and work.run.config.model.quantized != "none":
        raise ConfigError(
            "model.quantize does not work with weights that are sharded over processes (FSDP); set "
            "model.quantize=none, or launch without FSDP"
        )
    if sharded:
        model.unshard({name: whole(p) for name, p in model.net.state_dict().items()})
    if work.main:
        temporary = fence.temporary_of(folder / "rehearsal")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            with disk_errors(temporary):
                temporary.mkdir(parents=True)
                model.save(temporary)
                model.check_saved(temporary)
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            raise StoreError(
                f"this model cannot be saved, so it is not trained: {' '.join(str(error).split())[:300]}"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    if sharded:
        model.prepare_training(settings, work.accelerator.device)
    work.rehearsed = True
    work.wait()


def encode(wanted: list[tuple[Shards, Sequence[int]]], model: Any, work: Work) -> None:
    """Compute the latents that are not stored yet: those of the real set, or all after a cache was deleted.

    Args:
        wanted: (set of images, numbers of its shards). Each process encodes a part of the shards.
        model: a Denoiser; without an encoder nothing is done.
        work: the chain.
    """
    key = model.encoder_key
    if key and any(set(numbers) & set(shards.lacks(key)) for shards, numbers in wanted):
        encoder = model.encoder(work.accelerator.device)
        for shards, numbers in wanted:
            for shard in numbers[work.accelerator.process_index :: work.accelerator.num_processes]:
                shards.encode(encoder, shard)
    work.wait()


def save(model: Any, folder: Path) -> None:
    """Save the model with the hashes of its files under a temporary name and rename it.

    hash.json marks the training as done.
    """
    place = folder / "model"
    with disk_errors(place), fence.atomic_folder(place, replace=True) as temporary:
        model.save(temporary)
        paths = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
        files = {str(path.relative_to(temporary)): file_hash(path) for path in paths}
        weights = {name: value for name, value in files.items() if name.endswith(".safetensors")}
        train_set = file_hash(folder / "train_set.parquet")
        write_json(
            temporary / "hash.json", {"model": digest(weights), "train_set": train_set, "files": files}
        )
        to_disk(temporary)
    drop_checkpoint(folder)


def drop_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a generation whose training is done, if there is one.

    A process that was killed right after the training can have left it.
    """
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
