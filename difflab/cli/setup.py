"""Commands around the work: presets, doctor, pretrain, policies, schema, completion."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

from difflab.cli.args import Commands, config_arguments, out_argument, read_config
from difflab.cli.output import print_rows, quiet_libraries, show
from difflab.config import Config, presets
from difflab.core.errors import ConfigError

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_presets(commands)
    _add_doctor(commands)
    _add_pretrain(commands)
    _add_policies(commands)
    _add_schema(commands)
    _add_completion(commands)


# -------------------------------------------------------------------------------------------------- presets
def _add_presets(commands: Commands) -> None:
    command = commands.add(
        "presets",
        list_presets,
        "List the configs that come with difflab, or print one.",
        ["difflab presets", "difflab presets papers", "difflab presets show papers/mad-fs > mine.yaml"],
    )
    command.add_argument(
        "what", nargs="*", metavar="GROUP | show NAME", help="a group, or show and the name of a preset"
    )


def list_presets(args: argparse.Namespace) -> int:
    """List presets with one line each, or print the file of one."""
    if args.what[:1] == ["show"]:
        if len(args.what) != 2:
            raise ConfigError("name one preset, for example: difflab presets show digits")
        print(presets.preset(args.what[1]).read_text(encoding="utf-8"), end="")
        return 0
    if len(args.what) > 1 or (args.what and args.what[0] not in presets.GROUPS):
        groups = ", ".join(group for group in presets.GROUPS if group)
        raise ConfigError(f"'{' '.join(args.what)}' is no group of presets; groups: {groups}")
    rows = []
    for name, path in presets.names().items():
        group = name.rpartition("/")[0]
        if not args.what or group == args.what[0]:
            rows.append({"preset": name, "group": group, "about": presets.about(path), "file": str(path)})
    if args.json:
        print_rows(rows)
    else:
        _show_presets(rows)
    return 0


def _show_presets(rows: list[dict[str, Any]]) -> None:
    group, width = None, 0
    columns = max(80, shutil.get_terminal_size((100, 24)).columns)
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            width = 2 + max(len(other["preset"]) for other in rows if other["group"] == group)
            print(("" if row is rows[0] else "\n") + presets.GROUPS[group])
        about = textwrap.shorten(row["about"], columns - width - 3, placeholder=" ...")
        print(f"  {row['preset']:{width}}{about}")


# --------------------------------------------------------------------------------------------------- doctor
def _add_doctor(commands: Commands) -> None:
    command = commands.add(
        "doctor",
        doctor,
        "What is installed, which devices and weights are here, which presets would run. Asks no network.",
        ["difflab doctor", "difflab doctor configs/papers/*.yaml --json"],
    )
    command.add_argument(
        "presets",
        type=Path,
        nargs="*",
        metavar="CONFIG",
        help="configs to check (default: the chains that come with difflab)",
    )


def doctor(args: argparse.Namespace) -> int:
    """Print what a bug report needs. The exit code is 1 if the core does not work."""
    quiet_libraries()
    from difflab.cli.doctor import examine, sound, tables

    chains = [path for name, path in presets.names().items() if "/" not in name]
    rows = examine([_file(path) for path in args.presets] or chains)
    if args.json:
        print_rows(rows)
    else:
        for table in tables(rows):
            show(table)
        print("the core works" if sound(rows) else "the core does not work: mend what is red above")
    return 0 if sound(rows) else 1


def _file(given: Path) -> Path:
    """The file of a config or preset; a path that is neither is reported like a file that cannot be read."""
    try:
        return presets.find(given)
    except ConfigError:
        return given


# ------------------------------------------------------------------------------------------------- pretrain
def _add_pretrain(commands: Commands) -> None:
    command = commands.add(
        "pretrain",
        pretrain,
        "Train a small, complete text-to-image model from nothing, or resume that.",
        [
            "difflab pretrain assets/tiny-sd --out runs/tiny-sd",
            "difflab pretrain assets/tiny-clip",
        ],
    )
    config_arguments(command)
    out_argument(command, "runs/NAME; the model is then in its folder model")
    command.add_argument(
        "--from",
        dest="earlier",
        type=Path,
        help="train a model on that this command made earlier, from its weights",
    )


def pretrain(args: argparse.Namespace) -> int:
    """Train a bundled model from nothing and print its folder."""
    quiet_libraries()
    from difflab.core.progress import Reporter
    from difflab.pretraining.clip import pretrain_clip
    from difflab.pretraining.clip_parts import ClipPretraining, is_clip
    from difflab.pretraining.stable_diffusion import Pretraining
    from difflab.pretraining.stable_diffusion import pretrain as pretrain_sd

    if is_clip(presets.find(args.config, "assets")):
        if args.earlier:
            raise ConfigError(
                "--from trains a text-to-image model on; a CLIP judge is trained in minutes: leave --from out"
            )
        judge = read_config(args, ClipPretraining, "assets")
        out = args.out or Path("runs") / judge.name
        kind, folder = "open_clip", pretrain_clip(judge, out, Reporter(quiet=args.json))
    else:
        config = read_config(args, Pretraining, "assets")
        out = args.out or Path("runs") / config.name
        report = Reporter(quiet=args.json, weights={(0, "autoencoder"): 1.0, (0, "denoiser"): 8.0})
        kind, folder = "diffusers", pretrain_sd(config, out, report, args.earlier)
    if args.json:
        print_rows([{"kind": kind, "folder": str(folder)}])
    else:
        print(f"{'an' if kind == 'open_clip' else 'a'} {kind} folder: {folder}")
    return 0


# ------------------------------------------------------------------------------------------------- policies
def _add_policies(commands: Commands) -> None:
    command = commands.add(
        "policies",
        policies,
        "List the policies, or explain one with all its fields.",
        ["difflab policies", "difflab policies guard"],
    )
    command.add_argument("name", nargs="?", metavar="NAME")


def policies(args: argparse.Namespace) -> int:
    """List the policies, or print one with its fields."""
    from difflab.policies import HOOKS, known, parse

    specs = known()
    if args.name is not None and args.name not in specs:
        parse(args.name)  # raises ConfigError with the known names
    rows: list[dict[str, Any]] = []
    for name, spec in sorted(specs.items()):
        if args.name in (None, name):
            hooks = [hook for hook in HOOKS if spec.overrides(hook)]
            about = " ".join((spec.__doc__ or "").split())
            rows.append({"policy": name, "acts on": hooks, "about": about, "source": spec.source})
    if args.json:
        print_rows(row | {"schema": specs[row["policy"]].model_json_schema()} for row in rows)
    elif args.name:
        _explain_policy(rows[0], specs[args.name])
    else:
        for row in rows:
            about = row["about"].split(". ")[0].split(": ")[0][:110]
            print(f"{row['policy']:24}{', '.join(row['acts on']):18}{about}")
    return 0


def _explain_policy(row: dict[str, Any], spec: Any) -> None:
    print(f"{row['policy']} ({', '.join(row['acts on'])}): {row['about']}")
    print(f"source: {row['source'] or '-'}")
    for name, field in spec.model_fields.items():
        if name != "policy":
            default = "required" if field.is_required() else json.dumps(field.default)
            print(f"  {name} ({default}): {field.description}")


# --------------------------------------------------------------------------------------- schema, completion
def _add_schema(commands: Commands) -> None:
    commands.add(
        "schema",
        schema,
        "Print the JSON schema of a config.",
        ["difflab schema > schema.json"],
        json_too=False,
    )


def schema(args: argparse.Namespace) -> int:
    """Print the JSON schema of a config."""
    print(json.dumps(Config.model_json_schema(), indent=2))
    return 0


def _add_completion(commands: Commands) -> None:
    command = commands.add(
        "completion",
        completion,
        "Print a script that completes difflab's commands and options in a shell.",
        [
            "difflab completion bash > ~/.local/share/bash-completion/completions/difflab",
            "difflab completion zsh > ~/.zfunc/_difflab",
        ],
        json_too=False,
    )
    command.add_argument("shell", choices=SHELLS)
    command.set_defaults(top=commands.top)


def completion(args: argparse.Namespace) -> int:
    """Print the completion script of a shell."""
    from difflab.cli.completion import script

    print(script(args.top, args.shell))
    return 0
