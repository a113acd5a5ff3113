"""The command that chooses settings of a config by trials: tune-sampling."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from difflab import config as configs
from difflab.cli.args import Commands, config_arguments, read_config
from difflab.cli.output import print_rows, quiet_libraries, show


def add(commands: Commands) -> None:
    """Add the command of this file."""
    command = commands.add(
        "tune-sampling",
        tune_sampling,
        "Find the cheapest sampler whose images cannot be told apart from those of 200 steps.",
        [
            "difflab tune-sampling runs/digits",
            "difflab tune-sampling emoji --count 256 --out sampling.yaml",
            "difflab tune-sampling runs/digits --schedulers DDIMScheduler --steps 10 20 40",
        ],
    )
    config_arguments(
        command, "a run, whose generation 0 is sampled; or a config or preset with a pretrained base"
    )
    command.add_argument("--count", type=int, default=500, help="images of each set (default: 500)")
    command.add_argument(
        "--steps",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of steps (default: 5 10 15 25 50)",
    )
    command.add_argument(
        "--schedulers",
        nargs="+",
        metavar="NAME",
        help="scheduler classes of diffusers (default: that of the config and common ones that fit)",
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the images (default: 0)")
    command.add_argument("--out", type=Path, metavar="FILE", help="write the chosen overrides as YAML")


def tune_sampling(args: argparse.Namespace) -> int:
    """Compare samplers and print the cheapest. The exit code is 1 if all are told apart."""
    quiet_libraries()
    from difflab.report.table import samplers
    from difflab.runs.run import open_run
    from difflab.studies import tune_sampling as tuning

    record = args.config / "run.yaml"
    run = open_run(args.config) if record.exists() else None
    config = read_config(args) if run is None else configs.load(record, args.overrides)
    result = tuning.tune_sampling(
        config,
        run,
        count=args.count,
        steps=args.steps or tuning.STEPS,
        schedulers=args.schedulers,
        seed=args.seed,
        say=lambda text: print(text, file=sys.stderr),
    )
    if args.out and result.overrides:
        _write(args.out, result.overrides)
    if args.json:
        print_rows(result.rows())
    else:
        show(samplers(result))
        _tell(result, args, run is not None)
    return 0 if result.overrides else 1


def _write(path: Path, overrides: dict[str, Any]) -> None:
    import yaml

    from difflab.core.files import write_text

    write_text(path, yaml.safe_dump(overrides, sort_keys=False))


def _tell(result: Any, args: argparse.Namespace, of_run: bool) -> None:
    """Print the recommendation and the line to type."""
    best = result.recommended
    if best is None:
        print("all samplers are told apart from the reference; try more steps: --steps 75 100")
        return
    limits = ", ".join(f"{name} {limit:.2g}" for name, limit in best.limits.items())
    print(
        f"{best.sampling.scheduler} with {best.sampling.steps} steps is the cheapest that {result.n} images "
        f"do not tell apart; they do not show changes below: {limits}"
    )
    now = next((trial for trial in result.trials if trial.sampling == result.current), None)
    if now is not None and now is not best:
        print(
            f"{best.passes} network passes per image instead of {now.passes}, {best.seconds:.2g} s instead "
            f"of {now.seconds:.2g} s with the settings of the config"
        )
    words = ["difflab", "run", str(args.config / "run.yaml" if of_run else args.config)]
    if not of_run:
        words += args.overrides
    for key, value in result.overrides.items():
        words.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    if of_run:
        words += ["--out", f"{args.config}-tuned"]
    print(f"use it: {shlex.join(words)}")
