"""The command line. Results go to stdout, progress to stderr; exit code 2 is a problem that the user can mend."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from difflab import config as configs
from difflab.core.errors import ConfigError, DifflabError, StoreError
from difflab.core.suggest import closest

SHELLS = ("bash", "zsh", "tcsh")
# Libraries report a full disk in exceptions of their own types; the text is what they share.
DISK_FULL = re.compile(r"No space left|Disk quota exceeded|\d+ requested and \d+ written")
EXAMPLES = """examples:
  difflab run configs/digits.yaml                                run, or resume, a chain
  difflab run configs/digits.yaml regime.name=accumulate --out runs/acc
  accelerate launch --multi_gpu --num_processes 2 -m difflab run configs/digits.yaml     (on CPUs too)
  difflab compare real/ generated/                               any two sets of images, with floors and intervals
  difflab diagnose runs/digits                                   which kind of collapse, since when, how sure
  difflab doctor                                                 what would run on this machine

exit codes:
  0    fine
  1    something was found: failed arms, damaged files, a law that does not hold, missing parts
  2    a problem that you can mend; the one line on stderr says how
  130  interrupted; the same command resumes

difflab COMMAND --help has examples of each. Results go to stdout, progress to stderr; NO_COLOR=1 takes the colours away,
DIFFLAB_DEBUG=1 shows the traceback behind an error.
"""
EXAMPLES_OF = {
    "run": [
        "difflab run configs/digits.yaml",
        "difflab run configs/digits.yaml regime.name=accumulate seed=1 --out runs/accumulate",
        "accelerate launch --multi_gpu --num_processes 2 -m difflab run configs/digits.yaml",
    ],
    "plan": [
        "difflab plan configs/digits.yaml",
        "difflab plan configs/sd15-lora.yaml data.source=imagefolder:photos --json",
    ],
    "pretrain": [
        "difflab pretrain configs/assets/tiny-sd.yaml --out runs/tiny-sd",
        "difflab pretrain configs/assets/tiny-clip.yaml",
    ],
    "compare": [
        "difflab compare real/ generated/",
        "difflab compare real/ generated/ --train trained_on/ --extractors pixels --json",
    ],
    "diagnose": [
        "difflab diagnose runs/digits",
        "difflab diagnose --reference real/ gen0/ gen1/ gen2/ --train trained_on/",
    ],
    "measure": [
        "difflab measure runs/digits                                          what the run has, and what can be added",
        "difflab measure runs/digits vendi knn_entropy",
        "difflab measure runs/digits --extractors efficientnet-lite0          its own measures in another feature space",
        "difflab measure runs/digits zero_shot_accuracy --extractors open_clip:tiny-clip --concepts classes",
    ],
    "report": [
        "difflab report runs/digits",
        "difflab report runs/digits runs/digits-accumulate --out both.html",
        "difflab report runs/regimes",
    ],
    "sweep": [
        "difflab sweep configs/sweeps/regimes.yaml",
        "difflab sweep configs/sweeps/policies.yaml seeds=5 --workers 2",
    ],
    "compare-runs": [
        "difflab compare-runs runs/regimes --plot arms.png --strip arms-strip.png",
        "difflab compare-runs runs/digits runs/digits-fresh --metrics recall coverage",
    ],
    "claims": ["difflab claims --quick", "difflab claims fresh-limit --workers 2"],
    "calibrate": ["difflab calibrate configs/digits.yaml --measure coverage --tolerance 0.05"],
    "status": ["difflab status runs/digits"],
    "export": ["difflab export runs/digits --generation 5 --to digits-gen5"],
    "verify": ["difflab verify runs/digits"],
    "theory": ["difflab theory", "difflab theory A1-variance --chains 200"],
    "policies": ["difflab policies", "difflab policies guard"],
    "schema": ["difflab schema > schema.json"],
    "doctor": ["difflab doctor", "difflab doctor configs/papers/*.yaml --json"],
    "completion": [
        "difflab completion bash > ~/.local/share/bash-completion/completions/difflab",
        "difflab completion zsh > ~/.zfunc/_difflab",
    ],
}


def main(argv: list[str] | None = None) -> int:
    """Parse and run one command; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    args = _parse(argv)
    code = 0
    try:
        code = args.command(args) or 0
        print(end="", flush=True)  # a reader that has gone is noticed here, not while Python shuts down
        return code
    except DifflabError as error:
        if os.environ.get("DIFFLAB_DEBUG"):
            traceback.print_exc()
        return _problem(str(error))
    except KeyboardInterrupt:
        print("difflab: stopped; the same command resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, say) has gone; closing stdout on exit must not complain about it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code
    except Exception as error:
        if DISK_FULL.search(str(error)):
            return _problem("no space left on the disk; free some and run the same command again, it resumes")
        if isinstance(error, OSError) and error.filename is not None:
            then = (
                ", where a file is wanted; delete it and run the same command again"
                if isinstance(error, IsADirectoryError)
                else ""
            )
            return _problem(f"{error.filename}: {error.strerror}{then}")
        raise


def _problem(text: str) -> int:
    from difflab.core.account import plain

    print(f"difflab: error: {plain(' '.join(text.split()))}", file=sys.stderr)
    return 2


class Parser(argparse.ArgumentParser):
    """argparse that says in one line what is wrong, and what to type instead."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.formatter_class = argparse.RawDescriptionHelpFormatter

    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"argument COMMAND: invalid choice: '(.*?)'", message):
            message = f"there is no command '{unknown[1]}'{_meant(unknown[1], EXAMPLES_OF)}"
        elif message == "the following arguments are required: COMMAND":
            message = f"give a command: {', '.join(EXAMPLES_OF)}"
        elif message.startswith("unrecognized arguments: "):
            wrong = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            message += _meant(wrong, [option for action in self._actions for option in action.option_strings])
        self.exit(_problem(f"{message}; see {self.prog} --help"))


def _meant(word: str, known: Iterable[str]) -> str:
    near = closest(word, known, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Options may stand anywhere, also before or between the overrides, where argparse alone takes no further ones."""
    args, rest = parser().parse_known_args(argv)
    more = next(
        (getattr(args, name) for name in ("overrides", "laws", "names", "presets") if hasattr(args, name)),
        None,
    )
    if rest and (more is None or any(word.startswith("-") for word in rest)):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if more is not None:
        more += rest
    return args


def parser() -> Parser:
    """The command line: a parser with one subparser per command."""
    top = Parser("difflab", description="The image-diffusion collapse lab.", epilog=EXAMPLES)
    top.add_argument("--version", action="version", version=f"difflab {_version()}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], int | None], text: str, json_too: bool = True
    ) -> argparse.ArgumentParser:
        examples = "\n  ".join(["examples:", *EXAMPLES_OF[name]]).replace("%", "%%")
        command = commands.add_parser(name, help=text, description=text, epilog=examples)
        command.set_defaults(command=run, parser=command)
        if json_too:
            command.add_argument("--json", action="store_true", help="print rows as JSON lines on stdout")
        return command

    run = add("run", _run, "Run a chain, or resume it.")
    _config_arguments(run)
    run.add_argument("--out", type=Path, help="run directory (default: runs/NAME)")
    plan = add("plan", _plan, "Images, FLOPs, disk and estimated time per stage; runs nothing.")
    _config_arguments(plan)
    pretrain = add(
        "pretrain", _pretrain, "Train a small, complete text-to-image model from nothing, or go on with it."
    )
    _config_arguments(pretrain)
    pretrain.add_argument(
        "--out", type=Path, help="folder (default: runs/NAME); the model is then in its folder model"
    )
    pretrain.add_argument(
        "--from",
        dest="earlier",
        type=Path,
        help="train a model on that this command made earlier, from its weights",
    )
    compare = add(
        "compare", _compare, "Measure generated images against real ones: any two folders or parquet sets."
    )
    compare.add_argument(
        "real",
        type=Path,
        metavar="REAL",
        help="real images: a folder (class folders, metadata.jsonl or flat) or parquet",
    )
    compare.add_argument("generated", type=Path, metavar="GEN", help="generated images, as REAL")
    compare.add_argument(
        "--train", type=Path, help="the images the model was trained on: adds the memorisation measures"
    )
    compare.add_argument(
        "--concepts",
        type=Path,
        metavar="FILE",
        help="one concept per line, as captions name them: adds the concept measures",
    )
    compare.add_argument(
        "--extractors",
        nargs="+",
        metavar="NAME",
        help="feature spaces (default: efficientnet-lite0 or pixels, and texture)",
    )
    compare.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="measures by name (default: those that the images allow)"
    )
    compare.add_argument(
        "--count",
        type=int,
        help="images on either side (default: as many as there are; half of the real ones make the floor)",
    )
    compare.add_argument(
        "--image-size",
        type=int,
        help="side in pixels that both sets are resized to (default: the smaller one)",
    )
    compare.add_argument(
        "--max-bad",
        type=float,
        default=0.01,
        help="largest share of unreadable images that are left out (default: 0.01)",
    )
    compare.add_argument(
        "--resamples",
        type=int,
        default=100,
        help="half-samples behind each 95%% interval, 0 = none (default: 100)",
    )
    compare.add_argument("--seed", type=int, default=0, help="which images are drawn (default: 0)")
    diagnose = add(
        "diagnose",
        _diagnose,
        "What kind of collapse a run, or any sets of images, are in, since when, and what it is instead.",
    )
    diagnose.add_argument(
        "sets",
        type=Path,
        nargs="+",
        metavar="RUN | GEN",
        help="a run; or, with --reference, one set of samples per generation",
    )
    diagnose.add_argument(
        "--reference",
        type=Path,
        metavar="REAL",
        help="real images that no model was trained on, as for compare",
    )
    diagnose.add_argument(
        "--train",
        type=Path,
        help="the images the first model was trained on: without them copies cannot be told",
    )
    diagnose.add_argument(
        "--concepts",
        type=Path,
        metavar="FILE",
        help="one concept per line, as captions name them: the classes of captioned sets",
    )
    diagnose.add_argument(
        "--extractors",
        nargs="+",
        metavar="NAME",
        help="feature spaces (default: pixels, efficientnet-lite0, a run's own)",
    )
    diagnose.add_argument(
        "--count", type=int, help="images on every side (default: as many as all have, at most 1,000)"
    )
    diagnose.add_argument(
        "--image-size",
        type=int,
        help="side in pixels that all sets are resized to (default: the smallest one)",
    )
    diagnose.add_argument(
        "--max-bad",
        type=float,
        default=0.01,
        help="largest share of unreadable images that are left out (default: 0.01)",
    )
    diagnose.add_argument(
        "--resamples", type=int, default=40, help="half-samples behind each standard error (default: 40)"
    )
    diagnose.add_argument("--seed", type=int, default=0, help="which images are drawn (default: 0)")
    measure = add(
        "measure",
        _measure,
        "Add measures to a run from its stored samples; nothing is trained or drawn again.",
    )
    measure.add_argument(
        "dir", type=Path, metavar="RUN", help="a run, or an ecosystem of them, finished or not"
    )
    measure.add_argument(
        "names",
        nargs="*",
        metavar="METRIC",
        help="measures by name (default: those of the run, where an option is given; else a list)",
    )
    measure.add_argument(
        "--extractors", nargs="+", metavar="NAME", help="feature spaces (default: the run's own)"
    )
    measure.add_argument(
        "--judge",
        metavar="NAME",
        help="extractor whose features the class judge reads (default: the run's, else the first)",
    )
    measure.add_argument(
        "--concepts",
        metavar="FILE",
        help="'classes', or one concept per line, as captions name them: adds the concept measures",
    )
    measure.add_argument(
        "--neighbours",
        type=int,
        metavar="K",
        help="k of precision, recall, density and coverage (default: the run's own)",
    )
    measure.add_argument("--judge-drift", action="store_true", help="add the rows of the three class judges")
    measure.add_argument(
        "--aesthetic",
        metavar="FILE",
        help="head of an aesthetic score, .safetensors or .npz, on an open_clip extractor",
    )
    report = add(
        "report",
        _report,
        "One HTML file that shows a run, or several side by side: verdict, pictures, curves, concepts, cost.",
    )
    report.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="runs, or the folder of one sweep; the first arm is the baseline",
    )
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: report.html in the run, or beside the first of several",
    )
    report.add_argument(
        "--no-diagnosis",
        action="store_true",
        help="leave out a verdict that would have to be made first, which takes seconds per generation",
    )
    sweep = add("sweep", _sweep, "Run arms x seeds, or resume them; arms share what they have in common.")
    sweep.add_argument(
        "config",
        type=Path,
        metavar="SWEEP",
        help="a YAML sweep: base, overrides, arms, seeds; see configs/sweeps/",
    )
    sweep.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of the sweep itself, for example seeds=5"
    )
    sweep.add_argument("--out", type=Path, help="folder (default: runs/NAME)")
    sweep.add_argument(
        "--workers", type=int, help="runs at once (default: one per GPU; on a CPU one, which uses all cores)"
    )
    compare_runs = add(
        "compare-runs",
        _compare_runs,
        "Line runs up by generation, arm against arm, with paired intervals over seeds.",
    )
    compare_runs.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="runs, or the folder of one sweep; the first arm is the baseline",
    )
    compare_runs.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="measures by name (default: all that were taken on images)",
    )
    compare_runs.add_argument(
        "--generations", type=int, nargs="+", metavar="T", help="(default: the last one that all have)"
    )
    compare_runs.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the curves of the arms into this file"
    )
    compare_runs.add_argument(
        "--strip",
        type=Path,
        metavar="PNG",
        help="draw the same seeds of all arms into this file, as they are in the generation compared",
    )
    claims = add("claims", _claims, "Run published claims as experiments, and print what was seen.")
    claims.add_argument("names", nargs="*", metavar="NAME", help="files of the claims' folder (default: all)")
    claims.add_argument(
        "--folder",
        type=Path,
        default=Path("configs/claims"),
        help="one YAML file per claim (default: configs/claims)",
    )
    claims.add_argument(
        "--out",
        type=Path,
        default=Path("runs/claims"),
        help="the store of runs and verdicts (default: runs/claims)",
    )
    claims.add_argument(
        "--quick", action="store_true", help="only those that take about two minutes together"
    )
    claims.add_argument(
        "--workers", type=int, help="runs at once (default: one per GPU; on a CPU one, which uses all cores)"
    )
    claims.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write what was seen as a page, such as docs/CLAIMS.md, with its figures beside it",
    )
    calibrate = add(
        "calibrate", _calibrate, "Find the largest share of synthetic images at which a measure holds."
    )
    _config_arguments(calibrate)
    calibrate.add_argument(
        "--measure", required=True, metavar="NAME", help="the measure that must hold, for example recall"
    )
    calibrate.add_argument(
        "--tolerance",
        type=float,
        required=True,
        help="how far it may get worse than in generation 0, in its own unit",
    )
    calibrate.add_argument("--extractor", metavar="NAME", help="where the measure is taken on several")
    calibrate.add_argument("--seeds", type=int, default=5, help="bisections, one per seed (default: 5)")
    calibrate.add_argument(
        "--resolution",
        type=float,
        default=1 / 32,
        help="width of the share's bracket at the end (default: 1/32)",
    )
    calibrate.add_argument("--out", type=Path, help="folder (default: runs/NAME-calibration)")
    status = add("status", _status, "How far a run is.")
    status.add_argument("dir", type=Path, metavar="RUN", help="a run, or an ecosystem of them")
    export = add(
        "export", _export, "Write the samples of a generation as an imagefolder with metadata.jsonl."
    )
    export.add_argument("dir", type=Path, metavar="RUN", help="a run")
    export.add_argument("--generation", type=int, required=True)
    export.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    verify = add(
        "verify",
        _verify,
        "Find damaged or missing parts of a run and name them; exit code 1 when there are any.",
    )
    verify.add_argument("dir", type=Path, metavar="RUN", help="a run, or an ecosystem of them")
    theory = add(
        "theory", _theory, "Run the exact families through the engine and compare them with their laws."
    )
    theory.add_argument("laws", nargs="*", metavar="LAW", help="names of laws (default: all)")
    theory.add_argument("--chains", type=int, default=1000, help="independent chains per law (default: 1000)")
    theory.add_argument("--seed", type=int, default=0, help="seed of the chains (default: 0)")
    listing = add("policies", _policies, "List the policies, or explain one with all its fields.")
    listing.add_argument("name", nargs="?", metavar="NAME")
    add("schema", _schema, "Print the JSON schema of a config.", json_too=False)
    doctor = add(
        "doctor",
        _doctor,
        "What is installed, which devices and weights are here, and which presets would run; asks no network.",
    )
    doctor.add_argument(
        "presets", type=Path, nargs="*", metavar="CONFIG", help="configs to look at (default: configs/*.yaml)"
    )
    completion = add(
        "completion",
        _completion,
        "Print a script that completes difflab's commands and options in a shell.",
        json_too=False,
    )
    completion.add_argument("shell", choices=SHELLS)
    return top


def _config_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, metavar="CONFIG", help="a YAML config, see configs/")
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="dotted overrides, for example train.images_seen=50000",
    )


def _config(args: argparse.Namespace, kind: Any = configs.Config) -> Any:
    """The config that a command names. Raises ConfigError, with the nearest config beside it when the file is not there."""
    path: Path = args.config
    if not path.exists():
        near = {p.name: p for p in path.parent.glob("*.y*ml")}
        best = closest(path.name, near, cutoff=0.3)
        hint = f"did you mean {near[best[0]]}?" if best else "see configs/ for examples"
        raise ConfigError(f"there is no config {path}; {hint}")
    return configs.load(path, args.overrides, kind)


def _version() -> str:
    from importlib.metadata import version

    return version("difflab")


# ---------------------------------------------------------------------------------------------- commands
def _run(args: argparse.Namespace) -> int:
    config = _config(args)
    path = args.out or Path("runs") / config.name
    _quiet_libraries()
    from difflab.core.progress import Reporter
    from difflab.loop.chain import run_chain
    from difflab.report.live import after_generation
    from difflab.report.table import remarks, table

    main_process = int(os.environ.get("RANK", "0")) == 0
    report = Reporter(quiet=not main_process or args.json, weights=_weights(config))
    run = run_chain(config, path, report, after_generation=after_generation)
    if not main_process:
        return 0
    if args.json:
        _print_rows(run.rows())
    else:
        for part in run.parts:
            _show(table(part))
        between = [row for row in run.rows() if row["lab"] is None]
        if between:
            _show(table(run, rows=between))
        for line in remarks([row for row in run.rows() if row["generation"] == 0]):
            print(line)
        flagged = sum(round(r["value"] * r["n"]) for r in run.rows() if r["metric"] == "flagged_share")
        if flagged:
            print(f"flagged: {flagged} samples of one colour (metric flagged_share)")
        for line in dict.fromkeys(budget(part) for part in run.parts):
            print(line)
        names = [
            n for n in ("report.html", "strip.png", "curves.png", "metrics.jsonl") if (path / n).exists()
        ]
        print("look at: " + "  ".join(str(path / n) for n in names))
    return 0


def _pretrain(args: argparse.Namespace) -> int:
    _quiet_libraries()
    from difflab.core.progress import Reporter
    from difflab.pretraining.clip import pretrain_clip
    from difflab.pretraining.clip_parts import ClipPretraining, is_clip
    from difflab.pretraining.stable_diffusion import Pretraining, pretrain

    if is_clip(args.config):
        if args.earlier:
            raise ConfigError(
                "--from trains a text-to-image model on; a CLIP judge is trained in minutes: leave --from out"
            )
        judge = _config(args, ClipPretraining)
        kind, folder = (
            "open_clip",
            pretrain_clip(judge, args.out or Path("runs") / judge.name, Reporter(quiet=args.json)),
        )
    else:
        config = _config(args, Pretraining)
        report = Reporter(quiet=args.json, weights={(0, "autoencoder"): 1.0, (0, "denoiser"): 8.0})
        kind, folder = (
            "diffusers",
            pretrain(config, args.out or Path("runs") / config.name, report, args.earlier),
        )
    if args.json:
        _print_rows([{"kind": kind, "folder": str(folder)}])
    else:
        print(f"{'an' if kind == 'open_clip' else 'a'} {kind} folder: {folder}")
    return 0


def _look_for(**images: Path | None) -> None:
    """Find out about a misspelt path before libraries are imported that take seconds."""
    from difflab.core.files import existing

    for side, path in images.items():
        if path is not None:
            existing(path, side.replace("_", " "))


def _compare(args: argparse.Namespace) -> int:
    _look_for(real=args.real, generated=args.generated, train=args.train)
    _quiet_libraries()
    from difflab.evaluation.compare import compare
    from difflab.report.table import comparison, remarks

    given = vars(args).copy()
    as_json = given.pop("json")
    del given["command"], given["parser"]
    result = compare(given.pop("real"), given.pop("generated"), **given)
    for note in result.notes:
        print(note, file=sys.stderr)
    if as_json:
        _print_rows(result.rows)
    else:
        _show(comparison(result.rows))
        for line in remarks(result.rows):
            print(line)
    return 0


def _diagnose(args: argparse.Namespace) -> int:
    if args.reference is not None:
        _look_for(
            reference=args.reference,
            **{f"generation_{t}": path for t, path in enumerate(args.sets)},
            train=args.train,
        )
    _quiet_libraries()
    from difflab.evaluation.diagnose import diagnose, diagnose_run
    from difflab.report.table import diagnosis
    from difflab.runs.run import open_run

    shared = {
        "extractors": args.extractors,
        "count": args.count,
        "resamples": args.resamples,
        "seed": args.seed,
    }
    if args.reference is None:
        if len(args.sets) > 1 or (args.sets[0].exists() and not (args.sets[0] / "run.yaml").exists()):
            raise ConfigError(
                "give one run, or real images to compare with: difflab diagnose --reference REAL GEN0 GEN1 ..."
            )
        given = [
            f"--{name}" for name in ("train", "concepts", "image_size") if getattr(args, name) is not None
        ]
        if given:
            raise ConfigError(f"{given[0].replace('_', '-')} goes with --reference; a run knows its own")
        result = diagnose_run(open_run(args.sets[0]), **shared)
    else:
        files = {
            "train": args.train,
            "concepts": args.concepts,
            "image_size": args.image_size,
            "max_bad": args.max_bad,
        }
        result = diagnose(args.reference, args.sets, **files, **shared)
    for note in [*result.notes, *(result.doubts if args.json else [])]:
        print(note, file=sys.stderr)
    if args.json:
        _print_rows(result.rows())
    else:
        _show(diagnosis(result))
    return 0


def _measure(args: argparse.Namespace) -> int:
    _quiet_libraries()
    from difflab.core.progress import Reporter
    from difflab.loop.measure_run import listing, measure_run
    from difflab.report.live import after_generation
    from difflab.report.table import measures, remarks, table
    from difflab.runs.run import open_run

    main_process = int(os.environ.get("RANK", "0")) == 0
    run = open_run(args.dir)
    options = {
        name: getattr(args, name)
        for name in ("extractors", "judge", "concepts", "neighbours", "judge_drift", "aesthetic")
    }
    if not args.names and not any(options.values()):
        if main_process and args.json:
            _print_rows(listing(run))
        elif main_process:
            _show(measures(listing(run)))
        return 0
    before = {_key(row) for row in run.rows()}
    run = measure_run(run, args.names, **options, report=Reporter(quiet=not main_process or args.json))
    if not main_process:
        return 0
    fresh = [row for row in run.rows() if _key(row) not in before]
    if (args.dir / "report.html").exists() and fresh:
        after_generation(run, run.config.generations)
    if args.json:
        _print_rows(fresh)
        return 0
    for part in run.parts:
        rows = [row for row in fresh if row["lab"] == part.config.lab]
        if rows:
            _show(table(part, rows=rows))
    for line in remarks([row for row in fresh if row["generation"] == 0]):
        print(line)
    print(
        f"{len(fresh)} numbers were added to {args.dir / 'metrics.jsonl'}"
        if fresh
        else f"nothing to add: {args.dir} has these measures already"
    )
    return 0


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["generation"], row["lab"], row["metric"], row["extractor"]


def _report(args: argparse.Namespace) -> int:
    _quiet_libraries()
    from difflab.report.page import FILE, report
    from difflab.report.verdict import verdict

    runs, names = _runs(args.runs)
    out = args.out or (args.runs[0] if len(args.runs) == 1 else args.runs[0].parent) / FILE
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file, such as --out {out / FILE}")
    report(runs, out, names, lambda run: verdict(run, fresh=not args.no_diagnosis))
    if args.json:
        _print_rows(
            [{"report": str(out), "bytes": out.stat().st_size, "runs": [str(run.path) for run in runs]}]
        )
    else:
        print(f"open in a browser: {out}   ({out.stat().st_size / 1e6:.1f} MB, no network needed)")
    return 0


def _runs(paths: list[Path]) -> tuple[list[Any], list[str] | None]:
    """The runs that were named, or the finished ones of one sweep with the names of their arms; arms without any are said to be left out."""
    from difflab.runs.run import open_run

    if len(paths) > 1 or not (paths[0] / "sweep.json").exists():
        return [open_run(path) for path in paths], None
    arms = _arms(paths)
    runs, names = (
        [run for arm in arms for run in arm.runs.values()],
        [arm.name for arm in arms for _ in arm.runs],
    )
    if not runs:
        raise ConfigError(
            f"no run of the sweep {paths[0]} is finished; go on with: difflab sweep SWEEP.yaml --out {paths[0]}"
        )
    gone = [arm.name for arm in arms if not arm.runs]
    if gone:
        print(
            f"left out, since they have no finished run: {', '.join(gone)}; others are compared with {names[0]}",
            file=sys.stderr,
        )
    return runs, names


def _arms(paths: list[Path]) -> list[Any]:
    """The runs that were named as arms, or all arms of one sweep."""
    from difflab.runs.run import open_run
    from difflab.studies.compare_runs import arms_of
    from difflab.studies.sweep import arms_in

    sweep = len(paths) == 1 and (paths[0] / "sweep.json").exists()
    return arms_in(paths[0]) if sweep else arms_of([open_run(path) for path in paths])


def _sweep(args: argparse.Namespace) -> int:
    path = args.config
    if not path.exists():
        raise ConfigError(f"there is no sweep {path}; see configs/sweeps/ for examples")
    _quiet_libraries()
    from difflab.core.progress import Reporter
    from difflab.studies.sweep import read, run_sweep
    from difflab.studies.workers import Job

    sweep, folder = read(path, args.overrides)
    out = args.out or Path("runs") / sweep.name

    def report(job: Job) -> Reporter:
        if not args.json:
            print(f"{job.arm}, seed {job.seed}: {job.path}", file=sys.stderr)
        return Reporter(quiet=args.json, weights=_weights(job.config))

    records = run_sweep(
        sweep, folder, out, args.workers, report, say=lambda text: print(text, file=sys.stderr)
    )
    failed = [record for record in records if record["error"]]
    if args.json:
        _print_rows(records)
    else:
        shared = sum(len(record["shared"]) for record in records)
        print(
            f"{len(records) - len(failed)} of {len(records)} runs are complete; {shared} stages were taken over from runs that share them"
        )
        if len(failed) < len(records):
            drawn, arms = [out / "arms.png"], _arms([out])
            _show_arms(arms, plot=drawn[0])
            with suppress(StoreError):  # arms without pictures, or of different things
                _draw_strip(arms, out / "arms-strip.png")
                drawn.append(out / "arms-strip.png")
            print(f"look at: {'  '.join(map(str, drawn))}   difflab compare-runs {out}")
    return 1 if failed else 0


def _show_arms(
    arms: Any,
    metrics: list[str] | None = None,
    generations: list[int] | None = None,
    plot: Path | None = None,
    strip: Path | None = None,
    as_json: bool = False,
) -> None:
    from difflab.core.files import atomic
    from difflab.report.arms import arm_curves
    from difflab.report.table import arms as table
    from difflab.studies.budgets import budgets
    from difflab.studies.compare_runs import compare_runs, unfinished

    rows = compare_runs(arms, metrics, generations)
    if plot:
        with atomic(plot) as temporary:
            arm_curves(arms, metrics).savefig(temporary, format="png", dpi=110)
    if strip:
        _draw_strip(arms, strip, rows[-1]["generation"] if rows else None)
    if as_json:
        _print_rows(rows)
    else:
        _show(table(rows))
    for sentence in unfinished(arms):
        print(sentence, file=sys.stderr if as_json else sys.stdout)
    if not as_json:
        print(budgets(arms))


def _draw_strip(arms: Any, to: Path, generation: int | None = None) -> None:
    from difflab.core.files import atomic
    from difflab.report.arms import arm_strip

    picture = arm_strip([arm for arm in arms if arm.runs], generation)
    with atomic(to) as temporary:
        picture.save(temporary, format="png")


def _claims(args: argparse.Namespace) -> int:
    _quiet_libraries()
    from difflab.core.progress import Reporter
    from difflab.report.claims_page import lines, page
    from difflab.studies.claims import read_claims, run_claims
    from difflab.studies.workers import Job

    claims = read_claims(args.folder, args.names, args.quick)

    def report(job: Job) -> Reporter:
        if not args.json:
            print(f"{job.arm}, seed {job.seed}", file=sys.stderr)
        return Reporter(quiet=args.json, weights=_weights(job.config))

    found = run_claims(
        claims, args.folder, args.out, args.workers, report, say=lambda text: print(text, file=sys.stderr)
    )
    if args.page:
        about = args.folder / "ABOUT.md"
        page(found, args.page, args.out, about.read_text(encoding="utf-8") if about.exists() else "")
    if args.json:
        _print_rows(found)
    else:
        _show(lines(found))
    return 1 if any(result["errors"] for result in found) else 0


def _calibrate(args: argparse.Namespace) -> int:
    config = _config(args)
    _quiet_libraries()
    from difflab.core.progress import Reporter
    from difflab.studies.calibrate import calibrate

    out = args.out or Path("runs") / f"{config.name}-calibration"

    def report(chain: configs.Config) -> Reporter:
        return Reporter(quiet=args.json, weights=_weights(chain))

    how = {"extractor": args.extractor, "seeds": args.seeds, "resolution": args.resolution}
    found = calibrate(config, out, args.measure, args.tolerance, report=report, **how)
    if args.json:
        _print_rows([found])
        return 0
    between = (
        "one seed, no interval"
        if found["ci_low"] is None
        else f"95% interval {found['ci_low']:.3f} to {found['ci_high']:.3f}"
    )
    print(
        f"{args.measure} stays within {args.tolerance:g} of generation 0 until generation {found['holds_until']} ({found['regime']})"
    )
    print(
        f"up to a synthetic share of {found['estimate']:.3f} ({between}; by seed: {', '.join(f'{s:.3f}' for s in found['by_seed'])})"
    )
    print(
        f"of every share that was tried, all chains held until generation: {', '.join(f'{s}: {t}' for s, t in found['longest'].items())}"
    )
    print(f"{found['chains']} chains, {found['generations_run']} generations, {found['minutes']:.1f} minutes")
    if found["ci_low"] is not None:
        print(
            f"a further seed bears {found['max_synthetic_fraction']:.3f} with 95% probability, if what seeds bear is normal; more seeds narrow this"
        )
    print(
        f"the guard reads that: policies: [{{policy: guard, max_synthetic_fraction: {out / 'calibration.json'}}}]"
    )
    return 0


def _compare_runs(args: argparse.Namespace) -> int:
    _quiet_libraries()
    _show_arms(_arms(args.runs), args.metrics, args.generations, args.plot, args.strip, args.json)
    return 0


def budget(run: Any) -> str:
    """One sentence on whether the generations share a budget: images seen and set size."""
    trained = [t for t in run.generations if run.training(t)]
    if not trained:
        return "budget: fitted by a formula, nothing to match"
    seen, sizes = (
        {run.training(t)["images_seen"] for t in trained},
        [run.training(t)["set_size"] for t in trained],
    )
    same = "the same in every generation" if len(seen) == 1 else "not the same in every generation"
    size = (
        f"set size {sizes[0]:,} in every generation"
        if len(set(sizes)) == 1
        else f"set size NOT matched: {sizes[0]:,} to {sizes[-1]:,}"
    )
    return f"budget: {max(seen):,} images seen, {same}; {size}"


def _weights(config: configs.Config) -> dict[tuple[int, str], float]:
    """Expected seconds per stage for the time left; relative costs of training and sampling are enough, since the pace is corrected as it goes."""
    labs = config.labs()
    if len(labs) > 1:
        return {(t, f"lab {own.lab} {stage}"): s for own in labs for (t, stage), s in _weights(own).items()}
    a_pass = 1e-4 / 3  # of one image through the network; training takes three
    passes = config.sample.steps * (2 if config.sample.guidance_scale > 1 else 1)
    out: dict[tuple[int, str], float] = {}
    for t in range(config.generations + 1):
        seen = (
            0
            if t == 0 and getattr(config.model, "generation_0", "fit") == "base"
            else config.train.images_seen
        )
        out |= {(t, "train"): 3 * a_pass * seen, (t, "sample"): a_pass * passes * config.sample.count_of(t)}
        out |= {(t, "measure"): 2.0, (t, "mix"): 0.1, (t, "select"): 0.1}
    return out


def _plan(args: argparse.Namespace) -> int:
    from difflab.loop.checks import check
    from difflab.report.blocks import Blocks, Column

    config = _config(args)
    _quiet_libraries()
    check(config)
    labs = config.labs()
    told: list[str] = []
    per_lab = [_costs(own, labs if len(labs) > 1 else [], told) for own in labs]
    _tell(told)
    if args.json:
        _print_rows(
            [({"lab": i} if len(labs) > 1 else {}) | vars(c) for i, own in enumerate(per_lab) for c in own]
        )
        return 0
    costs = [c for own in per_lab for c in own]
    body = [
        _plan_row(stage, [c for c in costs if c.stage == stage])
        for stage in dict.fromkeys(c.stage for c in costs)
    ]
    total = _plan_row("total", costs)
    total[1:3] = "", ""
    heads = [
        Column("stage", "left"),
        *map(Column, ("generations", "images", "TFLOP", "disk", "estimated time")),
    ]
    _show(Blocks(heads, [*body, total], f"{config.name}: nothing was run", ends=1))
    if any(c.stage == "captions" and not c.disk_bytes for c in costs):
        print(
            "captions: their embeddings are not kept; every batch is encoded when it is trained on or sampled, which takes longer"
        )
    print(
        "times: forward passes of the untrained network, timed on this machine with one process: a guide, no promise"
    )
    return 0


def _plan_row(name: str, costs: list[Any]) -> list[str]:
    from difflab.core.progress import clock

    images, flops, disk, seconds = (
        sum(getattr(c, key) for c in costs) for key in ("images", "flops", "disk_bytes", "seconds")
    )
    return [
        name,
        str(len(costs)),
        f"{images:,}",
        f"{flops / 1e12:,.2f}",
        f"{disk / 2**20:,.1f} MiB",
        clock(seconds),
    ]


def _costs(config: configs.Config, labs: list[configs.Config], told: list[str]) -> list[Any]:
    """The costs of one chain, or of one of `labs`; what became of its real images goes to `told`."""
    from difflab.core.shape import Shape
    from difflab.loop.ingest import divided
    from difflab.loop.plan import plan
    from difflab.loop.regimes import check_possible
    from difflab.models import family_of
    from difflab.runs.sizes import fresh_needed

    captions = 0
    if config.exact:
        n_train = (config.data.train_size or 0) + fresh_needed(config, config.data.train_size or 0)
        shape = Shape(family_of(config.model).truth(config.model, [0]).shape[1:])
    else:
        source, train, held_out = divided(config)
        n_train = len(train)
        parts = config.ecosystem is not None and config.ecosystem.real == "disjoint"
        told += source.account.told(
            f"real images ({source.name})", None if parts else n_train + len(held_out)
        )
        shape = Shape((source.size, source.size, source.channels), len(source.classes or []))
        captions = len(set(source.prompts or [])) if config.text and config.conditional else 0
    check_possible(config, n_train, labs)
    return plan(config, shape, n_train, captions)


def _status(args: argparse.Namespace) -> int:
    from difflab.report.blocks import Blocks, Column
    from difflab.runs.folder import STAGES
    from difflab.runs.run import open_run

    run = open_run(args.dir)
    generations = range(run.config.generations + 1)
    came_in = [line for part in run.parts for line in part.came_in]
    parts = [
        [{"generation": t, **{stage: part.done(t, stage) for stage in STAGES}} for t in generations]
        for part in run.parts
    ]
    if args.json:
        _print_rows(
            [({"lab": i} if len(parts) > 1 else {}) | row for i, rows in enumerate(parts) for row in rows]
        )
        _tell(came_in)
        return 0
    for part, rows in zip(run.parts, parts, strict=True):
        times, body = part.timings(), []
        for row in rows:
            spent = sum(x["seconds"] for x in times if x["generation"] == row["generation"])
            body.append(
                [
                    str(row["generation"]),
                    *["done" if row[s] else "-" for s in STAGES],
                    f"{spent:.1f}" if spent else "-",
                ]
            )
        heads = [Column("generation"), *(Column(stage, "center") for stage in STAGES), Column("seconds")]
        _show(Blocks(heads, body, f"{part.path}: {part.config.name}, recipe {part.recipe}"))
    complete = all(row["measure"] for rows in parts for row in rows) and run.generations == list(generations)
    whole = args.dir.resolve().parent if run.config.ecosystem and run.parts == [run] else args.dir
    print(
        "complete"
        if complete
        else f"not complete; the command that started it resumes it: difflab run CONFIG --out {whole}"
    )
    _tell(came_in)
    return 0


def _export(args: argparse.Namespace) -> int:
    from difflab.runs.export import export
    from difflab.runs.run import open_run

    count = export(open_run(args.dir), args.generation, args.to)
    if args.json:
        _print_rows([{"generation": args.generation, "images": count, "folder": str(args.to)}])
    else:
        print(f"{count} images and metadata.jsonl in {args.to}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from difflab.runs.run import open_run
    from difflab.runs.verify import verify

    faults = [fault for part in open_run(args.dir).parts for fault in verify(part)]
    if args.json:
        _print_rows([{"fault": fault} for fault in faults])
    else:
        print("\n".join(faults) if faults else f"{args.dir}: no fault found")
    return 1 if faults else 0


def _theory(args: argparse.Namespace) -> int:
    _quiet_libraries()
    from difflab.report.blocks import Blocks, Column
    from difflab.studies.laws import LAWS
    from difflab.studies.theory import check

    rows = check(args.laws or list(LAWS), args.chains, args.seed)
    if args.json:
        _print_rows(rows)
    else:
        heads = [
            Column("law", "left", text=True),
            Column("what", "left", text=True),
            *map(Column, ("theory", "measured", "z")),
        ]
        body = [
            [r["law"], r["what"], f"{r['theory']:.5g}", f"{r['measured']:.5g}", f"{r['z']:+.2f}"]
            for r in rows
        ]
        _show(Blocks(heads, body, f"laws of self-consuming loops, {args.chains} chains through the engine"))
    return 0 if all(abs(r["z"]) < 4 for r in rows) else 1


def _policies(args: argparse.Namespace) -> int:
    from difflab.policies import HOOKS, known, parse

    names = known()
    if args.name is not None and args.name not in names:
        parse(args.name)  # says what there is
    rows: list[dict[str, Any]] = []
    for name, kind in sorted(names.items()):
        if args.name in (None, name):
            hooks = [hook for hook in HOOKS if kind.overrides(hook)]
            rows.append(
                {
                    "policy": name,
                    "acts on": hooks,
                    "about": " ".join((kind.__doc__ or "").split()),
                    "source": kind.source,
                }
            )
    if args.json:
        _print_rows([row | {"schema": names[row["policy"]].model_json_schema()} for row in rows])
    elif args.name:
        row, kind = rows[0], names[args.name]
        print(f"{args.name} ({', '.join(row['acts on'])}): {row['about']}\nsource: {row['source'] or '-'}")
        for field, about in kind.model_fields.items():
            if field != "policy":
                default = "required" if about.is_required() else json.dumps(about.default)
                print(f"  {field} ({default}): {about.description}")
    else:
        for row in rows:
            print(
                f"{row['policy']:24}{', '.join(row['acts on']):18}{row['about'].split('. ')[0].split(': ')[0][:110]}"
            )
    return 0


def _doctor(args: argparse.Namespace) -> int:
    _quiet_libraries()
    from difflab.cli.doctor import examine, sound, tables

    rows = examine([Path(p) for p in args.presets] or sorted(Path("configs").glob("*.yaml")))
    if args.json:
        _print_rows(rows)
    else:
        for table in tables(rows):
            _show(table)
        print("the core works" if sound(rows) else "the core does not work: mend what is red above")
    return 0 if sound(rows) else 1


def _completion(args: argparse.Namespace) -> int:
    from difflab.cli.completion import script

    print(script(parser(), args.shell))
    return 0


def _schema(args: argparse.Namespace) -> int:
    print(json.dumps(configs.Config.model_json_schema(), indent=2))
    return 0


def _show(renderable: Any) -> None:
    """Print through Python's own stdout: rich would answer a reader that has gone with exit code 1."""
    console = Console()
    with console.capture() as text:
        console.print(renderable, crop=False)
    print(text.get(), end="")


def _tell(lines: Iterable[str]) -> None:
    """On stderr, each line once: what labs have in common is said of all."""
    for line in dict.fromkeys(lines):
        print(line, file=sys.stderr)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    for r in rows:
        print(json.dumps(r))


def _quiet_libraries() -> None:
    """Warnings of libraries about optional parts that are not used here would drown the progress."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


if __name__ == "__main__":
    sys.exit(main())
