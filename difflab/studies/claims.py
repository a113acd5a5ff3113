"""Published claims as experiments: one YAML file per claim, with the statistic that decides it.

The verdict follows from an interval over seeds (`difflab.studies.statistic`). The regions that confirm and
refute are written into the file before the run. All claims share one store of runs, so an arm runs once
however many claims use it.
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
from difflab.runs.record import read_record
from difflab.runs.run import Run, open_run
from difflab.studies import theory
from difflab.studies.statistic import REFUTED, REPRODUCED, UNKNOWN, Seed, Statistic, inside, judged, overall
from difflab.studies.sweep import Sweep, jobs
from difflab.studies.workers import Job, execute

CHAINS = 400
"""Chains of a law that is checked for a claim."""


class Claim(Spec):
    """A sentence, its source, the smallest setting that shows it, and what would confirm or refute it."""

    claim: str = Field(description="The claim, in one sentence.")
    source: str = Field(description="The paper that makes the claim.")
    setting: str = Field(description="What is run, in words, and what is smaller here than in the source.")
    sweep: Sweep | None = Field(None, description="Arms and seeds; null = the claim is shown by laws alone.")
    statistics: dict[str, Statistic] = Field(
        default_factory=dict, description="By name; the claim is reproduced if all of them confirm it."
    )
    laws: list[str] = Field(
        default_factory=list,
        description="Exact laws that state the claim for exact families; each is checked with a chain; [] = "
        "none.",
    )
    quick: bool = Field(False, description="Part of the subset that runs in about two minutes.")
    unshown: str = Field(
        "",
        description="What this setting cannot show: the verdict is then at best 'cannot tell'; empty = none.",
    )
    revised: str = Field(
        "", description="What was changed after runs had been seen, and why; empty = nothing."
    )
    later: str = Field("", description="What a larger machine would have to show.")


def read_claims(folder: Path, names: Sequence[str] = (), quick: bool = False) -> dict[str, Claim]:
    """The claims of a folder by file name, in order.

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
    """Raise ConfigError for a claim that nothing could decide."""
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
    workers: int | None = None,
    report: Callable[[Job], Any] | None = None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run or resume the chains of all claims and write ``OUT/NAME.json``, the verdict of each claim with its
    evidence.

    Args:
        folder: the paths of the sweeps' bases are relative to this folder.
        out: the store. Runs lie in ``OUT/runs/``, in one folder per recipe, and are shared by all claims.
        workers, report: see `workers.execute`.
        say: is called with a sentence for every run that fails.
    """
    jobs_by_claim = {name: _placed(claim, folder, out) for name, claim in claims.items()}
    errors: dict[Path, str] = {}

    def note(job: Job, record: dict[str, Any]) -> None:
        if record["error"]:
            errors[job.path] = record["error"]
            say(f"{job.arm}, seed {job.seed} FAILED: {record['error']}")

    (out / "runs").mkdir(parents=True, exist_ok=True)
    execute(_missing(jobs_by_claim), out / "runs", note, workers, report)
    verdicts = []
    for name, claim in claims.items():
        verdict = judge(name, claim, jobs_by_claim[name], errors, out)
        write_json(out / f"{name}.json", verdict)
        verdicts.append(verdict)
    return verdicts


def _missing(jobs_by_claim: dict[str, list[Job]]) -> list[Job]:
    """The jobs whose runs are not finished.

    Each folder is there once, with the largest number of generations that a claim needs.
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
    """The jobs of a claim, each in the folder of its recipe.

    The recipe holds the seed but not the name of the arm.
    """
    listed = jobs(claim.sweep, folder, out) if claim.sweep else []
    return [Job(job.arm, job.seed, job.config, out / "runs" / place(job.config)) for job in listed]


def place(config: Config) -> str:
    """Folder of a run in the store: the hash of all settings that differ from their defaults.

    The number of generations and the name are not part of it.
    """
    changed = config.model_dump(mode="json", exclude_defaults=True, exclude={"name", "generations"})
    return digest(changed)


def _finished(job: Job) -> bool:
    """Whether the run of a job exists and has all generations that the job needs."""
    if not (job.path / "metrics.jsonl").exists():
        return False
    return read_record(job.path / "run.yaml").generations >= job.config.generations


def judge(
    name: str, claim: Claim, placed: Sequence[Job], errors: dict[Path, str], out: Path
) -> dict[str, Any]:
    """The verdict on a claim from its finished runs.

    Keys: name, claim, source, setting, unshown, revised, later, arms, seeds, errors, runs, statistics, laws,
    verdict, minutes.
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


def _paths(arm: str, runs_by_arm: Sequence[dict[str, Run]], out: Path) -> list[str]:
    """The paths of the runs of an arm, relative to the store, one per seed."""
    return [str(runs[arm].path.relative_to(out)) for runs in runs_by_arm if arm in runs]


def results(out: Path) -> list[dict[str, Any]]:
    """The verdicts that `run_claims` has written to a store."""
    return [read_json(path) for path in sorted(out.glob("*.json"))]
