"""Write the pages that are generated from the code: measures, policies, command line, config, and blocks in other pages.

    python docs/make.py             write the files that have changed, and print their names
    python docs/make.py --check     write nothing; print the files that do not match the code, and exit with 1 if there are any

A function under ``@page("docs/NAME.md")`` writes a whole page. A function under ``@block("NAME")`` writes the text between the marks

    <!-- generated: NAME -->
    <!-- end -->

in pages that are written by hand. All pages in WITH_BLOCKS are searched for these marks. The output depends on the code alone, not on
the time, the machine or the versions of libraries.
"""

from __future__ import annotations

import argparse
import enum
import inspect
import json
import os
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.S)
WITH_BLOCKS = ("*.md", "docs/*.md", "docs/claims/*.md", "samples/*.md", "benchmarks/*.md")
OWN_FOLDERS = ("docs/measures", "docs/policies")
"""Folders that hold generated pages only. Files there that no function writes are removed."""

Pages = Callable[[], dict[str, str]]
PAGES: list[Pages] = []
BLOCKS: dict[str, Callable[[], str]] = {}


def page(path: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """The function writes the page `path`."""

    def enter(write: Callable[[], str]) -> Callable[[], str]:
        PAGES.append(lambda: {path: write()})
        return write

    return enter


def pages(write: Pages) -> Pages:
    """The function writes several pages, text by path."""
    PAGES.append(write)
    return write


def block(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """The function writes the blocks of this name."""

    def enter(write: Callable[[], str]) -> Callable[[], str]:
        BLOCKS[name] = write
        return write

    return enter


# ---------------------------------------------------------------------------------------------------- what is to be written
def wanted(root: Path = ROOT) -> dict[str, str | None]:
    """The text of every generated page and of every page with a block, by path; None = the page must be removed."""
    out: dict[str, str | None] = {}
    for write in PAGES:
        out.update({path: text.rstrip() + "\n" for path, text in write().items()})
    for folder in OWN_FOLDERS:
        out |= {
            str(path.relative_to(root)): None
            for path in sorted((root / folder).glob("*.md"))
            if str(path.relative_to(root)) not in out
        }
    for path in sorted({path for pattern in WITH_BLOCKS for path in root.glob(pattern)}):
        name = str(path.relative_to(root))
        text = path.read_text(encoding="utf-8")
        if name not in out and MARK.search(text):
            out[name] = filled(text, name)
    return out


def filled(text: str, where: str = "the page") -> str:
    """`text` with new text in every marked block. Raises ValueError for a block with an unknown name or without an end."""

    def write(match: re.Match[str]) -> str:
        if match["name"] not in BLOCKS:
            raise ValueError(
                f"{where}: no block is named '{match['name']}'; known: {', '.join(sorted(BLOCKS))}"
            )
        return f"{match[1]}{BLOCKS[match['name']]().strip()}\n{match[3]}"

    if text.count("<!-- generated: ") != len(MARK.findall(text)):
        raise ValueError(f"{where}: a block has no end; close it with <!-- end -->")
    return MARK.sub(write, text)


def stale(root: Path = ROOT) -> dict[str, str | None]:
    """The part of `wanted` that differs from the files."""

    def held(name: str) -> str | None:
        return (root / name).read_text(encoding="utf-8") if (root / name).exists() else None

    return {name: text for name, text in wanted(root).items() if held(name) != text}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a file does not match the code"
    )
    check = parser.parse_args(argv).check
    stale_files = stale()
    for name, text in stale_files.items():
        print(f"{name} does not match the code: make docs" if check else name)
        if check:
            continue
        if text is None:
            (ROOT / name).unlink()
        else:
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_text(text, encoding="utf-8")
    return int(check and bool(stale_files))


# ----------------------------------------------------------------------------------------------------------- pieces of pages
ARXIV = re.compile(r"(?<![\w/.\[])(?:arXiv[: ])?(\d{2}(?:0[1-9]|1[0-2])\.\d{5})(?![\w.]*\])")


def prose(text: str) -> str:
    """Plain text as Markdown. Markup outside of `code` is escaped, and arXiv numbers become links."""
    parts = re.split(r"(``.+?``|`.+?`|(?<![\w*])\*{1,2}[^\s*][^*\n]*\*{1,2}(?![\w*]))", text, flags=re.S)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = (
                "`" + part.strip("`") + "`" if part.startswith("`") else part
            )  # *emphasis* is meant as such
        else:
            parts[i] = ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", re.sub(r"([*<])", r"\\\1", part))
    return "".join(parts)


def documented(thing: Any) -> str:
    """A docstring as Markdown: paragraphs, lists of arguments, examples and indented text as code."""
    out = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(thing.__doc__ or "")):
        lines = part.splitlines()
        if lines and lines[0].startswith(">>>"):
            out.append("```python\n" + re.sub(r" +# doctest:.*", "", part) + "\n```")
        elif lines and re.fullmatch(r"(Args|Attributes):", lines[0]):
            out.append("\n".join(entries(lines[1:])))
        elif lines and all(line.startswith("    ") for line in lines):
            out.append("```\n" + inspect.cleandoc("\n" + part) + "\n```")
        else:
            out.append(prose(part))
    return "\n\n".join(out)


def entries(lines: list[str]) -> Iterator[str]:
    """The entries ``name: text`` under Args as items of a list. Lines with a deeper indent continue an entry."""
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    joined: list[str] = []
    for line in lines:
        if len(line) - len(line.lstrip()) == indent:
            joined.append(line.strip())
        else:
            joined[-1] += " " + line.strip()
    for line in joined:
        name, colon, text = line.partition(": ")
        yield f"- **{name}**: {prose(text)}" if colon else f"- {prose(line)}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def first_sentence(thing: Any) -> str:
    """The first sentence of a docstring, on one line."""
    flat = " ".join(re.split(r"\n\s*\n", inspect.cleandoc(thing.__doc__ or ""))[0].split())
    return (
        re.split(r"(?<=[a-z)`\]0-9])(?<!\bal)(?<!eq)\. (?=[A-Z`0-9])", flat, maxsplit=1)[0].rstrip(".") + "."
    )


def number(value: float) -> str:
    return {float("inf"): "infinity", float("-inf"): "-infinity"}.get(value, f"{value:g}")


def source_of(thing: Any, folder: str) -> str:
    """A link from a page in `folder` to the file that defines a class or function."""
    name = thing.__module__.replace(".", "/") + ".py"
    path = name if (ROOT / name).exists() else name.replace(".py", "/__init__.py")
    return f"[{path}]({os.path.relpath(path, folder)})"


# ----------------------------------------------------------------------------------------------------------------- measures
NEEDS = {
    "features": "features of real images and samples",
    "judge": "a class judge, trained on real images (labelled sets)",
    "concepts": "a CLIP extractor and the names of concepts",
    "prompts": "what each sample was asked for: a class or a caption",
    "train": "the images that the model was trained on",
    "detector": "a run: the samples of generation 0, to which a probe is fitted",
}
BETTER = {"lower": "lower", "higher": "higher", "real": "as between two sets of real images: the floor"}


@block("measures")
def measures_table() -> str:
    return table(("measure", "what it measures", "unit", "range", "better"), _measure_rows())


def _measure_rows(linked: bool = False) -> Iterator[list[str]]:
    from difflab.metrics import METRICS

    for name, kind in sorted(METRICS.items()):
        low, high = kind.range
        about = prose(first_sentence(kind))
        better = {"real": "as the floor"}.get(kind.better, kind.better)
        yield [
            f"[{name}]({name}.md)" if linked else f"`{name}`",
            about,
            kind.unit,
            f"{number(low)} to {number(high)}",
            better,
        ]


def _other_rows() -> Iterator[list[str]]:
    from difflab.loop.row_kinds import DECLARED

    for kind in DECLARED:
        better = {"real": "as the floor", "none": "neither"}.get(kind.better, kind.better)
        yield [f"`{kind.name}`", kind.about, kind.unit, kind.counts, better]


@pages
def measures() -> dict[str, str]:
    from difflab.metrics import METRICS

    out = {
        "docs/measures/README.md": "# Measures\n\n"
        "A measure compares real images with samples in one feature space. It can be used alone, as a torchmetrics `Metric`: "
        "`from difflab.metrics import METRICS`. In a run every value has an n, a floor and a 95% interval. "
        "[The FAQ](../FAQ.md) lists the pitfalls.\n\n"
        + table(("measure", "what it measures", "unit", "range", "better"), _measure_rows(linked=True))
        + "\n\n## Other rows of metrics.jsonl\n\n"
        "These rows do not compare two sets of features. They come from the training, the judges, exact families and ecosystems.\n\n"
        + table(("row", "what it measures", "unit", "n counts", "better"), _other_rows())
    }
    for name, kind in METRICS.items():
        low, high = kind.range
        facts = [
            ("unit", kind.unit),
            ("range", f"{number(low)} to {number(high)}"),
            ("better", BETTER[kind.better]),
            (
                "needs",
                f"the extractor {kind.extractor}" if kind.extractor else NEEDS.get(kind.needs, kind.needs),
            ),
            (
                "fewest images on either side",
                str(kind.min_n)
                if "least" not in vars(kind)
                else f"{kind.min_n}, or more: {_summary(kind.least)}",
            ),
            ("code", source_of(kind, "docs/measures")),
        ]
        out[f"docs/measures/{name}.md"] = (
            f"# {name}\n\n{documented(kind)}\n\n{table(('', ''), facts)}\n\n[All measures](README.md)"
        )
    return out


def _summary(thing: Any) -> str:
    text = prose(first_sentence(thing)).rstrip(".")
    return text[:1].lower() + text[1:]


# ----------------------------------------------------------------------------------------------------------------- policies
@block("policies")
def policies_table() -> str:
    return table(("policy", "acts on", "what it does"), _policy_rows())


def _policy_rows(linked: bool = False) -> Iterator[list[str]]:
    from difflab.policies import known

    for name, kind in sorted(known().items()):
        yield [
            f"[{name}]({name}.md)" if linked else f"`{name}`",
            ", ".join(_hooks(kind)),
            prose(first_sentence(kind)),
        ]


def _hooks(kind: Any) -> list[str]:
    from difflab.policies import HOOKS

    return [hook for hook in HOOKS if kind.overrides(hook)]


@pages
def policies() -> dict[str, str]:
    from difflab.policies import HOOKS, Policy, known

    hooks = [(f"`{hook}`", prose(" ".join((getattr(Policy, hook).__doc__ or "").split()))) for hook in HOOKS]
    out = {
        "docs/policies/README.md": "# Policies\n\n"
        "A policy is an entry of the list `policies` of a config. [POLICIES.md](../POLICIES.md) explains how policies are combined.\n\n"
        + table(("policy", "acts on", "what it does"), _policy_rows(linked=True))
        + "\n\n## Hooks\n\n"
        + table(("hook", "what it changes"), hooks)
    }
    for name, kind in known().items():
        example = {"policy": name} | {
            key: f"<{key}>"
            for key, field in kind.model_fields.items()
            if field.is_required() and key != "policy"
        }
        inside = ", ".join(f"{key}: {value}" for key, value in example.items())
        parts = [f"# {name}", documented(kind)]
        parts += [f"Acts on: {', '.join(f'`{hook}`' for hook in _hooks(kind))}."] if _hooks(kind) else []
        parts += [f"Source: {prose(kind.source)}."] if kind.source else []
        parts += [f"```yaml\npolicies:\n  - {{{inside}}}\n```", fields_table(kind, skip=("policy",))]
        parts += [f"Code: {source_of(kind, 'docs/policies')}. [All policies](README.md)"]
        out[f"docs/policies/{name}.md"] = "\n\n".join(parts)
    return out


# ------------------------------------------------------------------------------------------------------------------- config
def fields_table(spec: Any, skip: tuple[str, ...] = (), section: str = "") -> str:
    """A table of the fields of a spec: name, type, default, description. Links to sections inside it start with `section`."""
    rows = []
    for name, field in spec.model_fields.items():
        if name in skip:
            continue
        value = None if field.is_required() else field.get_default(call_default_factory=True)
        is_section = kind_of(field.annotation) == "section"
        if is_section:
            default = f"[below](#{section}{name})"
        elif field.is_required():
            default = "required"
        else:
            default = f"`{json.dumps(value)}`"
        rows.append(
            (
                f"`{name}`",
                kind_of(field.annotation) + bounds(field.metadata),
                default,
                prose(field.description or (first_sentence(field.annotation) if is_section else "")),
            )
        )
    return table(("field", "type", "default", "what it is"), rows)


def kind_of(annotation: Any) -> str:
    """A type in words: ``int or null``, ``one of a, b``, ``list of str``."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind_of(args[0])
    if origin is typing.Literal:
        return "`" + "`, `".join(str(a) for a in args) + "`"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind_of(a) for a in args))
    if origin is list:
        return f"list of {kind_of(args[0])}"
    if origin is tuple:
        return f"list of {kind_of(args[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if hasattr(annotation, "model_fields"):
        return "section"
    return {type(None): "null", Any: "any"}.get(annotation) or getattr(
        annotation, "__name__", str(annotation)
    )


def bounds(metadata: Iterable[Any]) -> str:
    """The limits of a number: `, 0 to 1`."""
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = []
    for limit in metadata:
        for key, word in words.items():
            value = getattr(limit, key, None)
            if value is not None and value != 2**63:
                limits.append(f", {word} {value:g}")
    return "".join(limits)


@page("docs/config.md")
def config() -> str:
    from difflab import config as configs

    specs = {
        spec.model_fields["family"].annotation.__args__[0]: spec for spec in configs.Model.__origin__.__args__
    }
    parts = [
        "# Config",
        "A YAML file describes one chain. `difflab schema` prints the fields below as a JSON schema, and `a.b=value` on the command line sets a field. "
        f"These fields do not change the results and are not part of the recipe hash: {', '.join(f'`{key}`' for key in configs.NOT_IN_RECIPE)}.",
        fields_table(configs.Config),
    ]
    for section, field in configs.Config.model_fields.items():
        spec = configs.spec_of(field)
        if section == "model":
            parts += ["## model", "`model.family` selects the family, which determines the other fields:"]
            for family, family_spec in specs.items():
                parts += [f"### {family}", documented(family_spec)]
                if len(family_spec.model_fields) > 1:
                    parts.append(fields_table(family_spec, skip=("family",)))
                else:
                    parts.append("No further fields.")
        elif spec:
            parts += [f"## {section}", documented(spec), fields_table(spec, section=section)]
            for key, inner in spec.model_fields.items():
                if inner_spec := configs.spec_of(inner):
                    parts += [f"### {section}.{key}", documented(inner_spec), fields_table(inner_spec)]
        elif section == "policies":
            parts += [
                "## policies",
                "A list of mappings, each with the key `policy`: [all policies and their fields](policies/README.md).",
            ]
    return "\n\n".join(parts)


# ----------------------------------------------------------------------------------------------------------- architectures
@block("architectures")
def architectures_table() -> str:
    from difflab.models.text_to_image.registry import architectures

    head = (
        "architecture",
        "pipelines of diffusers",
        "`model.family`",
        "training",
        "guidance",
        "published network",
        "parameters",
        "weights in bf16",
        "run at full size",
    )
    return table(
        head, [row for kind in dict.fromkeys(architectures().values()) for row in architecture_rows(kind)]
    )


def architecture_rows(kind: Any) -> Iterator[list[str]]:
    """One row for each published network of an architecture; one row if none is listed."""
    pipelines = ", ".join(f"`{name}`" for name in kind.pipelines)
    training = "full, LoRA" if kind.has_lora_loader() else "full"
    for name, settings in (kind.published or {"": None}).items():
        sizes = ["", ""]
        if settings is not None:
            count = parameters(kind.backbone, settings)
            sizes = [f"{count / 1e9:.2f} billion", f"{2 * count / 2**30:.1f} GiB"]
        guidance = " or ".join(kind.guidances)
        yield [kind.title, pipelines, f"`{kind.family}`", training, guidance, name, *sizes, "no"]


def parameters(network: str, settings: dict[str, Any]) -> int:
    """The number of parameters of a network of diffusers with its default settings, except for `settings`."""
    import diffusers
    from accelerate import init_empty_weights

    with init_empty_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of diffusers about its own classes
        return sum(p.numel() for p in getattr(diffusers, network)(**settings).parameters())


# ------------------------------------------------------------------------------------------------------------- command line
@block("commands")
def commands_table() -> str:
    return table(
        ("command", "what it does"),
        [(f"`difflab {name}`", prose(command.description or "")) for name, command in commands().items()],
    )


def commands() -> dict[str, argparse.ArgumentParser]:
    from difflab.cli.main import parser

    return next(
        action.choices for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )  # type: ignore[return-value]


@page("docs/cli.md")
def cli() -> str:
    from difflab.cli.main import FRONT, parser

    examples_of = parser().examples

    codes = [
        re.split(r"  +", line.strip(), maxsplit=1)
        for line in FRONT.partition("exit codes\n")[2].partition("\n\n")[0].splitlines()
    ]
    parts = [
        "# Command line",
        "Results go to stdout, progress to stderr. `--json` prints rows as JSON lines. `NO_COLOR=1` turns colours off.",
        table(
            ("command", "what it does"),
            [
                (f"[{name}](#{name})", prose(command.description or ""))
                for name, command in commands().items()
            ],
        ),
        "## Exit codes",
        table(("code", "means"), codes),
    ]
    for name, command in commands().items():
        rows = [
            _argument(action) for action in command._actions if not isinstance(action, argparse._HelpAction)
        ]
        parts += [
            f"## {name}",
            prose(command.description or ""),
            "```\n" + "\n".join(examples_of[name]) + "\n```",
        ]
        parts += [table(("argument", "what it is"), rows)] if rows else []
    return "\n\n".join(parts)


def _argument(action: argparse.Action) -> tuple[str, str]:
    shown = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    word = {0: "", "*": f"[{shown} ...]", "+": f"{shown} ...", "?": f"[{shown}]"}.get(
        action.nargs, str(shown)
    )  # type: ignore[call-overload]
    text = (action.help or "").replace("%%", "%")
    return f"`{' '.join([*action.option_strings[:1], word]).strip()}`", prose(
        text + (" (required)" if action.required and action.option_strings else "")
    )


# ------------------------------------------------------------------------------------------------------ results that were kept
def kept(path: str) -> list[dict[str, Any]]:
    """The rows of a stored result."""
    return [json.loads(line) for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]


def measured(interval: list[float | None] | None) -> str:
    """'0.49 [0.431, 0.541]' for [value, ci_low, ci_high], and '' for None."""
    from difflab.report.table import number

    if interval is None:
        return ""
    value, low, high = interval
    return number(value) + ("" if low is None else f" [{number(low)}, {number(high)}]")


def table_of(parts: list[dict[str, Any]], shown: Iterable[str]) -> str:
    """A table of the measures `shown`: the floor, the first generation of the first part, and the last
    generation of every part.
    """
    from difflab.report.table import number

    shown = list(shown)
    lines = ["| run | generation | " + " | ".join(shown) + " |", "|---|---|" + "---|" * len(shown)]
    floors = [number(parts[0]["floor"].get(name)) for name in shown]
    lines.append("| floor (real against real) |  | " + " | ".join(floors) + " |")
    for part in parts:
        generations = [str(part["last"])]
        if part is parts[0]:
            generations.insert(0, "0")
        for t in generations:
            cells = [measured(part["values"][t].get(name)) for name in shown]
            lines.append(f"| {part['name']} | {t} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


SAMPLES_TEXT = """# Samples

The pictures and numbers of real runs, made with `make samples`. Other work ran on the machine at the same time. The seconds are the
total of all stages. The floor is the measure between two disjoint sets of real images of the same size. Brackets are 95% intervals
over images. Every chain was run with one seed, so the numbers are an illustration, not a test.
"""


@page("samples/README.md")
def samples() -> str:
    sections = [sample_section(title, runs) for title, runs in sample_runs().items()]
    return "\n".join([SAMPLES_TEXT, *sections])


def sample_runs() -> dict[str, list[dict[str, Any]]]:
    """The rows of samples/runs.jsonl, one per run, by the title of their sample."""
    runs_of: dict[str, list[dict[str, Any]]] = {}
    for run in kept("samples/runs.jsonl"):
        runs_of.setdefault(run["sample"], []).append(run)
    return runs_of


def parts_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of all runs: one for a chain, one for each lab of an ecosystem."""
    parts = []
    for run in runs:
        parts += run["parts"]
    return parts


def sample_section(title: str, runs: list[dict[str, Any]]) -> str:
    """The section of samples/README.md about one sample: text, pictures, table and commands."""
    first_run = runs[0]["run"]
    lines = [f"## {title[0].upper()}{title[1:]}", "", runs[0]["says"], ""]
    for run in runs:
        if (ROOT / f"samples/{run['run']}-strip.png").exists():
            lines += [f"![{run['run']}: the same seeds in every generation]({run['run']}-strip.png)", ""]
    lines += [f"![{title}: all measures, with 95% intervals and floors]({first_run}-curves.png)", ""]
    if runs[0]["report"]:
        lines += [
            f"[The report]({first_run}-report.html) is one file. Download and open it.",
            "",
            f"![the head of the report]({first_run}-report.png)",
            "",
        ]
    parts = parts_of(runs)
    lines += [table_of(parts, parts[0]["floor"]), ""]
    for run in runs:
        lines.append(
            f"- `{run['command']}`: {run['seconds']} s on {run['machine']}; recipe `{run['recipe']}`, n = {run['parts'][0]['n']}"
        )
    lines.append("")
    return "\n".join(lines)


@block("expect-digits")
def expect_digits() -> str:
    return table_of(parts_of(sample_runs()["digits"]), ("precision", "recall", "coverage", "fd"))


@block("expect-emoji")
def expect_emoji() -> str:
    return table_of(parts_of(sample_runs()["emoji"]), ("precision", "recall", "coverage", "class_accuracy"))


def arms_by_measures(path: str) -> str:
    """A table of arms and measures: the mean over seeds ± half of its 95% interval.

    A value is bold if the 95% interval of the paired difference from the first arm excludes 0.
    """
    from difflab.report.table import number

    rows = kept(path)
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    by = {(row["arm"], row["metric"]): row for row in rows}
    lines = ["| arm | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    lines.append(
        "| floor (real against real) | "
        + " | ".join(number(by[rows[0]["arm"], m]["floor"]) for m in metrics)
        + " |"
    )

    def cell(row: dict[str, Any]) -> str:
        text = f"{number(row['value'])} ±{number((row['ci_high'] - row['ci_low']) / 2, 1)}"
        return f"**{text}**" if row["verdict"].startswith(("higher", "lower")) else text

    lines += [
        f"| {arm} | " + " | ".join(cell(by[arm, m]) for m in metrics) + " |"
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]
    return "\n".join(lines)


@block("digits-policies")
def digits_policies() -> str:
    return arms_by_measures("docs/results/digits-policies.jsonl")


@block("emoji-policies")
def emoji_policies() -> str:
    return arms_by_measures("docs/results/emoji-policies.jsonl")


BASES = {
    "sd15": "SD 1.5, epsilon",
    "sd21": "SD 2.1, v, zero terminal SNR",
    "sdxl": "SDXL with latent statistics",
    "sd3": "SD 3, flow",
}


@block("schedulers-accepted")
def schedulers_accepted() -> str:
    """A table of schedulers and bases: the largest difference from the pictures of the diffusers pipeline, in levels (0 to 255)."""
    rows = kept("docs/results/schedulers.jsonl")
    by = {(row["scheduler"], row["base"]): row for row in rows if row["accepted"]}
    names = sorted({scheduler for scheduler, _ in by})

    def cell(row: dict[str, Any] | None) -> str:
        if row is None:
            return ""
        return "not comparable" if row["levels"] is None else f"{row['levels']}"

    body = [[f"`{name}`", *(cell(by.get((name, base))) for base in BASES)] for name in names]
    return table(["scheduler", *BASES.values()], body)


@block("schedulers-refused")
def schedulers_refused() -> str:
    """A table of the refused schedulers with the reason. Bases with the same reason share a row."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in kept("docs/results/schedulers.jsonl"):
        if not row["accepted"]:
            reason = re.sub(r"; (use )?for example \w+( does)?", "", row["reason"]).replace("<", "&lt;")
            groups.setdefault((row["scheduler"], reason), []).append(
                BASES[row["base"]].split(",")[0].split(" with")[0]
            )
    body = [[f"`{name}`", ", ".join(bases), reason] for (name, reason), bases in sorted(groups.items())]
    return table(["scheduler", "bases", "reason"], body)


@block("verdicts")
def verdicts() -> str:
    """A table of the claims by verdict, from docs/CLAIMS.md, which `difflab claims --page` writes."""
    rows = re.findall(
        r"^\| \[(.+?)\.?\]\(#(.+?)\) \| \*\*(.+?)\*\* \|",
        (ROOT / "docs/CLAIMS.md").read_text(encoding="utf-8"),
        re.M,
    )
    lines = ["| verdict | claims |", "|---|---|"]
    for verdict in ("reproduced", "refuted here", "cannot tell"):
        links = [
            f"[{claim[0].lower() + claim[1:]}](CLAIMS.md#{name})"
            for claim, name, verdict_of_claim in rows
            if verdict_of_claim == verdict
        ]
        lines.append(f"| {verdict} ({len(links)}) | {'<br>'.join(links)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
