"""The chain: generations 0..T, five stages each. Running it again resumes at the first thing that is missing.

real set --+
           v
pools --> mix --> train --> sample --> select --> measure --> (pool of the next generation)

The labs of an ecosystem take turns: each makes generation t before any makes t + 1.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from platform import machine
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator

from difflab import policies
from difflab.config import Config, digest
from difflab.core.errors import ConfigError, StoreError, reading
from difflab.core.files import atomic, write_json
from difflab.core.flops import forward_flops, mfu
from difflab.core.memory import enough_memory, peak_memory
from difflab.core.progress import Reporter
from difflab.core.seeds import lab_seed, seed_of
from difflab.loop import added_measures as added
from difflab.loop import ecosystem, held_out, regimes, sample, trackers
from difflab.loop import measure as measuring
from difflab.loop import select as selection
from difflab.loop import training_loop as train
from difflab.loop.ingest import ingest
from difflab.models import family_of
from difflab.models.family import ClosedForm
from difflab.models.schedulers import check_scheduler, late_start, scheduler_of
from difflab.models.weights import whole
from difflab.policies import At, Policy
from difflab.runs.run import STAGES, EcosystemRun, Run, read_rows, run_class
from difflab.runs.store import Shards
from difflab.runs.train_set import TrainSet
from difflab.runs.verify import file_hash


@dataclass
class Work:
    """What the stages share: the run, the processes, the reporter and the opened feature extractors."""

    run: Run
    accelerator: Accelerator
    report: Reporter
    extractors: list[Any] = field(default_factory=list)
    more: list[added.Opened] = field(default_factory=list)  # measures that were added to the run
    plots: bool = True
    done: set[tuple[int, str]] = field(default_factory=set)  # what earlier calls have finished
    rehearsed: bool = False  # whether a model has been saved, so that later ones will be

    @cached_property
    def tracked(self) -> trackers.Trackers:
        return trackers.Trackers(self.run)

    @property
    def main(self) -> bool:
        return self.accelerator.is_main_process

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def acting(self, hook: str, generation: int, **more: Any) -> Iterator[tuple[Policy, At]]:
        """The policies that act through `hook` in this generation."""
        return policies.acting(
            hook,
            self.run.config,
            generation,
            run=self.run,
            extractors=self.extractors,
            device=self.accelerator.device,
            say=self.report.say,
            **more,
        )


def run_chain(
    config: Config, path: Path, report: Reporter | None = None, plots: bool = True, page: bool = False
) -> Run:
    """Run or resume the chain of `config`, or all labs of an ecosystem, in `path` and return it. Safe to stop anywhere and to call again.

    `plots`: also curves.png of this run alone, which takes seconds. `page`: after each generation also report.html.
    """
    if config.ecosystem is not None and config.ecosystem.lab is not None:
        raise ConfigError(
            f"this is the config of lab {config.lab} of an ecosystem, which cannot go on without the others: run the ecosystem's config"
        )
    check(config)
    report = report or Reporter(quiet=True)
    if "bf16" in (config.train.precision, config.sample.precision) and emulates_bf16():
        report.say(
            "this CPU has no instructions for bf16, which makes it many times slower here than precision=no"
        )
    # Without cpu=True several processes of a machine without GPU would each believe that they are alone.
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(), mixed_precision=config.train.precision
    )
    with (
        accelerator.main_process_first()
    ):  # the main process locks and checks the folder before anyone looks at it
        run = (
            run_class(config).create(path, config)
            if accelerator.is_main_process
            else run_class(config)(path, config)
        )
    works = [Work(part, accelerator, report, plots=plots) for part in run.parts]
    try:
        for work in works:
            ingest(work.run, accelerator, report.say)
            check_counts(work.run)
            check_text(work.run, report)
        if isinstance(run, EcosystemRun):
            ecosystem.check_labs(run)
        for work in works:
            open_extractors(work)
        # Decided before any stage runs: a process that looked later could find the main process's result and skip a stage that the others are in.
        for work in works:
            work.done = {
                (t, stage)
                for t in range(config.generations + 1)
                for stage in STAGES
                if work.run.done(t, stage)
            }
        compared = {
            t
            for t in range(config.generations + 1)
            if isinstance(run, EcosystemRun) and run.between(t).exists()
        }
        accelerator.wait_for_everyone()
        for work in works:
            check_measures(work)
            catch_up(work)
        for line in dict.fromkeys(
            line for work in works if len(work.run.came_in) > 1 for line in work.run.came_in
        ):
            report.say(line)  # a set that is read whole and as it is needs no word here
        for t in range(config.generations + 1):
            for work in works:
                one_generation(work, t)
            if isinstance(run, EcosystemRun) and t not in compared:
                ecosystem.between(run, t, [work.extractors for work in works], accelerator)
            fresh = any((t, stage) not in work.done for work in works for stage in STAGES)
            if (
                page
                and accelerator.is_main_process
                and (fresh or (t == config.generations and not (run.path / "report.html").exists()))
            ):
                show(run, t)
        if accelerator.is_main_process:
            for part in run.parts:
                measuring.collect(part)
            if isinstance(run, EcosystemRun):
                ecosystem.finish(run, plots)
            run.drop_cache()
    finally:
        for work in works:
            work.tracked.finish()
        run.close()
    return run


def open_extractors(work: Work) -> None:
    """Those that the run was asked for, and those of measures that were added to it."""
    work.extractors = measuring.extractors_of(work.run, work.accelerator)
    work.more = [] if work.run.config.exact else added.opened(work.run, work.accelerator)


def catch_up(work: Work) -> None:
    """Added measures of generations that were measured before these were asked for."""
    run = work.run
    rows = {t: read_rows(run.gen(t) / "metrics.jsonl") for t in run.generations} if work.more else {}
    lacking = {t: added.missing(work.more, before) for t, before in rows.items()}
    work.wait()  # all have looked before one of them writes
    for t, more in lacking.items():
        if more:
            with work.report.stage(
                t, "measure", sum(len(part.config.measure.metrics) for part, _ in more), "measures"
            ) as advance:
                fresh = added.rows_of(more, t, rows[t], work.accelerator, advance)
            if work.main:
                measuring.write_rows(run, t, rows[t] + fresh)


def one_generation(work: Work, generation: int) -> None:
    """The five stages of one generation of one chain or lab, but those that are done, and its pictures."""
    run, accelerator = work.run, work.accelerator
    work.report.lab = run.config.lab if run.config.ecosystem else None
    for stage in STAGES:
        if (generation, stage) in work.done:
            work.report.skip(generation, stage)
            continue
        started = time.perf_counter()
        with peak_memory(accelerator.device) as peak, enough_memory(stage):
            detail = STAGE[stage](work, generation) or {}
        work.wait()
        if work.main:
            run.add_time(
                generation,
                stage,
                time.perf_counter() - started,
                processes=accelerator.num_processes,
                **peak,
                **detail,
            )
    picture(work, generation)
    if work.main:
        work.tracked.log(generation)


def emulates_bf16() -> bool:
    """Whether training and sampling would run on a CPU that computes in bf16 by converting back and forth."""
    return (
        not torch.accelerator.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
        and machine() in ("x86_64", "AMD64")
    )


def check(config: Config) -> None:
    """Find out about unknown names before anything is run."""
    labs = config.labs()
    if len(labs) > 1:
        ecosystem.check(labs)
        for own in labs:
            check(own)
        return
    policies.check(config)
    trackers.check(config)
    if "fp16" in (config.train.precision, config.sample.precision) and not torch.accelerator.is_available():
        raise ConfigError("train.precision and sample.precision fp16 want a GPU; use bf16 or no")
    measuring.check(config)
    if config.denoises and not config.text:
        from difflab.models.pixel import noise_of

        noise = noise_of(config.model)
        check_scheduler(lambda how: scheduler_of(how, noise), config.sample, noise)


def check_counts(run: Run) -> None:
    """Find out about numbers of images that do not go together before anything is fitted."""
    config = run.config
    if not config.exact and config.measure.metrics:
        measuring.measured_count(run)
    if config.conditional:
        for count in config.sample.count if isinstance(config.sample.count, list) else [config.sample.count]:
            sample.asked(run, 0, count)


def check_measures(work: Work) -> None:
    """Say which measures will have no value, and why, before anything is fitted for them."""
    run = work.run
    if all((t, "measure") in work.done for t in range(run.config.generations + 1)):
        return
    lab = f"lab {run.config.lab}: " if run.config.ecosystem else ""
    for line in measuring.left_out(measuring.unmeasurable(run, work.extractors, work.accelerator)):
        work.report.say(f"{lab}will be left out, as it cannot even be measured between real images: {line}")


def check_text(run: Run, report: Reporter) -> None:
    """Open the base of a text-to-image family before anything is fitted, and say how many captions it will not read to the end."""
    if not run.config.text:
        return
    with reading(f"model.base {getattr(run.config.model, 'base', '')}", ConfigError):
        model = family_of(run.config.model)(run.config.model, run.shape)
    model.check_sampling(run.config.sample)
    if late := late_start(model.scheduler(run.config.sample), model.noise):
        report.say(late)
    unknown = [p for p in run.config.probe.prompts or [] if p not in run.prompts]
    if unknown:
        near = get_close_matches(unknown[0], run.prompts, 1, 0.0)
        raise ConfigError(
            f"probe.prompts: no image of the real set has the caption '{unknown[0]}'; the nearest is '{near[0]}'"
        )
    cut = model.base.too_long(run.prompts)
    if cut:
        report.say(
            f"{cut} of {len(run.prompts)} captions are longer than the tokenizer takes: the model reads only their beginning"
        )


def mix(work: Work, generation: int) -> None:
    """Stage 1: the rows of training set t."""
    run, config = work.run, work.run.config
    kept = [[lab.kept(g) for g in range(generation)] for lab in run.labs]
    n_train, mine = run.about["n_train"], kept[config.lab]
    drawn, budget = regimes.pools(
        config, generation, n_train, mine, work.acting("pools", generation, n_train=n_train), kept
    )
    if work.main:
        rows = regimes.mix(
            drawn,
            budget,
            ("mix", lab_seed(config.seed, config.lab), generation),
            getattr(config.model, "replicates", 1),
        )
        for policy, at in work.acting("rows", generation, n_train=run.about["n_train"]):
            rows = policy.rows(at, rows)
        _write_table(run.gen(generation) / "train_set.parquet", rows)


def fit(work: Work, generation: int) -> dict[str, Any]:
    """Stage 2: the model fitted to training set t, from the weights that start_from names."""
    run, config, folder = work.run, work.run.config, work.run.gen(generation)
    rows = pq.read_table(folder / "train_set.parquet", page_checksum_verification=True)
    model = started(run, generation)
    weights = row_weights(work, generation, rows)
    settings = config.train
    for policy, at in work.acting("training", generation):
        settings = policy.training(at, settings)
    detail: dict[str, Any] = {}
    if isinstance(model, ClosedForm):
        data = TrainSet(rows, run.samples)
        with work.report.stage(generation, "train", 0):
            counts = None if weights is None else data.by_chain(weights)
            model.fit(
                data.records(), data.conditions, None if counts is None else counts / counts.mean(0)
            )  # mean 1 in each chain
        images = len(data)
    elif generation == 0 and getattr(config.model, "generation_0", "fit") == "base":
        images = 0
        model.prepare_training(settings.model_copy(update={"compile": False}), work.accelerator.device)
    else:
        data = TrainSet(rows, run.samples, run.conditions, model.inputs)
        for extractor in work.extractors:
            extractor.rest()
        encode([(shards, shards.shards) for shards in data.sets.values()], model, work)
        model.prepare_training(settings, work.accelerator.device)
        rehearse_saving(model, settings, work, folder)
        images = settings.images_seen
        watches = [policy.trainer(at, model) for policy, at in work.acting("trainer", generation)]
        flops = forward_flops(model)
        with work.report.stage(generation, "train", images) as advance:
            begun = time.perf_counter()
            key = (lab_seed(config.seed, config.lab), generation)
            fresh = train.fit(
                model,
                data,
                settings,
                key,
                folder,
                work.accelerator,
                advance,
                weights=weights,
                watches=watches,
            )
            seconds = time.perf_counter() - begun
        # Forward once, backward twice; frozen weights need no gradient of their own.
        used = (
            flops
            * fresh
            * (2 if getattr(config.model, "lora_rank", 0) else 3)
            / work.accelerator.num_processes
        )
        detail["mfu"] = mfu(used, seconds, work.accelerator.device, settings.precision)
    for policy, at in work.acting("weights", generation):
        policy.weights(at, model)
    if config.denoises and config.measure.held_out_loss:
        begun = time.perf_counter()
        held_out.take(run, model, folder, work.accelerator, lambda wanted: encode(wanted, model, work))
        detail["held_out_seconds"] = round(time.perf_counter() - begun, 4)
    if work.main:
        _save(model, folder)
    return {"images": images, **detail}


def rehearse_saving(model: Any, settings: Any, work: Work, folder: Path) -> None:
    """Save the untrained model once, by the call that will save the trained one, and delete it: a training that cannot be kept is not begun.

    The disk must hold it too. Weights that will be spread over processes are put together as they will be.
    Raises StoreError where the model cannot be saved, or what was saved is not what was there.
    """
    if work.rehearsed:
        return
    if train.shards(work.accelerator):
        model.unshard({name: whole(p) for name, p in model.net.state_dict().items()})
    if work.main:
        temporary = folder / ".rehearsal.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            model.save(temporary)
            model.check_saved(temporary)
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            raise StoreError(
                f"this model cannot be saved, so it is not trained: {' '.join(str(error).split())[:300]}"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    if train.shards(work.accelerator):
        model.prepare_training(settings, work.accelerator.device)
    work.rehearsed = True
    work.wait()


def row_weights(work: Work, generation: int, rows: pa.Table) -> np.ndarray | None:
    """How much each row of training set t counts, float64 [n] with mean 1; None = all alike."""
    acting = list(work.acting("row_weights", generation))
    if not acting:
        return None
    weights = np.prod([policy.row_weights(at, rows) for policy, at in acting], axis=0)
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
        raise ConfigError(
            f"policies: the weights of training set {generation} are not finite, negative or all 0 ({acting[-1][0].policy})"
        )
    return weights / weights.mean()


def started(run: Run, generation: int) -> Any:
    """The model that generation t's training starts from: fresh, the base (pretrained, else generation 0), or generation t-1."""
    config = run.config
    family, start = family_of(config.model), config.train.start_from
    if generation and (start == "previous" or (start == "base" and not config.text)):
        return family.load(
            config.model, run.shape, run.gen(generation - 1 if start == "previous" else 0) / "model"
        )
    model = family(config.model, run.shape)
    if not isinstance(model, ClosedForm):
        as_it_is = generation == 0 and getattr(config.model, "generation_0", "fit") == "base"
        model.initialise(
            seed_of("weights", lab_seed(config.seed, config.lab), generation),
            scratch=start == "scratch" and not as_it_is,
        )
    return model


def encode(wanted: list[tuple[Shards, Sequence[int]]], model: Any, work: Work) -> None:
    """What a latent model reads of images that were not encoded when they were made: the real set, or a cache that was deleted.

    `wanted` names the shards of each set.
    """
    if model.encoder_key and any(set(own) & set(shards.lacks(model.encoder_key)) for shards, own in wanted):
        encoder = model.encoder(work.accelerator.device)
        for shards, own in wanted:
            for shard in own[work.accelerator.process_index :: work.accelerator.num_processes]:
                shards.encode(encoder, shard)
    work.wait()


def draw(work: Work, generation: int) -> dict[str, Any]:
    """Stage 3: the samples of t, drawn from the weights on disk, so that a resumed run draws the same."""
    run = work.run
    model = family_of(run.config.model).load(run.config.model, run.shape, run.gen(generation) / "model")
    how = run.config.sample
    for policy, at in work.acting("sampling", generation):
        how = policy.sampling(at, how)
    if not isinstance(model, ClosedForm):
        model.prepare_sampling(how, work.accelerator.device)
        model.steers = [policy.steer(at, model) for policy, at in work.acting("steer", generation)]
    count = run.config.sample.count_of(generation)
    with work.report.stage(generation, "sample", -(-count // work.accelerator.num_processes)) as advance:
        in_store = sample.draw(run, generation, model, how, work.extractors, work.accelerator, advance)
    return {"images": count, "store_seconds": round(in_store, 4)}


def select(work: Work, generation: int) -> None:
    """Stage 4: which samples may train later generations, and why the others may not."""
    if work.main:
        _write_table(
            work.run.gen(generation) / "selected.parquet",
            selection.select(work.run, generation, work.extractors),
        )


def measure(work: Work, generation: int) -> None:
    """Stage 5: the numbers of t."""
    run = work.run
    total = sum(
        len(extractors) * len(part.config.measure.metrics)
        for part, extractors in [(run, work.extractors), *work.more]
    )
    with work.report.stage(generation, "measure", total, "measures") as advance:
        if run.config.exact:
            model = family_of(run.config.model).load(
                run.config.model, run.shape, run.gen(generation) / "model"
            )
            rows = measuring.measure_exact(run, generation, model) if work.main else []
        else:
            rows = measuring.measure_images(run, generation, work.extractors, work.accelerator, advance)
        rows += measuring.measure_training(run, generation) if work.main else []
        rows += added.rows_of(work.more, generation, rows, work.accelerator, advance)
    if work.main:
        measuring.write_rows(run, generation, rows)


def show(run: Run, generation: int) -> None:
    """The report as it stands after generation t; while the run goes on it looks for newer versions of itself."""
    from difflab.report.page import FILE, report
    from difflab.report.verdict import verdict

    report(
        [run],
        run.path / FILE,
        verdict=lambda part: verdict(part, fresh=False),
        live=generation < run.config.generations,
    )


def picture(work: Work, generation: int) -> None:
    """The probe of t as a grid; after the last generation the strip and the curves."""
    run = work.run
    if not work.main or run.config.exact:
        return
    from difflab.report.curves import curves
    from difflab.report.grid import grid, strip

    if run.config.probe.per_condition and not (run.gen(generation) / "grid.png").exists():
        with atomic(run.gen(generation) / "grid.png") as temporary:
            grid(run, generation).save(temporary, "PNG")
    if generation == run.config.generations:
        if run.config.probe.per_condition:
            with atomic(run.path / "strip.png") as temporary:
                strip(run).save(temporary, "PNG")
        if work.plots:
            with atomic(run.path / "curves.png") as temporary:
                curves([run]).savefig(temporary, format="png", dpi=110)


def _save(model: Any, folder: Path) -> None:
    """Save the model under a temporary name, rename, then leave its hash: the sign that training is done."""
    temporary, final = folder / ".model.tmp", folder / "model"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    temporary.mkdir(parents=True)
    model.save(temporary)
    temporary.rename(final)
    files = {str(p.relative_to(final)): file_hash(p) for p in sorted(final.rglob("*")) if p.is_file()}
    weights = {name: h for name, h in files.items() if name.endswith(".safetensors")}
    write_json(
        final / "hash.json",
        {"model": digest(weights), "train_set": file_hash(folder / "train_set.parquet"), "files": files},
    )
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)


def _write_table(path: Path, rows: pa.Table) -> None:
    with atomic(path) as temporary:
        pq.write_table(rows, temporary, compression="zstd", write_page_checksum=True)


STAGE = {"mix": mix, "train": fit, "sample": draw, "select": select, "measure": measure}
