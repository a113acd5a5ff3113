"""Published claims as experiments. Each claim is one YAML file with the statistics that decide it.

The verdict follows from an interval over seeds (`difflab.studies.statistic`). The regions that confirm and
refute the claim are written into the file before the run. All claims share one store of runs, so an arm that
several claims use runs only once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from difflab import config as configs
from difflab.config import Config, Spec
from difflab.core.errors import ConfigError
from difflab.core.files import read_json, write_json
from difflab.core.hashing import digest
from difflab.runs.run import Run, open_run
from difflab.studies import theory
from difflab.studies.executors.engine import Engine
from difflab.studies.executors.local import Local
from difflab.studies.job import Job
from difflab.studies.statistic import REFUTED, REPRODUCED, UNKNOWN, Seed, Statistic, inside, judged, overall
from difflab.studies.sweep import Sweep, jobs

CHAINS = 400
"""Number of chains with which a law is checked."""


class Claim(Spec):
    """A claim, its source, the setting that can show it, and the regions that confirm or refute it."""

    claim: str = Field(description="The claim, in one sentence.")
    source: str = Field(description="The paper that makes the claim.")
    setting: str = Field(description="The experiment in words, and what is smaller than in the source.")
    sweep: Sweep | None = Field(None, description="Arms and seeds; null = only laws decide the claim.")
    statistics: dict[str, Statistic] = Field(
        default_factory=dict,
        description="Statistics by name; the claim is reproduced if all of them confirm it.",
    )
    laws: list[str] = Field(
        default_factory=list,
        description="Names of exact laws that state the claim for exact families; each law is checked with "
        "chains; [] = none.",
    )
    quick: bool = Field(False, description="Part of the subset that runs in about two minutes.")
    unshown: str = Field(
        "",
        description="What this setting cannot show. If it is set, the claim is never 'reproduced', only "
        "'cannot tell' or 'refuted here'; empty = none.",
    )
    revised: str = Field(
        "", description="What was changed in this file after runs had been seen, and why; empty = nothing."
    )
    later: str = Field("", description="What a larger machine would have to show.")


def read_claims(folder: Path, names: Sequence[str] = (), quick: bool = False) -> dict[str, Claim]:
    """Read the claims of a folder, by file name, in alphabetical order.

    Args:
        folder: holds one YAML file per claim.
        names: the claims to read; () = all.
        quick: read only the claims with `quick: true`.

    Raises ConfigError, with the known names, for an unknown name.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    for name in names:
        if name not in files:
            raise ConfigError(f"there is no claim '{name}' in {folder}; known: {', '.join(files) or 'none'}")
    selected = {name: path for name, path in files.items() if name in names or not names}
    claims = {name: configs.load(path, None, Claim) for name, path in selected.items()}
    for name, claim in claims.items():
        _check(claim, f"{folder / name}.yaml")
    return {name: claim for name, claim in claims.items() if claim.quick or not quick}


def _check(claim: Claim, where: str) -> None:
    """Raise ConfigError if a claim has nothing that could decide it, or a region of an unknown form."""
    if not claim.statistics and not claim.laws:
        raise ConfigError(f"{where} has neither statistics nor laws: nothing could decide it")
    if claim.statistics and claim.sweep is None:
        raise ConfigError(f"{where} has statistics but no sweep to compute them from")
    for statistic in claim.statistics.values():
        for region in (statistic.confirm, statistic.refute):
            inside(0, 0, region)  # raises for a region of another form


def run_claims(
    claims: dict[str, Claim],
    folder: Path,
    out: Path,
    engine: Engine | None = None,
    report: Callable[[Job], Any] | None = None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run or resume the chains of all claims, and write ``OUT/NAME.json`` for each claim.

    Args:
        claims: claim by name.
        folder: the paths of the sweeps' bases are relative to this folder.
        out: the store. Runs lie in ``OUT/runs/``, in one folder per recipe, and are shared by all claims.
        engine: runs the jobs; None = this machine, see `executors.local.Local`.
        report: see `executors.engine.Engine.run`.
        say: a function that gets one sentence for every run that fails, and for every precision that was
            decided.

    Returns the verdicts with their evidence, as described in `judge`.
    """
    jobs_by_claim = {name: _placed(claim, folder, out) for name, claim in claims.items()}
    errors: dict[Path, str] = {}

    def note(job: Job, record: dict[str, Any]) -> None:
        if record["error"]:
            errors[job.path] = record["error"]
            say(f"{job.arm}, seed {job.seed} FAILED: {record['error']}")

    (out / "runs").mkdir(parents=True, exist_ok=True)
    (engine or Local()).run(_missing(jobs_by_claim), out / "runs", note, report, say)
    verdicts = []
    for name, claim in claims.items():
        verdict = judge(name, claim, jobs_by_claim[name], errors, out)
        write_json(out / f"{name}.json", verdict)
        verdicts.append(verdict)
    return verdicts


def _missing(jobs_by_claim: dict[str, list[Job]]) -> list[Job]:
    """The jobs whose runs are not finished.

    If several claims use the same run, it occurs once, with the largest number of generations that one needs.
    """
    missing: dict[Path, Job] = {}
    for listed in jobs_by_claim.values():
        for job in listed:
            planned = missing.get(job.path)
            if _finished(job) or (planned and planned.config.generations >= job.config.generations):
                continue
            missing[job.path] = job
    return list(missing.values())


def _placed(claim: Claim, folder: Path, out: Path) -> list[Job]:
    """The jobs of a claim, each with the folder of its recipe in the store.

    The recipe contains the seed but not the name of the arm.
    """
    listed = jobs(claim.sweep, folder, out) if claim.sweep else []
    return [Job(job.arm, job.seed, job.config, out / "runs" / place(job.config)) for job in listed]


def place(config: Config) -> str:
    """The name of a run's folder in the store: the hash of all settings that differ from their defaults.

    The number of generations and the name of the run are not part of the hash.
    """
    changed = config.model_dump(mode="json", exclude_defaults=True, exclude={"name", "generations"})
    return digest(changed)


def _finished(job: Job) -> bool:
    """Whether the run of a job exists and has all generations that the job needs."""
    if not (job.path / "metrics.jsonl").exists():
        return False
    return set(range(job.config.generations + 1)) <= set(open_run(job.path).generations)


def judge(
    name: str, claim: Claim, placed: Sequence[Job], errors: dict[Path, str], out: Path
) -> dict[str, Any]:
    """The verdict on a claim from its finished runs.

    A seed counts only if the runs of all arms are finished.

    Args:
        placed: all jobs of the claim.
        errors: message by path, for runs that failed.
        out: the store.

    Returns a dict with the keys name, claim, source, setting, unshown, revised, later, statistics (by name,
    see `statistic.judged`), arms, seeds (number of complete seeds), errors, runs (paths by arm), laws (only
    if the claim has some), verdict, and minutes (time of all stages).
    """
    started = time.perf_counter()
    texts = claim.model_dump(
        mode="json", include={"claim", "source", "setting", "unshown", "revised", "later"}
    )
    runs_by_seed: dict[int, dict[str, Run]] = {}
    seconds = 0.0
    for job in placed:
        if _finished(job):
            run = runs_by_seed.setdefault(job.seed, {})[job.arm] = open_run(job.path)
            seconds += sum(row["seconds"] for row in run.timings())
    arms = list(claim.sweep.arms) if claim.sweep else []
    last = {job.arm: job.config.generations for job in placed}
    by_seed = sorted(runs_by_seed.items())
    complete = [Seed(runs, last) for _, runs in by_seed if len(runs) == len(arms)]
    statistics = {}
    for label, statistic in claim.statistics.items():
        values = [seed.evaluate(statistic.value) for seed in complete]
        statistics[label] = statistic.model_dump() | {"values": values} | judged(values, statistic)
    result: dict[str, Any] = {"name": name, **texts, "statistics": statistics, "arms": arms}
    result["seeds"] = len(complete)
    result["errors"] = {
        f"{job.arm}, seed {job.seed}": errors[job.path] for job in placed if job.path in errors
    }
    result["runs"] = {arm: _paths(arm, [runs for _, runs in by_seed], out) for arm in arms}
    verdicts = [entry["verdict"] for entry in statistics.values()]
    if claim.laws:
        result["laws"] = theory.check(claim.laws, CHAINS, 0)
        verdicts.append(REPRODUCED if all(abs(row["z"]) < 4 for row in result["laws"]) else REFUTED)
    verdict = overall(verdicts)
    if claim.unshown and verdict == REPRODUCED:
        verdict = UNKNOWN
    minutes = round((seconds + time.perf_counter() - started) / 60, 2)
    return result | {"verdict": verdict, "minutes": minutes}


def _paths(arm: str, runs_of_seeds: Sequence[dict[str, Run]], out: Path) -> list[str]:
    """The paths of the runs of an arm, relative to the store, one per seed. `runs_of_seeds`: runs by arm."""
    return [str(runs[arm].path.relative_to(out)) for runs in runs_of_seeds if arm in runs]


def results(out: Path) -> list[dict[str, Any]]:
    """Read the verdicts that `run_claims` has written to a store, in alphabetical order of their names."""
    return [read_json(path) for path in sorted(out.glob("*.json"))]
