"""Commands on many chains: sweep, compare-runs, report, claims, calibrate, theory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from difflab.cli.args import (
    Commands,
    config_arguments,
    out_argument,
    read_config,
    runs_argument,
)
from difflab.cli.engines import cancelled, engine_arguments, engine_of
from difflab.cli.output import print_rows, quiet_libraries, show
from difflab.config import presets
from difflab.core.errors import ConfigError, StoreError


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_sweep(commands)
    _add_compare_runs(commands)
    _add_report(commands)
    _add_claims(commands)
    _add_calibrate(commands)
    _add_theory(commands)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _reporter(args: argparse.Namespace, with_path: bool) -> Callable[[Any], Any]:
    """What makes the progress display of each job of a study."""
    from difflab.core.progress import Reporter
    from difflab.loop.plan import stage_weights

    def report(job: Any) -> Reporter:
        if not args.json:
            _say(f"{job.arm}, seed {job.seed}" + (f": {job.path}" if with_path else ""))
        return Reporter(quiet=args.json, weights=stage_weights(job.config))

    return report


# ---------------------------------------------------------------------------------------------------- sweep
def _add_sweep(commands: Commands) -> None:
    command = commands.add(
        "sweep",
        sweep,
        "Run several arms with several seeds, or resume them. Arms share the stages they have in common.",
        [
            "difflab sweep regimes",
            "difflab sweep sweeps/policies seeds=5 --workers 2",
            "difflab sweep mine.yaml",
        ],
    )
    command.add_argument(
        "config",
        type=Path,
        metavar="SWEEP",
        help="a YAML sweep: base, overrides, arms, seeds; or the name of a preset in sweeps/",
    )
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of the sweep itself, for example seeds=5"
    )
    out_argument(command)
    engine_arguments(command)


def sweep(args: argparse.Namespace) -> int:
    """Run a sweep; at the end print how the arms differ."""
    path = presets.find(args.config, "sweeps")
    quiet_libraries()
    from difflab.cli.endings import print_summary
    from difflab.studies.summary import summary_of_sweep
    from difflab.studies.sweep import read, run_sweep

    spec, folder = read(path, args.overrides)
    out = args.out or Path("runs") / spec.name
    if args.cancel:
        return cancelled(out)
    records = run_sweep(spec, folder, out, engine_of(args), _reporter(args, True), say=_say)
    failed = [record for record in records if record["error"]]
    if args.json:
        print_rows(records)
        return 1 if failed else 0
    shared = sum(len(record["shared"]) for record in records)
    print(
        f"{len(records) - len(failed)} of {len(records)} runs are complete; "
        f"{shared} stages were taken over from runs that share them"
    )
    if len(failed) < len(records):
        arms = _arms([out])
        _plot_arms(arms, None, out / "arms.png")
        with suppress(StoreError):  # arms without pictures, or of different things
            _draw_strip(arms, out / "arms-strip.png")
        print_summary(summary_of_sweep(out))
    return 1 if failed else 0


# --------------------------------------------------------------------------------------------- compare-runs
def _add_compare_runs(commands: Commands) -> None:
    command = commands.add(
        "compare-runs",
        compare_runs,
        "Compare runs generation by generation, each arm with the first, with paired intervals over seeds.",
        [
            "difflab compare-runs runs/regimes --plot arms.png --strip arms-strip.png",
            "difflab compare-runs runs/digits runs/digits-fresh --metrics recall coverage",
        ],
    )
    runs_argument(command)
    command.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="measures by name (default: all that were taken on images)",
    )
    command.add_argument(
        "--generations", type=int, nargs="+", metavar="T", help="(default: the last one that all have)"
    )
    command.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the curves of the arms into this file"
    )
    command.add_argument(
        "--strip",
        type=Path,
        metavar="PNG",
        help="draw the same seeds of all arms into this file, in the generation that is compared",
    )


def compare_runs(args: argparse.Namespace) -> int:
    """Print the arms beside each other."""
    quiet_libraries()
    from difflab.report.table import arms as table
    from difflab.studies import compare_runs as comparing
    from difflab.studies.budgets import budgets

    arms = _arms(args.runs)
    rows = comparing.compare_runs(arms, args.metrics, args.generations)
    if args.plot:
        _plot_arms(arms, args.metrics, args.plot)
    if args.strip:
        _draw_strip(arms, args.strip, rows[-1]["generation"] if rows else None)
    if args.json:
        print_rows(rows)
    else:
        show(table(rows))
    for sentence in comparing.unfinished(arms):
        print(sentence, file=sys.stderr if args.json else sys.stdout)
    if not args.json:
        print(budgets(arms))
    return 0


def _arms(paths: list[Path]) -> list[Any]:
    """The runs that were named, as arms; or all arms of one sweep."""
    from difflab.runs.run import open_run
    from difflab.studies.compare_runs import arms_of
    from difflab.studies.sweep import arms_in

    if len(paths) == 1 and (paths[0] / "sweep.json").exists():
        return arms_in(paths[0])
    return arms_of([open_run(path) for path in paths])


def _plot_arms(arms: list[Any], metrics: list[str] | None, to: Path) -> None:
    from difflab.core.files import atomic
    from difflab.report.arms import arm_curves

    with atomic(to) as temporary:
        arm_curves(arms, metrics).savefig(temporary, format="png", dpi=110)


def _draw_strip(arms: list[Any], to: Path, generation: int | None = None) -> None:
    from difflab.core.files import atomic
    from difflab.report.arms import arm_strip

    picture = arm_strip([arm for arm in arms if arm.runs], generation)
    with atomic(to) as temporary:
        picture.save(temporary, format="png")


# --------------------------------------------------------------------------------------------------- report
def _add_report(commands: Commands) -> None:
    command = commands.add(
        "report",
        report,
        "One HTML file on a run, or on several beside each other: verdict, pictures, curves, concepts, cost.",
        [
            "difflab report runs/digits",
            "difflab report runs/digits runs/digits-accumulate --out both.html",
            "difflab report runs/regimes",
        ],
    )
    runs_argument(command)
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: report.html in the run, or beside the first of several",
    )
    command.add_argument(
        "--no-diagnosis",
        action="store_true",
        help="leave out a verdict that would have to be made first, which takes seconds per generation",
    )


def report(args: argparse.Namespace) -> int:
    """Write the report of one run or of several."""
    quiet_libraries()
    from difflab.report import page
    from difflab.report.verdict import verdict

    runs, names = _runs(args.runs)
    out = args.out or (args.runs[0] if len(args.runs) == 1 else args.runs[0].parent) / page.FILE
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file, such as --out {out / page.FILE}")
    page.report(runs, out, names, lambda run: verdict(run, fresh=not args.no_diagnosis))
    size = out.stat().st_size
    if args.json:
        print_rows([{"report": str(out), "bytes": size, "runs": [str(run.path) for run in runs]}])
    else:
        print(f"open in a browser: {out}   ({size / 1e6:.1f} MB, no network needed)")
    return 0


def _runs(paths: list[Path]) -> tuple[list[Any], list[str] | None]:
    """The runs that were named; or the finished runs of one sweep, with the names of their arms."""
    from difflab.runs.run import open_run

    if len(paths) > 1 or not (paths[0] / "sweep.json").exists():
        return [open_run(path) for path in paths], None
    arms = _arms(paths)
    runs, names = [], []
    for arm in arms:
        for run in arm.runs.values():
            runs.append(run)
            names.append(arm.name)
    if not runs:
        raise ConfigError(
            f"no run of the sweep {paths[0]} is finished; go on with: "
            f"difflab sweep SWEEP.yaml --out {paths[0]}"
        )
    unfinished = [arm.name for arm in arms if not arm.runs]
    if unfinished:
        _say(
            f"left out, since they have no finished run: {', '.join(unfinished)}; "
            f"others are compared with {names[0]}"
        )
    return runs, names


# --------------------------------------------------------------------------------------------------- claims
def _add_claims(commands: Commands) -> None:
    command = commands.add(
        "claims",
        claims,
        "Run published claims as experiments and print the results.",
        ["difflab claims --quick", "difflab claims fresh-limit --workers 2"],
    )
    command.add_argument(
        "names", nargs="*", metavar="NAME", help="claims by name (default: all; difflab presets lists them)"
    )
    command.add_argument(
        "--folder", type=Path, help="one YAML file per claim (default: those that come with difflab)"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("runs/claims"),
        help="the store of runs and verdicts (default: runs/claims)",
    )
    command.add_argument(
        "--quick", action="store_true", help="only those that take about two minutes together"
    )
    engine_arguments(command)
    command.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write the results as a page, such as docs/CLAIMS.md, with its figures beside it",
    )


def claims(args: argparse.Namespace) -> int:
    """Run claims and print their verdicts."""
    quiet_libraries()
    from difflab.report.claims_page import lines, page
    from difflab.studies.claims import read_claims, run_claims

    if args.cancel:
        return cancelled(args.out / "runs")
    folder = args.folder or presets.HOME / "claims"
    chosen = read_claims(folder, [name.removeprefix("claims/") for name in args.names], args.quick)
    results = run_claims(chosen, folder, args.out, engine_of(args), _reporter(args, False), say=_say)
    if args.page:
        about = folder / "ABOUT.md"
        page(results, args.page, args.out, about.read_text(encoding="utf-8") if about.exists() else "")
    if args.json:
        print_rows(results)
    else:
        show(lines(results))
    return 1 if any(result["errors"] for result in results) else 0


# ------------------------------------------------------------------------------------------------ calibrate
def _add_calibrate(commands: Commands) -> None:
    command = commands.add(
        "calibrate",
        calibrate,
        "Find the largest share of synthetic images at which a measure holds.",
        ["difflab calibrate digits --measure coverage --tolerance 0.05"],
    )
    config_arguments(command)
    command.add_argument(
        "--measure", required=True, metavar="NAME", help="the measure that must hold, for example recall"
    )
    command.add_argument(
        "--tolerance",
        type=float,
        required=True,
        help="how far it may get worse than in generation 0, in its own unit",
    )
    command.add_argument("--extractor", metavar="NAME", help="where the measure is taken on several")
    command.add_argument("--seeds", type=int, default=5, help="bisections, one per seed (default: 5)")
    command.add_argument(
        "--resolution",
        type=float,
        default=1 / 32,
        help="width of the share's bracket at the end (default: 1/32)",
    )
    out_argument(command, "runs/NAME-calibration")
    engine_arguments(command)


def calibrate(args: argparse.Namespace) -> int:
    """Find the largest synthetic share by bisection."""
    config = read_config(args)
    quiet_libraries()
    from difflab.studies import calibrate as calibrating

    out = args.out or Path("runs") / f"{config.name}-calibration"
    if args.cancel:
        return cancelled(out)
    result = calibrating.calibrate(
        config,
        out,
        args.measure,
        args.tolerance,
        extractor=args.extractor,
        seeds=args.seeds,
        resolution=args.resolution,
        engine=engine_of(args),
        report=_reporter(args, False),
        say=_say,
    )
    if args.json:
        print_rows([result])
    else:
        _show_calibration(result, args, out)
    return 0


def _show_calibration(result: dict[str, Any], args: argparse.Namespace, out: Path) -> None:
    interval = "one seed, no interval"
    if result["ci_low"] is not None:
        interval = f"95% interval {result['ci_low']:.3f} to {result['ci_high']:.3f}"
    by_seed = ", ".join(f"{share:.3f}" for share in result["by_seed"])
    longest = ", ".join(f"{share}: {t}" for share, t in result["longest"].items())
    print(
        f"{args.measure} stays within {args.tolerance:g} of generation 0 until generation "
        f"{result['holds_until']} ({result['regime']})"
    )
    print(f"up to a synthetic share of {result['estimate']:.3f} ({interval}; seeds: {by_seed})")
    print(f"last generation in which all chains held, for each share that was tried: {longest}")
    print(
        f"{result['chains']} chains, {result['generations_run']} generations, {result['minutes']:.1f} minutes"
    )
    if result["ci_low"] is not None:
        print(
            f"a further seed holds at a share of {result['max_synthetic_fraction']:.3f} with 95% "
            "probability, if the seeds' shares are normally distributed; more seeds narrow this"
        )
    file = out / "calibration.json"
    print(f"the guard reads it: policies: [{{policy: guard, max_synthetic_fraction: {file}}}]")


# --------------------------------------------------------------------------------------------------- theory
def _add_theory(commands: Commands) -> None:
    command = commands.add(
        "theory",
        theory,
        "Run the exact families through the engine and compare them with their laws.",
        ["difflab theory", "difflab theory A1-variance --chains 200"],
    )
    command.add_argument("laws", nargs="*", metavar="LAW", help="names of laws (default: all)")
    command.add_argument(
        "--chains", type=int, default=1000, help="independent chains per law (default: 1000)"
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the chains (default: 0)")


def theory(args: argparse.Namespace) -> int:
    """Compare the engine with exact laws. The exit code is 1 if a law does not hold."""
    quiet_libraries()
    from difflab.report.table import laws
    from difflab.studies.laws import LAWS
    from difflab.studies.theory import check

    rows = check(args.laws or list(LAWS), args.chains, args.seed)
    if args.json:
        print_rows(rows)
    else:
        show(laws(rows, f"laws of self-consuming loops, {args.chains} chains through the engine"))
    return 0 if all(abs(row["z"]) < 4 for row in rows) else 1
