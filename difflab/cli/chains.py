"""Commands on one chain: run, plan, status, measure."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import Any

from difflab.cli.args import (
    Commands,
    config_arguments,
    fast_argument,
    gib_argument,
    out_argument,
    read_config,
    run_argument,
)
from difflab.cli.engines import status_of_study
from difflab.cli.output import is_main_process, note, print_rows, quiet_libraries, show


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_run(commands)
    _add_plan(commands)
    _add_status(commands)
    _add_measure(commands)


# ------------------------------------------------------------------------------------------------------ run
def _add_run(commands: Commands) -> None:
    command = commands.add(
        "run",
        run,
        "Run a chain, or resume it.",
        [
            "difflab run digits",
            "difflab run emoji --fast",
            "difflab run digits regime.name=accumulate seed=1 --out runs/accumulate",
            "difflab run papers/mad-fs data.source=imagefolder:photos",
            "accelerate launch --multi_gpu --num_processes 2 -m difflab run digits",
            "difflab run digits --out s3://bucket/digits",
        ],
    )
    config_arguments(command)
    fast_argument(command)
    out_argument(command, urls=True)


def run(args: argparse.Namespace) -> int:
    """Run or resume the chain of a config; at the end print what happened."""
    config = read_config(args)
    quiet_libraries()
    from difflab.cli.endings import end_of_run
    from difflab.core.progress import Reporter
    from difflab.loop.chain import run_chain
    from difflab.loop.plan import stage_weights
    from difflab.report.live import after_generation
    from difflab.runs.remote import at_work

    report = Reporter(quiet=not is_main_process() or args.json, weights=stage_weights(config))
    with at_work(args.out or Path("runs") / config.name, is_main_process()) as site:
        finished = run_chain(
            config, site.folder, report, after_generation=after_generation, after_stage=site.publish
        )
        if not is_main_process():
            return 0
        if args.json:
            print_rows(finished.rows())
        else:
            end_of_run(finished)
            if args.url:
                print(f"published: {args.url}")
        site.publish()
    return 0


# ----------------------------------------------------------------------------------------------------- plan
def _add_plan(commands: Commands) -> None:
    command = commands.add(
        "plan",
        plan,
        "Images, FLOPs, disk and estimated time per stage. Nothing is run.",
        [
            "difflab plan digits",
            "difflab plan sd15-lora data.source=imagefolder:photos --json",
            "difflab plan sdxl-lora --gpu 24      # what fits in 24 GiB, and what to change",
        ],
    )
    config_arguments(command)
    fast_argument(command)
    command.add_argument(
        "--gpu",
        type=gib_argument,
        metavar="GIB",
        help="estimate the peak GPU memory of each stage of a text-to-image run instead, for a GPU with this "
        "many GiB; the exit code is 1 if it does not fit (default: off)",
    )


def plan(args: argparse.Namespace) -> int:
    """Print what every stage of a config would cost."""
    config = read_config(args)
    quiet_libraries()
    if args.gpu is not None:
        return _plan_gpu(config, args.gpu, args.json)
    from difflab.loop.auto import settled
    from difflab.loop.checks import check
    from difflab.loop.plan import costs_of, where_embeddings_are
    from difflab.report.table import costs

    check(config)
    notes: list[str] = []
    config = settled(config, Path("runs") / config.name, notes.append, compile_now=False)
    labs = config.labs()
    costs_by_lab = [costs_of(lab, labs if len(labs) > 1 else [], notes) for lab in labs]
    note(notes)
    if args.json:
        for i, of_lab in enumerate(costs_by_lab):
            lab = {"lab": i} if len(labs) > 1 else {}
            print_rows(lab | vars(cost) for cost in of_lab)
        return 0
    listed = list(chain.from_iterable(costs_by_lab))
    show(costs(listed, f"{config.name}: nothing was run"))
    for cost in listed:
        if cost.stage == "captions":
            print(where_embeddings_are(cost.disk_bytes))
    print("times: estimated from forward passes of the untrained network on this machine, with one process")
    return 0


def _plan_gpu(config: Any, gib: float, as_json: bool) -> int:
    """Print the memory of every stage and what to change. Returns 1 if the run does not fit."""
    from difflab.loop.gpu_advice import fit
    from difflab.report.memory import gpu_changes, gpu_stages, rows_of, verdict

    found = fit(config, gib)
    if as_json:
        print_rows(rows_of(found))
        return 0 if found.fits else 1
    show(gpu_stages(found, f"{config.name}: estimated GPU memory in GiB; nothing was run"))
    if found.changes:
        show(gpu_changes(found))
    print(verdict(found))
    return 0 if found.fits else 1


# --------------------------------------------------------------------------------------------------- status
def _add_status(commands: Commands) -> None:
    command = commands.add(
        "status",
        status,
        "How far a run is, with --all every number of it; or how far the jobs of a study are.",
        ["difflab status runs/digits", "difflab status runs/digits --all", "difflab status runs/regimes"],
    )
    run_argument(command, "a run, an ecosystem of runs, or a study: the folder of a sweep or of claims")
    command.add_argument("--all", action="store_true", help="also print every measure of every generation")


def status(args: argparse.Namespace) -> int:
    """Print which stages of a run are done, and with --all its measures; or the jobs of a study."""
    if not (args.dir / "run.yaml").exists():
        from difflab.studies.status import study_of

        if study := study_of(args.dir):
            return status_of_study(study, args.all, args.json)
    from difflab.runs.folder import STAGES
    from difflab.runs.origins import composition
    from difflab.runs.run import open_run

    run = open_run(args.dir)
    generations = range(run.config.generations + 1)
    rows_by_part: list[list[dict[str, Any]]] = []
    sets_by_part = [
        {t: composition(part, t) for t in generations if part.done(t, "mix")} for part in run.parts
    ]
    for part in run.parts:
        rows = []
        for t in generations:
            done = {stage: part.done(t, stage) for stage in STAGES}
            rows.append({"generation": t, **done})
        rows_by_part.append(rows)
    account = list(chain.from_iterable(part.came_in for part in run.parts))
    if args.json:
        for i, rows in enumerate(rows_by_part):
            of_lab, sets = {"lab": i} if len(rows_by_part) > 1 else {}, sets_by_part[i]
            print_rows(of_lab | row | _training_set(sets.get(row["generation"])) for row in rows)
        note(account)
        return 0
    from difflab.report.table import compositions, stages

    for part, rows, sets in zip(run.parts, rows_by_part, sets_by_part, strict=True):
        show(stages(part, rows))
        if sets:
            show(compositions(part.path, sets))
    measured = all(row["measure"] for row in chain.from_iterable(rows_by_part))
    if measured and run.generations == list(generations):
        print("complete")
    else:
        lab = run.config.ecosystem is not None and run.parts == [run]
        folder = args.dir.resolve().parent if lab else args.dir
        place = args.url or str(folder)
        print(f"not complete; the command that started it resumes it: difflab run CONFIG --out {place}")
    if args.all:
        from difflab.cli.endings import all_numbers

        all_numbers(run)
    note(account)
    return 0


def _training_set(found: Any) -> dict[str, Any]:
    """The composition of a training set for JSON; nothing if it is not drawn yet."""
    return {} if found is None else {"training_set": found.as_dict()}


# -------------------------------------------------------------------------------------------------- measure
def _add_measure(commands: Commands) -> None:
    command = commands.add(
        "measure",
        measure,
        "Add measures to a run from its stored samples. Nothing is trained or drawn again.",
        [
            "difflab measure runs/digits                 # lists what there is and what can be added",
            "difflab measure runs/digits vendi knn_entropy",
            "difflab measure runs/digits --extractors efficientnet-lite0",
            "difflab measure runs/emoji --extractors open_clip:tiny-clip --concepts classes",
        ],
    )
    run_argument(command, "a run, or an ecosystem of them, finished or not")
    command.add_argument(
        "names",
        nargs="*",
        metavar="METRIC",
        help="measures by name (default: with an option those of the run, without any a list)",
    )
    command.add_argument(
        "--extractors", nargs="+", metavar="NAME", help="feature spaces (default: the run's own)"
    )
    command.add_argument(
        "--judge",
        metavar="NAME",
        help="extractor whose features the class judge reads (default: the run's, else the first)",
    )
    command.add_argument(
        "--concepts",
        metavar="FILE",
        help="'classes', or one concept per line, as captions name them: adds the concept measures",
    )
    command.add_argument(
        "--neighbours",
        type=int,
        metavar="K",
        help="k of precision, recall, density and coverage (default: the run's own)",
    )
    command.add_argument("--judge-drift", action="store_true", help="add the rows of the three class judges")
    command.add_argument(
        "--aesthetic",
        metavar="FILE",
        help="head of an aesthetic score, .safetensors or .npz, on an open_clip extractor",
    )


def measure(args: argparse.Namespace) -> int:
    """Add measures to a run, or list which ones it has and can have."""
    quiet_libraries()
    from difflab.runs.remote import at_work

    with at_work(args.dir, is_main_process()) as site:
        args.dir = site.folder
        code = _measure(args)
        site.publish()
    return code


def _measure(args: argparse.Namespace) -> int:
    from difflab.core.progress import Reporter
    from difflab.loop.measure_run import listing, measure_run
    from difflab.report.live import after_generation
    from difflab.report.table import measures
    from difflab.runs.run import open_run

    run = open_run(args.dir)
    options = {}
    for name in ("extractors", "judge", "concepts", "neighbours", "judge_drift", "aesthetic"):
        options[name] = getattr(args, name)
    if not args.names and not any(options.values()):
        if is_main_process():
            _list(listing(run), measures, args.json)
        return 0
    before = {_key(row) for row in run.rows()}
    report = Reporter(quiet=not is_main_process() or args.json)
    run = measure_run(run, args.names, **options, report=report)
    if not is_main_process():
        return 0
    new_rows = [row for row in run.rows() if _key(row) not in before]
    if (args.dir / "report.html").exists() and new_rows:
        after_generation(run, run.config.generations)
    if args.json:
        print_rows(new_rows)
        return 0
    _show_new(run, new_rows)
    if new_rows:
        print(f"{len(new_rows)} numbers were added to {args.dir / 'metrics.jsonl'}")
    else:
        print(f"nothing to add: {args.dir} has these measures already")
    return 0


def _list(rows: list[dict[str, Any]], table: Any, as_json: bool) -> None:
    if as_json:
        print_rows(rows)
    else:
        show(table(rows))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["generation"], row["lab"], row["metric"], row["extractor"]


def _show_new(run: Any, new_rows: list[dict[str, Any]]) -> None:
    from difflab.report.table import remarks, table

    for part in run.parts:
        of_part = [row for row in new_rows if row["lab"] == part.config.lab]
        if of_part:
            show(table(part, rows=of_part))
    for line in remarks([row for row in new_rows if row["generation"] == 0]):
        print(line)
