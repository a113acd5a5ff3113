"""Published claims as experiments: one YAML file per claim, with the statistic that decides and the verdict that follows from its interval.

The unit is the seed. A claim's statistic is an expression over its arms, evaluated for each seed, for example

    at('fresh', 'recall', 5) - at('replace', 'recall', 5)

Student's 95% interval over seeds inside the region `confirm` reads "reproduced", inside `refute` "refuted here", else "cannot tell". Regions
are written down before the run, in the file. All claims share one store of runs, so that an arm is computed once however many claims use it.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from difflab import config as configs
from difflab.config import Config, Spec
from difflab.core.errors import ConfigError
from difflab.core.files import read_json, write_json
from difflab.runs.record import read_record
from difflab.runs.run import Run, open_run
from difflab.studies.compare_runs import better_of, interval, values_of, worse
from difflab.studies.sweep import Job, Sweep, execute, jobs

CHAINS = 400  # of a law that is checked for a claim
REGION = re.compile(r"(>|<|>=|<=)\s*(-?\d+(?:\.\d+)?(?:e-?\d+)?)")


class Statistic(Spec):
    """One number per seed, and what it would have to be."""

    value: str = Field(
        description="Expression over arms, see difflab/studies/claims.py; one number per seed."
    )
    confirm: str = Field(description="Region that confirms the claim, such as '> 0.05'.")
    refute: str = Field(description="Region that refutes it, such as '< 0'; disjoint from confirm.")
    unit: str = Field("", description="Of the number, for people.")


class Claim(Spec):
    """A sentence, who said it, the smallest setting that shows it, and what would confirm or refute it."""

    claim: str = Field(description="The sentence.")
    source: str = Field(description="Who said it.")
    setting: str = Field(
        description="What is run, in words, and what is smaller here than where it was claimed."
    )
    sweep: Sweep | None = Field(None, description="Arms and seeds; null = shown by laws alone.")
    statistics: dict[str, Statistic] = Field(
        default_factory=dict, description="By name; all must confirm for the claim to be reproduced."
    )
    laws: list[str] = Field(
        default_factory=list,
        description="Exact laws that say the same in theory, checked through the engine; [] = none.",
    )
    quick: bool = Field(False, description="Part of the subset that runs in about two minutes.")
    unshown: str = Field(
        "",
        description="The part that this setting cannot show: the verdict is then at best 'cannot tell'; empty = none.",
    )
    revised: str = Field(
        "", description="What was changed after runs had been seen, and why; empty = nothing."
    )
    later: str = Field("", description="What a larger machine would have to show.")


# -------------------------------------------------------------------------------------------- expressions
OPERATORS: dict[Any, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


class Seed:
    """The runs of one seed, by arm; its methods are what an expression may call.

    Measures are named as in metrics.jsonl; 'measure@extractor' picks one where it was taken on several. Exact families are read the same way, and of
    an ecosystem the mean over its labs.
    """

    def __init__(self, runs: dict[str, Run], last: dict[str, int] | None = None):
        self.series: dict[str, dict[tuple[str, int], float]] = {}
        for arm, run in runs.items():
            own = self.series.setdefault(arm, {})
            for (t, metric, extractor), (value, _) in values_of(run).items():
                if last is None or t <= last[arm]:
                    own[f"{metric}@{extractor}", t] = value
                    own.setdefault((metric, t), value)

    def curve(self, arm: str, metric: str) -> list[float]:
        """Values of a measure over the generations."""
        if arm not in self.series:
            raise ConfigError(f"a statistic names the arm '{arm}'; there are: {', '.join(self.series)}")
        found = {t: value for (name, t), value in self.series[arm].items() if name == metric}
        if not found:
            raise ConfigError(f"a statistic names the measure '{metric}', which arm '{arm}' has not taken")
        return [found.get(t, math.nan) for t in range(max(found) + 1)]

    def at(self, arm: str, metric: str, generation: float) -> float:
        """A measure in one generation; -1 = the last."""
        return self.curve(arm, metric)[int(generation)]

    def change(self, arm: str, metric: str, generation: float = -1) -> float:
        """A measure in one generation minus generation 0's."""
        return self.at(arm, metric, generation) - self.at(arm, metric, 0)

    def mean(self, arm: str, metric: str, first: float, last: float) -> float:
        """Mean over generations first to last."""
        return float(np.mean(self.curve(arm, metric)[int(first) : int(last) + 1]))

    def slope(self, arm: str, metric: str, first: float = 0) -> float:
        """Least-squares slope per generation, from generation `first` on."""
        own = self.curve(arm, metric)[int(first) :]
        return float(np.polyfit(np.arange(len(own)), own, 1)[0])

    def onset(self, arm: str, metric: str, share: float) -> float:
        """First generation in which a measure has lost (or gained) more than `share` of generation 0's value; one past the last = never.

        Not a number where generation 0 has nothing to lose.
        """
        own = self.curve(arm, metric)
        return (
            float(next((t for t, v in enumerate(own) if abs(v - own[0]) > share * abs(own[0])), len(own)))
            if own[0]
            else math.nan
        )

    def recovery(self, arm: str, metric: str, first: float, tolerance: float) -> float:
        """Generations after `first` until a measure is back within `tolerance` of generation 0's value, or better; one past the last = never."""
        own, better = self.curve(arm, metric), better_of(metric)
        later = own[int(first) + 1 :]
        return float(
            next(
                (t for t, v in enumerate(later, 1) if worse(better, v - own[0]) <= tolerance), len(later) + 1
            )
        )

    def evaluate(self, text: str) -> float:
        """The value of an expression. Raises ConfigError for anything but numbers, + - * / **, and the methods above."""
        names = ("at", "change", "mean", "slope", "onset", "recovery")
        plain: dict[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs, "log": math.log}

        def walk(node: Any) -> Any:
            if isinstance(node, ast.Expression):
                return walk(node.body)
            if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
                return node.value
            if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](walk(node.left), walk(node.right))
            if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](walk(node.operand))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
                call = getattr(self, node.func.id) if node.func.id in names else plain.get(node.func.id)
                if call is not None:
                    return call(*(walk(a) for a in node.args))
            raise ConfigError(
                f"statistic '{text}': only numbers, + - * / **, {', '.join((*names, *plain))} are known"
            )

        try:
            return float(walk(ast.parse(text, mode="eval")))
        except (SyntaxError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise ConfigError(f"statistic '{text}' has no value: {error}") from error


def inside(low: float, high: float, region: str) -> bool:
    """Whether a whole interval lies in a region such as '> 0.05'. Raises ConfigError for another form."""
    match = REGION.fullmatch(region.strip())
    if not match:
        raise ConfigError(f"region '{region}' is not of the form '> 0.05' or '< 0'")
    sign, bound = match.group(1)[0], float(match.group(2))
    return low > bound if sign == ">" else high < bound


def judged(values: Sequence[float], statistic: Statistic) -> dict[str, Any]:
    """effect (mean over seeds), ci_low, ci_high, seeds and verdict. One seed, or a value that is not a number, cannot tell."""
    effect = float(np.mean(values)) if len(values) else math.nan
    found = interval(values) if np.isfinite(values).all() else None
    out = {"effect": effect, "ci_low": None, "ci_high": None, "seeds": len(values), "verdict": "cannot tell"}
    if found is None:
        return out
    verdict = (
        "reproduced"
        if inside(*found, statistic.confirm)
        else "refuted here"
        if inside(*found, statistic.refute)
        else "cannot tell"
    )
    return out | {"ci_low": found[0], "ci_high": found[1], "verdict": verdict}


def overall(verdicts: Sequence[str]) -> str:
    """Of several statistics: reproduced where all are, refuted here where any is, else cannot tell."""
    if "refuted here" in verdicts:
        return "refuted here"
    return "reproduced" if verdicts and all(v == "reproduced" for v in verdicts) else "cannot tell"


# -------------------------------------------------------------------------------------------------- running
def read_claims(folder: Path, names: Sequence[str] = (), quick: bool = False) -> dict[str, Claim]:
    """The claims of a folder by file name, in order. Raises ConfigError, with the known names, for an unknown one."""
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    for name in names:
        if name not in files:
            raise ConfigError(f"there is no claim '{name}' in {folder}; known: {', '.join(files) or 'none'}")
    claims = {
        name: configs.load(path, None, Claim) for name, path in files.items() if name in names or not names
    }
    for name, claim in claims.items():
        if not claim.statistics and not claim.laws:
            raise ConfigError(
                f"{folder / name}.yaml has neither statistics nor laws: nothing could decide it"
            )
        if claim.statistics and claim.sweep is None:
            raise ConfigError(f"{folder / name}.yaml has statistics but no sweep to take them on")
        for statistic in claim.statistics.values():
            inside(0, 0, statistic.confirm), inside(0, 0, statistic.refute)
    return {name: claim for name, claim in claims.items() if claim.quick or not quick}


def run_claims(
    claims: dict[str, Claim],
    folder: Path,
    out: Path,
    workers: int | None = None,
    report: Callable[[Job], Any] | None = None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run or resume what claims need and write ``OUT/NAME.json``, the verdict of each with its evidence.

    Args:
        folder: what the bases of the sweeps are relative to.
        out: the store; runs lie in ``OUT/runs/``, by recipe, for all claims.
        workers, report: see sweep.execute.
    """
    needed = {name: _placed(claim, folder, out) for name, claim in claims.items()}
    errors: dict[Path, str] = {}
    missing: dict[Path, Job] = {}
    for job in (job for own in needed.values() for job in own if not _finished(job)):
        if job.path not in missing or missing[job.path].config.generations < job.config.generations:
            missing[job.path] = job

    def note(job: Job, record: dict[str, Any]) -> None:
        if record["error"]:
            errors[job.path] = record["error"]
            say(f"{job.arm}, seed {job.seed} FAILED: {record['error']}")

    (out / "runs").mkdir(parents=True, exist_ok=True)
    execute(list(missing.values()), out / "runs", note, workers, report)
    found = []
    for name, claim in claims.items():
        result = judge(name, claim, needed[name], errors, out)
        write_json(out / f"{name}.json", result)
        found.append(result)
    return found


def _placed(claim: Claim, folder: Path, out: Path) -> list[Job]:
    """The runs of a claim, in one folder per recipe, which holds the seed, whatever a claim calls the arm."""
    listed = jobs(claim.sweep, folder, out) if claim.sweep else []
    return [Job(job.arm, job.seed, job.config, out / "runs" / place(job.config)) for job in listed]


def place(config: Config) -> str:
    """Folder of a run in the store: the hash of what its config sets otherwise than by default, but for the number of generations."""
    given = config.model_dump(mode="json", exclude_defaults=True, exclude={"name", "generations"})
    return configs.digest(given)


def _finished(job: Job) -> bool:
    """Whether the run of a job is there with all generations that it wants."""
    return (job.path / "metrics.jsonl").exists() and read_record(
        job.path / "run.yaml"
    ).generations >= job.config.generations


def judge(
    name: str, claim: Claim, placed: Sequence[Job], errors: dict[Path, str], out: Path
) -> dict[str, Any]:
    """The verdict on a claim from its finished runs: name, claim, source, setting, arms, seeds, statistics, laws, verdict, minutes."""
    started = time.perf_counter()
    found: dict[str, Any] = {
        "name": name,
        **claim.model_dump(
            mode="json", include={"claim", "source", "setting", "unshown", "revised", "later"}
        ),
        "statistics": {},
    }
    seeds: dict[int, dict[str, Run]] = {}
    seconds = 0.0
    for job in placed:
        if _finished(job):
            run = seeds.setdefault(job.seed, {})[job.arm] = open_run(job.path)
            seconds += sum(row["seconds"] for row in run.timings())
    arms = list(claim.sweep.arms) if claim.sweep else []
    last = {job.arm: job.config.generations for job in placed}
    whole = [Seed(runs, last) for _, runs in sorted(seeds.items()) if len(runs) == len(arms)]
    failed = {f"{job.arm}, seed {job.seed}": errors[job.path] for job in placed if job.path in errors}
    paths = {
        arm: [str(runs[arm].path.relative_to(out)) for _, runs in sorted(seeds.items()) if arm in runs]
        for arm in arms
    }
    found |= {"arms": arms, "seeds": len(whole), "errors": failed, "runs": paths}
    for label, statistic in claim.statistics.items():
        values = [seed.evaluate(statistic.value) for seed in whole]
        found["statistics"][label] = statistic.model_dump() | {"values": values} | judged(values, statistic)
    verdicts = [s["verdict"] for s in found["statistics"].values()]
    if claim.laws:
        from difflab.studies.theory import check

        found["laws"] = check(claim.laws, CHAINS, 0)
        verdicts.append("reproduced" if all(abs(row["z"]) < 4 for row in found["laws"]) else "refuted here")
    verdict = "cannot tell" if claim.unshown and overall(verdicts) == "reproduced" else overall(verdicts)
    return found | {"verdict": verdict, "minutes": round((seconds + time.perf_counter() - started) / 60, 2)}


def results(out: Path) -> list[dict[str, Any]]:
    """What run_claim left in a store."""
    return [read_json(path) for path in sorted(out.glob("*.json"))]
